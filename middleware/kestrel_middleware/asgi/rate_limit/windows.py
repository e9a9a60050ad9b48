"""Fixed and sliding windows: the strategies of the library `limits`, over any of its storages.

`limits` has storages for asyncio, too, and they are of no use here. So a storage over a network is
asked in a thread, and one that does not answer is left alone for a while.
"""

import time
from collections.abc import Sequence
from math import floor

import trio
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.errors import ConcurrentUpdateError, StorageError
from limits.errors import ConfigurationError as LimitsConfigurationError
from limits.storage import SlidingWindowCounterSupport, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from kestrel_core.errors import ConfigurationError
from kestrel_middleware.asgi.rate_limit.limiter import Limiter, Quota, StorageUnavailable, Verdict
from kestrel_middleware.asgi.rate_limit.process_storage import ProcessStorage
from kestrel_middleware.asgi.rate_limit.rate import Rate

__all__ = ["RemoteWindowLimiter", "WindowLimiter", "open_windows"]

# How many requests may be asking the storage, each in a thread; those beyond wait for their turn.
_MOST_THREADS = 20

# How long a storage that has failed is not asked. Else every request would wait for it.
_PAUSE_SECONDS = 1.0

# At the moment at which a count sinks to the limit it has still reached it.
_EDGE_SECONDS = 0.001

# These clients have the option `socket_timeout`, by which threads that nobody waits for end.
_WITH_SOCKET_TIMEOUT = {"redis", "rediss", "redis+unix", "valkey", "valkeys", "valkey+unix"}


def open_windows(
    storage: str, rates: Sequence[Rate], *, name: str, is_sliding: bool, storage_seconds: float
) -> Limiter:
    """Return what counts in `storage`, a URI of `limits`, or "memory://" for this process alone.

    Nothing is connected to yet. Limits of one `name` share their counters in a storage.

    Raises:
        ConfigurationError: the URI is wrong, or its storage needs a library, or cannot do this.
    """
    scheme = storage.partition(":")[0]
    if scheme == "memory":
        return WindowLimiter(ProcessStorage(), rates, name=name, is_sliding=is_sliding)
    if scheme.startswith("async+"):
        raise ConfigurationError(
            f"the storage {storage!r} needs asyncio, and this is trio; take it without 'async+'"
        )
    options: dict[str, float | str | bool] = {"wrap_exceptions": True}
    if scheme in _WITH_SOCKET_TIMEOUT:
        options["socket_timeout"] = storage_seconds
    try:
        opened = storage_from_string(storage, **options)
        if not isinstance(opened, Storage):
            raise ConfigurationError(f"the storage {storage!r} cannot be used by threads")
        windows = WindowLimiter(opened, rates, name=name, is_sliding=is_sliding)
    except (LimitsConfigurationError, NotImplementedError, ValueError) as error:
        raise ConfigurationError(f"the storage {storage!r} cannot be used: {error}") from error
    return RemoteWindowLimiter(windows, storage_seconds)


class WindowLimiter(Limiter):
    """Counts in windows of time, in the calling thread."""

    def __init__(
        self, storage: Storage, rates: Sequence[Rate], *, name: str, is_sliding: bool
    ) -> None:
        kind = SlidingWindowCounterRateLimiter if is_sliding else FixedWindowRateLimiter
        self._strategy: RateLimiter = kind(storage)
        self._is_sliding = is_sliding
        self._name = name
        self._items = [
            (rate, RateLimitItemPerSecond(rate.count, rate.period_seconds, "kestrel"))
            for rate in rates
        ]

    async def hit(self, key: str, *, with_quotas: bool) -> Verdict:
        """Count one more request of `key`; the storage is asked at once, and waited for."""
        return self.hit_nowait(key, with_quotas=with_quotas)

    def hit_nowait(self, key: str, *, with_quotas: bool) -> Verdict:
        """Count one more request of `key` at each rate, the shortest first, until one says no."""
        quotas: list[Quota] = []
        for rate, item in self._items:
            is_allowed = self._strategy.hit(item, self._name, key)
            if is_allowed and not with_quotas:
                continue
            remaining, wait = self._state(item, key)
            quotas.append(Quota(rate, remaining if is_allowed else 0, wait))
            if not is_allowed:
                return Verdict(False, wait, tuple(quotas) if with_quotas else ())
        return Verdict(True, 0.0, tuple(quotas))

    def _state(self, item: RateLimitItem, key: str) -> tuple[int, float]:
        """Return how many are left, and in how many seconds there is room for one more."""
        storage = self._strategy.storage
        if self._is_sliding and isinstance(storage, SlidingWindowCounterSupport):
            counts = storage.get_sliding_window(item.key_for(self._name, key), item.get_expiry())
            return _sliding_state(item.amount, item.get_expiry(), *counts)
        stats = self._strategy.get_window_stats(item, self._name, key)
        return stats.remaining, max(0.0, stats.reset_time - time.time())


def _sliding_state(
    limit: int, period: int, before: int, before_left: float, count: int, count_left: float
) -> tuple[int, float]:
    """Return what is left of `limit`, and in how many seconds there is more.

    `limits` itself tells when the nearer one of the two windows ends, which is too early for some.
    What counts of the window before shrinks evenly; when this one ends, it takes that one's place.
    """
    remaining = limit - floor(before * before_left / period + count)
    window_left = count_left - period
    if remaining > 0:
        return remaining, max(0.0, window_left)
    if count >= limit:
        wait = window_left + period * (1 - limit / count)
    else:
        wait = before_left - (limit - count) * period / before
    return 0, max(0.0, wait) + _EDGE_SECONDS


class RemoteWindowLimiter(Limiter):
    """Counts as `windows` does, in threads, and gives up after `storage_seconds`.

    A thread whose storage does not answer is left behind; there are no more than twenty.
    """

    def __init__(self, windows: WindowLimiter, storage_seconds: float) -> None:
        self._windows = windows
        self._seconds = storage_seconds
        self._threads = trio.CapacityLimiter(_MOST_THREADS)
        self._ask_at = -float("inf")

    async def hit(self, key: str, *, with_quotas: bool) -> Verdict:
        """Count one more request of `key`."""
        if trio.current_time() < self._ask_at:
            raise StorageUnavailable("it has just failed")

        def ask() -> Verdict:
            return self._windows.hit_nowait(key, with_quotas=with_quotas)

        try:
            with trio.fail_after(self._seconds):
                return await trio.to_thread.run_sync(
                    ask, abandon_on_cancel=True, limiter=self._threads
                )
        except (StorageError, ConcurrentUpdateError, trio.TooSlowError) as error:
            self._ask_at = trio.current_time() + _PAUSE_SECONDS
            raise StorageUnavailable(_reason(error, self._seconds)) from error


def _reason(error: Exception, seconds: float) -> str:
    if isinstance(error, StorageError):
        cause = error.storage_error
        return f"{type(cause).__name__}: {cause}"
    return str(error) or f"no answer in {seconds:g} s"
