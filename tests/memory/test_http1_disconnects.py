"""Clients that go away, and what applications hear of it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, HttpExchange
from tests.http1_site import ServerLog, Serving, Site, answer, echo, hello, read_body
from tests.raw_client import GET, RawClient, post, post_chunked, request

DISCONNECT = {"type": "http.disconnect"}

Leave = Callable[[RawClient], Awaitable[None]]


async def close(client: RawClient) -> None:
    await client.aclose()


async def reset(client: RawClient) -> None:
    client.reset()


async def half_close(client: RawClient) -> None:
    await client.send_eof()


leaving = pytest.mark.parametrize("leave", [close, reset, half_close])
gone = pytest.mark.parametrize("leave", [close, reset])


async def leave_busy(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    sent: bytes,
    leave: Leave,
    serving: Serving,
) -> bytes:
    """Send that, leave when the server has nothing more to do, and return what still comes."""
    async with serving(app) as site:
        client = await site.connect()
        await client.send(sent)
        await wait_all_tasks_blocked()
        await leave(client)
        received = b""
        if leave is half_close:
            received = await client.receive_rest()
        await site.all_ended()
    return received


class Told:
    """Keeps the events that it receives, and ends with `end`."""

    def __init__(self, end: Callable[[Send], Awaitable[None]] | None = None, more: int = 0) -> None:
        self.events: list[Event] = []
        self.end = end
        self.more = more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self.events or self.events[-1] != DISCONNECT:
            self.events.append(await receive())
        for _ in range(self.more):
            self.events.append(await receive())
        if self.end is not None:
            await self.end(send)


# While the body arrives -------------------------------------------------------------------------


@leaving
@pytest.mark.parametrize(
    "sent", [post(b"hello")[:-2], post_chunked(b"5\r\nhel")], ids=["length", "chunked"]
)
async def test_in_the_middle_of_a_body(
    sent: bytes, leave: Leave, serving: Serving, log: ServerLog
) -> None:
    app = Told(more=2)
    received = await leave_busy(app, sent, leave, serving)
    assert b"".join(event["body"] for event in app.events[:-3]) == b"hel"
    assert all(event["more_body"] for event in app.events[:-3])
    assert app.events[-3:] == [DISCONNECT] * 3
    if leave is reset:
        assert log.ends == [EndReason.CONNECTION_RESET]
    else:
        assert log.ends == [EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT]
    if leave is half_close:  # it can still be told that this was too early
        assert received.startswith(b"HTTP/1.1 400 ")


@leaving
async def test_before_any_body(leave: Leave, serving: Serving, log: ServerLog) -> None:
    app = Told()
    await leave_busy(app, request(b"content-length: 5"), leave, serving)
    assert app.events == [DISCONNECT]


async def test_a_truncated_body_is_not_answered_by_the_application(
    serving: Serving, log: ServerLog
) -> None:
    """It might take the half that it got for the whole, if it does not look closely."""
    errors: list[OSError] = []

    async def end(send: Send) -> None:
        try:
            await answer(send, b"thank you")
        except OSError as error:
            errors.append(error)
            raise

    received = await leave_busy(Told(end), post(b"hello")[:-2], half_close, serving)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert isinstance(errors.pop(), ClientDisconnected)


# While the application works --------------------------------------------------------------------


@leaving
async def test_an_application_that_waits_for_it_is_told(
    leave: Leave, serving: Serving, log: ServerLog
) -> None:
    app = Told(more=2)
    assert await leave_busy(app, GET, leave, serving) == b""
    assert app.events == [
        {"type": "http.request", "body": b"", "more_body": False},
        *[DISCONNECT] * 3,
    ]
    assert log.ends == [EndReason.CONNECTION_RESET]


@gone
@pytest.mark.parametrize("pieces", [1, 2])
async def test_sending_to_a_client_that_is_gone(
    pieces: int, leave: Leave, serving: Serving, log: ServerLog
) -> None:
    go_on = trio.Event()
    errors: list[OSError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200})
        for number in range(pieces):
            event = {"type": "http.response.body", "body": b"x", "more_body": number + 1 < pieces}
            try:
                await send(event)
            except OSError as error:
                errors.append(error)
        assert await receive() == DISCONNECT

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        await leave(client)
        go_on.set()
        await site.all_ended()
    assert len(errors) == pieces
    assert all(isinstance(error, ClientDisconnected) for error in errors)
    assert log.ends == [EndReason.CONNECTION_RESET]


@gone
async def test_last_response_to_a_client_that_is_gone(
    leave: Leave, serving: Serving, log: ServerLog
) -> None:
    """Nothing more will be read from the connection, and yet it did not end well."""
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        with suppress(OSError):
            await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        await client.send(request(b"connection: close"))
        await wait_all_tasks_blocked()
        await leave(client)
        go_on.set()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_reset_after_the_response_began(serving: Serving, log: ServerLog) -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"y"})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        client.reset()
        go_on.set()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_reset_while_idle(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.ask(GET)
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_reset_in_a_head(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(GET[:10])
        await wait_all_tasks_blocked()
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_reset_while_an_unread_body_is_dropped(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.ask(post(b"hello")[:-1])
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_reset_while_lingering(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.ask(b"nonsense\r\n\r\n")
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


# Half-closed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "bodies"),
    [
        (GET, [b"/ "]),
        (post(b"hello"), [b"/ hello"]),
        (post_chunked(b"1\r\nx\r\n0\r\n\r\n"), [b"/ x"]),
        (GET * 3, [b"/ "] * 3),
        (GET + post(b"hello"), [b"/ ", b"/ hello"]),
        (GET + b"\r\n", [b"/ "]),
    ],
)
async def test_a_client_that_ends_its_side_is_answered(
    sent: bytes, bodies: list[bytes], serving: Serving, log: ServerLog
) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        await client.send(sent)
        await client.send_eof()
        for body in bodies:
            response = await client.receive()
            assert (response.status, response.body) == (200, body)
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]


async def test_and_so_it_is_after_a_while(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for number in range(3):
            await trio.sleep(100)
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await client.send_eof()
        assert (await client.receive()).body == b"012"
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]


async def test_an_application_may_answer_after_having_been_told(
    serving: Serving, log: ServerLog
) -> None:
    """The end of the client's side counts as a disconnect, but the client may be there."""

    async def end(send: Send) -> None:
        await answer(send, b"late")

    received = await leave_busy(Told(end), GET, half_close, serving)
    assert received.endswith(b"\r\n\r\nlate")
    assert log.ends == [EndReason.PEER_CLOSED]


