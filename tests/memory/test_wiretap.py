"""The wiretap, at its places in a chain: what it lets pass, what it logs and what it captures."""

import logging
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Address, Connection, ConnectionContext
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler, Middleware, compose
from kestrel_core.testing import check_middleware, check_pipe, open_server
from kestrel_middleware.wiretap import Wiretap
from kestrel_middleware.wiretap.hex_dump import hex_dump
from kestrel_middleware.wiretap.tapped_pipe import TappedPipe
from tests.capture_reader import CapturedTcp, read_streams

CLIENT, SERVER = Address("198.51.100.7", 4711), Address("192.0.2.1", 80)


class TapLog(logging.Handler):
    """What wiretaps log, without the connections' ids."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.name == "kestrel.wiretap"
        text = record.getMessage()
        if record.levelno == logging.INFO:
            connection_id = vars(record)["connection_id"]
            assert text.startswith(f"connection {connection_id}")
            text = text.replace(f"connection {connection_id}", "", 1).removeprefix(": ")
        self.texts.append(text)

    def take(self) -> list[str]:
        """Return what was logged since the last time."""
        texts, self.texts = self.texts, []
        return texts


@pytest.fixture
def log() -> Generator[TapLog]:
    log, logger = TapLog(), logging.getLogger("kestrel.wiretap")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)
    logger.setLevel(level)


@pytest.fixture
def path(tmp_path: Path) -> Generator[Path]:
    """Where to capture to; nothing there may be left open."""
    yield tmp_path / "capture.pcapng"
    held = [os.readlink(each) for each in _descriptors()]
    assert [each for each in held if each.startswith(str(tmp_path))] == []


def _descriptors() -> list[Path]:
    return [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]


class Wire:
    """A client's pipe and the connection of its server, in memory."""

    def __init__(self, pause_at_bytes: int = 65536) -> None:
        near, far = duplex_pipe_pair(pause_at_bytes)
        self.client = near
        self.connection = Connection(far, ConnectionContext(), local=SERVER, remote=CLIENT)
        far.peer_gone.listen(self.connection.closed.set)

    async def serve(self, handler: ConnectionHandler, *wiretaps: Wiretap) -> None:
        """Serve it and close it, as a server does."""
        before = self.connection.transport
        try:
            await compose(wiretaps, handler)(self.connection)
        finally:
            assert self.connection.transport is before
            for wiretap in wiretaps:
                assert self.connection not in wiretap.connections
            await self.connection.aclose()


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk.upper())


def all_captured(path: Path) -> list[CapturedTcp]:
    data = path.read_bytes()
    return read_streams(data) if data else []


def captured(path: Path) -> CapturedTcp:
    (stream,) = all_captured(path)
    return stream


async def talk(wiretap: Wiretap, said: bytes = b"hello") -> None:
    """Let a client say something, read what comes back, and leave."""
    wire = Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.serve, echo, wiretap)
        await wire.client.output.send(said)
        assert await wire.client.input.read_exactly(len(said)) == said.upper()
        await wire.client.aclose()


# What it lets pass --------------------------------------------------------------------------------


