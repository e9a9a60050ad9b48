"""A test that anyio's plug-in for pytest runs, on trio and in virtual time: pytest unit_test_anyio.py

It needs anyio alone, which every Starlette has, and no pytest-trio.
"""

from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from trio.testing import MockClock

from kestrel_core.testing import Serve


async def ponder(request: Request) -> PlainTextResponse:
    await anyio.sleep(3600)
    return PlainTextResponse("42")


app = Starlette(routes=[Route("/", ponder)])


@pytest.fixture
def anyio_backend(kestrel_clock: MockClock) -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": kestrel_clock}


@pytest.mark.anyio
async def test_it_takes_an_hour(kestrel_serve: Serve) -> None:
    async with kestrel_serve(app) as server, server.httpx_client(timeout_seconds=None) as client:
        assert (await client.get("/")).text == "42"
    assert anyio.current_time() == 3600
