"""Tests of a real server's timeouts, in no time: pytest unit_test_timeouts.py

They need pytest-trio, and the extra `testing`.
"""

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core import EndReason, Limits
from kestrel_core.testing import serve


async def greet(request: Request) -> PlainTextResponse:
    name = (await request.body()).decode()
    return PlainTextResponse(f"Hello, {name or 'stranger'}")


async def think(request: Request) -> PlainTextResponse:
    await trio.sleep(3600)
    return PlainTextResponse("42")


app = Starlette(
    routes=[Route("/", greet, methods=["GET", "POST"]), Route("/think", think)],
)


@pytest.mark.trio
async def test_an_idle_connection_is_closed(autojump_clock: MockClock) -> None:
    async with serve(app) as server:
        client = await server.connect()
        assert await client.transport.input.read() == b""
        assert trio.current_time() == 130
        assert server.connections[0].end_reason is EndReason.KEEP_ALIVE_TIMEOUT


@pytest.mark.trio
async def test_a_body_that_does_not_come(autojump_clock: MockClock) -> None:
    head = b"POST / HTTP/1.1\r\nhost: testserver\r\ncontent-length: 10\r\n\r\n"
    async with serve(app) as server:
        client = await server.connect()
        await client.transport.output.send(head)
        assert await client.transport.input.read_exactly(12) == b"HTTP/1.1 408"
        assert trio.current_time() == 5


@pytest.mark.trio
async def test_an_application_that_thinks_for_too_long(autojump_clock: MockClock) -> None:
    limits = Limits(max_request_seconds=60)
    async with serve(app, limits=limits) as server, server.httpx_client() as client:
        response = await client.get("/think", timeout=None)
        assert (response.status_code, trio.current_time()) == (503, 60)


@pytest.mark.trio
async def test_draining_gives_up(autojump_clock: MockClock) -> None:
    async with serve(app) as server:
        client = await server.connect()
        await client.transport.output.send(b"GET /think HTTP/1.1\r\nhost: testserver\r\n\r\n")
        await wait_all_tasks_blocked()
        assert await server.server.drain(30) == 1
        assert trio.current_time() == 30
