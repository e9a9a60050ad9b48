"""The time that one request may take: then its application is cancelled, and the client told."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import BadRequest, HttpExchange
from tests.http1_site import ServerLog, Serving, read_body
from tests.raw_client import GET, RawClient, post, post_chunked, request

OK = [(b"content-length", b"2")]

TEN_SECONDS = Limits(max_request_seconds=10)


def expect_warning(log: ServerLog, text: str = "GET /", seconds: int = 10) -> None:
    """Take the one record there is from the log: the application was cancelled."""
    record = log.take()
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert vars(record)["connection_id"]
    assert record.getMessage() == (
        f"the application was cancelled {seconds} s after {text} had arrived"
    )


class Sleeper:
    """Sleeps for so long, says hello, and notes what became of it."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self.cancelled_at: list[float] = []
        self.cleaned_up = 0

    async def __call__(self, exchange: HttpExchange) -> None:
        try:
            if exchange.target != b"/quick":
                await trio.sleep(self.seconds)
            await exchange.respond(200, OK, b"ok")
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise
        finally:
            self.cleaned_up += 1


async def expect_503(client: RawClient, seconds: float = 10) -> None:
    """Receive 503 after that many seconds, on a connection that goes on."""
    start = trio.current_time()
    response = await client.receive()
    assert trio.current_time() - start == pytest.approx(seconds)
    assert (response.status, response.keeps_alive) == (503, True)
    assert response.body == b"Service Unavailable"


