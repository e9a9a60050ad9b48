"""Gives the allocator's free memory back to the system when a burst of connections is over.

Theory of operation. Buffers that are handed out are ordinary bytes, and those of many connections
at once make the C library's heap grow. glibc gives free memory back only from the heap's end, so one
small object that happens to lie there keeps all of it: after two thousand uploads that was, by luck,
20 MiB or 450. `malloc_trim` gives back what is free wherever it lies. It takes some 50 ms, so it is
called in a thread, ten seconds after at most half of the connections are left that there were, and
then not before there have been as many again.
"""

import ctypes
from collections.abc import Callable

import trio

from kestrel_core.timers import Timers

__all__ = ["HeapTrimmer", "find_malloc_trim"]

# Fewer connections than this leave nothing behind that is worth the work.
_FEWEST_CONNECTIONS = 256

_TRIM_SECONDS = 10.0


def find_malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function, or None: other C libraries have none, and some need none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


class HeapTrimmer:
    """Watches how many connections there are, and calls `trim(0)` in a thread when it is time.

    `nursery` is where it starts its short task.
    """

    def __init__(
        self, nursery: trio.Nursery, timers: Timers, trim: Callable[[int], object]
    ) -> None:
        self._nursery = nursery
        self._trim = trim
        self._deadline = timers.deadline()
        self._deadline.on_expiry = self._on_expiry
        self._armed = False
        self._most = 0
        self._now = 0

    def note(self, connections: int) -> None:
        """Take notice of how many connections there are now."""
        self._now = connections
        if connections > self._most:
            self._most = connections
        elif not self._armed and self._is_over():
            self._armed = True
            self._deadline.set_after(_TRIM_SECONDS)

    def _is_over(self) -> bool:
        return self._most >= _FEWEST_CONNECTIONS and self._now * 2 <= self._most

    def _on_expiry(self) -> None:
        self._armed = False
        if self._is_over():
            self._most = self._now
            self._nursery.start_soon(trio.to_thread.run_sync, self._trim, 0)
