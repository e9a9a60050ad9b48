"""What `DuplexPipe` promises of closing and breaking, one check for each sentence.

Each check gets two ends of a new pipe, `near` and `far`. Its docstring is the promise.
"""

from collections.abc import Awaitable, Callable

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.testing.contracts.expectations import expect, pending, raises
from kestrel_core.testing.contracts.flood import fill, flooded
from kestrel_core.testing.contracts.pipe_reading import at_hand

__all__ = ["BOUNDED_ENDING_CHECKS", "ENDING_CHECKS"]

# A peer that is gone may be found out by what comes back from it, so not by the very next write.
_MOST_WRITES = 10_000


async def _every_use_raises(pipe: DuplexPipe, kind: type[Exception], when: str) -> None:
    async def write() -> None:
        pipe.output.write(b"x")

    uses: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("read()", pipe.input.read),
        ("receive()", pipe.input.receive),
        ("read_exactly(1)", lambda: pipe.input.read_exactly(1)),
        ("read_until()", lambda: pipe.input.read_until(b"\n", 100)),
        ("write()", write),
        ("flush()", pipe.output.flush),
        ("send()", lambda: pipe.output.send(b"x")),
        ("send_eof()", pipe.output.send_eof),
    ]
    for name, use in uses:
        with raises(kind, f"{name} after {when}"):
            await use()


async def closes_with_everything_sent(near: DuplexPipe, far: DuplexPipe) -> None:
    """`aclose()` flushes; the peer gets all of it and then the end of its input."""
    await near.output.send(b"ab")
    near.output.write(b"cd")
    await near.aclose()
    data = await far.input.read_exactly(5)
    expect(data == b"abcd", f"of b'ab', b'cd' and the end there arrived {data!r}")
    expect(far.input.at_eof, "after the peer's aclose() `at_eof` should become true")


async def refuses_every_use_after_closing(near: DuplexPipe, far: DuplexPipe) -> None:
    """After `aclose()` every use raises ClosedResourceError, whatever had arrived."""
    await far.output.send(b"abc")
    await at_hand(near.input, 3)
    near.input.advance(0, 1)
    await near.aclose()
    await _every_use_raises(near, trio.ClosedResourceError, "aclose() with bytes held")
    near.input.advance(1)
    near.output.flush_nowait()
    near.abort()
    await near.aclose()
    await _every_use_raises(near, trio.ClosedResourceError, "aclose(), abort() and aclose()")
    await far.aclose()
    await _every_use_raises(near, trio.ClosedResourceError, "aclose() on both sides")


async def refuses_every_use_after_the_end_and_closing(near: DuplexPipe, far: DuplexPipe) -> None:
    """After `aclose()` every use raises ClosedResourceError, also when the input had ended."""
    await far.aclose()
    expect(await near.input.read() == b"", "after the peer's aclose() read() should give b''")
    await near.aclose()
    await _every_use_raises(near, trio.ClosedResourceError, "aclose() at the end of the input")


async def closing_wakes_a_reader(near: DuplexPipe, far: DuplexPipe) -> None:
    """`aclose()` makes another task's pending read raise ClosedResourceError."""
    async with pending(near.input.read, "read() on an empty pipe") as reading:
        await near.aclose()
    reading.expect_raised(trio.ClosedResourceError)


async def closing_wakes_the_peer(near: DuplexPipe, far: DuplexPipe) -> None:
    """`aclose()` ends the peer's pending read, without an error."""
    async with pending(far.input.read, "read() on an empty pipe") as reading:
        await near.aclose()
    expect(reading.result == b"", f"after the peer's aclose() read() gave {reading.result!r}")


async def closes_though_cancelled(near: DuplexPipe, far: DuplexPipe) -> None:
    """`aclose()` that is cancelled has closed all the same."""
    near.output.write(b"x")
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.aclose()
    await _every_use_raises(near, trio.ClosedResourceError, "a cancelled aclose()")
    try:
        await far.input.read_exactly(2)
    except trio.BrokenResourceError:
        pass
    else:
        expect(far.input.at_eof, "after a cancelled aclose() the peer's input should end")


async def tells_that_the_peer_is_gone(near: DuplexPipe, far: DuplexPipe) -> None:
    """Writing to a peer that has closed raises BrokenResourceError, soon and then always."""
    await far.aclose()
    for _ in range(_MOST_WRITES):
        try:
            await near.output.send(bytes(1000))
        except trio.BrokenResourceError:
            break
        await trio.lowlevel.checkpoint()
    with raises(trio.BrokenResourceError, "write() to a peer that is gone"):
        near.output.write(b"x")
    with raises(trio.BrokenResourceError, "flush() to a peer that is gone"):
        await near.output.flush()
    near.output.flush_nowait()
    await near.aclose()


