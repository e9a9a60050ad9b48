"""Handshakes that go wrong, or in an odd way: each ends with a reason, and the server goes on."""

import ssl

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.features import TlsInfo
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler
from tests.raw_client import GET
from tests.tls_records import split_records
from tests.tls_site import (
    SERVER_NAME,
    Echo,
    MakeContext,
    TlsPeer,
    TlsSite,
    by_each_version,
    serving_tls,
    tls,
    tls_1_2,
    trusting,
)


async def goes_on(site: TlsSite) -> None:
    """Expect that the server serves."""
    client = await site.client()
    assert (await client.ask(GET)).status == 200
    await client.aclose()
    await site.ended()


async def end(connection: Connection, *, resets: bool) -> None:
    """Leave in the one way or the other, once the server has seen everything."""
    if resets:
        await wait_all_tasks_blocked()
        connection.abort(EndReason.ABORTED_BY_APP)
    else:
        await connection.transport.output.send_eof()


# Clients that stop ------------------------------------------------------------------------------


@pytest.mark.parametrize("resets", [False, True], ids=["ends", "resets"])
@by_each_version
async def test_a_client_that_leaves_at_any_byte(
    resets: bool, make_context: MakeContext, autojump_clock: MockClock
) -> None:
    """Of its whole part of the handshake; and of each, the server sees the end at once."""
    context = make_context()
    whole = EndReason.CONNECTION_RESET if resets else EndReason.TLS_TRUNCATED
    async with serving_tls() as site:
        sizes = await flight_sizes(site, context)
        for count in range(sum(sizes) + 1):
            connection = await site.connect()
            await speak(TlsPeer(connection, context), count, sizes[0])
            await end(connection, resets=resets)
            with trio.fail_after(1):
                reason = await site.ended()
            if count == sum(sizes):
                assert reason is whole
            elif resets and count <= sizes[0] - 1:
                assert reason is EndReason.CONNECTION_RESET
            elif count == 0:
                assert reason is EndReason.PEER_CLOSED
            else:
                assert reason is EndReason.TLS_HANDSHAKE_FAILED
            await connection.aclose()
        await goes_on(site)


async def flight_sizes(site: TlsSite, context: ssl.SSLContext) -> tuple[int, int]:
    """Return how long a client's two flights are."""
    peer = TlsPeer(await site.connect(), context)
    peer.step()
    first = peer.outgoing.read()
    await peer.send_raw(first)
    await peer.take()
    while not (peer.step() or peer.outgoing.pending):
        await peer.take()
    second = peer.outgoing.pending
    await peer.aclose()
    await site.ended()
    return len(first), second


