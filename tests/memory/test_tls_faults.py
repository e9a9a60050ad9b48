"""What goes wrong after the handshake, and what is merely strange."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.middleware import ConnectionHandler
from tests.raw_client import GET, post
from tests.tls_records import ALERT, HANDSHAKE, ClientRecords, split_records
from tests.tls_site import (
    SERVER_NAME,
    Echo,
    MakeContext,
    TlsPeer,
    TlsSite,
    by_each_version,
    serving_tls,
    trusting,
)


async def forging_peer(site: TlsSite, path: Path) -> tuple[TlsPeer, ClientRecords]:
    """Connect and shake hands; return the peer, and what writes in its name from now on."""
    context = trusting()
    context.keylog_filename = str(path / "keys")
    peer = await site.peer(context)
    await wait_all_tasks_blocked()
    return peer, ClientRecords(peer, path / "keys")


async def goes_on(site: TlsSite) -> None:
    """Expect that the server serves."""
    assert await (await site.peer()).ask(b"next") == b"next"


class Reads:
    """Notes what a handler gets to read, and what its input ends with."""

    def __init__(self) -> None:
        self.received = b""
        self.end: Exception | None = None
        self.end_of_writing: Exception | None = None

    async def __call__(self, connection: Connection) -> None:
        """Read to the end; then write."""
        pipe = connection.transport
        try:
            async for chunk in pipe.input:
                self.received += chunk
        except trio.BrokenResourceError as error:
            self.end = error
            with pytest.raises(trio.BrokenResourceError):
                await pipe.input.read()  # it says so as often as it is asked
            with pytest.raises(trio.BrokenResourceError):
                pipe.input.look()
        try:
            await pipe.output.send(b"good-bye")
        except trio.BrokenResourceError as error:
            self.end_of_writing = error


# Broken bytes -----------------------------------------------------------------------------------


def flip(position: int) -> Callable[[bytes], bytes]:
    """Return what changes one byte."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 0x41
        return bytes(changed)

    return change


