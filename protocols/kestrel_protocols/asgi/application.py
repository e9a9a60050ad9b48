"""HTTP exchanges for ASGI 3 applications (specification version 2.5 of HTTP).

What the specification leaves open is decided so: `receive` after the body waits until the client is
gone or the response is complete, and then says `http.disconnect`; a client that ends its side
early counts as gone there, but is still sent the whole response (or, if its request's body was not
complete, the server's 400 and nothing of the application's). `send` after the client has gone raises
`ClientDisconnected`, an `OSError`; after the response is complete, events are an error.

CONNECT asks for a tunnel, for which ASGI has no words; the answer is 501.
"""

from collections.abc import Awaitable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import CoroutineType
from typing import Any
from urllib.parse import quote

from kestrel_core.connection import ConnectionContext
from kestrel_protocols.asgi.events import AsgiApp, DebugHook, Scope
from kestrel_protocols.asgi.lifespan import run_lifespan
from kestrel_protocols.asgi.request import AsgiRequest
from kestrel_protocols.asgi.tls import tls_extension
from kestrel_protocols.http.exchange import HttpExchange

__all__ = ["AsgiApp", "AsgiApplication", "DebugHook"]

_SPEC_VERSION = "2.5"

# What every request is offered; trailers depend on the client.
_EXTENSIONS = (
    "http.request.trailers",
    "http.response.early_hint",
    "http.response.pathsend",
    "http.response.zerocopysend",
)


class AsgiApplication:
    """An `HttpApplication` that calls the ASGI application `app`.

    `root_path` is the path that a proxy in front has taken off, as the scope has it. `on_debug` is
    called with what the application sends as `http.response.debug`, an extension that is offered
    only if there is somebody to hear it.
    """

    def __init__(
        self, app: AsgiApp, *, root_path: str = "", on_debug: DebugHook | None = None
    ) -> None:
        self.app = app
        self.root_path = root_path
        self.on_debug = on_debug
        self._raw_root_path = quote(root_path).encode("ascii")
        self._state: dict[str, Any] = {}
        self._extensions: dict[str, dict[str, Any]] = {name: {} for name in _EXTENSIONS}
        if on_debug is not None:
            self._extensions["http.response.debug"] = {}
        self._context: ConnectionContext | None = None

    def lifespan(self, *, must_start: bool = False) -> AbstractAsyncContextManager[None]:
        """Return the application's lifespan; serve inside it.

        `must_start` says that raising in the startup means that it failed, too. The specification
        has servers go on without the lifespan then, as applications raise that have none.

        Raises:
            LifespanFailed: the application said that it could not start or stop.
        """
        return run_lifespan(self.app, self._state, must_start=must_start)

    def _meet(self, context: ConnectionContext) -> None:
        """Offer what the server of the moment has to say; nearly always it is the same."""
        self._context = context
        self._extensions["kestrel.server"] = {"draining": context.draining}

    def __call__(self, exchange: HttpExchange) -> Coroutine[Any, Any, None]:
        """Answer one exchange."""
        if not exchange.path and exchange.method == "CONNECT":
            return exchange.respond(501, [])
        request = AsgiRequest(exchange, self.on_debug)
        connection = exchange.connection
        local, remote = connection.local, connection.remote
        if connection.context is not self._context:
            self._meet(connection.context)
        extensions = self._extensions.copy()
        if exchange.scheme == "https":
            tls = tls_extension(connection)
            if tls is not None:
                extensions["tls"] = tls
        if exchange.takes_trailers:
            extensions["http.response.trailers"] = {}
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": _SPEC_VERSION},
            "http_version": exchange.http_version,
            "method": exchange.method,
            "scheme": exchange.scheme,
            "path": self.root_path + exchange.path,
            "raw_path": self._raw_root_path + exchange.raw_path,
            "query_string": exchange.query,
            "root_path": self.root_path,
            "headers": exchange.headers,
            "client": None if remote is None else remote.pair,
            "server": None if local is None else local.pair,
            "state": self._state.copy(),
            "extensions": extensions,
        }
        call = self.app(scope, request.receive, request.send)
        if isinstance(call, CoroutineType):
            return call  # pyright: ignore[reportUnknownVariableType]  # of what, only mypy can tell
        return _as_coroutine(call)


async def _as_coroutine(call: Awaitable[None]) -> None:
    await call
