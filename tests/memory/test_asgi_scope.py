"""What an ASGI application is called with."""

from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.signals import Signal
from kestrel_core.testing import open_server
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, Serving, answer, read_body
from tests.raw_client import GET, RawClient, post, request


class Keeping:
    """Keeps the scopes that it is called with."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await answer(send)


async def scope_of(sent: bytes, serving: Serving, endpoint: str | None = None) -> Scope:
    app = Keeping()
    async with serving(app, endpoint=endpoint) as site:
        client = await site.connect()
        assert (await client.ask(sent, to_head=sent.startswith(b"HEAD"))).status == 200
    (scope,) = app.scopes
    return scope


@pytest.mark.counts_bytes
async def test_all_of_it(serving: Serving, log: ServerLog) -> None:
    sent = request(
        b"X-Mixed:  Case ",
        b"cookie: a=1",
        b"cookie: b=2",
        b"x-latin: caf\xe9",
        first=b"GET /caf%C3%A9%20%2Fx?q=%20+&r HTTP/1.1",
    )
    endpoint = "memory://all?client=203.0.113.7:4711&server=192.0.2.1:443"
    scope = await scope_of(sent, serving, endpoint)
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/caf\u00e9 /x",
        "raw_path": b"/caf%C3%A9%20%2Fx",
        "query_string": b"q=%20+&r",
        "root_path": "",
        "headers": [
            (b"host", b"a"),
            (b"x-mixed", b"Case"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"x-latin", b"caf\xe9"),
        ],
        "client": ("203.0.113.7", 4711),
        "server": ("192.0.2.1", 443),
        "state": {},
        "extensions": {
            "http.request.trailers": {},
            "http.response.early_hint": {},
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "kestrel.server": {"draining": scope["extensions"]["kestrel.server"]["draining"]},
        },
    }
    assert isinstance(scope["extensions"]["kestrel.server"]["draining"], Signal)
    expect_types(scope)


def expect_types(scope: Scope) -> None:
    """Python's `==` is generous; the specification is not."""
    text = ("type", "http_version", "method", "scheme", "path", "root_path")
    assert all(type(scope[key]) is str for key in text)
    assert all(type(scope[key]) is bytes for key in ("raw_path", "query_string"))
    for name, value in scope["headers"]:
        assert type(name) is type(value) is bytes
    for key in ("client", "server"):
        host, port = scope[key]
        assert type(host) is str
        assert type(port) is int
    assert all(type(value) is str for value in scope["asgi"].values())


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (b"/", "/", b"/", b""),
        (b"/?", "/", b"/", b""),
        (b"/??", "/", b"/", b"?"),
        (b"//a//", "//a//", b"//a//", b""),
        (b"/a/../b/./c", "/a/../b/./c", b"/a/../b/./c", b""),
        (b"/%2e%2e/%2E", "/../.", b"/%2e%2e/%2E", b""),
        (b"/a%2Fb", "/a/b", b"/a%2Fb", b""),
        (b"/100%", "/100%", b"/100%", b""),
        (b"/%zz%4", "/%zz%4", b"/%zz%4", b""),
        (b"/%ff%C3", "/\ufffd\ufffd", b"/%ff%C3", b""),
        (b"/%E2%82%AC", "/\u20ac", b"/%E2%82%AC", b""),
        (b"/a%3Fb?c=/d?e", "/a?b", b"/a%3Fb", b"c=/d?e"),
        (b"/%25", "/%", b"/%25", b""),
        (b"/a+b;c=d", "/a+b;c=d", b"/a+b;c=d", b""),
        (b"/?%00", "/", b"/", b"%00"),
        (b"/<>[]{}|\\^`\"'", "/<>[]{}|\\^`\"'", b"/<>[]{}|\\^`\"'", b""),
        (b"http://a", "/", b"/", b""),
        (b"http://a?b", "/", b"/", b"b"),
        (b"HTTP://A:80/b%20c?d", "/b c", b"/b%20c", b"d"),
        (b"https://a/b", "/b", b"/b", b""),
        (b"https://a:443/b", "/b", b"/b", b""),
    ],
)
async def test_targets(
    target: bytes, path: str, raw_path: bytes, query: bytes, serving: Serving, log: ServerLog
) -> None:
    scope = await scope_of(request(first=b"GET " + target + b" HTTP/1.1"), serving)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PATCH", "get", "M-SEARCH", "!#$%&'*"])
