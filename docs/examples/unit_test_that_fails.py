"""A test that fails, to show what is printed then: pytest unit_test_that_fails.py

Like unit_test_anyio.py it needs anyio's plug-in for pytest.
"""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from trio.testing import MockClock

from kestrel_core.testing import Serve


async def report(request: Request) -> StreamingResponse:
    async def lines() -> AsyncGenerator[str]:
        yield "title\n"
        await anyio.sleep(2.5)
        yield "sum\n"

    return StreamingResponse(lines(), media_type="text/plain")


app = Starlette(routes=[Route("/report", report)])


@pytest.fixture
def anyio_backend(kestrel_clock: MockClock) -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": kestrel_clock}


@pytest.mark.anyio
async def test_the_report_is_quick(kestrel_serve: Serve) -> None:
    async with kestrel_serve(app) as server, server.http1_client() as client:
        response = await client.request("GET", "/report")
        assert await response.read() == b"title\nsum\n"
        assert anyio.current_time() <= 1
