"""Tests of native handlers on the real server, without sockets: pytest unit_test_native_handler.py

They need pytest-trio, and the extra `testing`.
"""

import pytest
import trio.testing

from kestrel_core.testing import open_server
from kestrel_core.testing.clients.httpx_client import open_http_client
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1


async def add(exchange: HttpExchange) -> None:
    total = 0
    while piece := await exchange.receive():
        total += sum(piece)
    await exchange.respond(200, [], b"%d" % total)


@pytest.mark.trio
async def test_with_an_http_client() -> None:
    async with open_http_client(Http1(add)) as client:
        assert (await client.post("/", content=b"\x01\x02\x03")).text == "6"


@pytest.mark.trio
async def test_a_request_that_comes_byte_by_byte() -> None:
    head = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\nconnection: close\r\n\r\n"
    async with open_server(Http1(add)) as opened:
        wire = (await opened.connect()).transport
        for byte in head + b"\x01\x02\x03":
            await wire.output.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        response = b"".join([chunk async for chunk in wire.input])
    assert response.endswith(b"\r\n\r\n6")


@pytest.mark.trio
async def test_a_client_that_goes_away() -> None:
    left: list[str] = []

    async def wait_for_news(exchange: HttpExchange) -> None:
        await exchange.wait_disconnected()
        left.append(exchange.path)

    async with open_server(Http1(wait_for_news)) as opened:
        client = await opened.connect()
        await client.transport.output.send(b"GET /news HTTP/1.1\r\nhost: test\r\n\r\n")
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert left == ["/news"]