@pytest.mark.parametrize(("logs", "captures"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("enabled", [True, False])
async def test_it_keeps_the_promises_of_middleware(
    log: TapLog, path: Path, logs: bool, captures: bool, enabled: bool, autojump_clock: MockClock
) -> None:
    file = path if captures else None
    await check_middleware(Wiretap(log=logs, capture_file=file, enabled=enabled))
    assert bool(log.texts) is (logs and enabled)
    if captures:
        streams = all_captured(path)
        assert bool(streams) is enabled
        assert enabled == any(
            len(s.received) == len(s.sent) == 100_000 and s.received == s.sent for s in streams
        )


@pytest.mark.parametrize("enabled", [True, False])
async def test_its_pipe_keeps_the_promises_of_pipes(
    path: Path, enabled: bool, autojump_clock: MockClock
) -> None:
    wiretap = Wiretap(log=False, capture_file=path, enabled=enabled)
    async with trio.open_nursery() as nursery:

        async def tapped(pipe: DuplexPipe) -> DuplexPipe:
            connection = Connection(pipe, ConnectionContext())
            ready = trio.Event()

            async def hold(_connection: Connection) -> None:
                ready.set()
                await trio.sleep_forever()

            nursery.start_soon(wiretap, connection, hold)
            await ready.wait()
            assert isinstance(connection.transport, TappedPipe)
            return connection.transport

        async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
            near, far = duplex_pipe_pair()
            return await tapped(near), await tapped(far)

        await check_pipe(make_pair)
        nursery.cancel_scope.cancel()


async def test_what_was_not_flushed_leaves_when_the_handler_returns(path: Path) -> None:
    async def write(connection: Connection) -> None:
        connection.transport.output.write(b"last ")
        connection.transport.output.write(b"words")

    wire = Wire()
    await wire.serve(write, Wiretap(log=False, capture_file=path))
    assert await wire.client.input.read_exactly(100) == b"last words"
    assert captured(path).sent == b"last words"


# The log ------------------------------------------------------------------------------------------


async def test_the_log_shows_an_exchange(log: TapLog) -> None:
    await talk(Wiretap())
    assert log.take() == [
        "begins, 192.0.2.1:80 <- 198.51.100.7:4711",
        f"received 5 bytes at 0\n{hex_dump(b'hello')}",
        f"sent 5 bytes at 0\n{hex_dump(b'HELLO')}",
        "received the end, after 5 bytes",
        "closed; received 5 bytes, sent 5",
    ]


async def test_a_label_is_shown(log: TapLog) -> None:
    await talk(Wiretap(label="decrypted"))
    assert all(text.startswith(", decrypted: ") for text in log.take())


async def test_offsets_go_on_byte_by_byte(log: TapLog) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.serve, echo, Wiretap())
        for byte in b"abc":
            await wire.client.output.send(bytes([byte]))
            await wire.client.input.read_exactly(1)
        await wire.client.output.send_eof()
    assert [text for text in log.take() if "received" in text] == [
        f"received 1 bytes at 0\n{hex_dump(b'a', 0)}",
        f"received 1 bytes at 1\n{hex_dump(b'b', 1)}",
        f"received 1 bytes at 2\n{hex_dump(b'c', 2)}",
        "received the end, after 3 bytes",
        "closed; received 3 bytes, sent 3",
    ]


@pytest.mark.parametrize(
    ("most", "told"),
    [
        (5, f"received 5 bytes at 0\n{hex_dump(b'hello')}"),
        (4, f"received 5 bytes at 0\n{hex_dump(b'hell')}\n... and 1 bytes more"),
        (0, "received 5 bytes at 0\n... and 5 bytes more"),
    ],
)
async def test_long_events_are_cut_in_the_log_alone(
    log: TapLog, path: Path, most: int, told: str
) -> None:
    await talk(Wiretap(max_bytes_per_event=most, capture_file=path))
    assert log.take()[1] == told
    assert captured(path).received == b"hello"


async def test_both_half_closes_are_told(log: TapLog, path: Path) -> None:
    async def answer(connection: Connection) -> None:
        await connection.transport.output.send(b"first")
        await connection.transport.output.send_eof()
        async for _chunk in connection.transport.input:
            pass

    wire = Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.serve, answer, Wiretap(capture_file=path))
        assert [chunk async for chunk in wire.client.input] == [b"first"]
        await wire.client.output.send(b"second")
        await wire.client.output.send_eof()
    assert [text.partition("\n")[0] for text in log.take()[1:]] == [
        "sent 5 bytes at 0",
        "sent the end, after 5 bytes",
        "received 6 bytes at 0",
        "received the end, after 6 bytes",
        "closed; received 6 bytes, sent 5",
    ]
    assert captured(path).ending == ["us FIN", "peer FIN"]


async def test_without_a_listening_log_nothing_is_formatted(path: Path) -> None:
    logging.getLogger("kestrel.wiretap").setLevel(logging.WARNING)
    try:
        await talk(Wiretap(capture_file=path))
    finally:
        logging.getLogger("kestrel.wiretap").setLevel(logging.NOTSET)
    assert captured(path).received == b"hello"


