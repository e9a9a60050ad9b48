"""Bad input on every transport: the right answer or none, one debug line, and nothing else."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from kestrel_core import Connection, EndReason, Limits
from kestrel_core.testing import OpenServer, open_server
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1

GOOD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"

Message = MutableMapping[str, Any]


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


@attrs.frozen
class Bad:
    """What a client sends, whether it then ends its side, and what must come of it."""

    name: str
    sent: bytes
    status: bytes | None
    reason: EndReason
    ends: bool = False


LIMITS = Limits(
    max_request_body_bytes=100,
    keep_alive_seconds=0.1,
    request_headers_seconds=0.1,
    request_body_drain_seconds=0.1,
    linger_seconds=0.1,
)

BAD = [
    Bad("nothing", b"", None, EndReason.KEEP_ALIVE_TIMEOUT),
    Bad("nothing, then the end", b"", None, EndReason.PEER_CLOSED, ends=True),
    Bad("noise", bytes(range(256)) + b"\r\n\r\n", b"400", EndReason.INVALID_REQUEST_LINE),
    Bad("noise without an end", b"\xff" * 9000, b"414", EndReason.MAX_REQUEST_LINE_EXCEEDED),
    Bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00", b"400", EndReason.TLS_NOT_SUPPORTED),
    Bad("bad version", b"GET / HTTP/9.1\r\n\r\n", b"505", EndReason.INVALID_HTTP_VERSION),
    Bad("no host", b"GET / HTTP/1.1\r\n\r\n", b"400", EndReason.INVALID_REQUEST_HEADERS),
    Bad(
        "large headers",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 33_000,
        b"431",
        EndReason.MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED,
    ),
    Bad(
        "large body",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 101\r\n\r\n" + b"x" * 101,
        b"413",
        EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED,
    ),
    Bad(
        "bad chunk",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"400",
        EndReason.INVALID_BODY_FRAMING,
    ),
    Bad(
        "half a head",
        b"GET / HTTP/1.1\r\nho",
        b"400",
        EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT,
        ends=True,
    ),
    Bad("a slow head", b"GET / HTTP/1.1\r\nho", b"408", EndReason.REQUEST_HEADERS_TIMEOUT),
    Bad(
        "half a body",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345",
        b"400",
        EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT,
        ends=True,
    ),
    Bad(
        "a good request, then noise",
        GOOD + b"\x00\x01\r\n\r\n",
        b"400",
        EndReason.INVALID_REQUEST_LINE,
    ),
]


@pytest.fixture(params=["tcp", "unix", "memory"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix://{tmp_path / 'server'}",
        "memory": f"memory://{tmp_path}",
    }[request.param]


async def served(connection: Connection) -> bytes:
    """What comes until the end, or until the connection is reset."""
    received: list[bytes] = []
    try:
        async for chunk in connection.transport.input:
            received.append(chunk)  # noqa: PERF401  # what came before a reset counts
    except trio.BrokenResourceError:
        pass
    return b"".join(received)


async def request_of_neighbour(neighbour: Connection) -> None:
    await neighbour.transport.output.send(GOOD)
    answer = await neighbour.transport.input.read_until(b"fine", 4096)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def misbehave(opened: OpenServer, bad: Bad) -> bytes:
    client = await opened.connect()
    if bad.sent:
        await client.transport.output.send(bad.sent)
    if bad.ends:
        await client.transport.output.send_eof()
    with trio.fail_after(5):
        received = await served(client)
        while opened.server.connections:  # noqa: ASYNC110  # the table has no event
            await trio.sleep(0.001)
    return received


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
async def test_bad_input_ends_its_connection_and_nothing_else(
    bad: Bad, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    handler = Http1(AsgiApplication(app))
    async with open_server(handler, endpoint=endpoint, limits=LIMITS) as opened:
        received = await misbehave(opened, bad)
        records = [record for record in caplog.records if record.name.startswith("kestrel")]

        if bad.status is None:
            assert received == b""
        else:
            last = received[received.rindex(b"HTTP/1.1 ") :]
            assert last.startswith(b"HTTP/1.1 " + bad.status)
            assert b"connection: close\r\n" in last
        assert [record.levelname for record in records] == ["DEBUG"]
        assert bad.reason.value in records[0].getMessage()

        neighbour = await opened.connect()
        await request_of_neighbour(neighbour)


async def test_neighbours_are_served_while_others_misbehave(endpoint: str) -> None:
    handler = Http1(AsgiApplication(app))
    async with open_server(handler, endpoint=endpoint) as opened:
        neighbour = await opened.connect()
        await request_of_neighbour(neighbour)
        stuck = [await opened.connect() for _ in range(20)]
        for number, connection in enumerate(stuck):
            await connection.transport.output.send(BAD[number % len(BAD)].sent or b"G")
        for _ in range(10):
            await request_of_neighbour(neighbour)
