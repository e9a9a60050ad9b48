"""Reading and writing sockets, TCP and Unix, with either poller."""

import random
import socket

import pytest
import trio

from kestrel_core.connection import Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.features import SocketInfo
from kestrel_core.transport import TransportContext
from kestrel_transports._listeners import SocketTransport
from kestrel_transports._sockets import SocketPipe
from tests.socket_ends import (
    PLENTY,
    MakePoller,
    Task,
    Wire,
    both_ends,
    read_all,
    reset,
    same_socket,
    settle,
    take,
)

only_tcp = pytest.mark.parametrize("scheme", ["tcp"], indirect=True)
only_unix = pytest.mark.parametrize("scheme", ["unix"], indirect=True)

# Reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting", [True, False])
async def test_bytes_and_the_end_that_come_together_are_both_read(
    wire: Wire, waiting: bool
) -> None:
    async with trio.open_nursery() as nursery:
        reading: Task[bytes] | None = None
        if waiting:
            reading = Task(nursery, wire.input.receive)
            await settle()
        wire.peer.send(b"last words")
        wire.peer.shutdown(socket.SHUT_WR)
        if reading is None:
            await settle()
            reading = Task(nursery, wire.input.receive)
    assert reading.results == [b"last words"]
    assert await wire.input.receive() == b""
    assert wire.input.at_eof


async def test_an_end_that_comes_after_the_bytes_were_read_wakes_the_reader(wire: Wire) -> None:
    wire.peer.send(b"abc")
    assert await wire.input.receive() == b"abc"
    async with trio.open_nursery() as nursery:
        reading = Task(nursery, wire.input.receive)
        await settle()
        assert not reading.done
        wire.peer.shutdown(socket.SHUT_WR)
    assert reading.results == [b""]


@pytest.mark.parametrize("count", [1, 65535, 65536, 65537, 131072, 196608])
async def test_bytes_around_what_one_read_asks_for_are_neither_lost_nor_stuck(
    wire: Wire, count: int
) -> None:
    data = random.Random(count).randbytes(count)
    wire.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * count)
    wire.peer.sendall(data)
    await settle()
    assert await read_all(wire, count) == data
    async with trio.open_nursery() as nursery:
        reading = Task(nursery, wire.input.receive)
        await settle()
        assert not reading.done, "nothing more has come"
        wire.peer.send(b"more")
    assert reading.results == [b"more"]
    wire.peer.sendall(data)
    wire.peer.shutdown(socket.SHUT_WR)
    await settle()
    assert await read_all(wire, count) == data
    assert await wire.input.receive() == b""


async def test_what_comes_while_nobody_reads_is_read_later(wire: Wire) -> None:
    for part in (b"a", b"b", b"c"):
        wire.peer.send(part)
        await settle()
    assert await wire.input.receive() == b"abc"


@pytest.mark.parametrize("wake_first", [True, False])
async def test_a_read_that_is_woken_as_bytes_come_loses_none(wire: Wire, wake_first: bool) -> None:
    async with trio.open_nursery() as nursery:
        reading = Task(nursery, wire.input.read)
        await settle()
        if wake_first:
            wire.input.cancel_pending_read()
        wire.peer.send(b"abc")
        if not wake_first:
            wire.input.cancel_pending_read()
    (shown,) = reading.results
    assert shown in (b"", b"abc")
    assert wire.input.read_cancelled
    assert await read_all(wire, 3) == b"abc"
    assert not wire.input.read_cancelled


async def test_a_woken_reader_can_wait_again(wire: Wire) -> None:
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            reading = Task(nursery, wire.input.receive)
            await settle()
            wire.input.cancel_pending_read()
        assert reading.results == [b""]
        assert wire.input.read_cancelled
    async with trio.open_nursery() as nursery:
        reading = Task(nursery, wire.input.receive)
        await settle()
        wire.peer.send(b"x")
    assert reading.results == [b"x"]


async def test_a_cancelled_read_loses_nothing(wire: Wire) -> None:
    readings: list[Task[bytes]] = []
    for number in range(100):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                readings.append(Task(nursery, wire.input.receive))
                if number % 2:
                    await settle()
                wire.peer.send(bytes([number]))
                if number % 3:
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    received = b"".join(result for reading in readings for result in reading.results)
    if len(received) < 100:
        received += await read_all(wire, 100 - len(received))
    assert received == bytes(range(100))


