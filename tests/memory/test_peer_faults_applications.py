"""Faults that other servers had in what applications are told, and in what theirs could bring down.

Each test says the fault and where it was reported.
"""

from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, ResponseError
from tests.http1_site import ServerLog, Serving, answer, hello, read_body
from tests.raw_client import GET, RawClient, UnexpectedEnd, post, request

DISCONNECT = {"type": "http.disconnect"}

Leave = Callable[[RawClient], Awaitable[None]]


async def close(client: RawClient) -> None:
    await client.aclose()


async def reset(client: RawClient) -> None:
    client.reset()


gone = pytest.mark.parametrize("leave", [close, reset])


# Whether the client is there --------------------------------------------------------------------


@gone
@pytest.mark.parametrize("sent", [GET, post(b"hello")], ids=["no body", "body"])
async def test_polling_finds_that_the_client_is_gone(
    sent: bytes, leave: Leave, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Starlette looks for the client in a scope that it has cancelled; a server that yields before it
    looks never finds it gone (hypercorn #210, anycorn #77)."""
    polls = 0

    async def endpoint(request: Request) -> Response:
        nonlocal polls
        await request.body()
        while not await request.is_disconnected():
            polls += 1
            await trio.sleep(1)
        return PlainTextResponse("nobody is there")

    app = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])
    async with serving(app) as site:
        client = await site.connect()
        await client.send(sent)
        await trio.sleep(10.5)
        await leave(client)
        with trio.fail_after(1):
            await site.all_ended()
    assert polls == 11
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_polling_loses_no_piece_of_a_body(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """An event that is taken off its queue in a cancelled scope is lost (hypercorn #210)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        parts: list[bytes] = []
        more_body = True
        while more_body:
            event: Event | None = None
            with anyio.CancelScope() as cancelled:
                cancelled.cancel()
                event = await receive()
            if event is None:
                await anyio.sleep(0.1)
            else:
                parts.append(event["body"])
                more_body = event["more_body"]
        await answer(send, b"".join(parts))

    body = bytes(range(256))
    async with serving(app) as site:
        client = await site.connect()
        for number in range(3):
            await client.send(request(b"content-length: 256"))
            for start in range(0, 256, 32):
                await client.send(body[start : start + 32])
                await trio.sleep(0.03 * number)
            assert (await client.receive()).body == body


async def test_an_event_that_is_waited_for_in_vain_is_still_delivered(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Whoever stops waiting for the client to go hears of it when it asks again; an event that was
    on its way to a cancelled task is lost elsewhere (hypercorn #210)."""
    events: list[Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        while not events:
            with anyio.move_on_after(1):
                events.append(await receive())
        events.append(await receive())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(10)  # the very moment at which one wait ends and the next begins
        await client.aclose()
        with trio.fail_after(1):
            await site.all_ended()
    assert events == [DISCONNECT, DISCONNECT]


# Sending to nobody ------------------------------------------------------------------------------


@gone
async def test_sending_on_and_on_after_a_reset(
    leave: Leave, serving: Serving, log: ServerLog
) -> None:
    """A write after the client's reset trips an assertion of the server's and ends more than this
    response (hypercorn #352)."""
    go_on = trio.Event()
    errors: list[OSError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/neighbour":
            await hello(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await go_on.wait()
        for _ in range(100):
            try:
                await send({"type": "http.response.body", "body": b"x" * 9999, "more_body": True})
            except OSError as error:
                errors.append(error)
        with pytest.raises(OSError, match="gone"):
            await send({"type": "http.response.body"})

    async with serving(app) as site:
        client, neighbour = await site.connect(), await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        await leave(client)
        go_on.set()
        while len(site.server.connections) > 1:  # noqa: ASYNC110  # the server has no event for it
            await trio.sleep(0.01)
        response = await neighbour.ask(request(first=b"GET /neighbour HTTP/1.1"))
        assert response.body == b"hello"
    assert len(errors) == 100
    assert all(isinstance(error, ClientDisconnected) for error in errors)
    assert log.ends[0] is EndReason.CONNECTION_RESET


async def send_in_a_nursery(send: Send) -> None:
    """Send from several tasks, as an application with a producer and a heartbeat does."""
    await send({"type": "http.response.start", "status": 200})
    async with trio.open_nursery() as nursery:

        async def beat() -> None:
            while True:
                await send({"type": "http.response.body", "body": b".", "more_body": True})
                await trio.lowlevel.checkpoint()

        nursery.start_soon(beat)
        nursery.start_soon(trio.sleep_forever)


async def send_what_is_no_event(send: Send) -> None:
    await send({"type": "websocket.send", "text": "hello"})


async def raise_a_group(send: Send) -> None:
    raise ExceptionGroup("several", [ZeroDivisionError(), ValueError(), OSError("of a file")])


async def raise_after_answering(send: Send) -> None:
    await answer(send)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "fail", [send_in_a_nursery, send_what_is_no_event, raise_a_group, raise_after_answering]
)
async def test_whatever_one_connection_raises_its_neighbour_is_served(
    fail: Callable[[Send], Awaitable[None]], serving: Serving, log: ServerLog
) -> None:
    """An exception in one connection reaches the task that started it, and with it the whole server
    (hypercorn #177, #225)."""
    started = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/neighbour":
            await started.wait()
            await answer(send, b"fine")
        else:
            await fail(send)

    async with serving(app) as site:
        neighbour = await site.connect()
        await neighbour.send(request(first=b"GET /neighbour HTTP/1.1"))
        for _ in range(3):
            client = await site.connect()
            await client.send(GET)
            await wait_all_tasks_blocked() if fail is not send_in_a_nursery else None
            client.reset()
            while len(site.server.connections) > 1:  # noqa: ASYNC110  # the server has no event
                await trio.sleep(0.01)
        started.set()
        assert (await neighbour.receive()).body == b"fine"
    # An error of the application's is told, once each; that its client is gone is not one.
    assert len(log.records) == (0 if fail is send_in_a_nursery else 3)
    assert {record.levelname for record in log.records} <= {"ERROR"}
    log.records.clear()


# Answers that are none --------------------------------------------------------------------------


async def nothing_but_trailers(send: Send) -> None:
    await send({"type": "http.response.trailers", "headers": [(b"x", b"y")]})


async def nothing(send: Send) -> None:
    await trio.lowlevel.checkpoint()


async def an_error(send: Send) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (nothing_but_trailers, ResponseError),
        (nothing, None),
        (an_error, ZeroDivisionError),
    ],
)
async def test_no_500_without_a_word_in_the_log(
    respond: Callable[[Send], Awaitable[None]],
    error: type[Exception] | None,
    serving: Serving,
    log: ServerLog,
) -> None:
    """A client gets 500 and the log has nothing (gunicorn #3576), or the client of an application
    whose first event is an odd one gets no answer at all (anycorn #56)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).status == 500
            assert "GET /" in log.take_error(error)


async def test_a_response_that_fails_half_way_is_not_followed_by_500(
    serving: Serving, log: ServerLog
) -> None:
    """The head of an answer 500 is written into the body of a response that is under way
    (gunicorn #3729)."""
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await go_on.wait()
        raise ZeroDivisionError

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        assert (await client.received_by_now()).endswith(b"\r\n\r\n4\r\nhalf\r\n")
        go_on.set()
        with pytest.raises(UnexpectedEnd):
            await client.receive_rest()
        await site.all_ended()
        log.take_error(ZeroDivisionError)
    assert log.ends == [EndReason.ERROR_AFTER_STARTING_RESPONSE]


# What operators are told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_request_line"),
        (request(b"x: " + b"y" * 40_000), 431, "max_request_headers_total_size_exceeded"),
        (request(b"content-length: 99999999"), 413, "max_request_body_size_exceeded"),
    ],
)
async def test_a_refused_request_leaves_a_record(
    sent: bytes, status: int, reason: str, serving: Serving, log: ServerLog
) -> None:
    """A request that is refused before any application sees it leaves no trace (hypercorn #157)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, await read_body(receive))

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(sent)
        assert (await client.receive()).status == status
        await client.aclose()
        await site.all_ended()
    log.records.clear()  # what the application made of being told is its own
    assert [end.value for end in log.ends if end] == [reason]
