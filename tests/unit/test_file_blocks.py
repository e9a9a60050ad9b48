import errno
import os
import random
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from enum import Enum
from pathlib import Path
from pickle import PickleBuffer

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from kestrel_core.file_blocks import FileBlocks
from kestrel_core.testing import DiagnosticMemoryPool
from kestrel_core.timers import Timers

BLOCK_BYTES = 1000  # small, so that files may be


class Cache(Enum):
    """How a system answers who would not wait for the disk."""

    REAL = "as it does"
    COLD = "never has anything"
    PARTLY = "has a little of some blocks"
    ABSENT = "is not there to be asked"
    LYING = "says the file ends"


class Disk:
    """`os.preadv`, with a cache of choice, and a gate that blocks those who wait for the disk."""

    def __init__(self) -> None:
        self.cache = Cache.REAL
        self.gate = threading.Event()
        self.gate.set()
        self.cache_calls = 0
        self.calls = 0
        self.threads: set[int] = set()
        self._preadv: Callable[[int, Sequence[memoryview], int, int], int] = os.preadv
        self._dice = random.Random(5)
        self._kept: Sequence[memoryview] = ()

    def preadv(
        self, file: int, buffers: Sequence[memoryview], offset: int, flags: int = 0, /
    ) -> int:
        if flags:
            self.cache_calls += 1
            return self._look_into_cache(file, buffers, offset, flags)
        self.calls += 1
        self.threads.add(threading.get_ident())
        self._kept = buffers  # as trio's threads do, for a moment
        assert self.gate.wait(10)
        return self._preadv(file, buffers, offset, 0)

    def _look_into_cache(
        self, file: int, buffers: Sequence[memoryview], offset: int, flags: int
    ) -> int:
        if self.cache is Cache.REAL:
            return self._preadv(file, buffers, offset, flags)
        if self.cache is Cache.ABSENT:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if self.cache is Cache.LYING:
            return 0
        if self.cache is Cache.COLD or self._dice.random() < 0.5:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        with buffers[0][: self._dice.randrange(1, BLOCK_BYTES)] as some:
            return self._preadv(file, [some], offset, 0)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "preadv", disk.preadv)
    return disk


@pytest.fixture
async def pool() -> DiagnosticMemoryPool:
    return DiagnosticMemoryPool(Timers(), block_bytes=BLOCK_BYTES)


CONTENT = random.Random(1).randbytes(10_500)


@pytest.fixture
def file(tmp_path: Path) -> Generator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    file = os.open(path, os.O_RDONLY)
    yield file
    os.close(file)


async def read_all(blocks: FileBlocks) -> bytes:
    parts: list[bytes] = []
    while view := await blocks.read():
        assert len(view) <= BLOCK_BYTES
        parts.append(bytes(view))
    return b"".join(parts)


@pytest.mark.parametrize("offset", [0, 1, 1000, 5432])
@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 3999, 4000, 4001, 5000])
@pytest.mark.parametrize("cache", Cache)
async def test_it_reads_what_was_asked_for(
    disk: Disk, pool: DiagnosticMemoryPool, file: int, cache: Cache, count: int, offset: int
) -> None:
    disk.cache = cache
    with pool, FileBlocks(file, offset, count, pool) as blocks:
        assert blocks.remaining == count
        assert await read_all(blocks) == CONTENT[offset : offset + count]
        assert blocks.remaining == 0
        assert pool.statistics.rented == 0
        assert not await blocks.read()
        assert pool.statistics.rented == 0
    assert os.lseek(file, 0, os.SEEK_CUR) == 0
    assert threading.get_ident() not in disk.threads


@pytest.mark.parametrize("offset", [0, 9500, 10_000, 10_499, 10_500, 11_000, 2**40])
@pytest.mark.parametrize("cache", Cache)
async def test_a_file_may_be_shorter(
    disk: Disk, pool: DiagnosticMemoryPool, file: int, cache: Cache, offset: int
) -> None:
    disk.cache = cache
    with pool, FileBlocks(file, offset, 20_000, pool) as blocks:
        content = await read_all(blocks)
        assert content == CONTENT[offset:]
        assert blocks.remaining == 20_000 - len(content)
        assert not await blocks.read()
        assert pool.statistics.rented == 0


async def test_a_file_may_grow_meanwhile(
    pool: DiagnosticMemoryPool, file: int, tmp_path: Path
) -> None:
    with pool, FileBlocks(file, 10_000, 1000, pool) as blocks:
        assert await read_all(blocks) == CONTENT[10_000:]
        with (tmp_path / "file").open("ab") as end:
            end.write(b"more")
        assert await read_all(blocks) == b"more"
        assert blocks.remaining == 496