async def speak(peer: TlsPeer, count: int, first_bytes: int) -> None:
    """Say the first `count` bytes of a client's part; after `first_bytes` it listens."""
    peer.step()
    first = peer.outgoing.read()
    await peer.send_raw(first[:count])
    if count > first_bytes:
        await peer.take()
        while not (peer.step() or peer.outgoing.pending):
            await peer.take()
        await peer.send_raw(peer.outgoing.read()[: count - first_bytes])


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"\n",
        b"SSH-2.0-client\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\xff\xff" + b"x" * 100,
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00",
        b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b" + bytes(43),
        b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x01\x00\x02\x01\x00",
        b"\xff" * 20_000,
    ],
    ids=lambda garbage: garbage[:12].hex(),
)
async def test_garbage(garbage: bytes, autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        connection = await site.connect()
        await connection.transport.output.send(garbage)
        with trio.fail_after(1):
            assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        await goes_on(site)


@by_each_version
async def test_garbage_after_a_good_hello(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    async with serving_tls() as site:
        peer = TlsPeer(await site.connect(), make_context())
        peer.step()
        await peer.transmit()
        await peer.send_raw(b"GET / HTTP/1.1\r\n\r\n")
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        assert await peer.receive_alert() == "TLSV1_ALERT_PROTOCOL_VERSION"
        await goes_on(site)


@by_each_version
async def test_a_corrupted_end_of_the_handshake(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    async with serving_tls() as site:
        peer = TlsPeer(await site.connect(), make_context())
        peer.step()
        await peer.transmit()
        while not (peer.step() or peer.outgoing.pending):
            await peer.take()
        flight = bytearray(peer.outgoing.read())
        flight[-1] ^= 1
        await peer.send_raw(bytes(flight))
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        assert await peer.receive_alert() == "SSLV3_ALERT_BAD_RECORD_MAC"
        await goes_on(site)


async def test_nothing_in_common(autojump_clock: MockClock) -> None:
    context = tls_1_2()
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    async with serving_tls() as site:
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await site.peer(context)
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        await goes_on(site)


async def test_a_client_that_does_not_trust_us(autojump_clock: MockClock) -> None:
    """Its alert is the end, and no fault of ours."""
    async with serving_tls() as site:
        peer = TlsPeer(await site.connect(), ssl.create_default_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            await peer.shake_hands()
        await peer.transmit()
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        await goes_on(site)


# Hellos in pieces ---------------------------------------------------------------------------------


@by_each_version
async def test_byte_by_byte(make_context: MakeContext, autojump_clock: MockClock) -> None:
    echo = Echo()
    async with serving_tls(handler=echo) as site:
        peer = TlsPeer(await site.connect(), make_context(), SERVER_NAME)

        async def trickle() -> None:
            data = peer.outgoing.read()
            for start in range(len(data)):
                await peer.send_raw(data[start : start + 1])
                await wait_all_tasks_blocked()

        while not peer.step():
            await trickle()
            await peer.take()
        await trickle()
        peer.session.write(b"hello")
        await trickle()
        assert await peer.receive() == b"hello"
    assert [hello.server_name for hello in echo.hellos] == [SERVER_NAME]


@pytest.mark.parametrize("piece_bytes", [1, 5, 100])
@by_each_version
async def test_a_hello_in_many_records(
    piece_bytes: int, make_context: MakeContext, autojump_clock: MockClock
) -> None:
    """As clients do that would get past a filter (RFC 8446, 5.1), all in one segment."""
    echo = Echo()
    async with serving_tls(handler=echo) as site:
        peer = TlsPeer(await site.connect(), make_context())
        peer.step()
        [record] = split_records(peer.outgoing.read())
        message = record[5:]
        for start in range(0, len(message), piece_bytes):
            piece = message[start : start + piece_bytes]
            peer.connection.transport.output.write(
                record[:3] + len(piece).to_bytes(2, "big") + piece
            )
        await peer.connection.transport.output.flush()
        await peer.shake_hands()
        assert await peer.ask(b"hello") == b"hello"
    assert [(hello.server_name, hello.raw) for hello in echo.hellos] == [(SERVER_NAME, message)]


# Where it stands --------------------------------------------------------------------------------


async def test_it_steps_aside_where_the_transport_brings_tls(autojump_clock: MockClock) -> None:
    info = TlsInfo(
        version="TLSv1.3",
        cipher="",
        cipher_suite=None,
        alpn=None,
        server_name=None,
        resumed=False,
        peer_certificates=(),
        peer_name=None,
        own_certificate=None,
    )

    async def quic(connection: Connection, following: ConnectionHandler) -> None:
        connection.features.publish(info)
        await following(connection)

    async with serving_tls(middleware=[quic, tls()]) as site:
        connection = await site.connect()
        await connection.transport.output.send(GET)
        assert (await connection.transport.input.receive()).startswith(b"HTTP/1.1 200 OK")


async def test_what_it_publishes_first_is_the_hello(autojump_clock: MockClock) -> None:
    echo = Echo(["x"])
    async with serving_tls(handler=echo) as site:
        await (await site.peer(trusting(alpn=["y", "x"]))).ask(b"x")
    (hello,), (info,) = echo.hellos, echo.infos
    assert hello.server_name == info.server_name == SERVER_NAME
    assert (list(hello.alpn), info.alpn) == (["y", "x"], "x")
    assert 0x0304 in hello.versions
    assert info.cipher_suite in hello.cipher_suites
    assert hello.fingerprint.startswith("t13d")


async def test_refusing_costs_no_handshake(autojump_clock: MockClock) -> None:
    async with serving_tls(limits=Limits(max_connections=1)) as site:
        await site.peer()
        with pytest.raises(trio.BrokenResourceError):
            await site.peer()
