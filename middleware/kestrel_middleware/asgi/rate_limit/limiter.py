"""What counts requests, and what it says to one."""

from abc import ABC, abstractmethod

import attrs

from kestrel_middleware.asgi.rate_limit.rate import Rate

__all__ = ["Limiter", "Quota", "StorageUnavailable", "Verdict"]


class StorageUnavailable(Exception):
    """What holds the counters does not answer; the text says why."""


@attrs.frozen
class Quota:
    """What one key has left of one rate."""

    rate: Rate
    remaining: int
    reset_seconds: float
    """When more is to be had, as far as that can be told."""


@attrs.frozen
class Verdict:
    """Whether a request may pass."""

    is_allowed: bool
    retry_after_seconds: float = 0.0
    """When the next may, of one that may not."""

    quotas: tuple[Quota, ...] = ()
    """What is left, if that was asked for; of one that may not pass, as far as it got."""


class Limiter(ABC):
    """Counts requests by key."""

    @abstractmethod
    async def hit(self, key: str, *, with_quotas: bool) -> Verdict:
        """Count one more request of `key`, unless it may not pass. Any number of tasks may call it.

        Raises:
            StorageUnavailable: nothing could be counted, or nobody knows.
        """
