"""The application that the fuzz target `server` serves: its paths say how it is to behave.

Each letter of a path is a habit; without any it reads the body and answers with it in one piece.
"""

import attrs
import trio

from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, Headers, HttpExchange

__all__ = ["Recorder", "Served"]

WAIT_SECONDS = 0.1


@attrs.define
class Served:
    """One request that reached the application, as it reached it, and what was made of it."""

    exchange: HttpExchange
    fields: Headers
    body: bytes = b""
    complete: bool = False
    """Whether the application received the end of the body."""
    answer: bytes | None = None
    """The body of the response that was sent, when it had been sent."""


class Recorder:
    """Serves one connection and records what it was asked."""

    def __init__(self) -> None:
        self.served: list[Served] = []
        self._asgi = AsgiApplication(self._answer)

    async def __call__(self, exchange: HttpExchange) -> None:
        """Answer an exchange by way of ASGI."""
        self.served.append(Served(exchange, exchange.headers.copy()))
        await self._asgi(exchange)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self.served[-1]
        habits = scope["path"]
        try:
            if "w" in habits:  # waits
                await trio.sleep(WAIT_SECONDS)
            if "b" in habits:  # begins before it has read
                await self._begin(send)
                await send({"type": "http.response.body", "body": b"<", "more_body": True})
            if "i" not in habits:  # ignores the body
                await self._read(served, receive, most=1 if "o" in habits else None)
            if "l" in habits:  # looks for the client, as Starlette does
                with trio.CancelScope() as scope_of_look:
                    scope_of_look.cancel()
                    await receive()
            if "y" in habits:  # yields
                await trio.lowlevel.checkpoint()
            await self._finish(served, habits, send)
        except ClientDisconnected:
            return  # nobody is there to be answered
        if "d" in habits:  # dawdles
            await trio.sleep(WAIT_SECONDS)

    async def _read(self, served: Served, receive: Receive, most: int | None) -> None:
        """Receive the body, or `most` pieces of it.

        Raises:
            ClientDisconnected: it will not be complete.
        """
        count = 0
        while not served.complete and count != most:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise ClientDisconnected("told by receive()")
            served.body += event["body"]
            served.complete = not event["more_body"]
            count += 1

    async def _begin(self, send: Send, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        number = (b"x-number", b"%d" % (len(self.served) - 1))
        await send({"type": "http.response.start", "status": status, "headers": [number, *headers]})

    async def _finish(self, served: Served, habits: str, send: Send) -> None:
        answer = served.body + b">"
        if "b" in habits:
            await send({"type": "http.response.body", "body": answer})
            served.answer = b"<" + answer
        elif "n" in habits:  # no content
            await self._begin(send, status=204)
            await send({"type": "http.response.body"})
            served.answer = b""
        elif "p" in habits:  # pieces
            await self._begin(send)
            for byte in answer:
                piece = bytes([byte])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
            served.answer = answer
        else:
            headers = [(b"content-length", b"%d" % len(answer))] if "k" in habits else []
            if "c" in habits:
                headers.append((b"connection", b"close"))
            await self._begin(send, *headers)
            await send({"type": "http.response.body", "body": answer})
            served.answer = answer
