"""Puts a server together for one application, from plug-ins that the registry finds.

The core imports no plug-in package, so the shapes that are used here are written down as protocols.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from enum import Enum
from typing import Protocol, cast

import attrs

from kestrel_core.cli.access_log import ServedExchange, log_exchange
from kestrel_core.cli.connection_options import HTTP1
from kestrel_core.cli.connection_stack import ConnectionStack
from kestrel_core.cli.interface import Interface
from kestrel_core.cli.plugin_loading import asgi_middleware, protocol
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.plugin_options import PluginText
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server

__all__ = ["ComposedServer", "HttpSettings", "compose_server"]


class _AsgiApplication(Protocol):
    def lifespan(self) -> AbstractAsyncContextManager[None]: ...


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


@attrs.frozen(kw_only=True)
class HttpSettings:
    """How HTTP calls the application, and what else was asked of it."""

    interface: Interface
    root_path: str
    asgi_middleware: Sequence[PluginText]
    access_log: bool
    alt_svc: str | None
    lenient: Sequence[str]


class ComposedServer:
    """A server that does not serve yet, the lifespan to serve inside of, and how that fails."""

    def __init__(
        self,
        server: Server,
        lifespan: AbstractAsyncContextManager[None],
        lifespan_failure: type[Exception],
        endpoint_notes: Sequence[str],
    ) -> None:
        self.server: Server = server
        self.lifespan: AbstractAsyncContextManager[None] = lifespan
        self.lifespan_failure: type[Exception] = lifespan_failure
        self.endpoint_notes: Sequence[str] = endpoint_notes
        """What to say of each endpoint, such as "TLS", or ""."""


class _Application:
    """What HTTP serves, and its lifespan."""

    def __init__(self, registry: Registry, app: object, http: HttpSettings) -> None:
        def load(name: str) -> object:
            return registry.load(PluginKind.PROTOCOL, name)

        self.adapted = app
        self.lifespan: AbstractAsyncContextManager[None] = nullcontext()
        self.lifespan_failure: type[Exception] = _NoFailure
        if http.interface is Interface.ASGI:
            for text in reversed(http.asgi_middleware):
                app = asgi_middleware(registry, text, app)
            make_asgi = cast(_MakeAsgiApplication, load("kestrel_protocols.asgi:AsgiApplication"))
            self.adapted = asgi = make_asgi(app, root_path=http.root_path)
            self.lifespan = asgi.lifespan()
            failure = load("kestrel_protocols.asgi:LifespanFailed")
            self.lifespan_failure = cast(type[Exception], failure)
        elif http.interface is Interface.NATIVE:
            if http.root_path:
                raise ConfigurationError("a native handler has no use for --root-path")
        else:
            make_wsgi = cast(_MakeWsgiApplication, load("kestrel_protocols.wsgi:WsgiApplication"))
            self.adapted = make_wsgi(app, root_path=http.root_path)


def compose_server(
    app: object,
    endpoints: Sequence[Endpoint],
    insecure_endpoints: Sequence[Endpoint],
    *,
    stack: ConnectionStack,
    protocols: Sequence[PluginText],
    http: HttpSettings,
    limits: Limits,
    registry: Registry,
) -> ComposedServer:
    """Return a server for `protocols` on `endpoints`; HTTP serves the application `app`.

    `insecure_endpoints` are those that the TLS of `stack` is not for.

    Raises:
        PluginError: a part that it needs is not installed or does not load.
        ConfigurationError: a plug-in is not known or has wrong options, or the root path is none
            for this interface, or a leniency is not known, or `alt_svc` is no field value.
    """
    application: _Application | None = None
    handlers: list[ConnectionHandler] = []
    for text in protocols:
        if text.name != HTTP1:
            handlers.append(protocol(registry, text, is_alone=len(protocols) == 1))
            continue
        if text.options:
            raise ConfigurationError(
                f"bad plug-in {str(text)!r}: its options are those of the command, such as --alt-svc"
            )
        application = _Application(registry, app, http)
        handlers.append(_make_http(registry, application.adapted, http))
    server = Server(limits=limits, registry=registry)
    notes: list[str] = []
    for some, placed in ((endpoints, stack), (insecure_endpoints, stack.without_tls())):
        middleware, handler = placed.over(handlers)
        for endpoint in some:
            server.listen(endpoint, handler, middleware=middleware)
            notes.append(placed.note)
    if application is None:
        return ComposedServer(server, nullcontext(), _NoFailure, notes)
    return ComposedServer(server, application.lifespan, application.lifespan_failure, notes)


def _make_http(registry: Registry, application: object, http: HttpSettings) -> ConnectionHandler:
    make = cast(_MakeHttp, registry.load(PluginKind.PROTOCOL, HTTP1))
    found = registry.load(PluginKind.PROTOCOL, "kestrel_protocols.http1:Leniency")
    leniency = cast(type[Enum], found)
    return make(
        application,
        on_exchange_end=log_exchange if http.access_log else None,
        alt_svc=_field_value("--alt-svc", http.alt_svc),
        lenient=[_leniency(leniency, name) for name in http.lenient],
    )


def _leniency(kind: type[Enum], name: str) -> Enum:
    for member in kind:
        if member.value == name.replace("-", "_"):
            return member
    known = ", ".join(sorted(str(member.value).replace("_", "-") for member in kind))
    raise ConfigurationError(f"--lenient {name}: the server cannot be that; it can be {known}")


def _field_value(option: str, text: str | None) -> bytes | None:
    if text is None:
        return None
    if not (text.isascii() and text.isprintable()):
        raise ConfigurationError(f"{option} {text!r} is no field value: it is printable ASCII")
    return text.encode("ascii")
