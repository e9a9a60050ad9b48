"""A server that drains: idle connections end, busy ones finish, and none of it is lost."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.http1_site import ServerLog, Serving, Site, answer, echo, read_body
from tests.raw_client import GET, post, request


@asynccontextmanager
async def draining(site: Site, seconds: float = 1000) -> AsyncGenerator[list[int]]:
    """Drain for the length of the block; the list has the count of those cut, at its end."""
    cut: list[int] = []

    async def drain() -> None:
        cut.append(await site.server.drain(seconds))

    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await wait_all_tasks_blocked()
        yield cut


class Slow:
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        self.go_on = trio.Event()
        self.served: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served.append(scope["path"])
        await self.go_on.wait()
        await answer(send, await read_body(receive))


async def test_idle(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.ask(GET)
        async with draining(site) as cut:
            assert await client.receive_rest() == b""
        assert cut == [0]
    assert log.ends == [EndReason.SHUTDOWN]


async def test_before_the_first_request(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await wait_all_tasks_blocked()
        async with draining(site) as cut:
            assert await client.receive_rest() == b""
        assert cut == [0]
    assert log.ends == [EndReason.SHUTDOWN]


async def test_asked_before_it_is_served(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        while not site.server.connections:
            await trio.lowlevel.checkpoint()
        site.connection.request_close()
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [EndReason.SHUTDOWN]


async def test_after_a_blank_line(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.ask(GET + b"\r\n")
        async with draining(site):
            assert await client.receive_rest() == b""
    assert log.ends == [EndReason.SHUTDOWN]


async def test_busy(serving: Serving, log: ServerLog) -> None:
    app = Slow()
    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        async with draining(site) as cut:
            assert await client.received_by_now() == b""
            app.go_on.set()
            response = await client.receive()
            assert (response.status, response.keeps_alive) == (200, False)
            assert await client.receive_rest() == b""
        assert cut == [0]
    assert log.ends == [EndReason.SHUTDOWN]


async def test_half_a_head(serving: Serving, log: ServerLog) -> None:
    """The client has begun, and may finish."""
    async with serving() as site:
        client = await site.connect()
        await client.send(GET[:10])
        async with draining(site) as cut:
            response = await client.ask(GET[10:])
            assert (response.body, response.keeps_alive) == (b"hello", False)
            assert await client.receive_rest() == b""
        assert cut == [0]


async def test_timers_run_on(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(GET[:10])
        async with draining(site) as cut:
            assert (await client.receive()).status == 408
            await client.aclose()
        assert cut == [0]
        assert autojump_clock.current_time() < 40
    assert log.ends == [EndReason.REQUEST_HEADERS_TIMEOUT]


async def test_half_a_body(serving: Serving, log: ServerLog) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        await client.send(post(b"hello")[:-2])
        async with draining(site) as cut:
            response = await client.ask(b"lo")
            assert (response.body, response.keeps_alive) == (b"/ hello", False)
            assert await client.receive_rest() == b""
        assert cut == [0]


async def test_in_the_middle_of_a_response(serving: Serving, log: ServerLog) -> None:
    """It is too late to tell the client in the head; it gets everything, and then the end."""
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        status, headers = await client.receive_head()
        assert status == 200
        assert (b"connection", b"close") not in headers
        async with draining(site) as cut:
            assert await client.received_by_now() == b"6\r\nfirst \r\n"
            go_on.set()
            assert await client.receive_rest() == b"4\r\nlast\r\n0\r\n\r\n"
        assert cut == [0]
    assert log.ends == [EndReason.SHUTDOWN]


async def test_requests_behind_the_current_one(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """They are not served; the client has been told that the current one is the last."""
    app = Slow()
    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET + request(first=b"GET /next HTTP/1.1"))
        async with draining(site) as cut:
            app.go_on.set()
            assert not (await client.receive()).keeps_alive
            assert await client.receive_rest() == b""
            await client.aclose()
        assert cut == [0]
    assert app.served == ["/"]


async def test_while_an_unread_body_is_dropped(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(request(b"content-length: 5"))).body == b"hello"
        async with draining(site) as cut:
            await client.send(b"hello")
            assert await client.receive_rest() == b""
        assert cut == [0]
        assert autojump_clock.current_time() < 1
    assert log.ends == [EndReason.SHUTDOWN]


async def test_while_the_client_does_not_read(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Asked to close while answers are stuck: when the client reads, it gets them, and the end."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * 400)

    async with serving(app, endpoint="memory://narrow?pause_at_bytes=100") as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET + GET + GET[:1])
        async with draining(site) as cut:
            await trio.sleep(4)
            for _ in range(2):
                assert (await client.receive()).body == b"x" * 400
            await client.receive_rest()
        assert cut == [0]
        assert autojump_clock.current_time() < 7


async def test_a_busy_one_is_cut_at_the_deadline(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    app = Slow()
    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        async with draining(site, seconds=5) as cut:
            assert await client.is_reset()
        assert cut == [1]
        assert autojump_clock.current_time() == 5
    assert log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT]
    assert "did not finish" in log.take().getMessage()


async def test_a_lingering_one_ends_by_itself(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(b"nonsense\r\n\r\n")).status == 400
        async with draining(site) as cut:
            pass
        assert cut == [0]
        assert autojump_clock.current_time() < 2.1
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


async def test_the_server_is_cancelled(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Applications see it as any trio task does."""
    cancelled: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(scope["path"])
            raise

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        site.server.abort()
        assert await client.is_reset()
    assert cancelled == ["/"]
    assert log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT]
