"""A pool of equal blocks of memory that shrinks again when it is no longer needed.

Theory of operation. A block is an anonymous private mapping of its own, so taking it out of the
pool gives its memory back to the system at once; memory from the allocator would stay with the
process. What has been given back lies on a stack: the block used last, which the caches know, is
rented first, and eviction takes from the cold end. The first block that is given back arms the
pool's one deadline; every ten seconds after that a few blocks are evicted, by Kestrel's rule, until
none is left and the deadline rests.

Using a block after giving it back would show one client another client's bytes. Three things stand
against it. A `Block` is made new for each rent, so one kept from before knows that it was given
back. Its view is released with it. And a slice of that view, which stays usable because Python
cannot release it from here, keeps the memory out of use: a mapping that anybody can still reach is
never rented again and never unmapped, but left to the garbage collector.
"""

import math
import mmap
from collections import deque
from sys import getrefcount
from types import TracebackType
from typing import Self

import attrs

from kestrel_core.timers import Deadline, Timers

__all__ = ["Block", "MemoryPool", "PoolStatistics", "blocks_to_evict"]

# Kestrel's, as are all numbers of `blocks_to_evict`.
_EVICTION_SECONDS = 10.0

# References to a pooled mapping that nobody else can reach: the stack's, and the argument's. Each
# buffer that is still exported adds one.
_UNREACHED = 2


