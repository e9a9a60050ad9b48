"""How often, and how many at once: ASGI middleware that answers 429 to what is too much.

`middleware` counts requests in windows of time or by token buckets, `concurrency_limit` those that
are under way. The library `limits` is imported by `windows` and `process_storage` alone, and they
only where windows are asked for.
"""

from kestrel_middleware.asgi.rate_limit.concurrency_limit import (
    ConcurrencyLimit as ConcurrencyLimit,
)
from kestrel_middleware.asgi.rate_limit.middleware import RateLimit as RateLimit
from kestrel_middleware.asgi.rate_limit.middleware import StorageFailure as StorageFailure
from kestrel_middleware.asgi.rate_limit.middleware import Strategy as Strategy
from kestrel_middleware.asgi.rate_limit.rate import Rate as Rate
