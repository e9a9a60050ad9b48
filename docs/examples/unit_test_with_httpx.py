"""Tests of an application on the real server, without sockets: pytest unit_test_with_httpx.py

They need pytest-trio, and the extra `testing`.
"""

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from kestrel_core import Limits
from kestrel_core.testing import serve


async def greet(request: Request) -> PlainTextResponse:
    name = (await request.body()).decode()
    return PlainTextResponse(f"Hello, {name or 'stranger'}")


app = Starlette(routes=[Route("/", greet, methods=["GET", "POST"])])


@pytest.mark.trio
async def test_the_application_greets() -> None:
    async with serve(app) as server, server.httpx_client() as client:
        assert (await client.get("/")).text == "Hello, stranger"
        assert (await client.post("/", content=b"Ada")).text == "Hello, Ada"


@pytest.mark.trio
async def test_a_body_beyond_the_limit_is_refused() -> None:
    limits = Limits(max_request_body_bytes=10)
    async with serve(app, limits=limits) as server, server.httpx_client() as client:
        response = await client.post("/", content=b"eleven byte")
    assert response.status_code == 413


@pytest.mark.trio
async def test_an_idle_connection_is_closed_after_130_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Takes no time: nothing else is going on, so the clock jumps."""
    async with serve(app) as server:
        connection = await server.connect()
        started_at = trio.current_time()
        assert await connection.transport.input.read() == b""
        assert trio.current_time() - started_at == pytest.approx(130)
