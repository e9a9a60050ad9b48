"""ASGI middleware for the server's edge: who the client is, which hosts, how often, and how well.

Each class takes the application first, knows nothing but ASGI 3, and works behind any server. Those
that wait, `RateLimit`, `ConcurrencyLimit` and `Health` with checks, do it on trio.
"""

from kestrel_middleware.asgi.forwarded_headers import ForwardedField as ForwardedField
from kestrel_middleware.asgi.forwarded_headers import ForwardedHeaders as ForwardedHeaders
from kestrel_middleware.asgi.forwarded_headers import Removal as Removal
from kestrel_middleware.asgi.health import Health as Health
from kestrel_middleware.asgi.host_filter import HostFilter as HostFilter
from kestrel_middleware.asgi.https_redirect import HttpsRedirect as HttpsRedirect
from kestrel_middleware.asgi.rate_limit import ConcurrencyLimit as ConcurrencyLimit
from kestrel_middleware.asgi.rate_limit import Rate as Rate
from kestrel_middleware.asgi.rate_limit import RateLimit as RateLimit
from kestrel_middleware.asgi.rate_limit import StorageFailure as StorageFailure
from kestrel_middleware.asgi.rate_limit import Strategy as Strategy
from kestrel_middleware.asgi.strict_transport_security import (
    StrictTransportSecurity as StrictTransportSecurity,
)
