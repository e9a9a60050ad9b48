"""Pipes over sockets, TCP and Unix, with either poller; their peer is a plain socket."""

import random
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.features import SocketInfo
from kestrel_core.transport import TransportContext
from kestrel_transports._listeners import SocketTransport
from kestrel_transports._poller import Poller
from kestrel_transports._sockets import SocketPipe
from tests.socket_ends import MakePoller, Task, Wire, reset, same_socket, take

only_tcp = pytest.mark.parametrize("scheme", ["tcp"], indirect=True)
only_unix = pytest.mark.parametrize("scheme", ["unix"], indirect=True)

# More than the buffers of a socket pair hold.
PLENTY = 32 * 1024 * 1024


async def settle() -> None:
    """Let the kernel deliver, and every task see what there is."""
    await wait_all_tasks_blocked(0.001)


async def read_all(wire: Wire, count: int) -> bytes:
    """Read until `count` bytes are held, and consume them."""
    data = await wire.input.read()
    while len(data) < count and not wire.input.at_eof:
        wire.input.advance(0, len(data))
        data = await wire.input.read()
    wire.input.advance(len(data))
    return data


@asynccontextmanager
async def both_ends(
    transport: SocketTransport, endpoint: Endpoint, context: TransportContext
) -> AsyncGenerator[tuple[Connection, Connection]]:
    """Give the client's and the server's connection, both ours."""
    listener = await transport.bind(endpoint, context)
    client = await transport.connect(listener.endpoint, context)
    server = await listener.accept()
    await listener.aclose()
    try:
        yield client, server
    finally:
        for connection in (client, server):
            connection.transport.abort()
            await connection.aclose()


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


# Ending -----------------------------------------------------------------------------------------


async def test_we_can_end_our_side_and_go_on_reading(wire: Wire) -> None:
    await wire.output.send_eof()
    assert take(wire.peer, 1) == b""
    wire.peer.send(b"still here")
    assert await wire.input.receive() == b"still here"
    assert not wire.connection.closed


async def test_the_peer_can_end_its_side_and_go_on_reading(wire: Wire) -> None:
    wire.peer.shutdown(socket.SHUT_WR)
    assert await wire.input.receive() == b""
    await settle()
    assert not wire.connection.closed
    await wire.output.send(b"still here")
    assert take(wire.peer, 10) == b"still here"


