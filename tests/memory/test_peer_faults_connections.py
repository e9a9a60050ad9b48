"""Faults that other servers had in what becomes of a connection: closed too early, late, or never.

Each test says the fault and where it was reported. Clients that stall have a file of their own.
"""

import gc
from weakref import WeakSet

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.http1_site import ServerLog, Serving, answer, echo, read_body
from tests.raw_client import GET, UnexpectedEnd, post, post_chunked, request

H2C = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ")


# Connection: close ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Close\r\n\r\n",
        b"HEAD / HTTP/1.0\r\nconnection: close\r\n\r\n",
        b"POST / HTTP/1.0\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        b"GET / HTTP/1.0\r\n\r\n",
        request(b"connection: close"),
        post_chunked(b"5\r\nhello\r\n0\r\n\r\n", b"connection: close"),
    ],
)
async def test_the_connection_is_closed_when_the_client_asks_for_it(
    sent: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A client of HTTP/1.0 that asks for the end and waits for it, waits (hypercorn #330)."""
    async with serving(echo) as site:
        client = await site.connect()
        response = await client.ask(sent, to_head=sent.startswith(b"HEAD"))
        assert (response.status, response.keeps_alive) == (200, False)
        assert await client.receive_rest() == b""
        await site.all_ended()
        assert autojump_clock.current_time() < 0.1
    assert log.ends == [EndReason.COMPLETED]


@pytest.mark.parametrize(
    "last",
    [
        request(b"connection: close"),
        request(b"connection: close", b"content-length: 5", body=b"hello"),
        post_chunked(b"5\r\nhello\r\n0\r\n\r\n", b"connection: close"),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
    ids=["get", "length", "chunked", "1.0"],
)
@pytest.mark.parametrize(
    "behind",
    [GET, b"Invalid\r\n\r\n", b"GET / HT", b"\x16\x03\x01\x00\xf8", b"\r\n\r\n\r\n\r\n\r\n\r\n"],
    ids=["good", "bad", "half", "TLS", "blank"],
)
async def test_what_follows_the_last_request_is_neither_served_nor_judged(
    last: bytes, behind: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The answer to what comes behind `Connection: close` takes the place of the last request's
    (uvicorn #2238)."""
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await echo(scope, receive, send)

    async with serving(app) as site:
        client = await site.connect()
        await client.send(request(first=b"GET /first HTTP/1.1") + last + behind)
        assert (await client.receive()).keeps_alive
        response = await client.receive()
        assert (response.status, response.keeps_alive) == (200, False)
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert served == ["/first", "/"]
    assert log.ends == [EndReason.COMPLETED]


async def test_the_body_of_a_last_request_still_arrives(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A server that closes early for `Connection: close` lets the application wait for a body that
    the client has sent (uvicorn #2408)."""
    async with serving(echo) as site:
        for body in (b"content-length: 5", b"transfer-encoding: chunked"):
            client = await site.connect()
            await client.send(request(b"connection: close", body))
            await trio.sleep(1)
            await client.send(b"hello" if b"length" in body else b"5\r\nhello\r\n0\r\n\r\n")
            assert (await client.receive()).body == b"/ hello"
            assert await client.receive_rest() == b""


# The timer between requests ---------------------------------------------------------------------


async def test_a_timer_of_an_earlier_request_does_not_cut_a_later_one(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A request that comes before the previous answer is complete leaves a keep-alive timer behind,
    which later closes the connection while it is in use (uvicorn #824)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(3)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"slow ", "more_body": True})
        await trio.sleep(3)
        await send({"type": "http.response.body", "body": b"answer"})

    async with serving(app, limits=Limits(keep_alive_seconds=5)) as site:
        client = await site.connect()
        await client.send(GET)
        for _ in range(6):
            await trio.sleep(4)  # the first piece of the answer is out, the second is not
            await client.send(GET)
            assert (await client.receive()).body == b"slow answer"
        assert (await client.receive()).body == b"slow answer"
        await trio.sleep(4.9)
        assert (await client.ask(GET)).body == b"slow answer"
        idle_since = autojump_clock.current_time()
        assert await client.receive_rest() == b""
        assert autojump_clock.current_time() - idle_since == pytest.approx(5)
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]


async def test_the_timer_counts_from_the_last_answer_of_a_burst(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It counts from the first of several pipelined answers and cuts the others (uvicorn #824)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(4)
        await answer(send, b"slow")

    async with serving(app, limits=Limits(keep_alive_seconds=5)) as site:
        client = await site.connect()
        await client.send(GET * 5)
        for number in range(1, 6):
            assert (await client.receive()).body == b"slow"
            assert autojump_clock.current_time() == pytest.approx(4 * number)
        assert await client.receive_rest() == b""
        assert autojump_clock.current_time() == pytest.approx(25)


async def test_the_timer_does_not_run_while_a_response_is_sent(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It expires in the middle of a response that the client takes slowly, and the connection is
    closed, or an error raised (uvicorn #1637)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * 50_000)

    limits = Limits(keep_alive_seconds=5)
    async with serving(app, limits=limits, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send(GET * 2)
        received = b""
        while received.count(b"x") < 100_000:
            received += await client.connection.transport.input.receive(1000)
            await trio.sleep(1)
        assert received.count(b"HTTP/1.1 200 ") == 2
        assert autojump_clock.current_time() > 90
        assert (await client.ask(GET)).status == 200


async def test_a_request_that_offers_to_upgrade_is_timed_as_any_other(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The keep-alive timer runs on through an offer of h2c and cuts the answer (hypercorn #51)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(300)
        await answer(send, b"slow")

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(request(*H2C))).body == b"slow"
        idle_since = autojump_clock.current_time()
        assert await client.receive_rest() == b""
        assert autojump_clock.current_time() - idle_since == pytest.approx(130)


async def test_a_reset_leaves_no_timer_that_holds_the_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A connection that is reset while idle stays in memory, with its request's scope, until its
    keep-alive timer would have expired (codex-lb #2041, of uvicorn)."""
    held = WeakSet[object]()

    class Marker:
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["marker"] = Marker()
        held.add(scope["marker"])
        await answer(send)

    async with serving(app) as site:
        for _ in range(5):
            client = await site.connect()
            await client.ask(GET)
            client.reset()
        await site.all_ended()
        gc.collect()
        assert len(held) == 0
        assert autojump_clock.current_time() < 1


# Clients that leave -----------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET])
async def test_a_client_that_ends_its_side_is_not_kept(
    sent: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A client that connects and leaves without a request is never closed, and sockets pile up in
    CLOSE_WAIT (uvicorn #1199, #1192)."""
    async with serving() as site:
        for _ in range(20):
            client = await site.connect()
            await client.send(sent)
            await client.send_eof()
        await site.all_ended()
        assert autojump_clock.current_time() < 0.1
    assert log.ends == [EndReason.PEER_CLOSED] * 20


@pytest.mark.counts_bytes
async def test_a_client_that_goes_with_its_request_is_nobodys_error(
    serving: Serving, log: ServerLog
) -> None:
    """A connection that dies while its request is handed to the application is an error of the
    server's (anycorn #55)."""
    async with serving(echo) as site:
        for sent in (GET, GET * 3, post(b"hello"), post(b"hello")[:-1], GET[:-1]):
            client = await site.connect(byte_by_byte=False)
            await client.send(sent)
            client.reset()  # before the server has had a turn
            client = await site.connect()
            await client.send(sent)
            await wait_all_tasks_blocked()
            client.reset()
        await site.all_ended()
    assert set(log.ends) == {EndReason.CONNECTION_RESET}


async def test_one_record_for_each_exchange_whenever_the_client_leaves(
    serving: Serving, log: ServerLog
) -> None:
    """A client that closes as its response is completed is logged twice, once without a status
    (hypercorn #357)."""
    records: list[tuple[str, int | None]] = []
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body"})

    for leave_early in (True, False):
        go_on = trio.Event()
        async with serving(
            app, on_exchange_end=lambda exchange: records.append((exchange.path, exchange.status))
        ) as site:
            client = await site.connect()
            await client.send(GET)
            await wait_all_tasks_blocked()
            if leave_early:
                client.reset()
                go_on.set()
            else:
                go_on.set()
                client.reset()
            await site.all_ended()
    assert records == [("/", 200)] * 2


# The end of the server --------------------------------------------------------------------------


async def test_draining_does_not_wait_for_a_client_that_stopped_reading(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A large response to a client that reads no more holds up the end of the server far beyond the
    time it was given (hypercorn #308)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await answer(send, b"x" * 1_000_000)

    async with serving(app, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        assert await site.server.drain(1) == 1
        assert autojump_clock.current_time() < 1.5
        with pytest.raises(UnexpectedEnd):
            await client.receive()
    assert log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT]
    assert "did not finish" in log.take().getMessage()
