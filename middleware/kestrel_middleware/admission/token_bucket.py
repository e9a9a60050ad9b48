"""Token buckets, each of them one number: the time at which it will be full again.

Theory of operation. A bucket holds up to `burst` tokens and gains `per_second` of them each second;
what happens takes one. Instead of its tokens, the time is kept at which it would be full if nothing
else happened; each token that is taken moves that time on by what it takes to gain one. (The
generic cell rate algorithm of ITU-T I.371 is the same.) A bucket whose time has come is full, and
then there is nothing to keep.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

__all__ = ["TokenBuckets", "TokenRate"]

KeyT = TypeVar("KeyT", bound=Hashable)

# The most buckets that are kept. The one that was used longest ago goes first; its owner then finds
# a full one. Some 10 MB, and more addresses than a limit by address is of use against.
_MOST_BUCKETS = 65536

# What is forgotten to a computation in floating point, in tokens.
_ROUNDING_TOKENS = 1e-5


@attrs.frozen
class TokenRate:
    """How many tokens are gained in a second, and how many a bucket holds at most."""

    per_second: float
    burst: int

    @classmethod
    def of(cls, per_second: float | None, burst: int | None) -> "TokenRate | None":
        """Return the rate; a `burst` of None holds what a second gains. None is no limit."""
        if per_second is None:
            return None
        return cls(per_second, max(1, math.ceil(per_second)) if burst is None else burst)

    def ready_at(self, full_at: float) -> float:
        """Return when there is a token in a bucket that will be full at `full_at`."""
        return full_at - (self.burst - 1 + _ROUNDING_TOKENS) / self.per_second

    def after_taking(self, full_at: float, now: float) -> float:
        """Return when that bucket will be full if a token is taken from it now."""
        return max(full_at, now) + 1 / self.per_second


class TokenBuckets(Generic[KeyT]):
    """A bucket for each key; those that are full take no memory, and there is a most of others.

    Each token that is taken looks at the two buckets that were used longest ago, so a flood of keys
    that never come again is forgotten as fast as it came, at a price that does not grow.
    """

    def __init__(self, rate: TokenRate, most_buckets: int = _MOST_BUCKETS) -> None:
        self._rate = rate
        self._most_buckets = most_buckets
        self._full_at = OrderedDict[KeyT, float]()

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._full_at)

    def ready_at(self, key: KeyT) -> float:
        """Return when there is a token for `key`, which may be in the past."""
        full_at = self._full_at.get(key)
        return -math.inf if full_at is None else self._rate.ready_at(full_at)

    def take(self, key: KeyT, now: float) -> None:
        """Take a token that is there."""
        full_at = self._full_at
        full_at[key] = self._rate.after_taking(full_at.get(key, now), now)
        full_at.move_to_end(key)
        for _ in range(2):
            oldest = next(iter(full_at))
            if full_at[oldest] > now and len(full_at) <= self._most_buckets:
                break
            del full_at[oldest]
