"""A storage of `limits` in this process: without threads, and by trio's clock.

The library's own starts a thread for each hundredth of a second in which something is counted, and
goes by the system's clock, which may be set back.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import attrs
import trio
from limits.storage import SlidingWindowCounterSupport, Storage

__all__ = ["ProcessStorage"]

_FEWEST_SWEPT = 1024


@attrs.define
class _Counter:
    count: int
    expires_at: float


@attrs.define
class _Slide:
    """How many came in window `number`, and in the one before."""

    number: int
    count: int
    before: int
    expires_at: float


_Entry = TypeVar("_Entry", _Counter, _Slide)


class ProcessStorage(Storage, SlidingWindowCounterSupport):
    """Counters that live as long as it does. Used in trio's thread only."""

    def __init__(self) -> None:
        super().__init__()
        self._counters: dict[str, _Counter] = {}
        self._slides: dict[str, _Slide] = {}
        self._sweep_at = _FEWEST_SWEPT

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """The errors of the storage: none."""
        return ()

    @property
    def keys(self) -> int:
        """How many keys it has counters for, some of which may have expired."""
        return len(self._counters) + len(self._slides)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count `amount` more in the window of `key`, which begins now if there is none."""
        now = trio.current_time()
        counter = self._counters.get(key)
        if counter is None or counter.expires_at <= now:
            counter = self._entry(self._counters, key, lambda: _Counter(0, now + expiry), now)
        counter.count += amount
        return counter.count

    def get(self, key: str) -> int:
        """Return how many were counted in the window of `key`."""
        counter = self._counters.get(key)
        return counter.count if counter and counter.expires_at > trio.current_time() else 0

    def get_expiry(self, key: str) -> float:
        """Return when the window of `key` ends, by the system's clock as `limits` has it."""
        counter = self._counters.get(key)
        left = 0.0 if counter is None else counter.expires_at - trio.current_time()
        return time.time() + max(0.0, left)

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Count `amount` more unless that would be more than `limit`; tell whether it was."""
        now = trio.current_time()
        slide = self._slide(key, expiry, now)
        if int(slide.before * (1 - now / expiry % 1) + slide.count) + amount > limit:
            return False
        slide.count += amount
        slide.expires_at = (slide.number + 2) * expiry
        return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the counts of the last window and of this one, each with how long it matters."""
        now = trio.current_time()
        slide = self._slide(key, expiry, now)
        left = (1 - now / expiry % 1) * expiry
        return slide.before, left, slide.count, left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget what was counted for `key`."""
        self._slides.pop(key, None)

    def clear(self, key: str) -> None:
        """Forget what was counted for `key`."""
        self._counters.pop(key, None)

    def check(self) -> bool:
        """Tell that it works."""
        return True

    def reset(self) -> int:
        """Forget everything; return how many keys that were."""
        forgotten = self.keys
        self._counters.clear()
        self._slides.clear()
        return forgotten

    def _slide(self, key: str, expiry: int, now: float) -> _Slide:
        """Return the entry of `key`, moved on to the window of `now`."""
        number = int(now // expiry)
        slide = self._slides.get(key)
        if slide is None:
            make = lambda: _Slide(number, 0, 0, (number + 1) * expiry)  # noqa: E731
            return self._entry(self._slides, key, make, now)
        if slide.number != number:
            slide.before = slide.count if slide.number == number - 1 else 0
            slide.count = 0
            slide.number = number
        return slide

    def _entry(
        self, entries: dict[str, _Entry], key: str, make: Callable[[], _Entry], now: float
    ) -> _Entry:
        if key not in entries and self.keys >= self._sweep_at:
            self._sweep(now)
        entry = entries[key] = make()
        return entry

    def _sweep(self, now: float) -> None:
        """Forget what has expired; the next time is when twice as many are left."""
        self._counters = {k: entry for k, entry in self._counters.items() if entry.expires_at > now}
        self._slides = {k: entry for k, entry in self._slides.items() if entry.expires_at > now}
        self._sweep_at = max(_FEWEST_SWEPT, 2 * self.keys)
