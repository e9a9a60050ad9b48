"""The two bridges between pipes and trio's streams, where the contract suite does not look."""

import ssl
from functools import partial

import pytest
import trio
import trustme
from trio.testing import (
    MemorySendStream,
    assert_checkpoints,
    memory_stream_one_way_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from kestrel_core.connection import Connection, close_within
from kestrel_core.duplex_pipe import DuplexPipe, PipeStream
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.signals import Signal
from kestrel_core.transport import open_transport_context


class OneStream(trio.abc.Stream):
    """A stream that cannot half-close, over two of trio's, and is slow to close if told so."""

    def __init__(self, sending: MemorySendStream, receiving: trio.abc.ReceiveStream) -> None:
        self.sending = sending
        self.receiving = receiving
        self.closing_fails: Exception | None = None
        self.closing_hangs = False
        self.closed_forcefully = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.sending.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.sending.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.receiving.receive_some(max_bytes)

    async def aclose(self) -> None:
        try:
            if self.closing_hangs:
                await trio.sleep_forever()
        except trio.Cancelled:
            self.closed_forcefully = True
            raise
        finally:
            self.sending.close()
            await trio.aclose_forcefully(self.receiving)
        if self.closing_fails is not None:
            raise self.closing_fails


def a_stream() -> OneStream:
    sending, _ = memory_stream_one_way_pair()
    _, receiving = memory_stream_one_way_pair()
    return OneStream(sending, receiving)


async def test_a_stream_that_cannot_half_close_says_so() -> None:
    pipe = DuplexPipe.from_stream(a_stream())
    with pytest.raises(trio.ClosedResourceError, match="OneStream cannot half-close"):
        await pipe.output.send_eof()


async def test_a_stream_has_no_way_to_send_without_waiting() -> None:
    near, far = memory_stream_pair()
    pipe = DuplexPipe.from_stream(near)
    pipe.output.write(b"abc")
    pipe.output.flush_nowait()
    assert pipe.output.unflushed_bytes == 3
    await pipe.output.flush()
    assert await far.receive_some() == b"abc"


async def test_closing_the_pipe_closes_the_stream() -> None:
    near, far = memory_stream_pair()
    pipe = DuplexPipe.from_stream(near)
    pipe.output.write(b"last")
    await pipe.aclose()
    assert await far.receive_some() == b"last"
    assert await far.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"x")


async def test_a_stream_that_says_good_bye_to_nobody_is_closed_all_the_same() -> None:
    stream = a_stream()
    stream.closing_fails = trio.BrokenResourceError("nobody is there")
    await DuplexPipe.from_stream(stream).aclose()


async def test_another_failure_of_closing_is_told() -> None:
    stream = a_stream()
    stream.closing_fails = OSError("no")
    with pytest.raises(OSError, match="no"):
        await DuplexPipe.from_stream(stream).aclose()


async def test_after_an_abort_the_stream_is_closed_without_ceremony() -> None:
    stream = a_stream()
    stream.closing_hangs = True
    pipe = DuplexPipe.from_stream(stream)
    pipe.abort()
    await pipe.aclose()
    assert stream.closed_forcefully


async def test_an_abort_cuts_the_ceremony_short() -> None:
    stream = a_stream()
    stream.closing_hangs = True
    pipe = DuplexPipe.from_stream(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.aclose)
        await trio.testing.wait_all_tasks_blocked()
        pipe.abort()
    assert stream.closed_forcefully


async def test_a_stream_that_broke_stays_broken() -> None:
    class Breaking(OneStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            raise trio.BrokenResourceError("reset")

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise trio.BrokenResourceError("reset")

    sending, receiving = memory_stream_one_way_pair()
    pipe = DuplexPipe.from_stream(Breaking(sending, receiving))
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await pipe.input.read()
    with pytest.raises(trio.BrokenResourceError, match="the peer is gone"):
        await pipe.input.read()
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await pipe.output.send(b"x")
    with pytest.raises(trio.BrokenResourceError, match="the peer is gone"):
        pipe.output.write(b"x")
    await pipe.aclose()


async def test_what_was_looked_at_comes_out_of_the_stream_first() -> None:
    near, far = duplex_pipe_pair()
    await far.output.send(b"PRI * HTTP/2.0")
    await near.input.read()
    stream = near.as_stream()
    assert isinstance(stream, PipeStream)
    assert await stream.receive_some(3) == b"PRI"
    assert await stream.receive_some() == b" * HTTP/2.0"


async def test_a_wake_up_meant_for_the_pipe_does_not_look_like_the_end_of_the_stream() -> None:
    near, far = duplex_pipe_pair()
    stream = near.as_stream()
    near.input.cancel_pending_read()
    await far.output.send(b"x")
    assert await stream.receive_some() == b"x"


async def test_bytes_that_come_along_with_a_wake_up_are_not_lost() -> None:
    near, far = duplex_pipe_pair()
    stream = near.as_stream()

    async def receive() -> None:
        assert await stream.receive_some() == b"x"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await far.output.send(b"x")
        near.input.cancel_pending_read()


async def test_receiving_what_is_held_is_a_checkpoint_and_can_be_cancelled() -> None:
    near, far = duplex_pipe_pair()
    stream = near.as_stream()
    await far.output.send(b"abc")
    assert await stream.receive_some(1) == b"a"
    with assert_checkpoints():
        assert await stream.receive_some(1) == b"b"
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive_some()
    assert scope.cancelled_caught
    assert await stream.receive_some() == b"c"


async def test_a_second_sender_is_refused_before_it_could_mix_in_anything() -> None:
    near, far = duplex_pipe_pair(10)
    stream = near.as_stream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"0123456789a")
        await trio.testing.wait_all_tasks_blocked()
        for operation in (
            partial(stream.send_all, b"b"),
            stream.send_eof,
            stream.wait_send_all_might_not_block,
        ):
            with pytest.raises(trio.BusyResourceError):
                await operation()
        assert await far.input.read_exactly(11) == b"0123456789a"
    await stream.send_all(b"c")
    assert await far.input.receive() == b"c"


