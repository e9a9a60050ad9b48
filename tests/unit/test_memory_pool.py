import gc
import math
import random
import re
import sys
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from pickle import PickleBuffer

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.memory import Block, MemoryPool, blocks_to_evict
from kestrel_core.timers import Timers


@asynccontextmanager
async def running_pool(block_bytes: int = 4096) -> AsyncGenerator[MemoryPool]:
    """A pool whose timers run; it is closed and has no timer left at the end."""
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await wait_all_tasks_blocked()
        pool = MemoryPool(timers, block_bytes=block_bytes)
        yield pool
        pool.close()
        nursery.cancel_scope.cancel()


def rent_and_return(pool: MemoryPool, count: int) -> None:
    for block in [pool.rent() for _ in range(count)]:
        pool.give_back(block)


async def timer_is_set() -> bool:
    await wait_all_tasks_blocked()
    return trio.lowlevel.current_statistics().seconds_to_next_deadline < math.inf


@pytest.mark.parametrize(
    ("pooled", "rents", "returns", "evicted"),
    [
        # No activity: a twentieth, ten at least, and no more than there are.
        (0, 0, 0, 0),
        (3, 0, 0, 3),
        (10, 0, 0, 10),
        (200, 0, 0, 10),
        (219, 0, 0, 10),
        (220, 0, 0, 11),
        (10_000, 0, 0, 500),
        # Falling: a hundredth, or a fifth of the difference, whichever is less; one at least.
        (1000, 0, 1000, 10),
        (1000, 950, 1000, 10),
        (1000, 955, 1000, 9),
        (1000, 990, 1000, 2),
        (1000, 999, 1000, 1),
        (99, 0, 99, 1),
        (200, 0, 99, 2),
        (0, 0, 1, 0),
        # As many rents as returns: a hundredth, one at least.
        (0, 7, 7, 0),
        (1, 7, 7, 1),
        (199, 7, 7, 1),
        (200, 7, 7, 2),
        (10_000, 7, 7, 100),
        # Rising: none.
        (10_000, 8, 7, 0),
        (10_000, 1, 0, 0),
    ],
)
def test_how_many_are_evicted(pooled: int, rents: int, returns: int, evicted: int) -> None:
    assert blocks_to_evict(pooled, rents, returns) == evicted


async def test_a_block_is_writable_memory_of_the_size_asked_for() -> None:
    pool = MemoryPool(Timers(), block_bytes=5000)
    block = pool.rent()
    assert pool.block_bytes == len(block.view) == 5000
    assert bytes(block.view) == bytes(5000)
    block.view[4990:] = b"0123456789"
    assert bytes(block.view[4989:]) == b"\x000123456789"
    pool.give_back(block)
    pool.close()


async def test_a_block_is_64_kib_by_default() -> None:
    pool = MemoryPool(Timers())
    with pool.rent() as block:
        assert len(block.view) == 65_536


@pytest.mark.parametrize("block_bytes", [0, -1])
async def test_a_block_has_at_least_a_byte(block_bytes: int) -> None:
    with pytest.raises(ValueError, match="is none"):
        MemoryPool(Timers(), block_bytes=block_bytes)


async def test_what_was_given_back_last_is_rented_first() -> None:
    pool = MemoryPool(Timers())
    blocks = [pool.rent() for _ in range(3)]
    for number, block in enumerate(blocks):
        block.view[0] = number
    for block in blocks:
        pool.give_back(block)
    again = [pool.rent() for _ in range(4)]
    assert [block.view[0] for block in again] == [2, 1, 0, 0]
    assert pool.statistics.allocated == 4
    for block in again:
        pool.give_back(block)
    pool.close()


async def test_as_a_context_manager_a_block_gives_itself_back() -> None:
    pool = MemoryPool(Timers())
    with pool.rent() as block:
        assert pool.statistics.rented == 1
    assert pool.statistics.rented == 0
    with pytest.raises(IndexError), pool.rent() as block:
        block.view[len(block.view)] = 1
    assert pool.statistics.rented == 0
    pool.close()


async def test_it_does_so_by_an_overridden_method() -> None:
    class CountingPool(MemoryPool):
        came_back = 0

        def give_back(self, block: Block) -> None:
            self.came_back += 1
            super().give_back(block)

    pool = CountingPool(Timers())
    with pool.rent():
        pass
    assert pool.came_back == 1
    assert pool.statistics.pooled == 1
    pool.close()


async def test_a_block_that_was_given_back_cannot_be_used() -> None:
    pool = MemoryPool(Timers())
    block = pool.rent()
    view = block.view
    pool.give_back(block)
    with pool.rent() as another:  # the same memory, which makes the first no better
        for stale in (view, block.view):
            with pytest.raises(ValueError, match="released"):
                stale[0] = 1
        with pytest.raises(ValueError, match="given back already"):
            pool.give_back(block)
        assert another.view[0] == 0
        assert pool.statistics.rented == 1
    assert pool.statistics.pooled == 1
    pool.close()


