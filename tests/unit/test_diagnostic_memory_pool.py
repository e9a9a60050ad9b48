import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pickle import PickleBuffer

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.memory import Block, MemoryPool
from kestrel_core.testing import DiagnosticMemoryPool
from kestrel_core.timers import Timers


def rent_somewhere(pool: MemoryPool) -> Block:
    return pool.rent()


def give_back_somewhere(pool: MemoryPool, block: Block) -> None:
    pool.give_back(block)


def give_back_elsewhere(pool: MemoryPool, block: Block) -> None:
    pool.give_back(block)


def notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


@asynccontextmanager
async def running_timers() -> AsyncGenerator[Timers]:
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await wait_all_tasks_blocked()
        yield timers
        nursery.cancel_scope.cancel()


async def test_it_lends_as_any_pool_does(autojump_clock: MockClock) -> None:
    async with running_timers() as timers:
        with DiagnosticMemoryPool(timers, block_bytes=100) as pool:
            for _ in range(3):
                blocks = [pool.rent() for _ in range(20)]
                for block in blocks:
                    assert len(block.view) == 100
                    block.view[:] = b"x" * 100
                    pool.give_back(block)
                await trio.sleep(10.5)
            with pool.rent():
                assert pool.statistics.rents == 61
            await trio.sleep(25)
            assert pool.statistics.evicted == 12
            assert pool.statistics.pooled == 9
        assert pool.statistics.evicted == pool.statistics.allocated
        pool.close()


async def test_its_blocks_are_64_kib_by_default() -> None:
    with DiagnosticMemoryPool(Timers()) as pool, pool.rent() as block:
        assert len(block.view) == 65_536


async def test_unwritten_memory_looks_like_nothing_anybody_would_send() -> None:
    with DiagnosticMemoryPool(Timers(), block_bytes=10) as pool:
        for _ in range(2):
            with pool.rent() as block:
                assert bytes(block.view) == b"\xdd" * 10
                block.view[:] = b"0123456789"
        assert pool.statistics.allocated == 1


async def test_a_second_return_is_told_with_the_first() -> None:
    pool = DiagnosticMemoryPool(Timers())
    block = rent_somewhere(pool)
    give_back_somewhere(pool, block)
    with pytest.raises(ValueError, match="given back already") as refused:
        give_back_elsewhere(pool, block)
    rented, rest = notes(refused.value).split("given back at:")
    first, second = rest.split("refused at:")
    assert "in rent_somewhere" in rented
    assert "in give_back_somewhere" in first
    assert "in give_back_elsewhere" in second
    assert "test_diagnostic_memory_pool.py" in second
    assert "/memory.py" not in notes(refused.value)
    with pytest.raises(AssertionError, match="given back already"):
        pool.close()


async def test_a_foreign_block_is_told_with_its_origin() -> None:
    timers = Timers()
    pool, other = DiagnosticMemoryPool(timers), MemoryPool(timers)
    with other.rent() as block:
        with pytest.raises(ValueError, match="another pool's") as refused:
            give_back_somewhere(pool, block)
        assert "not rented from this pool" in notes(refused.value)
        assert "in give_back_somewhere" in notes(refused.value)
    with pytest.raises(AssertionError, match="another pool's"):
        pool.close()


async def test_a_return_while_the_block_is_in_use_is_told() -> None:
    pool = DiagnosticMemoryPool(Timers(), block_bytes=5)
    block = rent_somewhere(pool)
    block.view[:] = b"bytes"
    use = PickleBuffer(block.view)
    with pytest.raises(BufferError) as refused:
        give_back_somewhere(pool, block)
    assert "in rent_somewhere" in notes(refused.value)
    assert bytes(block.view) == b"bytes"
    use.release()
    pool.give_back(block)
    with pytest.raises(AssertionError, match="exported buffer"):
        pool.close()


async def test_a_view_is_of_no_use_after_return() -> None:
    with DiagnosticMemoryPool(Timers()) as pool:
        block = pool.rent()
        pool.give_back(block)
        with pytest.raises(ValueError, match="released"):
            block.view[0] = 1


async def test_a_slice_that_was_kept_reads_as_nothing_sensible() -> None:
    with DiagnosticMemoryPool(Timers()) as pool:
        with pool.rent() as block:
            block.view[:5] = b"bytes"
            kept = block.view[:5]
        assert bytes(kept) == b"\xdd" * 5


