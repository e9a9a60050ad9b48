"""A framework's ways with the interface: what Starlette does is what most applications do."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypedDict

import pytest
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from trio.testing import wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.testing import open_server
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, Serving
from tests.raw_client import GET, RawClient, post, post_chunked, request


def routed(endpoint: Callable[[Request], Awaitable[Response]], *middleware: Middleware) -> AsgiApp:
    """Return an application that answers everything with `endpoint`."""
    route = Route("/{path:path}", endpoint, methods=["GET", "POST"])
    return Starlette(routes=[route], middleware=list(middleware))


async def add_field(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers["x-added"] = request.url.path
    return response


adding = Middleware(BaseHTTPMiddleware, dispatch=add_field)
both = pytest.mark.parametrize("middleware", [(), (adding,)], ids=["bare", "inside middleware"])


@both
async def test_echo(middleware: tuple[Middleware, ...], serving: Serving, log: ServerLog) -> None:
    async def endpoint(request: Request) -> Response:
        return Response(await request.body(), media_type="text/plain")

    async with serving(routed(endpoint, *middleware)) as site:
        client = await site.connect()
        for sent in (post(b"hello"), post_chunked(b"5\r\nhello\r\n0\r\n\r\n"), post(b"hello")):
            response = await client.ask(sent)
            assert (response.status, response.body) == (200, b"hello")
        assert (await client.ask(GET)).body == b""


@both
async def test_streaming(
    middleware: tuple[Middleware, ...], serving: Serving, log: ServerLog
) -> None:
    done: list[str] = []

    async def pieces() -> AsyncGenerator[bytes]:
        for number in range(3):
            await trio.lowlevel.checkpoint()
            yield b"%d" % number

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(pieces(), background=BackgroundTask(done.append, "done"))

    async with serving(routed(endpoint, *middleware)) as site:
        client = await site.connect()
        await client.send(GET * 2)
        for _ in range(2):
            assert (await client.receive()).body == b"012"
        while len(done) < 2:  # noqa: ASYNC110  # a thread does it
            await trio.sleep(0.001)


async def test_errors(serving: Serving, log: ServerLog) -> None:
    async def endpoint(request: Request) -> Response:
        raise ZeroDivisionError

    async with serving(routed(endpoint)) as site:
        client = await site.connect()
        assert (await client.ask(GET)).status == 500
        log.take_error(ZeroDivisionError)
        assert (await client.ask(GET.replace(b"GET", b"PUT"))).status == 405


@both
async def test_a_client_that_leaves_in_the_middle_of_a_body(
    middleware: tuple[Middleware, ...], serving: Serving, log: ServerLog
) -> None:
    """Starlette raises an error of its own; nobody is to blame for it."""

    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    async with serving(routed(endpoint, *middleware)) as site:
        client = await site.connect()
        await client.send(post(b"hello")[:-1])
        await wait_all_tasks_blocked()
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_body_that_is_wrong(serving: Serving, log: ServerLog) -> None:
    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    async with serving(routed(endpoint)) as site:
        client = await site.connect()
        assert (await client.ask(post_chunked(b"nonsense"))).status == 400
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_BODY_FRAMING]


class Endless:
    """Pieces without end; no generator, as Starlette leaves those to the garbage collector."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"x" * 1000


async def test_a_client_that_leaves_a_stream(serving: Serving, log: ServerLog) -> None:
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Endless())

    async with serving(routed(endpoint)) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_is_disconnected(serving: Serving, log: ServerLog) -> None:
    seen: list[bool] = []
    go_on = trio.Event()

    async def endpoint(request: Request) -> Response:
        await request.body()
        seen.append(await request.is_disconnected())
        await go_on.wait()
        seen.append(await request.is_disconnected())
        return PlainTextResponse("nobody reads this")

    async with serving(routed(endpoint)) as site:
        client = await site.connect()
        await client.send(request())
        await wait_all_tasks_blocked()
        await client.aclose()
        go_on.set()
        await site.all_ended()
    assert seen == [False, True]
    assert log.ends == [EndReason.CONNECTION_RESET]


class State(TypedDict):
    greeting: str


async def test_lifespan_and_state(log: ServerLog) -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[State]:
        steps.append("started")
        yield {"greeting": "hello"}
        steps.append("stopped")

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.state.greeting)

    application = AsgiApplication(Starlette(routes=[Route("/", endpoint)], lifespan=lifespan))
    async with open_server(Http1(application), lifespan=application.lifespan()) as opened:
        assert steps == ["started"]
        client = RawClient(await opened.connect())
        assert (await client.ask(GET)).body == b"hello"
    assert steps == ["started", "stopped"]
