"""ASGI applications called directly, without a server: scopes, and what was sent."""

from collections.abc import Iterable
from typing import Any

import attrs

from kestrel_middleware.asgi.scope import AsgiApp, Event, Field, Receive, Scope, Send

__all__ = ["Call", "Recorder", "call", "request_scope", "websocket_scope"]


def request_scope(
    *fields: Field,
    path: str = "/",
    client: tuple[str, int] | None = ("192.0.2.1", 4711),
    **more: Any,  # noqa: ANN401  # as scopes have it
) -> Scope:
    """Return the scope of a GET request; `more` replaces what it has."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(fields),
        "client": client,
        "server": ("192.0.2.80", 80),
        **more,
    }


def websocket_scope(
    *fields: Field,
    denial: bool = False,
    **more: Any,  # noqa: ANN401  # as scopes have it
) -> Scope:
    """Return the scope of one who wants a WebSocket; with `denial` the server can send a response."""
    request = request_scope(*fields, path=more.get("path", "/"))
    scope = {**request, "type": "websocket", "scheme": "ws", **more}
    del scope["method"]
    if denial:
        scope["extensions"] = {"websocket.http.response": {}}
    return scope


class Recorder:
    """An application that notes the scopes it is called with, and answers 200 or accepts."""

    def __init__(self, *fields: Field) -> None:
        self.scopes: list[Scope] = []
        self._fields = list(fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            assert await receive() == {"type": "websocket.connect"}
            await send({"type": "websocket.accept", "headers": self._fields})
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": self._fields})
            await send({"type": "http.response.body", "body": b"hello"})


@attrs.frozen
class Call:
    """What an application sent."""

    events: list[Event]

    @property
    def status(self) -> int:
        """The status of the response."""
        status: int = self.events[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        """The response's body, which came in one piece."""
        _, event = self.events
        body: bytes = event["body"]
        return body

    def field(self, name: bytes) -> bytes | None:
        """Return the value of a response's field, which is there once at most."""
        fields: Iterable[Field] = self.events[0]["headers"]
        values = [value for field_name, value in fields if field_name == name]
        assert len(values) <= 1
        return values[0] if values else None


async def call(app: AsgiApp, scope: Scope) -> Call:
    """Call `app` as a server would; the scope must not be changed by that."""
    before = {**scope, "headers": list(scope["headers"])}
    events: list[Event] = []
    received = 0

    async def receive() -> Event:
        nonlocal received
        received += 1
        assert received == 1
        if scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Event) -> None:
        assert scope["type"] == "http" or received, "an answer before websocket.connect"
        events.append(event)

    await app(scope, receive, send)
    assert scope == before
    return Call(events)
