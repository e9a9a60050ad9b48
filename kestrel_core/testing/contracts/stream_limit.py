"""What `MultiplexedConnection.open_stream` promises when there are as many streams as may be.

A transport that allows any number of streams, or nearly so, has nothing to show here.
"""

from collections.abc import Sequence

import trio

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.end_reason import EndReason
from kestrel_core.testing.contracts.bound_streams import GREETING, BoundStreams, expect_word
from kestrel_core.testing.contracts.expectations import Pending, expect, pending, settle
from kestrel_core.testing.contracts.streams import StreamCheck

__all__ = ["STREAM_LIMIT_CHECKS"]

# A peer that allows so many streams at once has no limit worth looking for.
_MOST_STREAMS = 1000

_NUMBER_BYTES = 2

# Of trio's clock, for what should not happen.
_A_WHILE_SECONDS = 0.01


async def waits_for_room(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """`open_stream()` waits while the peer allows no more, and goes on when a stream has ended."""
    opened = await _open_all(bound, near)
    if opened is None:
        return
    accepted: dict[int, Connection] = {}
    for _ in opened:
        stream = await bound.line_of_peer(far)
        number = await stream.transport.input.read_exactly(_NUMBER_BYTES)
        accepted[int.from_bytes(number, "big")] = stream
    with trio.move_on_after(_A_WHILE_SECONDS):
        await near.open_stream()
        raise AssertionError(f"one of {len(opened) + 1} streams should still wait")
    async with (
        pending(near.open_stream, "one stream too many") as first,
        pending(near.open_stream, "two streams too many") as second,
    ):
        await _end(opened[0], accepted[0])
        await settle()
        expect(
            first.done != second.done,
            f"when one stream ended one more should be opened, not {first.done + second.done}",
        )
        await _end(opened[1], accepted[1])
    for newer in (first.result, second.result):
        await newer.transport.output.send(GREETING)
        await expect_word(newer, await bound.line_of_peer(far), "after waiting for room")
    with trio.move_on_after(_A_WHILE_SECONDS):
        await far.accept_stream()
        raise AssertionError("a cancelled open_stream() should open nothing")


async def ends_who_waits_for_room(
    bound: BoundStreams, near: MultiplexedConnection, far: MultiplexedConnection
) -> None:
    """An `open_stream()` that waits raises BrokenResourceError when the connection ends."""
    if await _open_all(bound, near) is None:
        return
    async with pending(near.open_stream, "one stream too many") as opening:
        far.abort(EndReason.ABORTED_BY_APP)
    opening.expect_raised(trio.BrokenResourceError)


async def _open_all(
    bound: BoundStreams, connection: MultiplexedConnection
) -> list[Connection] | None:
    """Open streams until `connection` has to wait, or return None if it never has to."""
    opened: list[Connection] = []

    async def open_many() -> None:
        for number in range(_MOST_STREAMS):
            stream = await bound.line(connection)
            await stream.transport.output.send(number.to_bytes(_NUMBER_BYTES, "big"))
            opened.append(stream)

    async with trio.open_nursery() as nursery:
        opening: Pending[None] = Pending("opening many streams")
        nursery.start_soon(opening.run, open_many)
        await settle()
        waiting = not opening.done
        nursery.cancel_scope.cancel()
    if not waiting:
        expect(opening.result is None, "many streams should be opened")
    return opened if waiting else None


async def _end(*ends: Connection) -> None:
    for end in ends:
        end.abort(EndReason.COMPLETED)
        await end.aclose()


STREAM_LIMIT_CHECKS: Sequence[StreamCheck] = [waits_for_room, ends_who_waits_for_room]