def blocks_to_evict(pooled: int, rents: int, returns: int) -> int:
    """Return how many of `pooled` blocks to evict, given what was rented and returned lately.

    A rent that found no pooled block counts double in `rents`. The numbers are Kestrel's; only, where
    it rounds down to none under falling load, this evicts one.
    """
    if not rents and not returns:
        most = max(10, pooled // 20)
    elif returns > rents:
        most = max(1, min(pooled // 100, (returns - rents) // 5))
    elif returns == rents:
        most = max(1, pooled // 100)
    else:
        most = 0
    return min(most, pooled)


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """What a pool holds and has done so far; `allocated` is `rented + pooled + evicted`."""

    block_bytes: int
    """The size of a block."""
    rented: int
    """Blocks that are rented now."""
    pooled: int
    """Blocks that lie in the pool now."""
    allocated: int
    """Blocks ever taken from the system: the rents that found none in the pool."""
    evicted: int
    """Blocks ever let go of, whether the timer, `close()` or a kept view was the reason."""
    retained: int
    """Those of `evicted` of which somebody kept a view; their memory is free when he drops it."""
    rents: int
    """Calls of `rent()`."""
    returns: int
    """Calls of `give_back()`."""

    @property
    def rented_bytes(self) -> int:
        """The size of all blocks that are rented now."""
        return self.rented * self.block_bytes

    @property
    def pooled_bytes(self) -> int:
        """The size of all blocks that lie in the pool now."""
        return self.pooled * self.block_bytes

    @property
    def allocated_bytes(self) -> int:
        """The size of all blocks ever taken from the system."""
        return self.allocated * self.block_bytes

    @property
    def evicted_bytes(self) -> int:
        """The size of all blocks ever let go of."""
        return self.evicted * self.block_bytes


class Block:
    """A piece of memory on loan from a pool; as a context manager it gives itself back.

    What is in it at first is anything: zeros, or what an earlier renter left. A slice of `view`
    that is kept longer than the block is safe, but wastes it: its memory cannot be rented again.
    """

    __slots__ = ("__weakref__", "mapping", "pool", "view")

    def __init__(self, pool: "MemoryPool", mapping: mmap.mmap) -> None:
        self.pool: MemoryPool = pool
        """The pool that it goes back to."""
        self.mapping: mmap.mmap | None = mapping
        """The memory itself, the business of pools alone; None once it is given back."""
        self.view: memoryview = memoryview(mapping)
        """All of it, to read and write; using it after the block was given back is a ValueError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.pool.give_back(self)


class MemoryPool:
    """Rents out blocks of one size and keeps those that come back for the next who needs one.

    There is no limit to what is rented: who rents bounds his own need. A block that is forgotten
    instead of given back is the system's again when it is collected, and counted as rented for ever.
    One thread, that of `timers`, rents and gives back; others may read and write a block meanwhile.
    `rent` and `give_back` may be overridden. Whoever makes a pool closes it.
    """

    def __init__(self, timers: Timers, *, block_bytes: int = 64 * 1024) -> None:
        if block_bytes < 1:
            raise ValueError(f"a block of {block_bytes} bytes is none")
        self.block_bytes: int = block_bytes
        """The size of each block."""
        self._pooled: deque[mmap.mmap] = deque()
        self._closed = False
        self._allocated = self._evicted = self._retained = self._rents = self._returns = 0
        self._rents_before = self._returns_before = 0  # as they stood at the last eviction
        self._eviction: Deadline = timers.deadline()
        self._eviction.on_expiry = self._evict

    def rent(self) -> Block:
        """Return a block that nobody else has, to be given back by the one who asked.

        Raises:
            OSError: the system has no memory left.
            ValueError: the pool is closed.
        """
        if self._closed:
            raise ValueError("the memory pool is closed")
        pooled = self._pooled
        while pooled:
            if getrefcount(pooled[-1]) == _UNREACHED:
                block = Block(self, pooled.pop())
                self._rents += 1
                return block
            self._unmap(pooled.pop())
        block = Block(self, self._map())
        self._rents += 1
        return block

    def give_back(self, block: Block) -> None:
        """Take `block` back and release its view.

        After `close()` its memory goes to the system at once.

        Raises:
            BufferError: its view is in use this very moment, as by a thread that reads a file into
                it; the block stays rented.
            ValueError: it has been given back already, or is another pool's.
        """
        mapping = block.mapping
        if mapping is None:
            raise ValueError("the block has been given back already")
        if block.pool is not self:
            raise ValueError("the block is another pool's")
        block.view.release()
        block.mapping = None
        self._returns += 1
        if self._closed:
            self._unmap(mapping)
            return
        self._pooled.append(mapping)
        if self._eviction.expires_at == math.inf:
            self._eviction.set_after(_EVICTION_SECONDS)

    @property
    def statistics(self) -> PoolStatistics:
        """What it holds now and has done so far."""
        return PoolStatistics(
            block_bytes=self.block_bytes,
            rented=self._rents - self._returns,
            pooled=len(self._pooled),
            allocated=self._allocated,
            evicted=self._evicted,
            retained=self._retained,
            rents=self._rents,
            returns=self._returns,
        )

    def close(self) -> None:
        """Give what is pooled back to the system, and rent out nothing more.

        Blocks that are rented still go to the system when they come back. A second call does
        nothing.
        """
        self._closed = True
        self._eviction.close()
        while self._pooled:
            self._unmap(self._pooled.popleft())

    def _map(self) -> mmap.mmap:
        """Take a new block from the system."""
        # Private: an anonymous mapping is shared by default, which is shared memory to the system.
        mapping = mmap.mmap(-1, self.block_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._allocated += 1
        return mapping

    def _unmap(self, mapping: mmap.mmap) -> None:
        """Let go of a block that is neither rented nor pooled any more."""
        self._evicted += 1
        try:
            mapping.close()
        except BufferError:  # somebody kept a view; the last one to go takes the mapping along
            self._retained += 1

    def _evict(self) -> None:
        rents = self._rents + self._allocated
        count = blocks_to_evict(
            len(self._pooled), rents - self._rents_before, self._returns - self._returns_before
        )
        self._rents_before = rents
        self._returns_before = self._returns
        for _ in range(count):
            self._unmap(self._pooled.popleft())
        if self._pooled:
            self._eviction.set_after(_EVICTION_SECONDS)
