"""Token buckets: steady rates that allow for bursts.

A bucket is full at first and fills at the rate; each request takes a token out. So after a pause as
many requests may come at once as it holds, and then as many as the rate says.
"""

from collections.abc import Sequence
from math import floor

import trio

from kestrel_middleware.asgi.rate_limit.limiter import Limiter, Quota, Verdict
from kestrel_middleware.asgi.rate_limit.rate import Rate

__all__ = ["TokenBucketLimiter"]

# Who waits for exactly as long as it was told must not fail by a rounding.
_ROUNDING = 1e-9

_FEWEST_SWEPT = 1024


class TokenBucketLimiter(Limiter):
    """Has a bucket for each key and each rate, in this process; `burst` is how many it holds.

    A request takes from all buckets of its key, or from none.
    """

    def __init__(self, rates: Sequence[Rate], burst: int | None = None) -> None:
        self._rates = [
            (rate, float(burst or rate.count), rate.count / rate.period_seconds) for rate in rates
        ]
        # By key: when it was looked at, and the tokens of each rate then.
        self._buckets: dict[str, tuple[float, list[float]]] = {}
        self._sweep_at = _FEWEST_SWEPT

    async def hit(self, key: str, *, with_quotas: bool) -> Verdict:
        """Take a token for a request of `key`; never waits."""
        now = trio.current_time()
        tokens = self._tokens(key, now)
        wait = max(
            (1 - held) / per_second
            for held, (_, _, per_second) in zip(tokens, self._rates, strict=True)
        )
        is_allowed = wait <= _ROUNDING
        if is_allowed:
            tokens = [held - 1 for held in tokens]
            if key not in self._buckets and len(self._buckets) >= self._sweep_at:
                self._sweep(now)
            self._buckets[key] = (now, tokens)
        quotas = self._quotas(tokens) if with_quotas else ()
        return Verdict(is_allowed, 0.0 if is_allowed else wait, quotas)

    @property
    def keys(self) -> int:
        """How many keys have buckets that were not full when they were last looked at."""
        return len(self._buckets)

    def _tokens(self, key: str, now: float) -> list[float]:
        before, tokens = self._buckets.get(key, (now, None))
        if tokens is None:
            return [capacity for _, capacity, _ in self._rates]
        passed = now - before
        return [
            min(capacity, held + passed * per_second)
            for held, (_, capacity, per_second) in zip(tokens, self._rates, strict=True)
        ]

    def _sweep(self, now: float) -> None:
        """Forget buckets that are full again; the next time is when twice as many are left."""
        full = [capacity for _, capacity, _ in self._rates]
        for key in [key for key in self._buckets if self._tokens(key, now) == full]:
            del self._buckets[key]
        self._sweep_at = max(_FEWEST_SWEPT, 2 * len(self._buckets))

    def _quotas(self, tokens: Sequence[float]) -> tuple[Quota, ...]:
        return tuple(
            Quota(rate, max(0, floor(held + _ROUNDING)), (capacity - held) / per_second)
            for held, (rate, capacity, per_second) in zip(tokens, self._rates, strict=True)
        )