async def test_methods(method: str, serving: Serving, log: ServerLog) -> None:
    """They are case-sensitive, and any token is one."""
    scope = await scope_of(request(first=f"{method} / HTTP/1.1".encode()), serving)
    assert scope["method"] == method


async def test_options_for_the_whole_server(serving: Serving, log: ServerLog) -> None:
    scope = await scope_of(request(first=b"OPTIONS * HTTP/1.1"), serving)
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("OPTIONS", "*", b"*")


@pytest.mark.parametrize(
    ("sent", "version", "headers"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "1.0", []),
        (b"GET / HTTP/1.0\r\nhost: a\r\n\r\n", "1.0", [(b"host", b"a")]),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "1.1", [(b"host", b"")]),
        (b"GET / HTTP/1.1\r\nHOST: [::1]:80\r\n\r\n", "1.1", [(b"host", b"[::1]:80")]),
        (b"GET / HTTP/1.1\r\nhost: a:\r\n\r\n", "1.1", [(b"host", b"a:")]),
        (
            b"GET / HTTP/1.1\r\nhost: xn--e1a.example\r\n\r\n",
            "1.1",
            [(b"host", b"xn--e1a.example")],
        ),
        (
            b"GET / HTTP/1.1\r\nhost: a\r\nx: \t a \t b\t\r\nempty:\r\nblank: \r\n\r\n",
            "1.1",
            [(b"host", b"a"), (b"x", b"a \t b"), (b"empty", b""), (b"blank", b"")],
        ),
    ],
)
async def test_versions_and_headers(
    sent: bytes,
    version: str,
    headers: list[tuple[bytes, bytes]],
    serving: Serving,
    log: ServerLog,
) -> None:
    scope = await scope_of(sent, serving)
    assert (scope["http_version"], scope["headers"]) == (version, headers)


async def test_a_client_without_a_port(serving: Serving, log: ServerLog) -> None:
    scope = await scope_of(GET, serving, "memory://named")
    assert scope["client"] == ("named-client", None)
    assert scope["server"] == ("named", None)


async def test_root_path(log: ServerLog) -> None:
    """The path begins with it, as the specification has it; so does the raw path, quoted."""
    app = Keeping()
    application = AsgiApplication(app, root_path="/caf\u00e9")
    async with open_server(Http1(application)) as opened:
        client = RawClient(await opened.connect())
        await client.ask(request(first=b"GET /a%20b HTTP/1.1"))
    (scope,) = app.scopes
    assert scope["root_path"] == "/caf\u00e9"
    assert scope["path"] == "/caf\u00e9/a b"
    assert scope["raw_path"] == b"/caf%C3%A9/a%20b"


# Nothing is shared ------------------------------------------------------------------------------