@pytest.mark.parametrize("cache", Cache)
async def test_a_piece_is_valid_until_the_next_read(
    disk: Disk, pool: DiagnosticMemoryPool, file: int, cache: Cache
) -> None:
    disk.cache = cache
    with pool:
        with FileBlocks(file, 0, 3000, pool) as blocks:
            first = await blocks.read()
            await trio.lowlevel.checkpoint()
            assert first == CONTENT[: len(first)]
            second = await blocks.read()
            with pytest.raises(ValueError, match="released"):
                bytes(first)
            assert (
                second == CONTENT[3000 - blocks.remaining - len(second) : 3000 - blocks.remaining]
            )
        with pytest.raises(ValueError, match="released"):
            bytes(second)


async def test_the_caller_may_release_a_piece(pool: DiagnosticMemoryPool, file: int) -> None:
    with pool, FileBlocks(file, 0, 2000, pool) as blocks:
        for _ in range(2):
            with await blocks.read() as view:
                assert len(view) == 1000
        with await blocks.read() as view:
            assert not view
        assert not await blocks.read()


async def test_a_piece_in_use_is_not_taken_away(pool: DiagnosticMemoryPool, file: int) -> None:
    with pool, FileBlocks(file, 0, 2000, pool) as blocks:
        view = await blocks.read()
        use = PickleBuffer(view)  # holds on to it as a system call in a thread does
        with pytest.raises(BufferError):
            await blocks.read()
        assert view == CONTENT[:1000]
        use.release()
        assert await blocks.read() == CONTENT[1000:2000]


