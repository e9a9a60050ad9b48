"""HTTP exchanges for ASGI 3 applications (specification version 2.5 of HTTP).

What the specification leaves open is decided so: `receive` after the body waits until the client is
gone or the response is complete, and then says `http.disconnect`; a client that ends its side
early counts as gone there, but is still sent the whole response (or, if its request's body was not
complete, the server's 400 and nothing of the application's). `send` after the client has gone raises
`ClientDisconnected`, an `OSError`; after the response is complete, events are an error.
"""

from collections.abc import Awaitable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import CoroutineType
from typing import Any
from urllib.parse import quote

from kestrel_protocols.asgi.events import AsgiApp, Event, Scope
from kestrel_protocols.asgi.lifespan import run_lifespan
from kestrel_protocols.http.exchange import (
    BadRequest,
    ClientDisconnected,
    Headers,
    HttpExchange,
    ResponseError,
)

__all__ = ["AsgiApp", "AsgiApplication"]

_SPEC_VERSION = "2.5"


class AsgiApplication:
    """An `HttpApplication` that calls the ASGI application `app`.

    `root_path` is the path that a proxy in front has taken off, as the scope has it.
    """

    def __init__(self, app: AsgiApp, *, root_path: str = "") -> None:
        self.app = app
        self.root_path = root_path
        self._raw_root_path = quote(root_path).encode("ascii")
        self._state: dict[str, Any] = {}

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Return the application's lifespan; serve inside it.

        Raises:
            LifespanFailed: the application said that it could not start or stop.
        """
        return run_lifespan(self.app, self._state)

    def __call__(self, exchange: HttpExchange) -> Coroutine[Any, Any, None]:
        """Answer one exchange."""
        request = _AsgiRequest(exchange)
        local, remote = exchange.connection.local, exchange.connection.remote
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": _SPEC_VERSION},
            "http_version": exchange.http_version,
            "method": exchange.method,
            "scheme": "http",
            "path": self.root_path + exchange.path,
            "raw_path": self._raw_root_path + exchange.raw_path,
            "query_string": exchange.query,
            "root_path": self.root_path,
            "headers": exchange.headers,
            "client": None if remote is None else remote.pair,
            "server": None if local is None else local.pair,
            "state": self._state.copy(),
            "extensions": {},
        }
        call = self.app(scope, request.receive, request.send)
        if isinstance(call, CoroutineType):
            return call  # pyright: ignore[reportUnknownVariableType]  # of what, only mypy can tell
        return _as_coroutine(call)


async def _as_coroutine(call: Awaitable[None]) -> None:
    await call


class _AsgiRequest:
    """One request's `receive` and `send`."""

    __slots__ = ("_exchange", "_headers", "_over", "_started", "_status")

    def __init__(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        self._over = False  # whether the end of the request's body was handed out
        self._started = False  # whether the exchange's response was
        self._status = 0
        self._headers: Headers = []

    async def receive(self) -> Event:
        exchange = self._exchange
        if not (self._over or exchange.response_finished):
            try:
                data = await exchange.receive()
            except (BadRequest, ClientDisconnected):
                return {"type": "http.disconnect"}
            self._over = exchange.body_complete
            return {"type": "http.request", "body": data, "more_body": not self._over}
        if not exchange.response_finished:
            await exchange.wait_disconnected()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        kind = event["type"]
        if kind == "http.response.body":
            if not self._status:
                raise ResponseError("http.response.body comes after http.response.start")
            exchange = self._exchange
            body = event.get("body", b"")
            more_body = event.get("more_body", False)
            if not self._started:
                self._started = True
                if not more_body:
                    await exchange.respond(self._status, self._headers, body)
                    return
                await exchange.start(self._status, self._headers)
            await exchange.write(body)
            if not more_body:
                await exchange.finish()
        elif kind == "http.response.start":
            if self._status:
                raise ResponseError("http.response.start was sent already")
            self._status = event["status"]
            self._headers = event.get("headers", [])
        else:
            raise ResponseError(f"unknown event {kind!r}; expected http.response.start or .body")
