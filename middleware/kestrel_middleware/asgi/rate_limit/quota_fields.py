"""The fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers, 08 and later)."""

from collections.abc import Sequence
from math import ceil

from kestrel_middleware.asgi.rate_limit.limiter import Quota
from kestrel_middleware.asgi.rate_limit.rate import Rate
from kestrel_middleware.asgi.scope import Field

__all__ = ["policy_field", "quota_field", "retry_after_field"]


def policy_field(name: str, rates: Sequence[Rate]) -> Field:
    """Return the field that tells what is allowed: the policies of the limit `name`."""
    items = [f"{_policy(name, rate)};q={rate.count};w={rate.period_seconds}" for rate in rates]
    return (b"ratelimit-policy", ", ".join(items).encode())


def quota_field(name: str, quotas: Sequence[Quota]) -> Field:
    """Return the field that tells what is left of it."""
    items = [
        f"{_policy(name, quota.rate)};r={quota.remaining};t={ceil(quota.reset_seconds)}"
        for quota in quotas
    ]
    return (b"ratelimit", ", ".join(items).encode())


def retry_after_field(seconds: float) -> Field:
    """Return Retry-After (RFC 9110, 10.2.3) in whole seconds, one at least."""
    return (b"retry-after", b"%d" % max(1, ceil(seconds)))


def _policy(name: str, rate: Rate) -> str:
    return f'"{name}-{rate.period_seconds}s"'
