"""What happens to streams when the `MultiplexedConnection` ends that carries them.

Each check gets the two ends of a new connection, `near` and `far`. Its docstring is the promise.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.end_reason import EndReason
from kestrel_core.testing.contracts.bound_streams import BoundStreams
from kestrel_core.testing.contracts.expectations import Pending, expect, raises, settle
from kestrel_core.testing.contracts.flood import flooded
from kestrel_core.testing.contracts.streams import StreamCheck

__all__ = ["STREAM_ENDING_CHECKS"]


async def aborts_all_streams(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`abort()` of a connection ends all of its streams, on both sides, and whoever waits."""
    streams = [*await bound.stream(near, far), *await bound.stream(far, near)]
    async with _ending((near, far), streams):
        near.abort(EndReason.ABORTED_BY_APP)
        near.abort(EndReason.OTHER_ERROR)
    expect(
        near.end_reason is EndReason.ABORTED_BY_APP,
        f"the first reason should win, not {near.end_reason}",
    )
    await _expect_ended((near, far), streams)


async def closes_all_streams(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`aclose()` of a connection ends all of its streams, on both sides, and whoever waits."""
    streams = [*await bound.stream(near, far), *await bound.stream(far, near)]
    async with _ending((near, far), streams):
        await near.aclose()
    await _expect_ended((near, far), streams)
    await near.aclose()


async def ends_streams_that_were_not_accepted(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`aclose()` of a connection ends streams, too, that the peer opened and nobody accepted."""
    stream = await bound.line(far)
    await settle()
    await near.aclose()
    await _expect_ended((near, far), (stream,))


async def closes_all_though_cancelled(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`aclose()` of a connection that is cancelled has closed all the same."""
    opened, accepted = await bound.stream(near, far)
    async with flooded(opened.transport) as (_, running):
        opened.transport.output.write(b"unsent")
        with trio.CancelScope() as scope:
            scope.cancel()
            await near.aclose()
    running.expect_raised(trio.ClosedResourceError)
    with raises(trio.ClosedResourceError, "read() of a stream after its connection's aclose()"):
        await opened.transport.input.read()
    await _expect_ended((near, far), (opened, accepted))


@asynccontextmanager
async def _ending(
    connections: Sequence[MultiplexedConnection], streams: Sequence[Connection]
) -> AsyncGenerator[None]:
    """Accept at `connections` and read `streams`, and expect the block to end all of that."""

    async def read(stream: Connection) -> bytes:
        try:
            return await stream.transport.input.read()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    acceptors = [Pending[Connection]("a pending accept_stream()") for _ in connections]
    readers = [Pending[bytes]("a pending read() of a stream") for _ in streams]
    async with trio.open_nursery() as nursery:
        for acceptor, connection in zip(acceptors, connections, strict=True):
            nursery.start_soon(acceptor.run, connection.accept_stream)
        for reader, stream in zip(readers, streams, strict=True):
            nursery.start_soon(reader.run, partial(read, stream))
        await settle()
        yield
    for acceptor in acceptors:
        acceptor.expect_raised(trio.EndOfChannel)
    for reader in readers:
        expect(reader.result == b"", f"a stream should end, not bring {reader.result!r}")


async def _expect_ended(
    connections: Sequence[MultiplexedConnection], streams: Sequence[Connection]
) -> None:
    for ended in (*connections, *streams):
        await ended.wait_closed()
    for connection in connections:
        with raises(trio.EndOfChannel, "accept_stream() of a connection that ended"):
            await connection.accept_stream()
        with raises(trio.BrokenResourceError, "open_stream() of a connection that ended"):
            await connection.open_stream()


STREAM_ENDING_CHECKS: Sequence[StreamCheck] = [
    aborts_all_streams,
    closes_all_streams,
    ends_streams_that_were_not_accepted,
    closes_all_though_cancelled,
]