async def test_looking_finds_what_has_come_and_does_not_wait(wire: Wire) -> None:
    wire.input.look()
    assert wire.input.buffered == b""
    for held in (b"a", b"aa"):
        wire.peer.send(b"a")
        await settle()
        wire.input.look()
        assert wire.input.buffered == held
        wire.input.look()
        assert wire.input.buffered == held
    wire.peer.shutdown(socket.SHUT_WR)
    await settle()
    assert not wire.input.at_eof
    wire.input.look()
    assert wire.input.at_eof
    assert await wire.input.receive() == b"aa"
    await wire.pipe.aclose()
    wire.input.look()


@only_tcp
async def test_looking_finds_that_the_peer_is_gone(wire: Wire) -> None:
    reset(wire.peer)
    await settle()
    with pytest.raises(trio.BrokenResourceError):
        wire.input.look()
    assert wire.connection.closed


@only_tcp
async def test_what_follows_urgent_data_is_read_at_once(wire: Wire) -> None:
    wire.peer.send(b"abc")
    wire.peer.send(b"!", socket.MSG_OOB)
    wire.peer.send(b"def")
    await settle()
    assert await read_all(wire, 6) == b"abcdef"


@only_unix
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_peer_that_passes_descriptors_is_refused_or_loses_them(
    transport: SocketTransport, endpoint: Endpoint, context: TransportContext, side: str
) -> None:
    async with both_ends(transport, endpoint, context) as (client, server):
        ours, theirs = (client, server) if side == "client" else (server, client)
        with same_socket(theirs.features[SocketInfo].fileno) as peer:
            peer.send(b"abc")
            try:
                socket.send_fds(peer, [b"-"], [peer.fileno()])
            except PermissionError:  # Linux 6.16
                expected = b"abcdef"
            else:
                expected = b"abc-def"
            peer.send(b"def")
        await settle()
        assert await ours.transport.input.read_exactly(len(expected)) == expected


async def test_what_follows_passed_descriptors_is_read_at_once_where_they_cannot_be_refused(
    context: TransportContext, make_poller: MakePoller
) -> None:
    ours, peer = socket.socketpair()
    with peer:
        pipe = SocketPipe(ours, context.shared(make_poller), stops_short=True)
        peer.send(b"abc")
        socket.send_fds(peer, [b"-"], [peer.fileno()])
        peer.send(b"def")
        await settle()
        assert await pipe.input.read_exactly(7) == b"abc-def"
        await pipe.aclose()


# Writing ----------------------------------------------------------------------------------------


async def test_fifty_megabytes_go_through_in_both_directions_at_once(
    transport: SocketTransport, endpoint: Endpoint, context: TransportContext
) -> None:
    block = random.Random(50).randbytes(1_000_003)
    blocks = 50
    async with both_ends(transport, endpoint, context) as (client, server):

        async def send(connection: Connection) -> None:
            for _ in range(blocks):
                await connection.transport.output.send(block)
            await connection.transport.output.send_eof()

        async def receive(connection: Connection) -> None:
            for _ in range(blocks):
                assert await connection.transport.input.read_exactly(len(block)) == block
            assert await connection.transport.input.receive() == b""

        async with trio.open_nursery() as nursery:
            for connection in (client, server):
                nursery.start_soon(send, connection)
                nursery.start_soon(receive, connection)


async def test_a_reader_that_does_not_read_suspends_the_flush(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        wire.output.write(bytes(PLENTY))
        flushing = Task(nursery, wire.output.flush)
        await settle()
        assert not flushing.done
        received = await trio.to_thread.run_sync(take, wire.peer, PLENTY)
    assert flushing.error is None
    assert len(received) == PLENTY
    assert not any(received)


async def test_waking_the_reader_does_not_disturb_a_blocked_flush(wire: Wire) -> None:
    data = random.Random(1).randbytes(PLENTY)
    async with trio.open_nursery() as nursery:
        wire.output.write(data)
        flushing = Task(nursery, wire.output.flush)
        for _ in range(3):
            reading = Task(nursery, wire.input.receive)
            await settle()
            wire.input.cancel_pending_read()
            await settle()
            assert reading.results == [b""]
            assert not flushing.done
        received = await trio.to_thread.run_sync(take, wire.peer, PLENTY)
    assert flushing.error is None
    assert received == data