async def test_sending_and_waiting_to_send_exclude_each_other() -> None:
    near, _ = duplex_pipe_pair()
    stream = near.as_stream()
    busy: list[trio.BusyResourceError] = []

    async def wait() -> None:
        try:
            await stream.wait_send_all_might_not_block()
        except trio.BusyResourceError as error:
            busy.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
    assert len(busy) == 1


async def test_a_pipe_carries_trios_tls() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("test.example").configure_cert(server_context)  # pyright: ignore[reportUnknownMemberType]  # half typed
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)  # pyright: ignore[reportUnknownMemberType]  # half typed
    near, far = duplex_pipe_pair(100)
    client = DuplexPipe.from_stream(
        trio.SSLStream(near.as_stream(), client_context, server_hostname="test.example")
    )
    server = DuplexPipe.from_stream(
        trio.SSLStream(far.as_stream(), server_context, server_side=True)
    )
    data = bytes(range(256)) * 100

    async def echo() -> None:
        async for chunk in server.input:
            await server.output.send(chunk)
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        nursery.start_soon(client.output.send, data)
        assert await client.input.read_exactly(len(data)) == data
        await client.aclose()


async def test_abort_resets_what_the_stream_stands_on() -> None:
    resets: list[str] = []
    pipe = DuplexPipe.from_stream(a_stream(), reset=lambda: resets.append("reset"))
    pipe.abort()
    pipe.abort()
    assert resets == ["reset"]
    with pytest.raises(trio.BrokenResourceError):
        await pipe.input.read()
    await pipe.aclose()


async def test_a_closed_pipe_is_not_reset() -> None:
    resets: list[str] = []
    pipe = DuplexPipe.from_stream(a_stream(), reset=lambda: resets.append("reset"))
    await pipe.aclose()
    pipe.abort()
    assert resets == []


async def test_closing_that_hangs_is_ended_by_a_reset() -> None:
    stream = a_stream()
    stream.closing_hangs = True
    resets: list[str] = []
    pipe = DuplexPipe.from_stream(stream, reset=lambda: resets.append("reset"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.aclose)
        await wait_all_tasks_blocked()
        pipe.abort()
    assert resets == ["reset"]
    assert stream.closed_forcefully


@pytest.mark.parametrize("by", ["reading", "flushing"])
async def test_a_stream_that_breaks_is_gone(by: str) -> None:
    ours, theirs = memory_stream_pair()
    gone = Signal()
    pipe = DuplexPipe.from_stream(ours, gone=gone)
    await theirs.send_stream.aclose()
    assert await pipe.input.read() == b""
    assert not gone  # a half-close is no end
    if by == "flushing":
        await theirs.receive_stream.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await pipe.output.send(b"x")
    else:
        broken = DuplexPipe.from_stream(Breaking(), gone=gone)
        with pytest.raises(trio.BrokenResourceError):
            await broken.input.read()
    assert gone


class Breaking(trio.abc.Stream):
    """A stream that is broken."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        raise trio.BrokenResourceError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_stream_that_closes_within_a_scope_can_be_closed_in_a_limited_time() -> None:
    """Whose scope once ended up outside of the limit's."""
    async with open_transport_context() as context:
        stream = a_stream()
        stream.closing_hangs = True
        connection = Connection(DuplexPipe.from_stream(stream), context)
        await close_within(connection, 0.01)
        assert connection.closed
    assert stream.closed_forcefully


async def test_a_cancelled_close_resets_what_the_stream_stands_on() -> None:
    resets: list[str] = []
    ours, _ = memory_stream_pair()
    ours.send_stream.send_all_hook = trio.sleep_forever
    pipe = DuplexPipe.from_stream(ours, reset=lambda: resets.append("reset"))
    pipe.output.write(b"x")
    with trio.move_on_after(0.01) as scope:
        await pipe.aclose()
    assert scope.cancelled_caught
    assert resets == ["reset"]
    with pytest.raises(trio.ClosedResourceError):
        await pipe.input.read()
