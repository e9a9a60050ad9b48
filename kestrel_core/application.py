"""Puts an application of any interface under HTTP, by plug-ins that the registry finds.

The core imports no plug-in package, so the shapes that are used here are written down as protocols.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from enum import Enum
from typing import Protocol, cast

import attrs

from kestrel_core.connection import Connection
from kestrel_core.errors import ConfigurationError
from kestrel_core.interface import Interface
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.registry import PluginKind, Registry

__all__ = ["HTTP1", "AdaptedApplication", "ServedExchange", "adapt", "make_http"]

HTTP1 = "http/1.1"
"""The protocol that serves applications, by its name in the registry."""


class ServedExchange(Protocol):
    """What logs and counters read of an HTTP exchange; the HTTP protocols' own class has more."""

    @property
    def connection(self) -> Connection:
        """What the request came over."""
        ...

    @property
    def method(self) -> str:
        """As sent."""
        ...

    @property
    def target(self) -> bytes:
        """The request target as sent."""
        ...

    @property
    def http_version(self) -> str:
        """Such as "1.1"."""
        ...

    @property
    def status(self) -> int | None:
        """The final status that was sent, or None."""
        ...

    @property
    def response_body_bytes(self) -> int:
        """How many bytes of body were sent."""
        ...

    @property
    def started_at(self) -> float:
        """When the request's head had arrived, in `trio.current_time()`'s seconds."""
        ...


class _AsgiApplication(Protocol):
    def lifespan(self, *, must_start: bool) -> AbstractAsyncContextManager[None]: ...


class _MakeAsgiApplication(Protocol):
    def __call__(self, app: object, *, root_path: str) -> _AsgiApplication: ...


class _MakeWsgiApplication(Protocol):
    def __call__(self, app: object, *, root_path: str) -> object: ...


class _MakeHttp(Protocol):
    def __call__(
        self,
        application: object,
        *,
        on_exchange_end: Callable[[ServedExchange], None] | None,
        alt_svc: bytes | None,
        lenient: Sequence[Enum],
    ) -> ConnectionHandler: ...


class _NoFailure(Exception):
    """How the lifespan of an application that has none fails: never."""


@attrs.frozen
class AdaptedApplication:
    """An application as HTTP protocols call it, and its lifespan, to serve inside of."""

    application: object
    lifespan: AbstractAsyncContextManager[None] = attrs.field(factory=nullcontext)
    lifespan_failure: type[Exception] = _NoFailure
    """What `lifespan` raises when the application cannot start or stop."""


def adapt(
    registry: Registry,
    app: object,
    interface: Interface,
    *,
    root_path: str = "",
    must_start: bool = False,
) -> AdaptedApplication:
    """Adapt `app`, which has `interface`, to HTTP.

    `must_start` says that raising in a lifespan's startup is a failure, too, where servers else go
    on without the lifespan.

    Raises:
        PluginError: the adapter is not installed or does not load.
        ConfigurationError: a root path is given, for which the interface has no use.
    """

    def load(name: str) -> object:
        return registry.load(PluginKind.PROTOCOL, name)

    if interface is Interface.ASGI:
        make_asgi = cast(_MakeAsgiApplication, load("kestrel_protocols.asgi:AsgiApplication"))
        adapted = make_asgi(app, root_path=root_path)
        failure = load("kestrel_protocols.asgi:LifespanFailed")
        return AdaptedApplication(
            adapted, adapted.lifespan(must_start=must_start), cast(type[Exception], failure)
        )
    if interface is Interface.WSGI:
        make_wsgi = cast(_MakeWsgiApplication, load("kestrel_protocols.wsgi:WsgiApplication"))
        return AdaptedApplication(make_wsgi(app, root_path=root_path))
    if root_path:
        raise ConfigurationError("a native handler has no use for a root path")
    return AdaptedApplication(app)


def make_http(
    registry: Registry,
    application: object,
    *,
    on_exchange_end: Callable[[ServedExchange], None] | None = None,
    alt_svc: bytes | None = None,
    lenient: Sequence[Enum] = (),
) -> ConnectionHandler:
    """Return what serves `application` by HTTP; `lenient` are members of its `Leniency`.

    Raises:
        PluginError: HTTP is not installed or does not load.
    """
    make = cast(_MakeHttp, registry.load(PluginKind.PROTOCOL, HTTP1))
    return make(application, on_exchange_end=on_exchange_end, alt_svc=alt_svc, lenient=lenient)