async def test_an_application_that_is_not_told_and_does_not_answer(
    serving: Serving, log: ServerLog
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.lowlevel.checkpoint()

    received = await leave_busy(app, GET, half_close, serving)
    assert received.startswith(b"HTTP/1.1 500 ")
    log.take_error()


@pytest.mark.parametrize("end", [0, 1, 10, len(GET) - 1])
async def test_the_end_of_half_a_head(end: int, serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(GET + GET[:end])
        await client.send_eof()
        assert (await client.receive()).body == b"hello"
        if end == 0:
            reason = EndReason.PEER_CLOSED
        else:
            reason = EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT
            assert (await client.receive()).status == 400
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [reason]


@pytest.mark.parametrize("sent", [b"", b"\r", b"\r\n", b"\r\n\r\n"])
async def test_the_end_of_nothing(sent: bytes, serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(sent)
        await client.send_eof()
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]


async def test_whoever_looks_out_behind_the_end_is_told_of_the_response(
    serving: Serving, log: ServerLog
) -> None:
    """The client has ended its side, but sent more before: it waits for its answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:

            async def look_out() -> None:
                assert await receive() == DISCONNECT

            nursery.start_soon(look_out)
            await wait_all_tasks_blocked()
            await answer(send, b"hello")

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET * 3)
        await client.send_eof()
        for _ in range(3):
            assert (await client.receive()).body == b"hello"
        assert await client.receive_rest() == b""


# Receiving beside sending -----------------------------------------------------------------------


async def test_receive_in_a_child_task(serving: Serving, log: ServerLog) -> None:
    """It returns when the response is complete, so nobody need cancel it."""
    events: list[Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)

        async def look_out() -> None:
            events.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_out)
            await send({"type": "http.response.start", "status": 200})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await trio.lowlevel.checkpoint()
            assert events == []
            await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        for sent in (GET, post(b"hello"), GET):
            assert (await client.ask(sent)).body == b"xxx"
            await wait_all_tasks_blocked()
            assert events.pop() == DISCONNECT


async def test_receive_of_a_body_in_a_child_task(serving: Serving, log: ServerLog) -> None:
    """The response is complete before the body is; it is not waited for in vain."""
    events: list[Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def look_out() -> None:
            events.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_out)
            await wait_all_tasks_blocked()
            await answer(send, b"early")

    async with serving(app) as site:
        client = await site.connect()
        for sent in (request(b"content-length: 5"), request(b"transfer-encoding: chunked")):
            assert (await client.ask(sent)).body == b"early"
            await wait_all_tasks_blocked()
            assert events.pop() == DISCONNECT
            await client.send(b"hello" if b"length" in sent else b"1\r\nx\r\n0\r\n\r\n")


@gone
async def test_a_child_task_that_is_told_may_cancel_the_rest(
    leave: Leave, serving: Serving, log: ServerLog
) -> None:
    """What Starlette and others do with a streaming response."""
    cancelled = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal cancelled
        await read_body(receive)
        async with trio.open_nursery() as nursery:

            async def look_out() -> None:
                assert await receive() == DISCONNECT
                nursery.cancel_scope.cancel()

            nursery.start_soon(look_out)
            try:
                await trio.sleep_forever()
            finally:
                cancelled = True

    await leave_busy(app, GET, leave, serving)
    assert cancelled
    assert log.ends == [EndReason.CONNECTION_RESET]


# Looking without waiting ------------------------------------------------------------------------


async def look(receive: Receive) -> Event | None:
    """Receive what is there already; what Starlette's `is_disconnected` does."""
    event: Event | None = None
    with trio.CancelScope() as scope:
        scope.cancel()
        event = await receive()
    return event


@leaving
async def test_looking_once_finds_that_the_client_is_gone(
    leave: Leave, serving: Serving, log: ServerLog
) -> None:
    seen: list[Event | None] = []
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        seen.extend([await look(receive), await look(receive)])
        await go_on.wait()
        seen.append(await look(receive))

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        await leave(client)
        go_on.set()
        await site.all_ended()
    assert seen == [None, None, DISCONNECT]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_looking_finds_the_body_that_has_arrived(
    chunked: bool, serving: Serving, log: ServerLog
) -> None:
    """And loses none of it: nothing is there, then something, then nothing again."""
    seen: list[Event | None] = []
    step = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal step
        while not seen or seen[-1] is None or seen[-1]["more_body"]:
            await step.wait()
            step = trio.Event()
            seen.append(await look(receive))
        await answer(send, b"".join(event["body"] for event in seen if event))

    async def look_now() -> Event | None:
        step.set()
        await wait_all_tasks_blocked()
        return seen[-1]

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        head = b"transfer-encoding: chunked" if chunked else b"content-length: 2"
        await client.send(request(head))
        await wait_all_tasks_blocked()
        assert await look_now() is None
        await client.send(b"1\r\nx" if chunked else b"x")
        assert await look_now() == {"type": "http.request", "body": b"x", "more_body": True}
        assert await look_now() is None
        if chunked:
            await client.send(b"\r\n1")
            assert await look_now() is None
        await client.send(b"\r\ny\r\n0\r\n\r\n" if chunked else b"y")
        assert await look_now() == {"type": "http.request", "body": b"y", "more_body": False}
        assert (await client.receive()).body == b"xy"
        client.reset()


async def test_looking_does_not_lose_the_next_request(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        assert await look(receive) is None
        await trio.lowlevel.checkpoint()
        assert await look(receive) is None
        await answer(send, scope["path"].encode())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(b"".join(request(first=b"GET /%d HTTP/1.1" % n) for n in range(5)))
        assert [(await client.receive()).body for _ in range(5)] == [b"/%d" % n for n in range(5)]


# Errors -----------------------------------------------------------------------------------------


async def raise_another(send: Send) -> None:
    """Fail because of it, with an error of one's own, as frameworks do."""
    raise ZeroDivisionError


async def send_and_fail(send: Send) -> None:
    """Let the error of `send` pass."""
    await answer(send)


async def send_and_translate(send: Send) -> None:
    """Translate the error of `send`, as Starlette does."""
    try:
        await answer(send)
    except OSError:
        raise ZeroDivisionError  # noqa: B904  # as Starlette does


async def send_in_a_group(send: Send) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, send)
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("end", [send_and_fail, send_and_translate, send_in_a_group])
@pytest.mark.parametrize("sent", [GET, post(b"hello")[:-1]], ids=["working", "in the body"])
async def test_errors_that_follow_from_it_are_nobodys(
    end: Callable[[Send], Awaitable[None]], sent: bytes, serving: Serving, log: ServerLog
) -> None:
    await leave_busy(Told(end), sent, reset, serving)
    assert log.ends == [EndReason.CONNECTION_RESET]


@leaving
async def test_other_errors_after_having_been_told_are_noted_quietly(
    leave: Leave, serving: Serving, log: ServerLog
) -> None:
    received = await leave_busy(Told(raise_another), GET, leave, serving)
    record = log.take()
    assert (record.name, record.levelname) == ("kestrel.http", "DEBUG")
    assert record.exc_info is not None
    assert record.getMessage() == "the application failed on GET /, whose client is gone"
    assert received == b""
    assert log.ends == [EndReason.CONNECTION_RESET]


@leaving
async def test_errors_without_having_been_told_are_errors(
    leave: Leave, serving: Serving, log: ServerLog
) -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        raise ZeroDivisionError

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        await leave(client)
        go_on.set()
        if leave is half_close:
            assert (await client.receive()).status == 500
        await site.all_ended()
    log.take_error(ZeroDivisionError)


async def test_native_handlers_see_the_same(serving: Serving, log: ServerLog) -> None:
    seen: list[object] = []

    async def handler(exchange: HttpExchange) -> None:
        assert not exchange.disconnected
        await exchange.wait_disconnected()
        seen.append(exchange.disconnected)
        await exchange.wait_disconnected()
        await exchange.respond(200, [])

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        client.reset()
        await site.all_ended()
    assert seen == [True]
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_neighbours_notice_nothing(serving: Serving, log: ServerLog) -> None:
    async with serving(hello) as site:
        neighbour = await site.connect()
        for leave in (close, reset, half_close):
            await leave_one(site, leave)
            assert (await neighbour.ask(GET)).body == b"hello"
        assert len(site.server.connections) == 1


async def leave_one(site: Site, leave: Leave) -> None:
    client = await site.connect()
    await client.send(GET[:20])
    await wait_all_tasks_blocked()
    await leave(client)
    while len(site.server.connections) > 1:  # noqa: ASYNC110  # the server has no event for it
        await trio.sleep(0.01)