async def test_before_the_response(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The client is told, and may go on."""
    app = Sleeper()
    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(GET)
            await expect_503(client)
            expect_warning(log)
        response = await client.ask(request(first=b"GET /quick HTTP/1.1"))
        assert (response.body, response.keeps_alive) == (b"ok", True)
        assert app.cancelled_at == [pytest.approx(10), pytest.approx(20)]
        assert app.cleaned_up == 3
        start = trio.current_time()
        assert await client.receive_rest() == b""
        assert trio.current_time() - start == pytest.approx(130)
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]


async def test_in_time(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(native=Sleeper(9.999), limits=TEN_SECONDS) as site:
        client = await site.connect()
        for _ in range(3):
            assert (await client.ask(GET)).body == b"ok"


async def test_never_by_default(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=Sleeper(100_000)) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"ok"


async def test_it_counts_from_the_end_of_the_head(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=Sleeper(), limits=TEN_SECONDS) as site:
        client = await site.connect()
        await trio.sleep(100)
        await client.send(GET[:10])
        await trio.sleep(20)
        await client.send(GET[10:])
        await expect_503(client)
        expect_warning(log)


async def test_the_time_it_waited_behind_others_counts(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It arrived with the first; what is left for it is what the first has left."""
    async with serving(native=Sleeper(6), limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send_in_one(GET * 2)
        assert (await client.receive()).body == b"ok"
        await expect_503(client, 4)
        expect_warning(log)


async def test_a_head_that_waits_for_its_body_and_not_for_a_response(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A response that was started, and of which nothing was sent, is taken back."""

    async def app(exchange: HttpExchange) -> None:
        await exchange.start(200, [(b"x-own", b"yes")])
        await trio.sleep_forever()

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(GET)
        await expect_503(client)
        expect_warning(log)


async def test_in_the_middle_of_a_response(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It is too late to tell the client; it sees that what it has is not all."""

    async def app(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write(b"hello")
        await trio.sleep_forever()

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(GET)
        assert (await client.receive_head())[0] == 200
        assert await client.receive_some() == b"5\r\nhello\r\n"
        assert await client.is_reset()
        assert autojump_clock.current_time() == pytest.approx(10)
        expect_warning(log)
    assert log.ends == [EndReason.MAX_REQUEST_TIME_EXCEEDED]


async def test_after_the_response(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """What the application still does is cancelled; the client has its answer, and goes on."""
    cancelled: list[float] = []

    async def app(exchange: HttpExchange) -> None:
        await exchange.respond(200, OK, b"ok")
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(GET)
            assert (response.body, response.keeps_alive) == (b"ok", True)
            await trio.sleep(15)
            expect_warning(log)
    assert cancelled == [pytest.approx(10), pytest.approx(25)]


async def test_while_the_body_is_waited_for(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It comes fast enough, only there is too much; the rest is dropped, within its bounds."""

    async def app(exchange: HttpExchange) -> None:
        while await exchange.receive():
            pass
        await exchange.respond(200, OK, b"ok")

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 14000", first=b"POST / HTTP/1.1"))
        for _ in range(12):
            await trio.sleep(1)
            await client.send_in_one(b"x" * 1000)
        await expect_503(client, 0)
        expect_warning(log, "POST /")
        assert (await client.ask(b"x" * 2000 + GET)).body == b"ok"
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_while_a_rest_of_the_body_does_not_come(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=Sleeper(), limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        await expect_503(client)
        expect_warning(log)
        start = trio.current_time()
        assert await client.receive_rest() == b""
        assert trio.current_time() - start == pytest.approx(5)
        await site.all_ended()
    assert log.ends == [EndReason.REQUEST_BODY_DRAIN_TIMEOUT]


async def test_of_a_request_that_is_wrong(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The client is told what was wrong, not that it took long."""

    async def app(exchange: HttpExchange) -> None:
        with suppress(BadRequest):
            await exchange.receive()
        await trio.sleep_forever()

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        response = await client.ask(post_chunked(b"nonsense"))
        assert (response.status, response.keeps_alive) == (400, False)
        assert autojump_clock.current_time() == pytest.approx(10)
        expect_warning(log, "POST /")
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_BODY_FRAMING]


async def test_while_the_client_does_not_read(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Nobody knows what has left by then, so nothing can follow."""
    app_ended = 0

    async def app(exchange: HttpExchange) -> None:
        nonlocal app_ended
        try:
            await exchange.respond(200, [], b"x" * 1_000_000)
        finally:
            app_ended += 1

    limits = Limits(max_request_seconds=10, min_response_bytes_per_second=None)
    async with serving(native=app, limits=limits) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        await site.all_ended()
        assert autojump_clock.current_time() == pytest.approx(10, abs=0.02)
        assert await client.is_reset()
        expect_warning(log)
    assert app_ended == 1
    assert log.ends == [EndReason.MAX_REQUEST_TIME_EXCEEDED]


async def test_earlier_answers_are_not_lost(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=Sleeper(), limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(request(first=b"GET /quick HTTP/1.1") * 2 + GET)
        for _ in range(2):
            assert (await client.receive()).body == b"ok"
        await expect_503(client)
        expect_warning(log)


async def test_requests_behind_it_are_served(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=Sleeper(), limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(5)
        await client.send(request(first=b"GET /quick HTTP/1.1"))
        await expect_503(client, 5)
        expect_warning(log)
        assert (await client.receive()).body == b"ok"


async def test_a_last_request(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(native=Sleeper(), limits=TEN_SECONDS) as site:
        client = await site.connect()
        response = await client.ask(request(b"connection: close"))
        assert (response.status, response.keeps_alive) == (503, False)
        assert await client.receive_rest() == b""
        expect_warning(log)
        await site.all_ended()
    assert log.ends == [EndReason.COMPLETED]


async def test_an_asgi_application(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Its tasks are cancelled, and its context managers left."""
    left: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            left.append(name)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)

        async def work(name: str) -> None:
            async with resource(name):
                await trio.sleep_forever()

        async with resource("outer"), trio.open_nursery() as nursery:
            nursery.start_soon(work, "first")
            nursery.start_soon(work, "second")
            await receive()  # which waits until the client leaves

    async with serving(app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(post(b"hello"))
        await expect_503(client)
        expect_warning(log, "POST /")
    assert sorted(left) == ["first", "outer", "second"]


async def test_an_application_that_fails_while_it_is_cancelled(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Its error is its own, and the connection goes on."""

    async def app(exchange: HttpExchange) -> None:
        if exchange.target == b"/quick":
            await exchange.respond(200, OK, b"ok")
            return
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        assert (await client.ask(GET)).status == 500
        assert log.take_error(ZeroDivisionError) == "the application failed on GET /"
        assert (await client.ask(request(first=b"GET /quick HTTP/1.1"))).body == b"ok"


async def test_an_application_that_answers_when_it_is_cancelled(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """If it gets its word out without waiting, that is the answer."""

    async def app(exchange: HttpExchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await exchange.respond(504, OK, b"no")

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert (response.status, response.body, response.keeps_alive) == (504, b"no", True)
        expect_warning(log)
        assert (await client.ask(GET)).status == 504
        expect_warning(log)


async def test_a_shield_puts_it_off(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(exchange: HttpExchange) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(15)
            await exchange.respond(200, OK, b"ok")

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"ok"
        assert autojump_clock.current_time() == pytest.approx(15)


Ends = Callable[[HttpExchange], Awaitable[None]]


async def fail(exchange: HttpExchange) -> None:
    raise ZeroDivisionError


async def respond(exchange: HttpExchange) -> None:
    await exchange.respond(200, OK, b"ok")


@pytest.mark.parametrize("ends", [fail, respond])
async def test_each_request_has_its_own_time(
    ends: Ends, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(exchange: HttpExchange) -> None:
        await trio.sleep(9)
        await ends(exchange)

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        for _ in range(3):
            await client.ask(GET)
            if ends is fail:
                log.take_error(ZeroDivisionError)
            await trio.sleep(100)
        assert site.connection.end_reason is None


async def test_the_server_is_cancelled_all_the_same(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    app = Sleeper()
    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        site.server.abort()
        assert await client.is_reset()
    assert app.cancelled_at == [0]
    assert log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT]


async def test_an_upgraded_connection_has_all_the_time(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(exchange: HttpExchange) -> None:
        await trio.sleep(9)
        pipe = await exchange.upgrade([(b"upgrade", b"x")])
        await trio.sleep(1000)
        await pipe.output.send(b"still here")

    async with serving(native=app, limits=TEN_SECONDS) as site:
        client = await site.connect()
        await client.send(request(b"connection: upgrade", b"upgrade: x"))
        assert (await client.receive_head())[0] == 101
        assert await client.receive_rest() == b"still here"
    assert log.ends == [EndReason.UPGRADED]


async def test_a_refused_upgrade_leaves_the_time_as_it_was(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    limits = Limits(max_request_seconds=10, max_upgraded_connections=0)

    async def app(exchange: HttpExchange) -> None:
        with pytest.raises(Exception, match="no room"):
            await exchange.upgrade([(b"upgrade", b"x")])
        await trio.sleep_forever()

    async with serving(native=app, limits=limits) as site:
        client = await site.connect()
        await client.send(request(b"connection: upgrade", b"upgrade: x"))
        await expect_503(client)
        expect_warning(log)
