"""What a `MultiplexedConnection` promises of its streams, one check for each sentence.

Each check gets the two ends of a new connection, `near` and `far`. Its docstring is the promise.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import trio

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.end_reason import EndReason
from kestrel_core.testing.contracts.bound_streams import GREETING, BoundStreams, expect_word
from kestrel_core.testing.contracts.expectations import (
    Pending,
    concurrently,
    expect,
    pending,
    raises,
    settle,
)
from kestrel_core.testing.contracts.flood import flooded

__all__ = ["STREAM_CHECKS", "StreamCheck"]

StreamCheck: TypeAlias = Callable[
    [BoundStreams, MultiplexedConnection, MultiplexedConnection], Awaitable[None]
]

_MANY_STREAMS = 20


async def carries_no_bytes_itself(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """The connection's own `transport` carries no bytes: using it raises ClosedResourceError."""
    pipe = near.transport
    uses: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("read()", pipe.input.read),
        ("receive()", pipe.input.receive),
        ("send()", partial(pipe.output.send, b"x")),
        ("flush()", pipe.output.flush),
        ("send_eof()", pipe.output.send_eof),
    ]
    for name, use in uses:
        with raises(trio.ClosedResourceError, name):
            await use()
    with raises(trio.ClosedResourceError, "write()"):
        pipe.output.write(b"x")


