"""What is told about each exchange when it is over, for access logs and counters."""

from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import HttpExchange
from tests.http1_site import Disconnected, ServerLog, Serving, answer, read_body
from tests.raw_client import GET, post, post_chunked, request


@attrs.frozen
class Ended:
    """What was true when an exchange was over."""

    method: str
    target: bytes
    status: int | None
    response_body_bytes: int
    seconds: float


def keep(ended: list[Ended]) -> Callable[[HttpExchange], None]:
    def note(exchange: HttpExchange) -> None:
        assert exchange.response_finished
        ended.append(
            Ended(
                exchange.method,
                exchange.target,
                exchange.status,
                exchange.response_body_bytes,
                trio.current_time() - exchange.started_at,
            )
        )

    return note


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the path says."""
    path = scope["path"]
    if path == "/fail":
        raise ZeroDivisionError
    if path == "/nothing":
        return
    if path == "/slow":
        await trio.sleep(3)
    if path == "/read":
        try:
            await read_body(receive)
        except Disconnected:
            return
    if path == "/pieces":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await send({"type": "http.response.body", "body": b" you"})
    elif path == "/cut":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
    else:
        await answer(send, b"hello", status=404 if path == "/missing" else 200)


def get(path: str, method: str = "GET") -> bytes:
    return request(first=f"{method} {path} HTTP/1.1".encode())


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (GET, Ended("GET", b"/", 200, 5, 0)),
        (get("/missing?x=y"), Ended("GET", b"/missing?x=y", 404, 5, 0)),
        (get("/pieces"), Ended("GET", b"/pieces", 200, 9, 0)),
        (get("/", "HEAD"), Ended("HEAD", b"/", 200, 5, 0)),
        (get("/slow"), Ended("GET", b"/slow", 200, 5, 3)),
        (get("/fail"), Ended("GET", b"/fail", 500, 21, 0)),
        (get("/nothing"), Ended("GET", b"/nothing", 500, 21, 0)),
        (get("/cut"), Ended("GET", b"/cut", 200, 5, 0)),
        (post(b"x" * 20).replace(b"/ ", b"/read "), Ended("POST", b"/read", 413, 0, 0)),
        (post_chunked(b"zz\r\n").replace(b"/ ", b"/read "), Ended("POST", b"/read", 400, 0, 0)),
        (post(b"x" * 10)[:-5], Ended("POST", b"/", 200, 5, 0)),
    ],
)
async def test_one_exchange(
    sent: bytes, expected: Ended, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It does not wait until an unread body is dropped."""
    ended: list[Ended] = []
    limits = Limits(max_request_body_bytes=15)
    async with serving(app, limits=limits, on_exchange_end=keep(ended)) as site:
        client = await site.connect()
        await client.send(sent)
        while not ended:  # noqa: ASYNC110  # what is told has nobody to wait for it
            await trio.sleep(0.5)
        assert ended == [expected]
    log.records.clear()  # those that failed


async def test_pipelined_exchanges(serving: Serving, log: ServerLog) -> None:
    ended: list[Ended] = []
    async with serving(app, on_exchange_end=keep(ended)) as site:
        client = await site.connect()
        await client.send(GET + get("/missing") + get("/pieces") + get("/"))
        for _ in range(4):
            await client.receive()
    assert [each.status for each in ended] == [200, 404, 200, 200]


async def test_what_is_no_exchange(serving: Serving, log: ServerLog) -> None:
    ended: list[Ended] = []
    async with serving(app, on_exchange_end=keep(ended)) as site:
        client = await site.connect()
        assert (await client.ask(b"nonsense\r\n\r\n")).status == 400
    assert ended == []


async def test_a_client_that_is_gone(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    ended: list[Ended] = []
    async with serving(app, on_exchange_end=keep(ended)) as site:
        for sent in (get("/slow"), post(b"hello")[:-1].replace(b"/ ", b"/read ")):
            client = await site.connect()
            await client.send(sent)
            await wait_all_tasks_blocked()
            client.reset()
        await site.all_ended()
    assert [each.target for each in ended] == [b"/read", b"/slow"]
    assert ended[0].status is None