async def test_a_block_goes_back_where_it_came_from() -> None:
    timers = Timers()
    pool, other = MemoryPool(timers), MemoryPool(timers)
    with pool.rent() as block:
        with pytest.raises(ValueError, match="another pool's"):
            other.give_back(block)
        block.view[0] = 1
    assert (pool.statistics.pooled, other.statistics.pooled) == (1, 0)
    assert other.statistics.returns == 0


async def test_a_block_in_use_stays_rented() -> None:
    pool = MemoryPool(Timers())
    block = pool.rent()
    use = PickleBuffer(block.view)  # holds on to it as a system call in a thread does
    with pytest.raises(BufferError):
        pool.give_back(block)
    assert pool.statistics.rented == 1
    assert pool.statistics.returns == 0
    block.view[0] = 1
    use.release()
    pool.give_back(block)
    assert pool.statistics.rented == 0
    pool.close()


async def test_memory_of_which_a_slice_was_kept_is_not_rented_again() -> None:
    pool = MemoryPool(Timers())
    with pool.rent() as block:
        block.view[:6] = b"secret"
        kept = block.view[:6]
        memory = weakref.ref(block.mapping)
    assert pool.statistics.pooled == 1
    with pool.rent() as another:
        another.view[:6] = b"public"
        assert kept.tobytes() == b"secret"
        kept[:6] = b"SECRET"
        assert another.view[:6].tobytes() == b"public"
    statistics = pool.statistics
    assert (statistics.allocated, statistics.evicted, statistics.retained) == (2, 1, 1)
    assert memory() is not None
    del kept
    gc.collect()
    assert memory() is None
    pool.close()


async def test_memory_is_rented_again_once_the_slice_is_gone() -> None:
    pool = MemoryPool(Timers())
    with pool.rent() as block:
        kept = [block.view[:6], block.view[6:]]
    kept.pop()
    kept[0].release()
    with pool.rent():
        assert pool.statistics.allocated == 1
        assert pool.statistics.retained == 0
    pool.close()


async def test_memory_of_which_a_slice_was_kept_outlives_close() -> None:
    pool = MemoryPool(Timers())
    early, late = pool.rent(), pool.rent()
    early.view[:5] = late.view[:5] = b"bytes"
    kept = [early.view[:5], late.view[:5]]
    pool.give_back(early)
    pool.close()
    pool.give_back(late)
    assert [bytes(view) for view in kept] == [b"bytes", b"bytes"]
    assert (pool.statistics.evicted, pool.statistics.retained) == (2, 2)


async def test_memory_of_which_a_slice_was_kept_outlives_eviction(
    autojump_clock: MockClock,
) -> None:
    async with running_pool() as pool:
        with pool.rent() as block:
            block.view[:5] = b"bytes"
            kept = block.view[:5]
        await trio.sleep(25)
        assert (pool.statistics.evicted, pool.statistics.retained) == (1, 1)
        assert kept.tobytes() == b"bytes"


async def test_statistics() -> None:
    pool = MemoryPool(Timers(), block_bytes=1000)
    first, second, third = (pool.rent() for _ in range(3))
    pool.give_back(first)
    pool.give_back(second)
    fourth = pool.rent()
    statistics = pool.statistics
    assert statistics.block_bytes == 1000
    assert (statistics.rented, statistics.rented_bytes) == (2, 2000)
    assert (statistics.pooled, statistics.pooled_bytes) == (1, 1000)
    assert (statistics.allocated, statistics.allocated_bytes) == (3, 3000)
    assert (statistics.rents, statistics.returns) == (4, 2)
    pool.close()
    pool.give_back(third)
    assert (statistics.evicted, statistics.evicted_bytes) == (0, 0)
    assert (pool.statistics.evicted, pool.statistics.evicted_bytes) == (2, 2000)
    pool.give_back(fourth)
    assert pool.statistics.retained == 0


async def test_no_two_have_the_same_block(autojump_clock: MockClock) -> None:
    dice = random.Random(3)
    async with running_pool(block_bytes=8) as pool:
        rented: dict[int, Block] = {}
        for number in range(3000):
            if dice.random() < (0.65 if number % 400 < 200 else 0.35):
                block = rented[number] = pool.rent()
                block.view[:] = number.to_bytes(8)
            elif rented:
                owner = dice.choice(list(rented))
                block = rented.pop(owner)
                assert int.from_bytes(block.view) == owner
                pool.give_back(block)
            if dice.random() < 0.05:
                await trio.sleep(dice.random() * 15)
            statistics = pool.statistics
            assert statistics.rented == len(rented)
            assert (
                statistics.allocated == statistics.rented + statistics.pooled + statistics.evicted
            )
        assert pool.statistics.evicted > 100
        for owner, block in rented.items():
            assert int.from_bytes(block.view) == owner


