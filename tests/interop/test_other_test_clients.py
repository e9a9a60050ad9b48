"""What docs/testing.md says of other ways to test an application."""

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.testing import serve
from kestrel_core.testing.clients.http1_client import Http1Client

Message = MutableMapping[str, Any]


class Site:
    """A Starlette application that tells what it has lived through."""

    def __init__(self) -> None:
        self.events: list[str] = []
        routes = [Route("/stream", self.stream), Route("/fail", self.fail)]
        self.app = Starlette(routes=routes, lifespan=self.lifespan)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        self.events.append("startup")
        yield
        self.events.append("shutdown")

    async def stream(self, request: Request) -> StreamingResponse:
        async def pieces() -> AsyncGenerator[bytes]:
            for _ in range(3):
                yield b"piece"
                await anyio.sleep(0.05)
            self.events.append("streamed")

        return StreamingResponse(pieces())

    async def fail(self, request: Request) -> PlainTextResponse:
        raise ValueError("not today")


class Listener:
    """An application that begins a response, and keeps what it hears of its client then."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        try:
            self.heard.append((await receive())["type"])
        except BaseException as error:
            self.heard.append(type(error).__name__)
            raise


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_an_asgi_transport_has_the_whole_response_or_nothing(
    library: Any,  # noqa: ANN401  # two modules that are alike
    autojump_clock: MockClock,
) -> None:
    site = Site()
    transport = library.ASGITransport(site.app)
    async with library.AsyncClient(transport=transport, base_url="http://test") as client:
        async with client.stream("GET", "/stream"):
            assert site.events == ["streamed"], "before the client saw a byte; and no startup"
            assert trio.current_time() == pytest.approx(0.15)
        with pytest.raises(ValueError, match="not today"):
            await client.get("/fail")


def test_a_test_client_has_a_lifespan_if_it_is_entered() -> None:
    site = Site()
    TestClient(site.app).get("/stream")
    assert site.events == ["streamed"]
    with TestClient(site.app) as client, client.stream("GET", "/stream") as response:
        assert next(response.iter_bytes()) == b"piece"
        assert site.events == ["streamed", "startup"], "it streams"
    assert site.events[-1] == "shutdown"
    with TestClient(site.app) as client, pytest.raises(ValueError, match="not today"):
        client.get("/fail")


def test_a_test_client_that_leaves_cancels_the_application() -> None:
    listener = Listener()
    with TestClient(listener).stream("GET", "/") as response:
        assert next(response.iter_bytes()) == b"begun"
    assert listener.heard == ["CancelledError"]


async def test_a_served_application_is_told_that_its_client_left() -> None:
    listener = Listener()

    async def no_lifespan(scope: Message, *channels: Any) -> None:  # noqa: ANN401  # passed on
        assert scope["type"] == "http"
        await listener(scope, *channels)

    async with serve(no_lifespan) as server:
        async with Http1Client(await server.connect()) as client:
            response = await client.request("GET", "/")
            assert await response.receive() == b"begun"
        await wait_all_tasks_blocked()
    assert listener.heard == ["http.disconnect"]
