"""When the heap is trimmed, and that there is something to trim it with."""

import platform
import time

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.heap import HeapTrimmer, find_malloc_trim
from kestrel_core.timers import Timers


class Watched:
    """A trimmer whose trims are noted; what it is told to leave untrimmed is nothing."""

    def __init__(self, nursery: trio.Nursery, timers: Timers) -> None:
        self.trims: list[int] = []
        self.heap = HeapTrimmer(nursery, timers, self.trims.append)

    def note(self, *counts: int) -> None:
        for connections in counts:
            self.heap.note(connections)


@pytest.fixture
async def watched(autojump_clock: MockClock, nursery: trio.Nursery) -> Watched:
    timers = Timers()
    nursery.start_soon(timers.run)
    return Watched(nursery, timers)


async def seconds(count: float) -> None:
    """Let time pass, and threads do their work; meanwhile the clock may jump on."""
    await trio.sleep(count)
    await trio.to_thread.run_sync(time.sleep, 0.05)


async def test_ten_seconds_after_half_of_many_are_gone(
    watched: Watched, autojump_clock: MockClock
) -> None:
    watched.note(*range(1, 301), *range(299, 149, -1))
    await trio.sleep(9.9)
    assert watched.trims == []
    await seconds(0.2)
    assert watched.trims == [0]


async def test_not_while_more_than_half_are_there(
    watched: Watched, autojump_clock: MockClock
) -> None:
    watched.note(*range(1, 301), *range(299, 150, -1))
    await seconds(30)
    assert watched.trims == []


async def test_not_for_few(watched: Watched, autojump_clock: MockClock) -> None:
    watched.note(*range(1, 256), *range(254, -1, -1))
    await seconds(30)
    assert watched.trims == []


async def test_not_when_they_have_come_back(watched: Watched, autojump_clock: MockClock) -> None:
    watched.note(300, 0)
    await trio.sleep(9)
    watched.note(299)
    await seconds(20)
    assert watched.trims == []
    watched.note(0)
    await seconds(11)
    assert watched.trims == [0]


async def test_once_for_each_burst(watched: Watched, autojump_clock: MockClock) -> None:
    watched.note(300, 0)
    await seconds(11)
    watched.note(100, 0, 100, 0)
    await seconds(20)
    assert len(watched.trims) == 1
    watched.note(300, 0)
    await seconds(11)
    assert len(watched.trims) == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_glibc_has_it() -> None:
    trim = find_malloc_trim()
    assert trim is not None
    assert trim(0) in (0, 1)