async def write_after_return(pool: MemoryPool) -> None:
    block = rent_somewhere(pool)
    kept = block.view[3:5]
    give_back_somewhere(pool, block)
    kept[1] = 7


def assert_the_write_is_told(fault: BaseException) -> None:
    text = str(fault)
    assert "byte 4 of a block was written after its return" in text
    assert text.index("in rent_somewhere") < text.index("in give_back_somewhere")


async def test_a_write_after_return_is_told_at_close() -> None:
    pool = DiagnosticMemoryPool(Timers())
    await write_after_return(pool)
    with pytest.raises(AssertionError) as told:
        pool.close()
    assert_the_write_is_told(told.value)


async def test_a_write_after_return_is_found_by_the_next_rent() -> None:
    pool = DiagnosticMemoryPool(Timers())
    await write_after_return(pool)
    with pool.rent() as block:
        assert pool.statistics.allocated == 1
        block.view[:] = bytes(len(block.view))
    with pytest.raises(AssertionError) as told:
        pool.close()
    assert_the_write_is_told(told.value)


async def test_a_write_through_a_slice_that_is_still_held_is_found() -> None:
    pool = DiagnosticMemoryPool(Timers())
    block = rent_somewhere(pool)
    kept = block.view[3:5]
    give_back_somewhere(pool, block)
    kept[1] = 7
    with pool.rent():
        assert pool.statistics.retained == 1
    with pytest.raises(AssertionError) as told:
        pool.close()
    assert_the_write_is_told(told.value)


async def test_a_write_after_return_is_found_by_eviction(autojump_clock: MockClock) -> None:
    async with running_timers() as timers:
        pool = DiagnosticMemoryPool(timers)
        await write_after_return(pool)
        await trio.sleep(25)
        assert pool.statistics.pooled == 0
        with pytest.raises(AssertionError) as told:
            pool.close()
        assert_the_write_is_told(told.value)


async def test_what_is_written_while_rented_again_is_nobodys_fault() -> None:
    with DiagnosticMemoryPool(Timers()) as pool:
        for _ in range(3):
            with pool.rent() as block:
                block.view[:] = bytes(len(block.view))
        assert pool.statistics.allocated == 1


async def test_blocks_that_have_not_come_back_are_told_each() -> None:
    pool = DiagnosticMemoryPool(Timers())
    blocks = [rent_somewhere(pool), pool.rent(), pool.rent()]
    pool.give_back(blocks[2])
    with pytest.raises(AssertionError) as told:
        pool.close()
    assert str(told.value).count("a block has not been given back") == 2
    assert str(told.value).count("in rent_somewhere") == 1
    for block in blocks[:2]:
        pool.give_back(block)  # too late, but what a closed pool takes
    pool.close()


async def test_a_block_that_was_forgotten_is_told() -> None:
    pool = DiagnosticMemoryPool(Timers())
    rent_somewhere(pool)
    gc.collect()
    with pytest.raises(AssertionError, match="in rent_somewhere"):
        pool.close()


async def test_faults_are_told_once() -> None:
    pool = DiagnosticMemoryPool(Timers())
    rent_somewhere(pool)
    await write_after_return(pool)
    with pytest.raises(AssertionError, match=r"(?s)written after its return.*not been given back"):
        pool.close()
    pool.close()


async def test_the_end_of_the_block_tells() -> None:
    pool = DiagnosticMemoryPool(Timers())
    with pytest.raises(AssertionError, match="not been given back"), pool:
        rent_somewhere(pool)
    with pytest.raises(ValueError, match="closed"):
        pool.rent()


async def test_an_error_on_its_way_is_not_covered_up() -> None:
    pool = DiagnosticMemoryPool(Timers())
    with pytest.raises(ZeroDivisionError) as failed, pool:
        rent_somewhere(pool).view[0] //= 0
    assert "a block has not been given back" in notes(failed.value)
    pool = DiagnosticMemoryPool(Timers())
    with pytest.raises(ZeroDivisionError) as failed, pool, pool.rent() as block:
        block.view[0] //= 0
    assert not hasattr(failed.value, "__notes__")


async def test_where_is_told_through_the_functions_that_awaited() -> None:
    async def borrow() -> None:
        await trio.lowlevel.checkpoint()
        rent_somewhere(pool)

    pool = DiagnosticMemoryPool(Timers())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(borrow)
    with pytest.raises(AssertionError, match=r"(?s)in borrow.*in rent_somewhere"):
        pool.close()
