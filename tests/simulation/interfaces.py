"""The oracle as an ASGI application and as a native handler."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http.exchange import BadRequest, ClientDisconnected
from tests.simulation.oracle import Conversation, Fields, Gone, Oracle

__all__ = ["asgi_oracle", "native_oracle"]


def asgi_oracle(oracle: Oracle) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return `oracle` as an ASGI application, with a lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await oracle.answer(_AsgiConversation(scope, receive, send))

    return app


async def _live(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        assert await receive() == {"type": f"lifespan.{step}"}
        await send({"type": f"lifespan.{step}.complete"})


class _AsgiConversation(Conversation):
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host, port = scope["client"]
        super().__init__(
            client=f"{host}:{port}",
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(),
            version=scope["http_version"],
        )
        self._receive = receive
        self._send = send
        self._trailers: Fields = []
        self._sends_trailers = False

    async def receive(self) -> tuple[bytes, bool]:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise Gone
        self._trailers = event.get("trailers", [])
        return event["body"], not event["more_body"]

    @property
    def trailers(self) -> Fields:
        return self._trailers

    async def wait_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def inform(self, link: bytes) -> None:
        await self._tell({"type": "http.response.early_hint", "links": [link]})

    async def respond(self, status: int, fields: Fields, body: bytes) -> None:
        await self._tell({"type": "http.response.start", "status": status, "headers": fields})
        await self._tell({"type": "http.response.body", "body": body})

    async def start(self, status: int, fields: Fields, *, trailers: bool) -> None:
        self._sends_trailers = trailers
        event = {"type": "http.response.start", "status": status, "headers": fields}
        await self._tell(event | {"trailers": trailers})

    async def write(self, data: bytes) -> None:
        await self._tell({"type": "http.response.body", "body": data, "more_body": True})

    async def write_file(self, path: Path) -> None:
        await self._tell({"type": "http.response.pathsend", "path": str(path)})

    async def finish(self, trailers: Fields) -> None:
        await self._tell({"type": "http.response.body", "body": b""})
        if self._sends_trailers:
            await self._tell({"type": "http.response.trailers", "headers": trailers})

    async def _tell(self, event: Event) -> None:
        try:
            await self._send(event)
        except ClientDisconnected as error:
            raise Gone from error


def native_oracle(oracle: Oracle) -> Callable[[HttpExchange], Awaitable[None]]:
    """Return `oracle` as a native handler."""

    async def handle(exchange: HttpExchange) -> None:
        await oracle.answer(_NativeConversation(exchange))

    return handle


class _NativeConversation(Conversation):
    def __init__(self, exchange: HttpExchange) -> None:
        super().__init__(
            client=str(exchange.connection.remote),
            method=exchange.method,
            path=exchange.path,
            query=exchange.query.decode(),
            version=exchange.http_version,
        )
        self._exchange = exchange

    async def receive(self) -> tuple[bytes, bool]:
        try:
            data = await self._exchange.receive()
        except (BadRequest, ClientDisconnected) as error:
            raise Gone from error
        return data, self._exchange.body_complete

    @property
    def trailers(self) -> Fields:
        return self._exchange.trailers

    async def wait_gone(self) -> None:
        try:
            while not self._exchange.body_complete:
                await self._exchange.receive()
        except (BadRequest, ClientDisconnected):
            return
        await self._exchange.wait_disconnected()

    async def inform(self, link: bytes) -> None:
        await self._do(self._exchange.inform(103, [(b"link", link)]))

    async def respond(self, status: int, fields: Fields, body: bytes) -> None:
        await self._do(self._exchange.respond(status, fields, body))

    async def start(self, status: int, fields: Fields, *, trailers: bool) -> None:
        await self._do(self._exchange.start(status, fields))

    async def write(self, data: bytes) -> None:
        await self._do(self._exchange.write(data))

    async def write_file(self, path: Path) -> None:
        with path.open("rb") as file:
            count = os.fstat(file.fileno()).st_size
            await self._do(self._exchange.write_file(file.fileno(), 0, count))
        await self._do(self._exchange.finish())

    async def finish(self, trailers: Fields) -> None:
        await self._do(self._exchange.finish(trailers))

    async def _do(self, step: Awaitable[None]) -> None:
        try:
            await step
        except ClientDisconnected as error:
            raise Gone from error