async def test_closing_ends_what_waits(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        wire.output.write(bytes(PLENTY))
        flushing = Task(nursery, wire.output.flush)
        reading = Task(nursery, wire.input.read)
        await settle()
        await wire.connection.aclose()
    assert isinstance(flushing.error, trio.ClosedResourceError)
    assert isinstance(reading.error, trio.ClosedResourceError)
    assert wire.connection.closed


async def test_aborting_breaks_what_waits(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        wire.output.write(bytes(PLENTY))
        flushing = Task(nursery, wire.output.flush)
        reading = Task(nursery, wire.input.read)
        await settle()
        wire.connection.abort(EndReason.ABORTED_BY_APP)
    assert isinstance(flushing.error, trio.BrokenResourceError)
    assert isinstance(reading.error, trio.BrokenResourceError)
    assert wire.connection.closed


async def test_closing_as_room_appears_is_not_taken_for_a_peer_that_is_gone(wire: Wire) -> None:
    wire.peer.setblocking(False)
    async with trio.open_nursery() as nursery:
        wire.output.write(bytes(PLENTY))
        flushing = Task(nursery, wire.output.flush)
        await settle()
        assert len(wire.peer.recv(1 << 20)) > 0
        # The flush and this task are now woken together, in either order.
        await trio.lowlevel.checkpoint()
        await wire.connection.aclose()
    assert isinstance(flushing.error, trio.ClosedResourceError)


async def test_a_second_close_does_not_cut_the_first_short(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        wire.output.write(bytes(PLENTY))
        closing = Task(nursery, wire.pipe.aclose)
        await settle()
        await wire.pipe.aclose()
        assert not closing.done
        received = await trio.to_thread.run_sync(take, wire.peer, PLENTY + 1)
    assert closing.error is None
    assert len(received) == PLENTY


@only_tcp
async def test_aborting_resets_the_peer(wire: Wire) -> None:
    wire.output.write(b"never sent")
    wire.connection.abort(EndReason.ABORTED_BY_APP)
    with pytest.raises(ConnectionResetError):
        wire.peer.recv(1)


@only_unix
async def test_aborting_ends_a_unix_peer_which_knows_no_reset(wire: Wire) -> None:
    wire.output.write(b"never sent")
    wire.connection.abort(EndReason.ABORTED_BY_APP)
    assert wire.peer.recv(1) == b""


@only_tcp
async def test_a_reset_breaks_the_pending_read_and_says_closed(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        reading = Task(nursery, wire.input.read)
        await settle()
        reset(wire.peer)
    assert isinstance(reading.error, trio.BrokenResourceError)
    assert wire.connection.closed
    for use in (wire.input.read, wire.output.flush, wire.output.send_eof):
        with pytest.raises(trio.BrokenResourceError):
            await use()
    with pytest.raises(trio.BrokenResourceError):
        wire.output.write(b"x")


@only_tcp
async def test_an_end_cannot_be_sent_to_a_peer_that_is_gone(wire: Wire) -> None:
    reset(wire.peer)
    await settle()
    with pytest.raises(trio.BrokenResourceError):
        await wire.output.send_eof()
    assert wire.connection.closed
    with pytest.raises(trio.BrokenResourceError):
        await wire.input.read()


@only_tcp
async def test_what_was_held_is_gone_after_a_reset(wire: Wire) -> None:
    wire.peer.send(b"abc")
    wire.input.advance(0, len(await wire.input.read()))
    reset(wire.peer)
    for use in (wire.input.read, wire.input.receive):
        with pytest.raises(trio.BrokenResourceError):
            await use()
    wire.input.advance(3)


@only_tcp
async def test_a_reset_is_no_end_even_if_the_writer_hears_of_it_first(wire: Wire) -> None:
    wire.peer.send(b"abc")
    await settle()
    reset(wire.peer)
    await settle()
    wire.output.write(b"x")
    wire.output.flush_nowait()
    with pytest.raises(trio.BrokenResourceError):
        wire.output.write(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await read_all(wire, 4)
    assert wire.connection.closed


async def test_the_last_words_of_a_peer_can_be_read_after_writing_failed(wire: Wire) -> None:
    wire.peer.send(b"that is enough")
    wire.peer.close()
    for _ in range(2):  # TCP needs one to provoke the peer's reset, and one to find it
        with suppress(trio.BrokenResourceError):
            await wire.output.send(b"x")
        await settle()
    assert wire.connection.closed
    assert await wire.input.receive() == b"that is enough"
    assert await wire.input.receive() == b""
    with pytest.raises(trio.BrokenResourceError):
        wire.output.write(b"x")


@pytest.mark.skipif(sys.platform != "linux", reason="only events can tell, and this has no epoll")
@pytest.mark.parametrize("make_poller", [Poller.of], ids=["epoll"])
async def test_closed_is_told_while_nobody_reads(wire: Wire) -> None:
    if wire.peer.family == socket.AF_UNIX:
        wire.peer.close()
    else:
        reset(wire.peer)
    with trio.fail_after(5):
        await wire.connection.wait_closed()


@pytest.mark.skipif(sys.platform != "linux", reason="only events can tell, and this has no epoll")
@pytest.mark.parametrize("make_poller", [Poller.of], ids=["epoll"])
async def test_closed_is_told_when_both_sides_have_ended(wire: Wire) -> None:
    await wire.output.send_eof()
    await settle()
    assert not wire.connection.closed
    wire.peer.shutdown(socket.SHUT_WR)
    with trio.fail_after(5):
        await wire.connection.wait_closed()
    assert await wire.input.read() == b""


async def test_the_socket_is_a_feature_while_it_is_open(wire: Wire) -> None:
    fileno = wire.connection.features[SocketInfo].fileno
    with same_socket(fileno) as same:
        assert same.getpeername() == wire.peer.getsockname()
    await wire.connection.aclose()
    assert SocketInfo not in wire.connection.features
