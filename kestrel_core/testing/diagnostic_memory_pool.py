"""A memory pool that finds out who misuses its blocks, and where."""

import inspect
import mmap
import traceback
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

import attrs

from kestrel_core.memory import Block, MemoryPool
from kestrel_core.timers import Timers

__all__ = ["DiagnosticMemoryPool"]

# What a block holds that nobody has written to: no text, no zeros, and easy to see in a dump.
_POISON = b"\xdd"

# Frames kept of a stack, the innermost: enough to get out of any wrapper around the pool.
_FRAMES = 16

# Modules whose frames say nothing about who called.
_POOLS = {"kestrel_core.memory", __name__}


@attrs.define
class _Loan:
    """Where a block was rented and, after that, where it was given back."""

    rented_at: traceback.StackSummary
    given_back_at: traceback.StackSummary | None = None

    def __str__(self) -> str:
        text = "rented at:\n" + "".join(self.rented_at.format())
        if self.given_back_at is not None:
            text += "given back at:\n" + "".join(self.given_back_at.format())
        return text


class DiagnosticMemoryPool(MemoryPool):
    """A pool for tests that lends like any other, and tells of every misuse when it is closed.

    * A block given back twice, to another pool, or while a thread works on it, raises what any pool
      raises, with a note that says where it was rented and given back.
    * A view used after its block was given back raises, as with any pool. A slice that was kept
      reads 0xDD: every block is filled with that when it comes back, and when it is new.
    * A byte written after that is found when the block is rented again, evicted, or `close()` comes.
    * A block that has not come back by `close()` is a leak.

    `close()` raises all of them again, so that a server that caught and logged one fails the test
    nevertheless. As a context manager the pool closes itself.
    """

    def __init__(self, timers: Timers, *, block_bytes: int = 64 * 1024) -> None:
        super().__init__(timers, block_bytes=block_bytes)
        self._poison = _POISON * block_bytes
        self._faults: list[str] = []
        self._rented: dict[Block, _Loan] = {}
        self._given_back: WeakKeyDictionary[Block, _Loan] = WeakKeyDictionary()
        # By the mapping's id: a reference to it would look like a view that somebody kept.
        self._last_loans: dict[int, _Loan] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except AssertionError as fault:
            if error is None:
                raise
            error.add_note(str(fault))  # which may well be the cause of it

    def rent(self) -> Block:
        """Return a block as any pool does, and note where."""
        block = super().rent()
        assert block.mapping is not None
        self._check(block.mapping)
        self._rented[block] = _Loan(_stack())
        return block

    def give_back(self, block: Block) -> None:
        """Take `block` back as any pool does; what goes wrong is kept for `close()`, too."""
        mapping = block.mapping
        loan = self._rented.get(block) or self._given_back.get(block)
        try:
            super().give_back(block)
        except (BufferError, ValueError) as error:
            refused = f"refused at:\n{''.join(_stack().format())}"
            error.add_note(f"{loan or 'not rented from this pool'}\n{refused}")
            self._faults.append("\n".join([str(error), *error.__notes__]))
            raise
        assert mapping is not None
        assert loan is not None
        del self._rented[block]
        self._given_back[block] = loan
        loan.given_back_at = _stack()
        if not mapping.closed:
            mapping[:] = self._poison
            self._last_loans[id(mapping)] = loan

    def close(self) -> None:
        """Close the pool, and tell once what went wrong.

        Raises:
            AssertionError: blocks were misused or have not come back; the text says where.
        """
        leaks = [] if self._closed else list(self._rented.values())
        super().close()
        faults, self._faults = self._faults, []
        faults += [f"a block has not been given back\n{loan}" for loan in leaks]
        if faults:
            raise AssertionError("\n\n".join(faults))

    def _map(self) -> mmap.mmap:
        mapping = super()._map()
        mapping[:] = self._poison
        return mapping

    def _unmap(self, mapping: mmap.mmap) -> None:
        self._check(mapping)
        super()._unmap(mapping)

    def _check(self, mapping: mmap.mmap) -> None:
        """Find out whether somebody has written to a block that was not rented."""
        loan = self._last_loans.pop(id(mapping), None)
        if loan is None:
            return
        data = mapping[:]
        if data != self._poison:
            first = len(data) - len(data.lstrip(_POISON))
            self._faults.append(f"byte {first} of a block was written after its return\n{loan}")


def _stack() -> traceback.StackSummary:
    """Return the stack of whoever called into the pool."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") in _POOLS:
        frame = frame.f_back
    stack = traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=_FRAMES, lookup_lines=False
    )
    stack.reverse()
    return stack
