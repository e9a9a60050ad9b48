"""The one ASGI application that every benchmarked server serves.

It is raw ASGI on purpose: no framework, so that what is measured is the server. It answers `/` with
a short plain text, `/10k` with ten KiB and `/echo` with the request's own body. `/download?bytes=N`
is streamed in pieces of 64 KiB; `/upload` reads a body and drops it, `/collect` holds it until its
end, `/slow-upload` is in no hurry to read it, and all three answer with its length. `/file-4k` and
`/file-1m` are files: by path where the server offers that, otherwise read and sent. Every response
carries `content-length`, so no server has to choose a framing for it.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping

Scope = MutableMapping[str, object]
Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PLAINTEXT_BODY = b"Hello, world!"
TEN_KIB_BODY = b"0123456789abcdef" * 640
PIECE = b"0123456789abcdef" * 4096
"""What a download consists of, again and again: 64 KiB."""

SLOW_READ_SECONDS = 0.01
"""How long the slow reader waits after each piece that it is given."""

FILE_FOLDER_VARIABLE = "BENCHMARK_FILES"
"""The environment variable that names the folder of the static files."""

_PATHSEND = "http.response.pathsend"


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
    elif scope["path"] == "/upload":
        await _answer(send, 200, b"%d" % await _drop_body(receive))
    elif scope["path"] == "/download":
        await _stream(scope, send)
    elif scope["path"] in ("/file-4k", "/file-1m"):
        await _send_file(scope, send)
    elif scope["path"] == "/collect":
        await _answer(send, 200, b"%d" % len(await _read_body(receive)))
    elif scope["path"] == "/slow-upload":
        await _answer(send, 200, b"%d" % await _drop_body_slowly(receive))
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


async def _drop_body(receive: Receive) -> int:
    size = 0
    while True:
        message = await receive()
        piece = message.get("body", b"")
        assert isinstance(piece, bytes)
        size += len(piece)
        if not message.get("more_body", False):
            return size


async def _drop_body_slowly(receive: Receive) -> int:
    # Here and not above, so that no other workload's memory has this library in it.
    from anyio import sleep

    size = 0
    while True:
        message = await receive()
        piece = message.get("body", b"")
        assert isinstance(piece, bytes)
        size += len(piece)
        if not message.get("more_body", False):
            return size
        await sleep(SLOW_READ_SECONDS)


async def _stream(scope: Scope, send: Send) -> None:
    query = scope["query_string"]
    assert isinstance(query, bytes)
    remaining = int(query.removeprefix(b"bytes="))
    await _start_file(send, remaining)
    while remaining > len(PIECE):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        remaining -= len(PIECE)
    await send({"type": "http.response.body", "body": PIECE[:remaining]})


async def _send_file(scope: Scope, send: Send) -> None:
    path = f"{os.environ[FILE_FOLDER_VARIABLE]}{scope['path']}"
    remaining = os.stat(path).st_size
    await _start_file(send, remaining)
    extensions = scope.get("extensions")
    if isinstance(extensions, dict) and _PATHSEND in extensions:
        await send({"type": _PATHSEND, "path": path})
        return
    # Blocking, because a read from the page cache costs less than any way to wait for it elsewhere.
    with open(path, "rb", buffering=0) as file:  # noqa: ASYNC230
        while remaining:
            piece = file.read(len(PIECE))
            remaining -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": remaining > 0})


async def _start_file(send: Send, size: int) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _take_part_in_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