async def makes_sound_streams(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """A stream has its connection's addresses and limits; nothing is signalled yet."""
    streams = await bound.stream(near, far)
    for connection, stream in zip((near, far), streams, strict=True):
        expect(
            (stream.local, stream.remote) == (connection.local, connection.remote),
            f"{stream!r} should not be a stream of {connection!r}",
        )
        expect(stream.context is connection.context, "`context` should be the connection's")
        expect(stream.id != connection.id, "a stream should have an id of its own")
        expect(
            not isinstance(stream, MultiplexedConnection),
            "a stream should be a connection that carries bytes",
        )
        expect(not stream.closed, "`closed` should not be set on a new stream")
        expect(not stream.close_requested, "`close_requested` should not be set either")
        expect(stream.end_reason is None, "`end_reason` should be None")


async def queues_streams_before_accepting(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """Streams that are opened while nobody accepts are accepted later, with their bytes."""
    for number in range(3):
        stream = await bound.line(near)
        await stream.transport.output.send(bytes([number]))
        await stream.transport.output.send_eof()
    await settle()
    received: list[bytes] = []
    for _ in range(3):
        stream = await bound.line_of_peer(far)
        received.append(await stream.transport.input.read_exactly(2))
    expect(sorted(received) == [b"\0", b"\1", b"\2"], f"three streams brought {received!r}")


async def keeps_streams_apart(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """Many streams at once, opened from both sides, have their own bytes and ends each."""

    async def echo(stream: Connection) -> None:
        async for chunk in stream.transport.input:
            await stream.transport.output.send(chunk)
        await stream.aclose()

    async def serve(connection: MultiplexedConnection) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(_MANY_STREAMS):
                nursery.start_soon(echo, await connection.accept_stream())

    async def ask(connection: MultiplexedConnection, number: int) -> None:
        stream = await connection.open_stream()
        asked = f"stream {number}".encode() * 100
        await stream.transport.output.send(asked)
        await stream.transport.output.send_eof()
        answer = await stream.transport.input.read_exactly(len(asked) + 1)
        expect(answer == asked, f"stream {number} got {answer[:20]!r}")
        await stream.aclose()

    await concurrently(
        partial(serve, near),
        partial(serve, far),
        *(partial(ask, end, number) for end in (near, far) for number in range(_MANY_STREAMS)),
    )


async def holds_up_no_other_stream(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """A stream that nobody reads makes its sender wait, and holds up no other stream."""
    full, unread = await bound.stream(near, far)
    async with flooded(full.transport) as (flood, running):
        for opened, accepted in (await bound.stream(near, far), await bound.stream(far, near)):
            await expect_word(opened, accepted, "beside a stream that is full")
            await expect_word(accepted, opened, "beside a stream that is full")
        expect(not running.done, "reading other streams should not let the sender go on")
        await flood.stop_and_receive(unread.transport)


async def lets_streams_half_close(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """A peer that merely ended its side of a stream has not closed it."""
    for opener_ends in (True, False):
        opened, accepted = await bound.stream(near, far)
        ending, other = (opened, accepted) if opener_ends else (accepted, opened)
        await ending.transport.output.send_eof()
        expect(await other.transport.input.read() == b"", "read() should find the end")
        await settle()
        expect(not other.closed, "`closed` should not be set by a half-close")
        await expect_word(other, ending, "after a half-close")


async def cancelled_accept_loses_no_stream(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """An `accept_stream()` that was cancelled has lost no stream."""
    with trio.CancelScope() as scope:
        async with pending(far.accept_stream, "accept_stream() without streams"):
            scope.cancel()
    async with trio.open_nursery() as nursery:
        accepting: Pending[Connection] = Pending("accept_stream()")
        nursery.start_soon(accepting.run, far.accept_stream)
        await settle()
        opened = await bound.line(near)
        nursery.cancel_scope.cancel()
    accepted = accepting.result if accepting.done else await far.accept_stream()
    greeting = await accepted.transport.input.read_exactly(len(GREETING))
    expect(greeting == GREETING, f"a stream began with {greeting!r}, which is not what was sent")
    await expect_word(accepted, opened, "after a cancelled accept_stream()")


async def aborts_one_stream(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`abort()` of a stream breaks both of its ends and touches no other stream."""
    for opener_aborts in (True, False):
        others = [await bound.stream(near, far), await bound.stream(far, near)]
        opened, accepted = await bound.stream(near, far)
        aborting, other = (opened, accepted) if opener_aborts else (accepted, opened)
        async with pending(other.transport.input.read, "the peer's read()") as reading:
            aborting.abort(EndReason.ABORTED_BY_APP)
        reading.expect_raised(trio.BrokenResourceError)
        with raises(trio.BrokenResourceError, "read() after abort()"):
            await aborting.transport.input.read()
        expect(bool(aborting.closed), "`closed` should be set by abort()")
        await other.wait_closed()
        expect(
            aborting.end_reason is EndReason.ABORTED_BY_APP,
            f"`end_reason` should be what abort() was given, not {aborting.end_reason}",
        )
        await _expect_untouched((near, far), others)


async def closes_one_stream(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`aclose()` of a stream sends what was written, ends it, and touches no other stream."""
    for opener_closes in (True, False):
        others = [await bound.stream(near, far), await bound.stream(far, near)]
        opened, accepted = await bound.stream(near, far)
        closing, other = (opened, accepted) if opener_closes else (accepted, opened)
        closing.transport.output.write(b"good-bye")
        await closing.aclose()
        expect(bool(closing.closed), "`closed` should be set by aclose()")
        data = await other.transport.input.read_exactly(9)
        expect(data == b"good-bye", f"of b'good-bye' and the end there arrived {data!r}")
        await other.aclose()
        await _expect_untouched((near, far), others)


async def _expect_untouched(
    connections: Sequence[Connection], streams: Sequence[tuple[Connection, Connection]]
) -> None:
    for connection in connections:
        expect(not connection.closed, "the end of a stream should not be that of its connection")
    for opened, accepted in streams:
        await expect_word(opened, accepted, "beside a stream that ended")
        await expect_word(accepted, opened, "beside a stream that ended")


async def passes_close_requests_on(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`request_close()` of a connection asks its streams, too, and those that come after it."""
    before = [(await bound.stream(near, far))[0], (await bound.stream(far, near))[1]]
    near.request_close()
    after = [(await bound.stream(near, far))[0], (await bound.stream(far, near))[1]]
    for stream in (*before, *after):
        expect(bool(stream.close_requested), "`close_requested` of a stream should be set")
        expect(not stream.closed, "a stream should go on until it is closed")


STREAM_CHECKS: Sequence[StreamCheck] = [
    carries_no_bytes_itself,
    makes_sound_streams,
    queues_streams_before_accepting,
    keeps_streams_apart,
    holds_up_no_other_stream,
    lets_streams_half_close,
    cancelled_accept_loses_no_stream,
    aborts_one_stream,
    closes_one_stream,
    passes_close_requests_on,
]
