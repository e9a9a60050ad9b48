"""The extensions of ASGI, without a framework: kestrel asgi_extensions:app

python asgi_extensions.py [ENDPOINT] serves it, too, and prints what it says of itself.
"""

import hashlib
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import trio

from kestrel_core import Server
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

TEXT = (b"content-type", b"text/plain; charset=utf-8")


async def path_send(scope: Event, receive: Receive, send: Send) -> None:
    """Send a whole file; the server adds its length."""
    await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
    await send({"type": "http.response.pathsend", "path": __file__})


async def zero_copy_send(scope: Event, receive: Receive, send: Send) -> None:
    """Send a line, and pieces of an open file; the end comes with the last event."""
    await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
    await send({"type": "http.response.body", "body": b"It begins so:\n", "more_body": True})
    async with await trio.open_file(__file__, "rb") as file:
        piece = {"type": "http.response.zerocopysend", "file": file, "more_body": True}
        await send({**piece, "offset": 0, "count": 36})
        await send({**piece, "offset": 36, "count": 10, "more_body": False})


async def trailers(scope: Event, receive: Receive, send: Send) -> None:
    """Answer with the body's digest in a trailer, and with the client's own trailers in the body."""
    digest = hashlib.sha256()
    event = await receive()
    while event["type"] == "http.request":
        digest.update(event["body"])
        if not event["more_body"]:
            break
        event = await receive()
    body = b"".join(b"%b: %b\n" % field for field in event.get("trailers", []))
    takes_trailers = "http.response.trailers" in scope["extensions"]  # of this client
    start = {"type": "http.response.start", "status": 200, "headers": [TEXT]}
    await send({**start, "trailers": takes_trailers})
    await send({"type": "http.response.body", "body": body})
    if takes_trailers:
        fields = [(b"x-sha256", digest.hexdigest().encode())]
        await send({"type": "http.response.trailers", "headers": fields})


async def early_hint(scope: Event, receive: Receive, send: Send) -> None:
    """Let the client fetch what it will need, and then answer."""
    links = [b"</style.css>; rel=preload; as=style"]
    await send({"type": "http.response.early_hint", "links": links})
    await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
    await send({"type": "http.response.body", "body": b"Styled.\n"})


async def debug(scope: Event, receive: Receive, send: Send) -> None:
    """Say something to whoever develops this, if the server has somebody who listens."""
    if "http.response.debug" in scope["extensions"]:
        await send({"type": "http.response.debug", "info": {"route": "debug"}})
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})


ROUTES = {
    "/pathsend": path_send,
    "/zerocopysend": zero_copy_send,
    "/trailers": trailers,
    "/early_hint": early_hint,
    "/debug": debug,
}


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":  # else it is the lifespan, in which this does not take part
        await ROUTES[scope["path"]](scope, receive, send)


def print_debug(exchange: HttpExchange, info: Mapping[str, Any]) -> None:
    print(exchange.method, exchange.path, dict(info), flush=True)


async def main(endpoint: str) -> None:
    server = Server()
    server.listen(endpoint, Http1(AsgiApplication(app, on_debug=print_debug)))
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8000")