def plain_text(record: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n\r\n" + record


def too_long(record: bytes) -> bytes:
    return b"\x17\x03\x03\x48\x01" + bytes(18433)


def shifted(record: bytes) -> bytes:
    return record[:7] + record


def replayed(record: bytes) -> bytes:
    return record + record


@pytest.mark.parametrize(
    "spoil",
    [
        flip(0),
        flip(1),
        flip(5),
        flip(-1),
        plain_text,
        too_long,
        shifted,
        replayed,
    ],
    ids=["type", "version", "first", "last", "plain text", "too long", "shifted", "replayed"],
)
@by_each_version
async def test_broken_records(
    spoil: Callable[[bytes], bytes], make_context: MakeContext, autojump_clock: MockClock
) -> None:
    reads = Reads()
    async with serving_tls(handler=reads) as site:
        peer = await site.peer(make_context())
        await wait_all_tasks_blocked()
        await peer.send_raw(peer.encrypted(b"whole. "))
        record = peer.encrypted(b"broken")
        spoiled = spoil(record)
        await peer.send_raw(spoiled)
        alert = await peer.receive_alert()
        assert "ALERT" in alert
        assert await site.ended() is EndReason.TLS_ERROR
    assert reads.received == b"whole. " + (b"broken" if spoiled.startswith(record) else b"")
    assert "no sound TLS" in str(reads.end)
    assert isinstance(reads.end_of_writing, trio.BrokenResourceError)


@by_each_version
async def test_broken_bytes_in_one_segment_with_whole_ones(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    """What was whole is shown first."""
    reads = Reads()
    async with serving_tls(handler=reads) as site:
        peer = await site.peer(make_context())
        await wait_all_tasks_blocked()
        await peer.send_raw(peer.encrypted(b"whole. ") + flip(-1)(peer.encrypted(b"broken")))
        assert await peer.receive_alert() == "SSLV3_ALERT_BAD_RECORD_MAC"
        assert await site.ended() is EndReason.TLS_ERROR
    assert (reads.received, type(reads.end)) == (b"whole. ", trio.BrokenResourceError)


async def test_broken_bytes_in_a_request(autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        peer = await site.peer()
        await peer.send(post(b"12345")[:-2])
        await peer.send_raw(flip(-1)(peer.encrypted(b"45")))
        assert await peer.receive_alert() == "SSLV3_ALERT_BAD_RECORD_MAC"
        assert await site.ended() is EndReason.TLS_ERROR
        client = await site.client()
        assert (await client.ask(GET)).status == 200


async def test_broken_bytes_while_the_server_writes(autojump_clock: MockClock) -> None:
    """A flush that waits breaks, too: nothing that was encrypted after the failure would be good."""
    ended_with: list[Exception] = []

    async def write(connection: Connection) -> None:
        try:
            await connection.transport.output.send(b"x" * 1_000_000)
        except trio.BrokenResourceError as error:
            ended_with.append(error)

    async def read_and_write(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, connection)
            with pytest.raises(trio.BrokenResourceError):
                await connection.transport.input.read()

    async with serving_tls(handler=read_and_write) as site:
        peer = await site.peer()
        await wait_all_tasks_blocked()
        await peer.send_raw(flip(-1)(peer.encrypted(b"x")))
        await wait_all_tasks_blocked()
        assert await peer.receive_alert() == "SSLV3_ALERT_BAD_RECORD_MAC"
        assert await site.ended() is EndReason.TLS_ERROR
    assert len(ended_with) == 1


@by_each_version
async def test_a_client_that_finds_us_broken(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    """Its alert ends the connection, with nothing to be answered."""
    reads = Reads()

    async def greet(connection: Connection) -> None:
        await connection.transport.output.send(await connection.transport.input.receive())
        await reads(connection)

    async with serving_tls(handler=greet) as site:
        peer = await site.peer(make_context())
        await peer.send(b"hello")
        await wait_all_tasks_blocked()
        received = await peer.connection.transport.input.receive()
        peer.incoming.write(flip(-1)(received))
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            await peer.receive()
        await peer.transmit()
        assert await site.ended() is EndReason.TLS_ERROR
    assert "ALERT_BAD_RECORD_MAC" in str(reads.end)
    assert reads.end_of_writing is not None


# Strange but sound ------------------------------------------------------------------------------


@by_each_version
async def test_data_that_comes_along_with_the_end_of_the_handshake(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    async with serving_tls() as site:
        for split in (False, True):
            peer = TlsPeer(await site.connect(), make_context(), SERVER_NAME)
            while not peer.step():
                if not peer.session.version() or peer.outgoing.pending:
                    await peer.transmit()
                await peer.take()
            flight = peer.outgoing.read() + peer.encrypted(GET)
            if split:
                await peer.send_raw(flight[:-9])
                await wait_all_tasks_blocked()
                flight = flight[-9:]
            await peer.send_raw(flight)
            assert (await peer.receive()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_broken_data_along_with_the_end_of_the_handshake(autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        peer = TlsPeer(await site.connect())
        while not peer.step():
            await peer.transmit()
            await peer.take()
        await peer.send_raw(peer.outgoing.read() + flip(-1)(peer.encrypted(GET)))
        assert await peer.receive_alert() == "SSLV3_ALERT_BAD_RECORD_MAC"
        assert await site.ended() is EndReason.TLS_ERROR


async def test_the_end_along_with_the_end_of_the_handshake(autojump_clock: MockClock) -> None:
    reads = Reads()
    async with serving_tls(handler=reads) as site:
        peer = TlsPeer(await site.connect())
        while not peer.step():
            await peer.transmit()
            await peer.take()
        await peer.send_raw(peer.outgoing.read() + peer.encrypted(b"x") + peer.close_notify())
        assert await peer.receive_all() == b"good-bye"
        assert await site.ended() is EndReason.COMPLETED
    assert (reads.received, reads.end) == (b"x", None)


async def test_empty_records(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Some send them against traffic analysis (RFC 8446, 5.1)."""
    async with serving_tls(handler=Echo()) as site:
        peer, records = await forging_peer(site, tmp_path)
        for _ in range(5):
            await peer.send_raw(records.record(b""))
            await wait_all_tasks_blocked()
        await peer.send_raw(records.record(b"hello") + records.record(b""))
        assert await peer.receive() == b"hello"


@pytest.mark.parametrize("ask", [False, True])
async def test_new_keys(ask: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving_tls(handler=Echo()) as site:
        peer, records = await forging_peer(site, tmp_path)
        for number in range(3):
            await peer.send_raw(records.key_update(ask=ask))
            await peer.send_raw(records.record(b"%d" % number))
            assert await peer.receive() == b"%d" % number


def pour(count: int) -> ConnectionHandler:
    """Return what writes so much, while another task reads."""

    async def write_and_read(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.transport.output.send, bytes(count))
            async for _ in connection.transport.input:
                pass
        await connection.transport.output.send_eof()

    return write_and_read


@pytest.mark.parametrize("step_bytes", [100, 1000, 20_000])
async def test_new_keys_while_the_server_writes(
    step_bytes: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The answer must not get into the middle of a record that waits to be sent."""
    async with serving_tls(handler=pour(300_000)) as site:
        peer, records = await forging_peer(site, tmp_path)
        wire = peer.connection.transport.input
        for _ in range(20):
            peer.incoming.write(await wire.receive(step_bytes))
            await peer.send_raw(records.key_update(ask=True))
            await wait_all_tasks_blocked()
        await peer.send_raw(records.alert(1, 0))
        with trio.fail_after(1):
            assert await peer.receive_all() == bytes(300_000)


async def test_the_answer_leaves_with_the_end_of_the_flush(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Though nothing more is written."""
    async with serving_tls(handler=pour(65_536)) as site:  # which has no room, by a little
        peer, records = await forging_peer(site, tmp_path)
        for _ in range(2):  # OpenSSL answers the first when the second comes
            await peer.send_raw(records.key_update(ask=True))
        await wait_all_tasks_blocked()
        received = b""
        with trio.move_on_after(1):
            while True:
                received += await peer.connection.transport.input.receive()
        *_, last, answer = split_records(received)
        assert len(last) > 1000
        assert len(answer) == len(records.key_update(ask=False))
        await peer.send_raw(records.alert(1, 0))


async def test_a_peer_that_makes_us_answer_and_does_not_listen(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its answers would pile up for as long as it asks."""
    async with serving_tls(handler=Echo()) as site:
        peer, records = await forging_peer(site, tmp_path)
        most = 0
        with trio.fail_after(5):  # it is given time to take the rest, as every other
            try:
                for _ in range(50_000):
                    await peer.send_raw(records.key_update(ask=True))
                    most = max(most, site.connection.transport.output.backlog_bytes)
            except trio.BrokenResourceError:
                pass
            assert await site.ended() is EndReason.TLS_ERROR
        assert 65_536 < most < 400_000


async def test_a_warning_is_none_of_our_business(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving_tls(handler=Echo()) as site:
        peer, records = await forging_peer(site, tmp_path)
        await peer.send_raw(records.alert(1, 90) + records.record(b"hello"))  # user_canceled
        assert await peer.receive() == b"hello"
        await peer.send_raw(records.alert(1, 0))
        assert await peer.receive() == b""


@pytest.mark.parametrize(
    ("content", "kind", "alert"),
    [
        (b"\x02\x50", ALERT, None),  # internal_error: it is the client that gives up
        (b"\x01\x00\x00\x2b" + bytes(43), HANDSHAKE, "UNEXPECTED_MESSAGE"),  # starting over
        (b"\x14\x00\x00\x20" + bytes(32), HANDSHAKE, "UNEXPECTED_MESSAGE"),  # another Finished
        (b"\x18\x00\x00\x01\x07", HANDSHAKE, "ILLEGAL_PARAMETER"),  # a KeyUpdate of no kind
        (b"\x01", 20, "UNEXPECTED_MESSAGE"),  # change_cipher_spec, encrypted
        (b"", HANDSHAKE, "UNEXPECTED_MESSAGE"),
        (b"x", 99, "UNEXPECTED_MESSAGE"),
        (bytes(16_385), 23, "RECORD_OVERFLOW"),
    ],
)
async def test_messages_that_have_no_place_here(
    content: bytes, kind: int, alert: str | None, tmp_path: Path, autojump_clock: MockClock
) -> None:
    reads = Reads()
    async with serving_tls(handler=reads) as site:
        peer, records = await forging_peer(site, tmp_path)
        await peer.send_raw(records.record(b"before"))
        await peer.send_raw(records.record(content, kind))
        assert await site.ended() is EndReason.TLS_ERROR
        if alert is not None:
            assert alert in await peer.receive_alert()
    assert (reads.received, type(reads.end)) == (b"before", trio.BrokenResourceError)


async def test_the_server_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving_tls(handler=Echo()) as site:
        peer, records = await forging_peer(site, tmp_path)
        await peer.send_raw(records.alert(2, 80))
        assert await site.ended() is EndReason.TLS_ERROR
        await goes_on(site)
