"""The contract of a pipe, as a suite that any implementation can run."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import trio
import trio.testing

from kestrel_core.duplex_pipe import DuplexPipe, PipeStream
from kestrel_core.testing.contracts.expectations import hold, promise_of
from kestrel_core.testing.contracts.pipe_ending import BOUNDED_ENDING_CHECKS, ENDING_CHECKS
from kestrel_core.testing.contracts.pipe_reading import AT_END_CHECKS, READING_CHECKS
from kestrel_core.testing.contracts.pipe_writing import (
    BOUNDED_WRITING_CHECKS,
    HALF_CLOSING_CHECKS,
    WRITING_CHECKS,
    carry_at_random,
)

__all__ = ["MakePair", "check_pipe"]

MakePair: TypeAlias = Callable[[], Awaitable[tuple[DuplexPipe, DuplexPipe]]]
"""Returns the two ends of a new wire."""

_Check: TypeAlias = Callable[[DuplexPipe, DuplexPipe], Awaitable[None]]


async def check_pipe(
    make_pair: MakePair,
    *,
    half_closes: bool = True,
    bounded: bool = True,
    volume_bytes: int = 1024 * 1024,
) -> None:
    """Hold the pipes that `make_pair` returns to everything that the pipe's docstrings promise.

    Both ends are checked, each check on a new pair, which it closes. Trio's own suites follow,
    through `as_stream()`. `half_closes` says that `send_eof()` works; `bounded` that a flush
    waits before 64 MiB lie unread; a few KiB must fit in any case. `volume_bytes` of random bytes
    go through in each direction.

    A check that hangs is given up after ten seconds of trio's clock, so run this under an
    autojump clock if no socket takes part.

    Raises:
        AssertionError: a promise is not kept; the text begins with it.
    """
    plain: list[_Check] = [*READING_CHECKS, *WRITING_CHECKS, *ENDING_CHECKS]
    if bounded:
        plain += [*BOUNDED_WRITING_CHECKS, *BOUNDED_ENDING_CHECKS]
    if half_closes:
        plain += HALF_CLOSING_CHECKS
    checks = [(promise_of(check), check) for check in plain]
    for ending in AT_END_CHECKS:
        checks += [(promise_of(ending), partial(_with_end, ending, half_closes))]
    checks += [(promise_of(carry_at_random), partial(carry_at_random, count=volume_bytes))]
    for promise, check in checks:
        await hold(promise, partial(_on_new_pair, make_pair, check))
        await hold(promise, partial(_on_new_pair, make_pair, partial(_swapped, check)))
    await _check_streams(make_pair, half_closes=half_closes)


async def _check_streams(make_pair: MakePair, *, half_closes: bool) -> None:
    async def streams() -> tuple[PipeStream, PipeStream]:
        near, far = await make_pair()
        return near.as_stream(), far.as_stream()

    testing = trio.testing
    promise = "`as_stream()` passes trio.testing."
    await hold(
        f"{promise}check_one_way_stream", lambda: testing.check_one_way_stream(streams, None)
    )
    await hold(
        f"{promise}check_two_way_stream", lambda: testing.check_two_way_stream(streams, None)
    )
    if half_closes:
        await hold(
            f"{promise}check_half_closeable_stream",
            lambda: testing.check_half_closeable_stream(streams, None),
        )


async def _on_new_pair(make_pair: MakePair, check: _Check) -> None:
    near, far = await make_pair()
    try:
        await check(near, far)
    finally:
        with trio.move_on_after(1, shield=True):
            for pipe in (near, far):
                pipe.abort()
                await pipe.aclose()


async def _swapped(check: _Check, near: DuplexPipe, far: DuplexPipe) -> None:
    await check(far, near)


async def _with_end(
    check: Callable[[DuplexPipe, DuplexPipe, Callable[[], Awaitable[None]]], Awaitable[None]],
    half_closes: bool,
    near: DuplexPipe,
    far: DuplexPipe,
) -> None:
    await check(near, far, far.output.send_eof if half_closes else far.aclose)
