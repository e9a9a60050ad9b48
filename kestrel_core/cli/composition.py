"""Puts a server together for one application, from plug-ins that the registry finds.

The core imports no plug-in package, so the shapes that are used here are written down as protocols.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from enum import Enum
from typing import Protocol, cast

from kestrel_core.cli.access_log import ServedExchange, log_exchange
from kestrel_core.cli.interface import Interface
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server

__all__ = ["ComposedServer", "compose_server"]


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


class ComposedServer:
    """A server that listens nowhere yet, the lifespan to serve inside of, and how that fails."""

    def __init__(
        self,
        server: Server,
        lifespan: AbstractAsyncContextManager[None],
        lifespan_failure: type[Exception],
    ) -> None:
        self.server: Server = server
        self.lifespan: AbstractAsyncContextManager[None] = lifespan
        self.lifespan_failure: type[Exception] = lifespan_failure


def compose_server(
    app: object,
    endpoints: Sequence[Endpoint],
    *,
    interface: Interface,
    limits: Limits,
    root_path: str,
    access_log: bool,
    alt_svc: str | None,
    lenient: Sequence[str],
) -> ComposedServer:
    """Return a server for the application `app` on `endpoints`.

    Raises:
        PluginError: a part that it needs is not installed or does not load.
        ConfigurationError: `root_path` is none for this interface, or a leniency is not known, or
            `alt_svc` is no field value.
    """
    registry = Registry()

    def protocol(name: str) -> object:
        return registry.load(PluginKind.PROTOCOL, name)

    application: object
    lifespan: AbstractAsyncContextManager[None] = nullcontext()
    lifespan_failure: type[Exception] = _NoFailure
    if interface is Interface.ASGI:
        make_asgi = cast(_MakeAsgiApplication, protocol("kestrel_protocols.asgi:AsgiApplication"))
        application = asgi = make_asgi(app, root_path=root_path)
        lifespan = asgi.lifespan()
        lifespan_failure = cast(type[Exception], protocol("kestrel_protocols.asgi:LifespanFailed"))
    elif interface is Interface.NATIVE:
        if root_path:
            raise ConfigurationError("a native handler has no use for --root-path")
        application = app
    else:
        make_wsgi = cast(_MakeWsgiApplication, protocol("kestrel_protocols.wsgi:WsgiApplication"))
        application = make_wsgi(app, root_path=root_path)
    make_http = cast(_MakeHttp, protocol("http/1.1"))
    leniency = cast(type[Enum], protocol("kestrel_protocols.http1:Leniency"))
    handler = make_http(
        application,
        on_exchange_end=log_exchange if access_log else None,
        alt_svc=_field_value("--alt-svc", alt_svc),
        lenient=[_leniency(leniency, name) for name in lenient],
    )
    server = Server(limits=limits, registry=registry)
    for endpoint in endpoints:
        server.listen(endpoint, handler)
    return ComposedServer(server, lifespan, lifespan_failure)


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