async def breaks_when_aborted(near: DuplexPipe, far: DuplexPipe) -> None:
    """After `abort()` every use raises BrokenResourceError, until `aclose()`."""
    await far.output.send(b"abc")
    await at_hand(near.input, 3)
    near.input.advance(0, 1)
    near.output.write(b"unsent")
    near.abort()
    near.abort()
    expect(near.output.unflushed_bytes == 0, "abort() should drop what was not flushed")
    await _every_use_raises(near, trio.BrokenResourceError, "abort()")
    near.input.advance(1)
    near.output.flush_nowait()
    await near.aclose()
    await _every_use_raises(near, trio.ClosedResourceError, "abort() and aclose()")


async def aborting_wakes_both_readers(near: DuplexPipe, far: DuplexPipe) -> None:
    """`abort()` breaks our pending read; the peer's is broken or ended, by `aclose()` at last."""
    async with pending(far.input.read, "the peer's read() on an empty pipe") as peer_reading:
        async with pending(near.input.read, "read() on an empty pipe") as reading:
            near.abort()
        reading.expect_raised(trio.BrokenResourceError)
        await near.aclose()
    if not (peer_reading.done and far.input.at_eof):
        peer_reading.expect_raised(trio.BrokenResourceError)


async def aborts_at_the_end_of_the_input(near: DuplexPipe, far: DuplexPipe) -> None:
    """`abort()` breaks a pipe whose input had ended."""
    await far.aclose()
    await near.input.read()
    near.abort()
    await _every_use_raises(near, trio.BrokenResourceError, "abort() at the end of the input")


async def what_was_flushed_survives_a_late_abort(near: DuplexPipe, far: DuplexPipe) -> None:
    """`abort()` after `aclose()` does nothing; the peer gets what was sent."""
    await near.output.send(b"abc")
    await near.aclose()
    near.abort()
    data = await far.input.read_exactly(4)
    expect(data == b"abc", f"of b'abc', aclose() and abort() there arrived {data!r}")


ENDING_CHECKS = [
    closes_with_everything_sent,
    refuses_every_use_after_closing,
    refuses_every_use_after_the_end_and_closing,
    closing_wakes_a_reader,
    closing_wakes_the_peer,
    closes_though_cancelled,
    tells_that_the_peer_is_gone,
    breaks_when_aborted,
    aborting_wakes_both_readers,
    aborts_at_the_end_of_the_input,
    what_was_flushed_survives_a_late_abort,
]


async def closing_wakes_a_writer(near: DuplexPipe, far: DuplexPipe) -> None:
    """`aclose()` makes another task's pending flush raise ClosedResourceError."""
    async with flooded(near) as (flood, flushing):
        flushes = flood.flushes
        await near.aclose()
    flushing.expect_raised(trio.ClosedResourceError)
    expect(flood.flushes == flushes, "the pending flush() should raise, not only the next one")


async def aborting_wakes_a_writer(near: DuplexPipe, far: DuplexPipe) -> None:
    """`abort()` makes another task's pending flush raise BrokenResourceError."""
    async with flooded(near) as (flood, flushing):
        flushes = flood.flushes
        near.abort()
    flushing.expect_raised(trio.BrokenResourceError)
    expect(flood.flushes == flushes, "the pending flush() should raise, not only the next one")


async def a_gone_peer_wakes_a_writer(near: DuplexPipe, far: DuplexPipe) -> None:
    """A peer that closes makes a pending flush raise BrokenResourceError."""
    async with flooded(near) as (_, flushing):
        await far.aclose()
    flushing.expect_raised(trio.BrokenResourceError)


async def closing_can_be_cut_short(near: DuplexPipe, far: DuplexPipe) -> None:
    """`aclose()` that waits for a peer which does not read ends when cancelled, and has closed."""
    await fill(near)
    with trio.CancelScope() as scope:
        async with pending(near.aclose, "aclose() with bytes that the peer does not read"):
            scope.cancel()
    await _every_use_raises(near, trio.ClosedResourceError, "an aclose() that was cut short")


async def aborting_ends_a_pending_close(near: DuplexPipe, far: DuplexPipe) -> None:
    """`abort()` ends another task's `aclose()` that waits for a peer which does not read."""
    await fill(near)
    async with pending(near.aclose, "aclose() with bytes that the peer does not read") as closing:
        near.abort()
    expect(closing.done, "aclose() should end")
    await _every_use_raises(near, trio.ClosedResourceError, "an aclose() that abort() ended")


BOUNDED_ENDING_CHECKS = [
    closing_wakes_a_writer,
    aborting_wakes_a_writer,
    a_gone_peer_wakes_a_writer,
    closing_can_be_cut_short,
    aborting_ends_a_pending_close,
]
