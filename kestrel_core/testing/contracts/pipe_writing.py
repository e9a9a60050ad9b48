"""What `PipeWriter` promises, one check for each sentence; run by `check_pipe`.

Each check gets two ends of a new pipe, `near` and `far`. Its docstring is the promise.
"""

import random

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.testing.contracts.expectations import (
    concurrently,
    expect,
    pending,
    raises,
    settle,
)
from kestrel_core.testing.contracts.flood import flooded
from kestrel_core.testing.contracts.pipe_reading import at_hand

__all__ = ["BOUNDED_WRITING_CHECKS", "HALF_CLOSING_CHECKS", "WRITING_CHECKS", "carry_at_random"]


async def gathers_what_is_written(near: DuplexPipe, far: DuplexPipe) -> None:
    """`write()` only appends; `flush()` sends it all, in order, and leaves nothing unflushed."""
    await near.output.flush()
    async with pending(far.input.read, "read() before a flush()"):
        near.output.write(b"ab")
        near.output.write(b"")
        near.output.write(b"c")
        expect(
            near.output.unflushed_bytes == 3,
            f"`unflushed_bytes` should be 3, not {near.output.unflushed_bytes}",
        )
        await settle()
        expect(far.input.buffered == b"", "nothing should arrive before a flush()")
        await near.output.flush()
    expect(
        near.output.unflushed_bytes == 0,
        f"`unflushed_bytes` should be 0 after flush(), not {near.output.unflushed_bytes}",
    )
    await near.output.send(b"d")
    data = await at_hand(far.input, 4)
    expect(data == b"abcd", f"of b'ab', b'', b'c', b'd' there arrived {data!r}")


async def flushes_without_waiting(near: DuplexPipe, far: DuplexPipe) -> None:
    """`flush_nowait()` sends what can go, keeps the rest for the next flush, and never raises."""
    near.output.flush_nowait()
    near.output.write(b"abc")
    near.output.flush_nowait()
    expect(
        0 <= near.output.unflushed_bytes <= 3,
        f"`unflushed_bytes` should be 0 to 3, not {near.output.unflushed_bytes}",
    )
    await near.output.send(b"def")
    data = await at_hand(far.input, 6)
    expect(data == b"abcdef", f"of b'abc', b'def' there arrived {data!r}")
    near.abort()
    near.output.flush_nowait()
    await near.aclose()
    near.output.flush_nowait()


async def carries_single_bytes(near: DuplexPipe, far: DuplexPipe) -> None:
    """Bytes that are sent one by one arrive, in both directions at once."""
    data = bytes(range(256))

    async def send(pipe: DuplexPipe) -> None:
        for byte in data:
            await pipe.output.send(bytes([byte]))

    async def receive(pipe: DuplexPipe) -> None:
        received = b"".join([await pipe.input.receive(1) for _ in data])
        expect(received == data, f"of 256 single bytes there arrived {received!r}")

    await concurrently(
        lambda: send(near), lambda: receive(near), lambda: send(far), lambda: receive(far)
    )


async def carry_at_random(near: DuplexPipe, far: DuplexPipe, count: int) -> None:
    """`count` random bytes arrive whole, in both directions at once, however they are cut."""
    dice = random.Random(count)

    async def send(pipe: DuplexPipe, data: bytes) -> None:
        sent = 0
        while sent < count:
            size = dice.choice((1, 100, 5000, 70000))
            pipe.output.write(data[sent : sent + size])
            sent += size
            if dice.random() < 0.2:
                pipe.output.flush_nowait()
            if dice.random() < 0.7:
                await pipe.output.flush()
        await pipe.output.flush()

    async def receive(pipe: DuplexPipe, data: bytes) -> None:
        start = 0
        while start < count:
            if dice.random() < 0.1:
                pipe.input.cancel_pending_read()
            if dice.random() < 0.1:
                with trio.move_on_after(0):
                    await pipe.input.read()
            shown = await pipe.input.read()
            expect(
                shown == data[start : start + len(shown)],
                f"from byte {start} on other bytes arrived than were sent",
            )
            consumed = dice.randint(0, len(shown))
            last = start + len(shown) == count
            pipe.input.advance(consumed, consumed if last else dice.choice((consumed, len(shown))))
            start += consumed

    there, back = dice.randbytes(count), dice.randbytes(count)
    await concurrently(
        lambda: send(near, there),
        lambda: send(far, back),
        lambda: receive(far, there),
        lambda: receive(near, back),
    )


WRITING_CHECKS = [
    gathers_what_is_written,
    flushes_without_waiting,
    carries_single_bytes,
]


