"""Deadlines that cost an attribute write, and the one task that watches them.

Theory of operation. Entering a cancel scope costs more than parsing a request, so reads and
writes have none. Each connection holds one `Deadline` instead. Moving it later, which is what
nearly always happens, writes one attribute. The heap holds an entry for the earliest time the
deadline was armed for; when that entry comes up and the deadline has moved, it is pushed again
for the new time. Moving a deadline to before its entry pushes a second one; the first is then
stale and is dropped when it comes up, because its time is not the deadline's `armed_at`.
Closing a deadline makes its entry stale too; when most entries are stale the heap is rebuilt, so
that a flood of short connections leaves nothing behind.

One task, `Timers.run`, sleeps until the earliest entry. Expiry cancels nothing: it calls the
deadline's owner, in that task, at once. Under `trio.testing.MockClock` all of it is exact.

Two rules protect the peer. A task that wakes late (our own process was busy, or stopped) first
gives everything that came due the same time again, since the peer's bytes may be waiting in the
kernel. And while a debugger is attached nothing expires.
"""

import heapq
import math
import sys
from collections.abc import Callable

import trio

__all__ = ["Deadline", "Timers"]

# Lateness below this is ordinary scheduling and is not made up for. Kestrel's heartbeat, which
# bounds its own precision, has the same length.
_STARVED_SECONDS = 1.0

# With a debugger attached, due deadlines are looked at again after this long.
_DEBUGGER_SECONDS = 1.0

# A heap with fewer stale entries than this is not worth rebuilding.
_MOST_STALE = 256


def _debugger_attached() -> bool:
    trace = sys.gettrace()
    if trace is None:
        return False
    owner: object = getattr(trace, "__self__", None)
    modules = [
        str(getattr(trace, "__module__", "")),
        *(kind.__module__ for kind in type(owner).mro()),
    ]
    return any(module.startswith(("bdb", "pydevd", "_pydevd")) for module in modules)


class Deadline:
    """A point in trio's time at which `on_expiry` is called, movable at next to no cost.

    Made by `Timers.deadline`. One owner at a time sets it and decides what expiry means.
    """

    __slots__ = ("_timers", "armed_at", "expires_at", "on_expiry")

    def __init__(self, timers: "Timers") -> None:
        self._timers = timers
        self.armed_at: float = math.inf
        """The time of its live entry in the heap, the business of `Timers` alone."""
        self.expires_at: float = math.inf
        """When it expires, in `trio.current_time()`'s seconds; infinity is never. Read only."""
        self.on_expiry: Callable[[], None] | None = None
        """Called once when it expires; must not wait and must not raise."""

    def now(self) -> float:
        """Return trio's time; `trio.current_time()` costs twice as much."""
        return self._timers.now()

    def set(self, expires_at: float) -> None:
        """Expire at `expires_at`, in `trio.current_time()`'s seconds."""
        self.expires_at = expires_at
        if expires_at < self.armed_at:
            self._timers.arm(self, expires_at)

    def set_after(self, seconds: float) -> None:
        """Expire in `seconds` from now."""
        self.expires_at = expires_at = self._timers.now() + seconds
        if expires_at < self.armed_at:
            self._timers.arm(self, expires_at)

    def clear(self) -> None:
        """Do not expire until set again."""
        self.expires_at = math.inf

    def close(self) -> None:
        """Never expire again, and forget the owner."""
        self.expires_at = math.inf
        self.on_expiry = None
        self._timers.disarm(self)


class Timers:
    """All deadlines of one server, and the task that watches them; made inside `trio.run`."""

    def __init__(self) -> None:
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        """Trio's time."""
        self._heap: list[tuple[float, int, Deadline]] = []
        self._pushed = 0
        self._stale = 0
        self._sleep: trio.CancelScope | None = None

    def deadline(self) -> Deadline:
        """Return a new deadline that is not set."""
        return Deadline(self)

    def arm(self, deadline: Deadline, at: float) -> None:
        """Look at `deadline` at the time `at`, not at the later time it was armed for."""
        self.disarm(deadline)
        deadline.armed_at = at
        self._pushed += 1
        heapq.heappush(self._heap, (at, self._pushed, deadline))
        if self._sleep is not None and at < self._sleep.deadline:
            self._sleep.deadline = at

    def disarm(self, deadline: Deadline) -> None:
        """Forget the time `deadline` was armed for, if it was."""
        if deadline.armed_at == math.inf:
            return
        deadline.armed_at = math.inf
        self._stale += 1
        if self._stale > _MOST_STALE and self._stale > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].armed_at]
            heapq.heapify(self._heap)
            self._stale = 0

    async def run(self) -> None:
        """Watch the deadlines until cancelled."""
        while True:
            earliest = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=earliest) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
            self._expire(self.now())

    def _expire(self, now: float) -> None:
        if not self._heap or self._heap[0][0] > now:
            return
        lateness_seconds = now - self._heap[0][0]
        if _debugger_attached():
            postponed_to = now + _DEBUGGER_SECONDS
        elif lateness_seconds >= _STARVED_SECONDS:
            postponed_to = now + lateness_seconds
        else:
            postponed_to = now
        while self._heap and self._heap[0][0] <= now:
            at, _, deadline = heapq.heappop(self._heap)
            if at != deadline.armed_at:
                self._stale -= 1
                continue
            deadline.armed_at = math.inf
            if deadline.expires_at > now:
                if deadline.expires_at < math.inf:
                    self.arm(deadline, deadline.expires_at)
            elif postponed_to > now:
                deadline.set(postponed_to)
            else:
                deadline.expires_at = math.inf
                if deadline.on_expiry is not None:
                    deadline.on_expiry()
