"""All of the ASGI middleware at once, in front of frameworks' applications, on the real server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from fastapi import FastAPI
from fastapi import Request as FastApiRequest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from trio.testing import MockClock

from kestrel_core.testing import OpenServer, open_server
from kestrel_core.testing.clients.httpx_client import HttpTransport
from kestrel_middleware.asgi import (
    ConcurrencyLimit,
    ForwardedField,
    ForwardedHeaders,
    Health,
    HostFilter,
    HttpsRedirect,
    RateLimit,
    Strategy,
    StrictTransportSecurity,
)
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.http1 import Http1

PROXY = "memory://edge-{}?client=10.0.0.1:4711"
TOLD = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"}
X_FORWARDED = [field for field in ForwardedField if field is not ForwardedField.FORWARDED]


def tell(request: Request) -> dict[str, object]:
    """Return what a framework makes of a request."""
    return {
        "client": request.client.host if request.client else None,
        "url": str(request.url),
        "root_path": request.scope["root_path"],
        "told": sorted(name for name in request.headers if "forwarded" in name),
        "greeting": request.state.greeting,
    }


@asynccontextmanager
async def lifespan(app: object) -> AsyncGenerator[dict[str, str]]:
    yield {"greeting": "hello"}


def starlette_app() -> AsgiApp:
    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(tell(request))

    return Starlette(routes=[Route("/{path:path}", endpoint)], lifespan=lifespan)


def fastapi_app() -> AsgiApp:
    app = FastAPI(lifespan=lifespan)

    async def endpoint(request: FastApiRequest) -> dict[str, object]:
        return tell(request)

    app.add_api_route("/{path:path}", endpoint)
    return app


def at_the_edge(app: AsgiApp, limit: str = "1000/second") -> AsgiApp:
    """Return `app` behind all of them, in the order that the documentation recommends."""
    app = ConcurrencyLimit(app, max_concurrent=100)
    app = RateLimit(app, limit=limit, strategy=Strategy.SLIDING_WINDOW, quota_fields=True)
    app = StrictTransportSecurity(app)
    app = HttpsRedirect(app)
    app = HostFilter(app, allowed=["example.com", "*.example.com"])
    app = ForwardedHeaders(app, trusted="10.0.0.0/8", believed=X_FORWARDED)
    return Health(app)


both = pytest.mark.parametrize("make", [starlette_app, fastapi_app])


@asynccontextmanager
async def client_of(app: AsgiApp, name: str = "proxy") -> AsyncGenerator[httpx.AsyncClient]:
    application = AsgiApplication(app)
    async with (
        open_server(
            Http1(application),
            endpoint=PROXY.format(name) if name == "proxy" else f"memory://edge-{name}",
            lifespan=application.lifespan(),
        ) as opened,
        opened.httpx_client(base_url="http://example.com") as client,
    ):
        yield client


@both
async def test_what_the_application_sees(make: type[object]) -> None:
    async with client_of(at_the_edge(make())) as client:  # type: ignore[arg-type]
        response = await client.get("/a?b=c", headers={**TOLD, "x-forwarded-prefix": "/api"})
        assert response.json() == {
            "client": "203.0.113.7",
            "url": "https://example.com/api/a?b=c",
            "root_path": "/api",
            "told": [],
            "greeting": "hello",
        }
        assert response.headers["strict-transport-security"] == "max-age=2592000"
        assert response.headers["ratelimit"].startswith('"default-1s";r=999;t=')


@both
async def test_who_is_not_asked(make: type[object], autojump_clock: MockClock) -> None:
    async with client_of(at_the_edge(make(), "1/minute")) as client:  # type: ignore[arg-type]
        response = await client.get("/a%20b?c")
        assert (response.status_code, response.headers["location"]) == (
            308,
            "https://example.com/a%20b?c",
        )
        response = await client.get("/", headers={**TOLD, "host": "evil.test"})
        assert response.status_code == 400
        response = await client.get("/", headers={**TOLD, "x-forwarded-host": "evil.test"})
        assert response.status_code == 400
        assert (await client.get("/", headers=TOLD)).status_code == 200
        response = await client.post("/", headers=TOLD, content=b"x" * 100_000)
        assert (response.status_code, response.text) == (429, "Too many requests.\n")
        assert 60 <= int(response.headers["retry-after"]) <= 121
        told = {**TOLD, "x-forwarded-for": "203.0.113.8"}
        assert (await client.get("/", headers=told)).status_code == 200
        for path in ("/livez", "/readyz"):
            response = await client.get(path, headers={"host": "10.1.2.3"})
            assert (response.status_code, response.headers["content-type"]) == (
                200,
                "application/json",
            )
        response = await client.head("/livez")
        assert (response.headers["content-length"], response.content) == ("20", b"")


async def test_a_client_without_a_proxy_is_not_believed() -> None:
    async with client_of(at_the_edge(starlette_app()), "stranger") as client:
        assert (await client.get("/", headers=TOLD)).status_code == 308
        assert (await client.get("/", headers={**TOLD, "forwarded": "for=10.0.0.1"})).is_redirect


async def test_as_a_frameworks_middleware() -> None:
    """`app` comes first, so that they can be given to Starlette with their options."""

    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url.scheme)

    app = Starlette(
        routes=[Route("/", endpoint)],
        middleware=[
            Middleware(Health),
            Middleware(ForwardedHeaders, trusted=["10.0.0.0/8"]),
            Middleware(HostFilter, allowed=["example.com"]),
            Middleware(RateLimit, limit="2/hour", strategy=Strategy.TOKEN_BUCKET),
        ],
    )
    async with client_of(app) as client:
        assert (await client.get("/", headers=TOLD)).text == "https"
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await client.get("/", headers=TOLD)).status_code == 200
        assert (await client.get("/", headers=TOLD)).status_code == 429


async def test_not_ready_before_the_server_stops_accepting(autojump_clock: MockClock) -> None:
    application = AsgiApplication(at_the_edge(starlette_app()))
    async with open_server(Http1(application), lifespan=application.lifespan()) as opened:
        assert await ready(opened) == (200, "ready")
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                assert await opened.server.drain(5, notice_seconds=10) == 0

            nursery.start_soon(drain)
            await trio.sleep(9)
            assert await ready(opened) == (503, "draining")
            await trio.sleep(2)
            with pytest.raises(OSError, match="memory://"):
                await opened.connect()


async def ready(opened: OpenServer) -> tuple[int, str]:
    """Connect anew, as a load balancer's probe does, and ask."""
    transport = HttpTransport(opened.connect)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://x", trust_env=False
    ) as client:
        response = await client.get("/readyz")
    return response.status_code, response.json()["status"]
