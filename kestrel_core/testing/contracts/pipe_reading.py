"""What `PipeReader` promises, one check for each sentence; run by `check_pipe`.

Each check gets two ends of a new pipe, `near` and `far`, and those of the end of the input also
`end`, which ends what `far` sends. A check's docstring is the promise.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.pipe_reader import PipeReader, SeparatorNotFound
from kestrel_core.testing.contracts.expectations import expect, pending, raises

__all__ = ["AT_END_CHECKS", "READING_CHECKS", "at_hand"]


async def at_hand(reader: PipeReader, count: int) -> bytes:
    """Read until `count` bytes are held, and consume nothing; the last ones are not examined."""
    data = await reader.read()
    while len(data) < count and not reader.at_eof:
        reader.advance(0, len(data))
        data = await reader.read()
    return data


async def _at_once(reading: Callable[[], Awaitable[bytes]], what: str) -> bytes:
    """Await `reading`, which has no reason to wait and must not checkpoint."""
    waited = False
    try:
        with assert_no_checkpoints():
            data = await reading()
    except AssertionError:
        waited = True
        data = b""
    expect(not waited, f"{what} should return at once, without a checkpoint")
    return data


async def shows_what_is_not_consumed(near: DuplexPipe, far: DuplexPipe) -> None:
    """`read()` returns everything unconsumed, again and at once if it was not examined."""
    await far.output.send(b"abcdef")
    data = await at_hand(near.input, 6)
    expect(data == b"abcdef", f"read() after sending b'abcdef' gave {data!r}")
    expect(near.input.buffered == data, "`buffered` should be what the last read() returned")
    data = await _at_once(near.input.read, "read() after a read() without advance()")
    expect(data == b"abcdef", f"a second read() without advance() gave {data!r}")
    near.input.advance(2)
    data = await _at_once(near.input.read, "read() after advance(2) of 6 bytes")
    expect(data == b"cdef", f"after advance(2) of b'abcdef' read() gave {data!r}")
    near.input.advance(1, 2)
    data = await _at_once(near.input.read, "read() when one byte was examined of three held")
    expect(data == b"def", f"after advance(1, 2) of b'cdef' read() gave {data!r}")


async def waits_for_more_than_examined(near: DuplexPipe, far: DuplexPipe) -> None:
    """`read()` waits while everything held was examined, and then shows old and new."""
    async with pending(near.input.read, "read() on an empty pipe") as reading:
        await far.output.send(b"abc")
    data = reading.result
    expect(data != b"" and b"abc".startswith(data), f"read() gave {data!r} for b'abc'")
    await at_hand(near.input, 3)
    near.input.advance(1, 3)
    async with pending(near.input.read, "read() after advance(1, 3) of 3 bytes") as reading:
        await far.output.send(b"d")
    data = reading.result
    expect(data == b"bcd", f"read() with b'bc' held and b'd' new gave {data!r}")
    near.input.advance(0, 3)
    near.input.advance(3)
    async with pending(near.input.read, "read() after everything was consumed") as reading:
        await far.output.send(b"e")
    expect(reading.result == b"e", f"read() of b'e' gave {reading.result!r}")


async def refuses_impossible_advances(near: DuplexPipe, far: DuplexPipe) -> None:
    """`advance()` raises ValueError for what does not fit what was shown, and changes nothing."""
    await far.output.send(b"abc")
    await at_hand(near.input, 3)
    near.input.advance(0, 1)
    for consumed, examined in ((-1, None), (4, None), (2, 1), (0, 4), (4, 5), (-1, 2)):
        with raises(ValueError, f"advance({consumed}, {examined}) with 3 bytes held"):
            near.input.advance(consumed, examined)
    data = await _at_once(near.input.read, "read() when two of three bytes were not examined")
    expect(data == b"abc", f"after refused advances read() gave {data!r} instead of b'abc'")


async def checkpoints_when_it_fetches(near: DuplexPipe, far: DuplexPipe) -> None:
    """`read()` checkpoints whenever it fetches, even if the bytes are there already."""
    for _ in range(3):
        await far.output.send(b"x")
        with assert_checkpoints():
            data = await near.input.read()
        near.input.advance(len(data))


async def loses_nothing_when_cancelled(near: DuplexPipe, far: DuplexPipe) -> None:
    """A cancelled read has lost nothing, whether it waited or found bytes."""
    with trio.CancelScope() as scope:
        async with pending(near.input.read, "read() on an empty pipe"):
            scope.cancel()
    await far.output.send(b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.input.read()
    expect(scope.cancelled_caught, "a read() that fetches should notice its cancellation")
    with trio.CancelScope() as scope:
        async with pending(_after(near.input, 3), "read() with everything examined"):
            await far.output.send(b"def")
            scope.cancel()
    data = await at_hand(near.input, 6)
    expect(data == b"abcdef", f"after cancelled reads of b'abcdef' there was {data!r}")


def _after(reader: PipeReader, count: int) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        reader.advance(0, len(await at_hand(reader, count)))
        return await reader.read()

    return read


async def allows_one_reader(near: DuplexPipe, far: DuplexPipe) -> None:
    """A second task that reads gets BusyResourceError, and the first one is not disturbed."""
    await far.output.send(b"held")
    near.input.advance(0, len(await at_hand(near.input, 4)))
    async with pending(near.input.read, "read() with everything examined") as reading:
        for name, operation in (
            ("read()", near.input.read),
            ("receive()", near.input.receive),
            ("receive(1)", partial(near.input.receive, 1)),
            ("read_exactly(1)", partial(near.input.read_exactly, 1)),
            ("read_until()", partial(near.input.read_until, b"\n", 10)),
        ):
            with raises(trio.BusyResourceError, f"{name} beside another task's read()"):
                await operation()
        await far.output.send(b"x")
    expect(reading.result == b"heldx", f"the undisturbed read() gave {reading.result!r}")


async def wakes_a_pending_read(near: DuplexPipe, far: DuplexPipe) -> None:
    """`cancel_pending_read()` makes the pending read return what there is; only that one."""
    for held in (b"", b"ab"):
        if held:
            await far.output.send(held)
            near.input.advance(0, len(await at_hand(near.input, len(held))))
        async with pending(near.input.read, "read() with everything examined") as reading:
            near.input.cancel_pending_read()
        expect(reading.result == held, f"the woken read() gave {reading.result!r}, not {held!r}")
        expect(near.input.read_cancelled, "`read_cancelled` should be true after a woken read()")
        async with pending(near.input.read, "the read() after the woken one") as reading:
            await far.output.send(b".")
        expect(reading.result == held + b".", f"after the wake-up read() gave {reading.result!r}")
        expect(not near.input.read_cancelled, "`read_cancelled` should be false after that")
        near.input.advance(len(held) + 1)


async def wakes_the_next_read(near: DuplexPipe, far: DuplexPipe) -> None:
    """`cancel_pending_read()` with no read pending makes the next one return, once."""
    near.input.cancel_pending_read()
    near.input.cancel_pending_read()
    data = await near.input.read()
    expect(data == b"" and near.input.read_cancelled, "the next read() should return, cancelled")
    expect(not near.input.at_eof, "a read() that was woken is not the end of the input")
    async with pending(near.input.read, "the read() after that") as reading:
        await far.output.send(b"abc")
    expect(not near.input.read_cancelled, "`read_cancelled` should be false again")
    data = reading.result
    near.input.cancel_pending_read()
    data = await near.input.read()
    expect(near.input.read_cancelled, "it should wake a read() that need not wait, too")
    expect(b"abc".startswith(data), f"the woken read() should show what is held, not {data!r}")
    data = await at_hand(near.input, 3)
    expect(data == b"abc", f"then there should be b'abc', not {data!r}")
    expect(not near.input.read_cancelled, "`read_cancelled` should be false after that one")


async def wake_up_loses_nothing(near: DuplexPipe, far: DuplexPipe) -> None:
    """`cancel_pending_read()` at the moment when bytes arrive loses none of them."""
    async with pending(near.input.read, "read() on an empty pipe") as reading:
        await far.output.send(b"abc")
        near.input.cancel_pending_read()
    expect(b"abc".startswith(reading.result), f"the woken read() gave {reading.result!r}")
    near.input.advance(0)
    data = near.input.buffered
    while len(data) < 3:
        data = await near.input.read()
        near.input.advance(0, len(data))
    expect(data == b"abc", f"of b'abc' there was {data!r}")


async def receives(near: DuplexPipe, far: DuplexPipe) -> None:
    """`receive()` consumes what is at hand, or `max_bytes` of it, and refuses less than one."""
    for max_bytes in (0, -1):
        with raises(ValueError, f"receive({max_bytes})"):
            await near.input.receive(max_bytes)
    await far.output.send(b"abcdef")
    await at_hand(near.input, 6)
    data = await near.input.receive(4)
    expect(data == b"abcd", f"receive(4) of b'abcdef' gave {data!r}")
    near.input.advance(0, 2)
    data = await near.input.receive(9)
    expect(data == b"ef", f"receive(9) with b'ef' held, and examined, gave {data!r}")
    async with pending(near.input.receive, "receive() on an empty pipe") as receiving:
        await far.output.send(b"g")
    expect(receiving.result == b"g", f"receive() of b'g' gave {receiving.result!r}")
    async with pending(near.input.receive, "receive() on an empty pipe") as receiving:
        near.input.cancel_pending_read()
    expect(receiving.result == b"", f"a woken receive() gave {receiving.result!r}")
    expect(near.input.read_cancelled, "`read_cancelled` should be true after a woken receive()")
    expect(not near.input.at_eof, "a woken receive() is not the end of the input")
    await far.output.send(b"h")
    await at_hand(near.input, 1)
    near.input.cancel_pending_read()
    await near.input.read()
    data = await near.input.receive()
    expect(data == b"h", f"receive() of b'h' after a woken read() gave {data!r}")
    expect(not near.input.read_cancelled, "`read_cancelled` should be false after that receive()")


async def reads_exactly(near: DuplexPipe, far: DuplexPipe) -> None:
    """`read_exactly()` waits for that many bytes, and returns fewer only when it was woken."""
    expect(await near.input.read_exactly(0) == b"", "read_exactly(0) should give b''")
    async with pending(partial(near.input.read_exactly, 5), "read_exactly(5)") as reading:
        for byte in b"abcdefg":
            await far.output.send(bytes([byte]))
    expect(reading.result == b"abcde", f"read_exactly(5) of b'abcdefg' gave {reading.result!r}")
    await at_hand(near.input, 2)
    async with pending(partial(near.input.read_exactly, 5), "read_exactly(5)") as reading:
        near.input.cancel_pending_read()
    expect(reading.result == b"fg", f"a woken read_exactly(5) gave {reading.result!r}")
    expect(near.input.read_cancelled, "`read_cancelled` should be true after that")


async def reads_until(near: DuplexPipe, far: DuplexPipe) -> None:
    """`read_until()` consumes up to and with the separator, however the bytes arrive."""
    until = partial(near.input.read_until, b"\r\n\r\n", 14)
    async with pending(until, "read_until()") as reading:
        for byte in b"one\r\ntwo\r\n\r\nrest":
            await far.output.send(bytes([byte]))
    expect(reading.result == b"one\r\ntwo\r\n\r\n", f"read_until() gave {reading.result!r}")
    data = await at_hand(near.input, 4)
    expect(data == b"rest", f"after the separator there should be b'rest', not {data!r}")
    near.input.advance(4)
    await far.output.send(b"0123456789\r\n\r\n")
    data = await until()
    expect(len(data) == 14, f"a separator that ends at the limit should be found, not {data!r}")
    await far.output.send(b"seen\r\n\r\n")
    near.input.advance(0, len(await at_hand(near.input, 8)))
    data = await _at_once(until, "read_until() with the separator at hand, though examined")
    expect(data == b"seen\r\n\r\n", f"read_until() of what was examined gave {data!r}")


async def read_until_gives_up(near: DuplexPipe, far: DuplexPipe) -> None:
    """`read_until()` that finds nothing within its limit, or is woken, consumes nothing."""
    until = partial(near.input.read_until, b"\r\n", 6)
    async with pending(until, "read_until()") as reading:
        near.input.cancel_pending_read()
    reading.expect_raised(SeparatorNotFound)
    await far.output.send(b"ab")
    near.input.advance(0, len(await at_hand(near.input, 2)))
    async with pending(until, "read_until()") as reading:
        near.input.cancel_pending_read()
    reading.expect_raised(SeparatorNotFound)
    data = await _at_once(near.input.read, "read() after a read_until() that was woken")
    expect(data == b"ab", f"a woken read_until() left {data!r} of b'ab'")
    await far.output.send(b"cde\r\n")
    await at_hand(near.input, 7)
    with raises(SeparatorNotFound, "read_until() with a separator that ends past the limit"):
        await until()
    data = await _at_once(near.input.read, "read() after a read_until() in vain")
    expect(data == b"abcde\r\n", f"read_until() in vain left {data!r} of b'abcde\\r\\n'")


async def shows_the_rest_at_the_end(
    near: DuplexPipe, far: DuplexPipe, end: Callable[[], Awaitable[None]]
) -> None:
    """At the end of the input `read()` returns what is left, at once and for ever."""
    await far.output.send(b"tail")
    data = await at_hand(near.input, 4)
    expect(not near.input.at_eof, "`at_eof` should be false while the peer may send")
    near.input.advance(1, 4)
    async with pending(near.input.read, "read() before the end") as reading:
        await end()
    expect(reading.result == b"ail", f"at the end read() gave {reading.result!r}, not b'ail'")
    expect(near.input.at_eof, "`at_eof` should be true when read() returned because of the end")
    near.input.advance(1, 3)
    data = await _at_once(near.input.read, "read() at the end")
    expect(data == b"il", f"at the end, after advance(1, 3), read() gave {data!r}")
    near.input.advance(2)
    for _ in range(2):
        data = await _at_once(near.input.read, "read() past the end")
        expect(data == b"", f"past the end read() gave {data!r}")
        expect(await near.input.receive() == b"", "past the end receive() should give b''")
    near.input.cancel_pending_read()
    await near.input.read()
    expect(near.input.read_cancelled, "cancel_pending_read() should work past the end, too")


async def conveniences_at_the_end(
    near: DuplexPipe, far: DuplexPipe, end: Callable[[], Awaitable[None]]
) -> None:
    """At the end `read_until()` consumes nothing and `read_exactly()` returns what is left."""
    await far.output.send(b"tail")
    async with pending(partial(near.input.read_until, b"\n", 100), "read_until()") as reading:
        await end()
    reading.expect_raised(SeparatorNotFound)
    data = await near.input.read_exactly(3)
    expect(data == b"tai", f"read_exactly(3) of b'tail' gave {data!r}")
    data = await near.input.read_exactly(3)
    expect(data == b"l", f"read_exactly(3) of the last byte gave {data!r}")


async def iterates_until_the_end(
    near: DuplexPipe, far: DuplexPipe, end: Callable[[], Awaitable[None]]
) -> None:
    """Iteration yields chunks, none of them empty, until the end of the input."""
    chunks: list[bytes] = []

    async def collect() -> None:
        chunks.extend([chunk async for chunk in near.input])

    async with pending(collect, "iteration"):
        for byte in b"iterate":
            await far.output.send(bytes([byte]))
        await end()
    expect(b"".join(chunks) == b"iterate", f"iteration over b'iterate' gave {chunks!r}")
    expect(all(chunks), f"iteration should not yield an empty chunk: {chunks!r}")
    expect([chunk async for chunk in near.input] == [], "iteration past the end should be empty")


READING_CHECKS = [
    shows_what_is_not_consumed,
    waits_for_more_than_examined,
    refuses_impossible_advances,
    checkpoints_when_it_fetches,
    loses_nothing_when_cancelled,
    allows_one_reader,
    wakes_a_pending_read,
    wakes_the_next_read,
    wake_up_loses_nothing,
    receives,
    reads_exactly,
    reads_until,
    read_until_gives_up,
]
AT_END_CHECKS = [
    shows_the_rest_at_the_end,
    conveniences_at_the_end,
    iterates_until_the_end,
]