async def test_what_an_application_does_to_a_scope_stays_there(
    serving: Serving, log: ServerLog
) -> None:
    """Requests with the same bytes are taken apart once, but each has lists of its own."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(deepcopy(scope))
        scope["headers"].clear()
        scope["state"]["mine"] = 1
        scope["asgi"].clear()
        scope["extensions"]["mine"] = {}
        scope.clear()
        await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        neighbour = await site.connect()
        await client.send(GET * 2)
        for _ in range(2):
            await client.receive()
        await neighbour.ask(GET)
    assert seen[0]["headers"] == [(b"host", b"a")]
    assert seen == [seen[0]] * 3


variable: ContextVar[str] = ContextVar("variable", default="nobody's")


async def test_context_variables_of_one_request_are_not_seen_by_another(
    serving: Serving, log: ServerLog
) -> None:
    seen: list[str] = []

    async def child() -> None:
        seen.append(variable.get())
        variable.set("child's")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        variable.set(scope["path"])
        if scope["path"] == "/wait":
            await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
        seen.append(variable.get())
        await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        for path in ("/", "/wait", "/", "/wait"):
            seen.clear()
            await client.ask(request(first=f"GET {path} HTTP/1.1".encode()))
            kept = [path] if path == "/" else [path, path]
            assert seen == ["nobody's", *kept]
        await client.send(request(first=b"GET /wait HTTP/1.1") * 2)
        for _ in range(2):
            await client.receive()
        assert seen[3:] == ["nobody's", "/wait", "/wait"] * 2
    assert variable.get() == "nobody's"


async def test_context_variables_of_the_server_are_seen(serving: Serving, log: ServerLog) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        await answer(send)

    token = variable.set("the server's")
    async with serving(app) as site:
        variable.reset(token)
        client = await site.connect()
        await client.ask(GET)
    assert seen == ["the server's"]


# How it may be written ----------------------------------------------------------------------------


class Awaited:
    """An awaitable that is no coroutine."""

    def __init__(self, call: Coroutine[Any, Any, None]) -> None:
        self.call = call

    def __await__(self) -> Any:  # noqa: ANN401  # whatever trio's traps are
        return self.call.__await__()


def awaitable(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    return Awaited(Keeping()(scope, receive, send))


class Instance:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    async def method(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)


@pytest.mark.parametrize("app", [awaitable, Instance(), Instance().method])
async def test_callables(app: AsgiApp, serving: Serving, log: ServerLog) -> None:
    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(GET)).status == 200


async def test_structured_concurrency_of_trio_and_anyio(serving: Serving, log: ServerLog) -> None:
    anyio = pytest.importorskip("anyio")
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def work(name: str) -> None:
            await trio.lowlevel.checkpoint()
            await anyio.sleep(0)
            done.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(work, "anyio")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, "trio")
                with trio.move_on_after(0):
                    await trio.sleep_forever()
                with anyio.CancelScope() as cancelled:
                    cancelled.cancel()
                    await anyio.sleep_forever()
        await trio.to_thread.run_sync(done.append, "thread")
        await answer(send, await read_body(receive))

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(3):
            assert (await client.ask(post(b"hello"))).body == b"hello"
            assert sorted(done) == ["anyio", "thread", "trio"]
            done.clear()


async def test_async_generators_are_closed(serving: Serving, log: ServerLog) -> None:
    closed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def pieces() -> AsyncGenerator[bytes]:
            try:
                while True:
                    await trio.lowlevel.checkpoint()
                    yield b"x"
            finally:
                closed.append(variable.get())

        generator = pieces()
        body = b""
        async for piece in generator:
            body += piece
            if len(body) == 3:
                break
        await generator.aclose()
        await answer(send, body)

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == b"xxx"
    assert closed == ["nobody's"] * 2


async def test_requests_of_one_connection_run_one_after_the_other(
    serving: Serving, log: ServerLog
) -> None:
    running = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await trio.lowlevel.checkpoint()
        await answer(send)
        await trio.lowlevel.checkpoint()
        running -= 1

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET * 5)
        for _ in range(5):
            assert (await client.receive()).status == 200


async def test_requests_of_two_connections_run_side_by_side(
    serving: Serving, log: ServerLog
) -> None:
    both = trio.Event()
    running = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        if running == 2:
            both.set()
        await both.wait()
        await answer(send)

    async with serving(app) as site:
        clients = [await site.connect(), await site.connect()]
        for client in clients:
            await client.send(GET)
        for client in clients:
            assert (await client.receive()).status == 200


# Events -----------------------------------------------------------------------------------------


async def test_the_event_of_a_request_without_a_body(serving: Serving, log: ServerLog) -> None:
    events: list[Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        events.append(await receive())
        with trio.move_on_after(0):
            events.append(await receive())
        await answer(send)
        events.append(await receive())

    async with serving(app) as site:
        client = await site.connect()
        await client.ask(GET)
        await wait_all_tasks_blocked()
    assert events == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
    ]


async def test_start_is_sent_with_the_body(serving: Serving, log: ServerLog) -> None:
    """Until then the application may still fail with a proper answer."""
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await go_on.wait()
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        assert await client.received_by_now() == b""
        go_on.set()
        assert (await client.receive()).status == 200


async def test_the_status_and_headers_may_change_until_then(
    serving: Serving, log: ServerLog
) -> None:
    """An event belongs to the application again when `send` has returned."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        event = {"type": "http.response.start", "status": 201, "headers": [(b"x", b"y")]}
        await send(event)
        event.clear()
        await send({"type": "http.response.body", "body": b"hello"})

    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert (response.status, response.all(b"x"), response.body) == (201, [b"y"], b"hello")