async def test_one_that_holds_nothing_has_no_timer(autojump_clock: MockClock) -> None:
    async with running_pool() as pool:
        assert not await timer_is_set()
        block = pool.rent()
        assert not await timer_is_set()
        pool.give_back(block)
        assert await timer_is_set()
        await trio.sleep(30)
        assert pool.statistics.pooled == 0
        assert not await timer_is_set()
        block = pool.rent()
        assert not await timer_is_set()
        pool.give_back(block)
        assert await timer_is_set()


async def test_blocks_are_evicted_every_ten_seconds_from_the_first_return_on(
    autojump_clock: MockClock,
) -> None:
    async with running_pool(block_bytes=16) as pool:
        await trio.sleep(3)
        rent_and_return(pool, 1000)
        await trio.sleep(19.99)
        evicted = [pool.statistics.evicted]  # none: all had to be allocated, so load was rising
        for _ in range(3):
            await trio.sleep(0.02)
            evicted.append(pool.statistics.evicted)
            await trio.sleep(9.98)
            assert pool.statistics.evicted == evicted[-1]
        assert evicted == [0, 50, 50 + 47, 50 + 47 + 45]
        await trio.sleep(2000)
        assert pool.statistics.evicted == 1000


async def test_steady_load_sheds_little_by_little(autojump_clock: MockClock) -> None:
    async with running_pool(block_bytes=16) as pool:
        rent_and_return(pool, 1000)
        await trio.sleep(10.5)
        pooled: list[int] = []
        for _ in range(4):
            rent_and_return(pool, 300)
            await trio.sleep(10)
            pooled.append(pool.statistics.pooled)
        assert pooled == [990, 981, 972, 963]


async def test_a_rent_that_had_to_allocate_counts_double(autojump_clock: MockClock) -> None:
    async with running_pool(block_bytes=16) as pool:
        rent_and_return(pool, 200)
        await trio.sleep(10.5)
        rent_and_return(pool, 201)
        await trio.sleep(10)
        assert pool.statistics.pooled == 201
        rent_and_return(pool, 201)
        await trio.sleep(10)
        assert pool.statistics.pooled == 199


async def test_load_that_falls_is_followed(autojump_clock: MockClock) -> None:
    async with running_pool(block_bytes=16) as pool:
        blocks = [pool.rent() for _ in range(500)]
        pool.give_back(blocks.pop())
        await trio.sleep(10.5)
        assert pool.statistics.pooled == 1
        for block in blocks:
            pool.give_back(block)
        await trio.sleep(10)
        assert pool.statistics.pooled == 495


async def test_eviction_begins_with_what_has_lain_longest(autojump_clock: MockClock) -> None:
    async with running_pool(block_bytes=16) as pool:
        blocks = [pool.rent() for _ in range(30)]
        for number, block in enumerate(blocks):
            block.view[0] = number
            pool.give_back(block)
        await trio.sleep(25)
        left = [pool.rent() for _ in range(pool.statistics.pooled)]
        assert [block.view[0] for block in left] == list(range(29, 9, -1))


async def test_close_lets_go_of_everything(autojump_clock: MockClock) -> None:
    async with running_pool() as pool:
        late = pool.rent()
        late_memory = weakref.ref(late.mapping)
        rent_and_return(pool, 5)
        assert await timer_is_set()
        pool.close()
        assert (pool.statistics.pooled, pool.statistics.rented) == (0, 1)
        assert pool.statistics.evicted == 5
        with pytest.raises(ValueError, match="closed"):
            pool.rent()
        late.view[0] = 1
        pool.give_back(late)
        assert (pool.statistics.pooled, pool.statistics.rented) == (0, 0)
        assert pool.statistics.evicted == 6
        assert late_memory() is None
        pool.close()
        assert pool.statistics.evicted == 6
        await trio.sleep(20)
        assert not await timer_is_set()


async def test_its_timer_does_not_keep_a_closed_one_alive() -> None:
    timers = Timers()
    pool = MemoryPool(timers)
    rent_and_return(pool, 5)
    pool.close()
    closed = weakref.ref(pool)
    del pool
    assert closed() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_evicted_memory_is_the_systems_again(autojump_clock: MockClock) -> None:
    count, block_bytes = 512, 64 * 1024
    all_bytes = count * block_bytes
    async with running_pool(block_bytes) as pool:
        before = _resident_private_bytes()
        blocks = [pool.rent() for _ in range(count)]
        for block in blocks:
            block.view[:] = b"\xff" * block_bytes
        touched = _resident_private_bytes()
        assert touched - before > 0.95 * all_bytes
        for block in blocks:
            pool.give_back(block)
        assert _resident_private_bytes() - before > 0.95 * all_bytes
        await trio.sleep(1000)
        assert pool.statistics.pooled == 0
        assert _resident_private_bytes() - before < 0.05 * all_bytes


def _resident_private_bytes() -> int:
    # Not smaps, whose sums count pages of files as well; this counts none that are shared.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
