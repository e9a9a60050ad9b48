"""Puts a server together for one application, from plug-ins that the registry finds."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import cast

import attrs

from kestrel_core.application import HTTP1, AdaptedApplication, adapt, make_http
from kestrel_core.cli.access_log import log_exchange
from kestrel_core.cli.connection_stack import ConnectionStack
from kestrel_core.cli.plugin_loading import asgi_middleware, protocol
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError
from kestrel_core.interface import Interface
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.plugin_options import PluginText
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server

__all__ = ["ComposedServer", "HttpSettings", "compose_server"]


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
    # A server of which no protocol serves HTTP has no lifespan.
    application = AdaptedApplication(None)
    handlers: list[ConnectionHandler] = []
    for text in protocols:
        if text.name != HTTP1:
            handlers.append(protocol(registry, text, is_alone=len(protocols) == 1))
            continue
        if text.options:
            raise ConfigurationError(
                f"bad plug-in {str(text)!r}: its options are those of the command, such as --alt-svc"
            )
        application = _adapt(registry, app, http)
        handlers.append(_make_http(registry, application.application, http))
    server = Server(limits=limits, registry=registry)
    notes: list[str] = []
    for some, placed in ((endpoints, stack), (insecure_endpoints, stack.without_tls())):
        middleware, handler = placed.over(handlers)
        for endpoint in some:
            server.listen(endpoint, handler, middleware=middleware)
            notes.append(placed.note)
    return ComposedServer(server, application.lifespan, application.lifespan_failure, notes)


def _adapt(registry: Registry, app: object, http: HttpSettings) -> AdaptedApplication:
    if http.interface is Interface.NATIVE and http.root_path:
        raise ConfigurationError("a native handler has no use for --root-path")
    for text in reversed(http.asgi_middleware):
        app = asgi_middleware(registry, text, app)
    return adapt(registry, app, http.interface, root_path=http.root_path)


def _make_http(registry: Registry, application: object, http: HttpSettings) -> ConnectionHandler:
    found = registry.load(PluginKind.PROTOCOL, "kestrel_protocols.http1:Leniency")
    leniency = cast(type[Enum], found)
    return make_http(
        registry,
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