async def makes_a_fast_writer_wait(near: DuplexPipe, far: DuplexPipe) -> None:
    """`flush()` waits while the peer does not read, and everything arrives once it does."""
    async with flooded(near) as (flood, _):
        flushes = flood.flushes
        await settle()
        expect(flood.flushes == flushes, "flush() should go on waiting while nobody reads")
        await flood.stop_and_receive(far)


async def examined_bytes_hold_nobody_up(near: DuplexPipe, far: DuplexPipe) -> None:
    """A reader that examines everything and consumes nothing gets ever more."""
    async with flooded(near) as (flood, _):
        flushes = flood.flushes
        while flood.flushes < 2 * flushes + 8:
            data = await far.input.read()
            far.input.advance(0, len(data))
        await flood.stop_and_receive(far)


async def allows_one_flush(near: DuplexPipe, far: DuplexPipe) -> None:
    """A second task that flushes gets BusyResourceError; what it writes goes out later."""
    async with flooded(near) as (flood, _):
        near.output.write(b"")
        for name, operation in (
            ("flush()", near.output.flush),
            ("send_eof()", near.output.send_eof),
        ):
            with raises(trio.BusyResourceError, f"{name} beside another task's flush()"):
                await operation()
        near.output.flush_nowait()
        near.output.write(b"later")
        near.output.flush_nowait()
        expect(
            near.output.unflushed_bytes == 5,
            "what is written beside another task's flush() should stay unflushed",
        )
        await flood.stop_and_receive(far)
    await near.output.flush()
    data = await at_hand(far.input, 5)
    expect(data == b"later", f"of b'later', written beside another flush(), came {data!r}")


async def nowait_when_full(near: DuplexPipe, far: DuplexPipe) -> None:
    """`flush_nowait()` on a full pipe keeps the bytes; they go out in order later."""
    data = random.Random(0).randbytes(1024 * 1024)
    sent = 0
    while near.output.unflushed_bytes < len(data) and sent < 64 * len(data):
        near.output.write(data)
        sent += len(data)
        near.output.flush_nowait()
    expect(near.output.unflushed_bytes > 0, f"flush_nowait() sent {sent} bytes and nobody read")

    async def receive() -> None:
        for start in range(0, sent, len(data)):
            received = await far.input.read_exactly(len(data))
            expect(received == data, f"from byte {start} on other bytes arrived than were sent")

    await concurrently(near.output.flush, receive)


async def is_closable_after_a_cancelled_flush(near: DuplexPipe, far: DuplexPipe) -> None:
    """A cancelled `flush()` leaves a pipe that can be closed."""
    with trio.CancelScope() as scope:
        async with flooded(near):
            scope.cancel()
    await near.aclose()
    with raises(trio.ClosedResourceError, "write() after aclose()"):
        near.output.write(b"x")


BOUNDED_WRITING_CHECKS = [
    makes_a_fast_writer_wait,
    examined_bytes_hold_nobody_up,
    allows_one_flush,
    nowait_when_full,
    is_closable_after_a_cancelled_flush,
]


async def ends_its_output(near: DuplexPipe, far: DuplexPipe) -> None:
    """`send_eof()` flushes, ends the peer's input and leaves the other direction alone."""
    near.output.write(b"last")
    await near.output.send_eof()
    data = await far.input.read_exactly(5)
    expect(data == b"last", f"of b'last' and the end there arrived {data!r}")
    expect(far.input.at_eof, "after send_eof() the peer's `at_eof` should become true")
    await far.output.send(b"answer")
    data = await near.input.read_exactly(6)
    expect(data == b"answer", f"after send_eof() reading should go on, but it gave {data!r}")
    await near.output.send_eof()
    with raises(trio.ClosedResourceError, "write() after send_eof()"):
        near.output.write(b"x")
    with raises(trio.ClosedResourceError, "send() after send_eof()"):
        await near.output.send(b"x")
    expect(near.output.unflushed_bytes == 0, "a refused write() should leave nothing unflushed")
    await far.output.send_eof()
    expect(await near.input.receive() == b"", "both directions should end, each by itself")


async def ends_while_the_peer_waits(near: DuplexPipe, far: DuplexPipe) -> None:
    """`send_eof()` wakes the peer's pending read."""
    async with pending(far.input.read, "read() on an empty pipe") as reading:
        await near.output.send_eof()
    expect(reading.result == b"", f"read() at the end gave {reading.result!r}")


HALF_CLOSING_CHECKS = [ends_its_output, ends_while_the_peer_waits]
