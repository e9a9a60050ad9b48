"""Answers that the application is not asked for, also to those who want a WebSocket."""

import attrs

from kestrel_middleware.asgi.scope import Field, Receive, Scope, Send

__all__ = ["Answer"]


@attrs.frozen
class Answer:
    """A whole response."""

    status: int
    body: bytes = b""
    fields: tuple[Field, ...] = ()
    content_type: bytes = b"text/plain; charset=utf-8"

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what `scope` asks.

        A WebSocket is denied with this response if the server can do that (the extension
        websocket.http.response), else closed before it is accepted, which clients see as 403.
        """
        kind = "http.response"
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            if "websocket.http.response" not in scope.get("extensions", ()):
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
                return
            kind = "websocket.http.response"
        fields = [*self.fields, (b"content-length", b"%d" % len(self.body))]
        if self.body:
            fields.append((b"content-type", self.content_type))
        await send({"type": f"{kind}.start", "status": self.status, "headers": fields})
        body = b"" if scope.get("method") == "HEAD" else self.body
        await send({"type": f"{kind}.body", "body": body})