async def test_only_what_was_taken_counts_as_sent(log: TapLog, path: Path) -> None:
    async def write(connection: Connection) -> None:
        output = connection.transport.output
        output.write(b"x" * 5000)
        output.flush_nowait()
        output.flush_nowait()
        assert output.unflushed_bytes == 904
        assert log.take()[1:] == ["sent 4096 bytes at 0\n... and 4096 bytes more"]
        await output.flush()

    wire = Wire(pause_at_bytes=4096)
    wiretap = Wiretap(capture_file=path, max_bytes_per_event=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.serve, write, wiretap)
        assert len(await wire.client.input.read_exactly(5000)) == 5000
    assert log.take()[0] == "sent 904 bytes at 4096\n... and 904 bytes more"
    assert captured(path).sent == b"x" * 5000


# How connections end ------------------------------------------------------------------------------


async def fail(connection: Connection) -> None:
    raise RuntimeError("a fault")


async def abort(connection: Connection) -> None:
    connection.abort(EndReason.IDLE_TIMEOUT)


async def abort_and_read(connection: Connection) -> None:
    connection.abort(EndReason.IDLE_TIMEOUT)
    await connection.transport.input.read()


async def abort_the_pipe(connection: Connection) -> None:
    connection.transport.abort()


async def close_the_pipe(connection: Connection) -> None:
    await connection.transport.output.send(b"bye")
    await connection.transport.aclose()


async def test_a_pipe_that_was_closed_early_is_told_at_once(log: TapLog) -> None:
    async def close_and_go_on(connection: Connection) -> None:
        await close_the_pipe(connection)
        assert log.take()[-1] == "closed; received 0 bytes, sent 3"

    await Wire().serve(close_and_go_on, Wiretap())
    assert log.take() == []


async def read(connection: Connection) -> None:
    await connection.transport.input.read()


async def sleep(connection: Connection) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("handler", "told", "sent"),
    [
        (fail, "aborted (RuntimeError)", "us RST"),
        (abort, "aborted (idle_timeout)", "us RST"),
        (abort_and_read, "aborted (idle_timeout)", "us RST"),
        (abort_the_pipe, "aborted (by what follows)", "us RST"),
        (close_the_pipe, "closed", "us FIN"),
        (sleep, "aborted (Cancelled)", "us RST"),
    ],
)
async def test_our_end_of_it(
    handler: ConnectionHandler, told: str, sent: str, log: TapLog, path: Path
) -> None:
    wire = Wire()
    with trio.move_on_after(0.01):
        with suppress(RuntimeError, trio.BrokenResourceError):
            await wire.serve(handler, Wiretap(capture_file=path))
    assert log.take()[-1].startswith(f"{told}; received 0 bytes, ")
    assert captured(path).ending == [sent]
    if sent == "us RST":
        assert captured(path).comments[-1] in told


async def read_in_a_nursery(connection: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, connection)


async def write_in_vain(connection: Connection) -> None:
    await wait_all_tasks_blocked()
    await connection.transport.output.send(b"is anybody there?")


async def write_in_vain_and_bear_it(connection: Connection) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await write_in_vain(connection)


@pytest.mark.parametrize(
    "handler", [read, read_in_a_nursery, write_in_vain, write_in_vain_and_bear_it]
)
async def test_the_end_of_a_peer_that_aborts(
    handler: ConnectionHandler, log: TapLog, path: Path
) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            try:
                await wire.serve(handler, Wiretap(capture_file=path))
            except* trio.BrokenResourceError:
                pass

        nursery.start_soon(serve)
        wire.client.abort()
    assert log.take()[-1].startswith("the peer is gone; ")
    assert captured(path).ending == ["peer RST"]


# Places -------------------------------------------------------------------------------------------


class XorReader(LayerReader):
    def arrived(self, data: bytes) -> bytes:
        return bytes(byte ^ 0x55 for byte in data)


class XorWriter(LayerWriter):
    async def _transmit(self, data: bytes | memoryview) -> None:
        await super()._transmit(bytes(byte ^ 0x55 for byte in data))

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return super()._transmit_nowait(bytes(byte ^ 0x55 for byte in data))


