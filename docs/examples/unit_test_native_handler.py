"""Tests of native handlers on the real server, without sockets: pytest unit_test_native_handler.py

They need pytest-trio, and the extra `testing`.
"""

import pytest
import trio.testing

from kestrel_core.testing import serve
from kestrel_core.testing.clients.http1_client import Http1Client
from kestrel_protocols.http import HttpExchange


async def add(exchange: HttpExchange) -> None:
    total = 0
    while piece := await exchange.receive():
        total += sum(piece)
    await exchange.respond(200, [], b"%d" % total)


@pytest.mark.trio
async def test_with_an_http_client() -> None:
    async with serve(add, interface="native") as server, server.httpx_client() as client:
        assert (await client.post("/", content=b"\x01\x02\x03")).text == "6"


@pytest.mark.trio
async def test_a_request_that_comes_byte_by_byte() -> None:
    head = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\nconnection: close\r\n\r\n"
    async with serve(add, interface="native") as server:
        wire = (await server.connect()).transport
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

    async with serve(wait_for_news, interface="native") as server:
        async with Http1Client(await server.connect()) as client:
            await client.send_request("GET", "/news")
        await trio.testing.wait_all_tasks_blocked()
        assert left == ["/news"]
