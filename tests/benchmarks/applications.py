"""The one ASGI application that every benchmarked server serves.

It is raw ASGI on purpose: no framework, so that what is measured is the server. It answers `/` with
a short plain text, `/10k` with ten KiB and `/echo` with the request's own body; every response
carries `content-length`, so no server has to choose a framing for it.
"""

from collections.abc import Awaitable, Callable, MutableMapping

Scope = MutableMapping[str, object]
Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PLAINTEXT_BODY = b"Hello, world!"
TEN_KIB_BODY = b"0123456789abcdef" * 640


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serves the benchmark paths, and takes part in the lifespan protocol."""
    if scope["type"] == "lifespan":
        await _take_part_in_lifespan(receive, send)
    elif scope["path"] == "/":
        await _answer(send, 200, PLAINTEXT_BODY)
    elif scope["path"] == "/10k":
        await _answer(send, 200, TEN_KIB_BODY)
    elif scope["path"] == "/echo":
        await _answer(send, 200, await _read_body(receive))
    else:
        await _answer(send, 404, b"not a benchmark path")


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _read_body(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        piece = message.get("body", b"")
        assert isinstance(piece, bytes)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _take_part_in_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