async def xor(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    connection.transport = LayeredPipe(inner, XorReader(inner.input), XorWriter(inner.output))
    try:
        await following(connection)
    finally:
        connection.transport = inner


async def test_it_shows_what_passes_at_its_place(log: TapLog, tmp_path: Path) -> None:
    outer = Wiretap(label="outer", capture_file=tmp_path / "outer")
    inner = Wiretap(label="inner", capture_file=tmp_path / "inner")
    async with open_server(echo, middleware=[outer, xor, inner]) as opened:
        client = await opened.connect()
        await client.transport.output.send(b"=099:")
        assert await client.transport.input.read_exactly(5) == b"\x1d\x10\x19\x19\x1a"
    texts = log.take()
    for label, received, sent in (
        ("outer", b"=099:", b"\x1d\x10\x19\x19\x1a"),
        ("inner", b"hello", b"HELLO"),
    ):
        assert f", {label}: received 5 bytes at 0\n{hex_dump(received)}" in texts
        assert f", {label}: sent 5 bytes at 0\n{hex_dump(sent)}" in texts
        stream = captured(tmp_path / label)
        assert (stream.received, stream.sent) == (received, sent)
        assert {packet.interface for packet in stream.packets} == {label}
        assert f", {label}: begins" in stream.comments[0]


async def test_places_where_it_cannot_stand(tmp_path: Path) -> None:
    one, other = (Wiretap(capture_file=tmp_path / "same", label=label) for label in "ab")
    elsewhere, only_log = Wiretap(capture_file=tmp_path / "elsewhere"), Wiretap()
    insane: list[tuple[list[Middleware], str]] = [
        ([one, other], "two wiretaps of one chain capture to .*/same"),
        ([elsewhere, xor, elsewhere], "stands twice"),
    ]
    for middleware, why in insane:
        with pytest.raises(ConfigurationError, match=why):
            async with open_server(echo, middleware=middleware):
                pass
    async with open_server(echo, middleware=[only_log, one, xor, elsewhere, Wiretap()]):
        pass


# The switch ---------------------------------------------------------------------------------------


async def test_it_is_switched_at_run_time(log: TapLog, path: Path) -> None:
    under = Wiretap(enabled=False, label="under", capture_file=path)
    over = Wiretap(label="over", max_bytes_per_event=0)
    async with open_server(echo, middleware=[under, over]) as opened:
        client = await opened.connect()

        async def say(text: bytes) -> list[str]:
            await client.transport.output.send(text)
            await client.transport.input.read_exactly(len(text))
            return [each.partition("\n")[0].removeprefix(", ") for each in log.take()]

        assert (
            await say(b"one")
            == [
                "over: begins, server <- None",
                "over: received 3 bytes at 0",
                "over: sent 3 bytes at 0",
            ]
            or log.texts == []
        )
        (connection,) = under.connections
        assert list(over.connections) == [connection]
        assert (under.is_enabled(connection), over.is_enabled(connection)) == (False, True)

        under.enable(connection)
        under.enable(connection)
        over.disable(connection)
        over.disable(connection)
        assert await say(b"number two") == [
            f"under: switched on, {connection.local} <- {connection.remote}",
            "over: switched off; received 3 bytes, sent 3",
            "under: received 10 bytes at 0",
            "under: sent 10 bytes at 0",
        ]
        assert (under.is_enabled(connection), over.is_enabled(connection)) == (True, False)

        under.disable(connection)
        assert await say(b"three") == ["under: switched off; received 10 bytes, sent 10"]
        under.enable(connection)
        assert (await say(b"four"))[1:] == [
            "under: received 4 bytes at 0",
            "under: sent 4 bytes at 0",
        ]
    for wiretap in (under, over):
        assert not wiretap.is_enabled(connection)
        for switch in (wiretap.enable, wiretap.disable):
            with pytest.raises(LookupError, match="does not go through this wiretap"):
                switch(connection)
    first, second = all_captured(path)
    assert (first.received, first.sent) == (b"number two", b"NUMBER TWO")
    assert (second.received, second.sent) == (b"four", b"FOUR")
    assert (first.local, first.peer) == (second.local, second.peer)
    assert first.ending == []
    assert second.ending == ["peer RST"]  # as `open_server` ends its clients


async def test_connections_to_come_begin_as_it_says(log: TapLog) -> None:
    wiretap = Wiretap(enabled=False)
    await talk(wiretap)
    assert log.take() == []
    wiretap.enabled = True
    await talk(wiretap)
    assert len(log.take()) == 5
    wiretap.enabled = False
    await talk(wiretap)
    assert log.take() == []


# The capture file ---------------------------------------------------------------------------------


async def test_connections_of_any_kind_are_streams_of_their_own(path: Path) -> None:
    wiretap = Wiretap(log=False, capture_file=path)
    async with open_server(echo, middleware=[wiretap]) as opened:
        clients = [await opened.connect() for _ in range(20)]
        clients.append(await opened.connect(address="203.0.113.7:4711"))
        for number, client in enumerate(clients):
            await client.transport.output.send(b"%d" % number)
        for number, client in enumerate(reversed(clients)):
            await client.transport.output.send(b" and %d" % number)
            await client.transport.output.send_eof()
            async for _chunk in client.transport.input:
                pass
    streams = all_captured(path)
    assert [stream.received for stream in streams] == [
        b"%d and %d" % (n, 20 - n) for n in range(21)
    ]
    assert all(stream.sent == stream.received.upper() for stream in streams)
    assert len({stream.peer for stream in streams}) == 21
    assert streams[-1].peer == ("203.0.113.7", 4711)


async def test_wiretaps_of_several_endpoints_share_a_file(path: Path) -> None:
    one, other = (Wiretap(log=False, capture_file=path, label=label) for label in ("a", "b"))
    async with (
        open_server(echo, middleware=[one]) as first,
        open_server(echo, middleware=[other]) as second,
    ):
        for opened, said in ((first, b"to one"), (second, b"to the other")):
            client = await opened.connect()
            await client.transport.output.send(said)
            await client.transport.input.read_exactly(len(said))
    assert [(stream.packets[0].interface, stream.received) for stream in all_captured(path)] == [
        ("a", b"to one"),
        ("b", b"to the other"),
    ]


@contextmanager
def full_disk(after_bytes: int) -> Generator[None]:
    """Let no file of this process grow beyond `after_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("said_bytes", [100, 50_000])  # found when flushing, and when writing
async def test_a_full_disk_ends_the_capture_and_no_connection(
    said_bytes: int, log: TapLog, path: Path
) -> None:
    wiretap = Wiretap(capture_file=path, max_bytes_per_event=0)
    await talk(wiretap)
    room = os.stat(path).st_size + said_bytes
    with full_disk(after_bytes=room):
        await talk(wiretap, b"x" * said_bytes)
        await talk(wiretap, b"y" * said_bytes)
    size = os.stat(path).st_size
    await talk(wiretap, b"after that")
    assert os.stat(path).st_size == size <= room
    stopped = [text for text in log.take() if "stopped" in text]
    assert stopped == [f"capturing to {path} has stopped: File too large"]


async def test_a_file_that_cannot_be_opened_later_hurts_no_connection(
    log: TapLog, path: Path
) -> None:
    wiretap = Wiretap(capture_file=path)
    os.unlink(path)
    os.mkdir(path)
    await talk(wiretap)
    texts = log.take()
    assert texts[0] == f"capturing to {path} has stopped: Is a directory"
    assert texts[-1] == "closed; received 5 bytes, sent 5"


# Options ------------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "no" / "where"
    told = f"^capture_file: cannot write to {path}: No such file or directory$"
    with pytest.raises(ConfigurationError, match=told):
        Wiretap(capture_file=path)


def test_a_wiretap_that_could_do_nothing_is_none() -> None:
    with pytest.raises(ConfigurationError, match="log is off and there is no capture_file"):
        Wiretap(log=False)
    with pytest.raises(ValueError, match="max_bytes_per_event must be zero or above, not -1"):
        Wiretap(max_bytes_per_event=-1)