async def test_a_cached_file_takes_one_block_and_no_thread(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    if not _reads_without_waiting(file):
        pytest.skip("this system, or its file system, does not know RWF_NOWAIT")
    disk.cache_calls = 0
    with pool, FileBlocks(file, 0, 8000, pool) as blocks:
        while await blocks.read():
            assert pool.statistics.rented == 1
    assert pool.statistics.allocated == 1
    assert pool.statistics.retained == 0
    assert (disk.calls, disk.cache_calls) == (0, 8)


async def test_the_disk_is_read_four_blocks_at_a_time(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.COLD
    with pool, FileBlocks(file, 0, 5500, pool) as blocks:
        rented: list[int] = []
        while await blocks.read():
            rented.append(pool.statistics.rented)
        assert rented == [4, 3, 2, 1, 2, 1]
    assert disk.calls == 2
    assert disk.cache_calls == (2 if hasattr(os, "RWF_NOWAIT") else 0)
    assert pool.statistics.allocated == 4
    assert pool.statistics.retained == 0


async def test_no_more_blocks_are_rented_than_are_needed(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.ABSENT
    with pool, FileBlocks(file, 0, 2000, pool) as blocks:
        await blocks.read()
        assert pool.statistics.rented == 2
        assert pool.statistics.allocated == 2


async def test_blocks_that_stay_empty_go_back_at_once(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.ABSENT
    with pool, FileBlocks(file, 10_000, 20_000, pool) as blocks:
        await blocks.read()
        assert pool.statistics.rented == 1
        assert pool.statistics.allocated == 4


async def test_a_cache_that_cannot_be_asked_is_asked_once(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.ABSENT
    with pool, FileBlocks(file, 0, 10_000, pool) as blocks:
        await read_all(blocks)
    assert disk.cache_calls <= 1
    assert disk.calls == 3


@pytest.mark.parametrize("cache", Cache)
async def test_fetching_is_a_checkpoint(
    disk: Disk, pool: DiagnosticMemoryPool, file: int, cache: Cache
) -> None:
    disk.cache = cache
    with pool, FileBlocks(file, 0, 1000, pool) as blocks, assert_checkpoints():
        await blocks.read()


@pytest.mark.parametrize("cache", Cache)
async def test_a_read_in_a_cancelled_scope_takes_nothing(
    disk: Disk, pool: DiagnosticMemoryPool, file: int, cache: Cache
) -> None:
    disk.cache = cache
    with pool, FileBlocks(file, 0, 5000, pool) as blocks:
        with trio.CancelScope() as scope:
            scope.cancel()
            await blocks.read()
        assert scope.cancelled_caught
        assert blocks.remaining == 5000
        assert await read_all(blocks) == CONTENT[:5000]
    assert disk.calls + disk.cache_calls > 0


async def test_a_cancelled_read_waits_for_the_disk_and_loses_nothing(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.COLD
    ended = trio.Event()

    async def read_once(scope: trio.CancelScope) -> None:
        with scope:
            view = await blocks.read()
            assert view == CONTENT[:1000]
        ended.set()

    with pool:
        with FileBlocks(file, 0, 10_000, pool) as blocks:
            disk.gate.clear()
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                nursery.start_soon(read_once, scope)
                await wait_all_tasks_blocked()
                scope.cancel()
                await wait_all_tasks_blocked()
                assert not ended.is_set()
                assert pool.statistics.rented == 4
                disk.gate.set()
            assert blocks.remaining == 9000
            assert await read_all(blocks) == CONTENT[1000:10_000]
        assert pool.statistics.rented == 0


async def test_a_cancelled_read_leaves_nothing_rented_or_written_to(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    async def send_file() -> None:
        with FileBlocks(file, 0, 10_000, pool) as blocks:
            while await blocks.read():
                await trio.lowlevel.checkpoint()

    disk.cache = Cache.COLD
    with pool:
        for _ in range(20):
            disk.gate.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_file)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                threading.Timer(0.002, disk.gate.set).start()
            assert pool.statistics.rented == 0
        assert pool.statistics.retained == 0


async def test_a_read_that_waits_for_a_thread_can_be_cancelled(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.COLD
    limiter = trio.to_thread.current_default_thread_limiter()
    takers = [object() for _ in range(int(limiter.total_tokens))]
    for taker in takers:
        limiter.acquire_on_behalf_of_nowait(taker)
    try:
        with pool, FileBlocks(file, 0, 10_000, pool) as blocks:
            with trio.move_on_after(0.01) as scope:
                await blocks.read()
            assert scope.cancelled_caught
            for taker in takers:
                limiter.release_on_behalf_of(taker)
            takers.clear()
            assert await read_all(blocks) == CONTENT[:10_000]
    finally:
        for taker in takers:
            limiter.release_on_behalf_of(taker)


@pytest.mark.parametrize("cache", [Cache.REAL, Cache.ABSENT])
async def test_an_error_is_told_and_leaves_nothing_rented(
    disk: Disk, pool: DiagnosticMemoryPool, file: int, tmp_path: Path, cache: Cache
) -> None:
    disk.cache = cache
    directory = os.open(tmp_path, os.O_RDONLY)
    write_only = os.open(tmp_path / "file", os.O_WRONLY)
    read_end, write_end = os.pipe()
    closed = os.dup(file)
    os.close(closed)
    try:
        for bad, number in [
            (closed, errno.EBADF),
            (directory, errno.EISDIR),
            (write_only, errno.EBADF),
            (read_end, errno.ESPIPE),
        ]:
            with FileBlocks(bad, 0, 10_000, pool) as blocks:
                for _ in range(2):
                    with pytest.raises(OSError, match=os.strerror(number)) as told:
                        await blocks.read()
                    assert told.value.errno == number
                    assert blocks.remaining == 10_000
            assert pool.statistics.rented == 0
    finally:
        for descriptor in (directory, write_only, read_end, write_end):
            os.close(descriptor)
    pool.close()


async def test_reading_goes_on_after_an_error(
    disk: Disk, pool: DiagnosticMemoryPool, file: int, tmp_path: Path
) -> None:
    disk.cache = Cache.COLD
    movable = os.dup(file)
    try:
        with pool, FileBlocks(movable, 0, 6000, pool) as blocks:
            parts = [bytes(await blocks.read()) for _ in range(4)]
            os.close(movable)
            with pytest.raises(OSError, match="descriptor"):
                await blocks.read()
            assert os.dup2(file, movable) == movable
            parts.append(await read_all(blocks))
            assert b"".join(parts) == CONTENT[:6000]
    finally:
        os.close(movable)


async def test_two_tasks_cannot_read_at_once(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.COLD
    with pool, FileBlocks(file, 0, 5000, pool) as blocks:
        disk.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blocks.read)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await blocks.read()
            disk.gate.set()
        assert await read_all(blocks) == CONTENT[1000:5000]


async def test_nothing_is_read_after_the_end(pool: DiagnosticMemoryPool, file: int) -> None:
    with pool:
        with FileBlocks(file, 0, 5000, pool) as blocks:
            await blocks.read()
        assert pool.statistics.rented == 0
        with pytest.raises(ValueError, match="has ended"):
            await blocks.read()
        assert pool.statistics.rented == 0


@pytest.mark.parametrize(("offset", "count"), [(-1, 10), (0, -1)])
async def test_there_is_nothing_before_the_beginning(
    pool: DiagnosticMemoryPool, file: int, offset: int, count: int
) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        FileBlocks(file, offset, count, pool)


async def test_several_readers_share_a_pool(
    disk: Disk, pool: DiagnosticMemoryPool, file: int
) -> None:
    disk.cache = Cache.PARTLY

    async def read(offset: int) -> None:
        with FileBlocks(file, offset, 5000, pool) as blocks:
            position = offset
            while view := await blocks.read():
                await trio.lowlevel.checkpoint()
                assert view == CONTENT[position : position + len(view)]
                position += len(view)
            assert position == offset + 5000

    with pool:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(read, number * 100)
        assert pool.statistics.rented == 0
        assert pool.statistics.retained == 0


def _reads_without_waiting(file: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        return os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except OSError:
        return False
