"""How connections over sockets end, TCP and Unix, with either poller."""

import socket
import sys
from contextlib import suppress

import pytest
import trio

from kestrel_core.end_reason import EndReason
from kestrel_core.features import SocketInfo
from kestrel_transports._poller import Poller
from tests.socket_ends import (
    PLENTY,
    Task,
    Wire,
    read_all,
    reset,
    same_socket,
    settle,
    take,
)

only_tcp = pytest.mark.parametrize("scheme", ["tcp"], indirect=True)
only_unix = pytest.mark.parametrize("scheme", ["unix"], indirect=True)


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


@only_tcp
async def test_a_cancelled_close_does_not_look_like_an_end(wire: Wire) -> None:
    wire.output.write(bytes(PLENTY))
    with trio.move_on_after(0.05) as scope:
        await wire.connection.aclose()
    assert scope.cancelled_caught
    with pytest.raises(ConnectionResetError):
        take(wire.peer, PLENTY)


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
