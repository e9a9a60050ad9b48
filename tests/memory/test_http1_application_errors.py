"""Applications that respond wrongly, or not at all: theirs is the error, and the client sees 500."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest
import trio

from kestrel_core.end_reason import EndReason
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, HttpExchange, ResponseError
from tests.http1_site import ServerLog, Serving, answer
from tests.raw_client import GET, UnexpectedEnd, post, post_chunked, request

HEAD = GET.replace(b"GET", b"HEAD")


def start(status: object = 200, *headers: object) -> Event:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: object = b"", *, more: bool = False) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(value: bytes) -> tuple[bytes, bytes]:
    return (b"content-length", value)


class Sending:
    """Sends these events, the first time; answers properly from then on."""

    def __init__(self, *events: Event) -> None:
        self.events: Sequence[Event] = events
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        if self.calls > 1:
            await answer(send, b"fine")
            return
        for event in self.events:
            await send(event)


async def expect_500(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    serving: Serving,
    log: ServerLog,
    kind: type[Exception] | None,
    sent: bytes = GET,
) -> str:
    """One request gets 500, and the next on the same connection what it should."""
    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(sent, to_head=sent.startswith(b"HEAD"))
        assert response.status == 500
        assert response.body == (b"" if sent.startswith(b"HEAD") else b"Internal Server Error")
        assert response.keeps_alive
        text = log.take_error(kind)
        assert (await client.ask(GET)).body == b"fine"
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]
    log.ends.clear()
    return text


async def expect_cut(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    serving: Serving,
    log: ServerLog,
    kind: type[Exception] | None,
    reason: EndReason,
) -> None:
    """The client cannot take what it has got for the whole response."""
    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        with pytest.raises(UnexpectedEnd):
            await client.receive()
        await site.all_ended()
        log.take_error(kind)
        assert log.ends == [reason]
        neighbour = await site.connect()
        assert (await neighbour.ask(GET)).body == b"fine"


# Before anything was sent -----------------------------------------------------------------------

WRONG: dict[str, list[Event]] = {
    "unknown event": [{"type": "http.response.push"}],
    "body first": [body(b"x")],
    "start twice": [start(), start()],
    "length too small": [start(200, length(b"1")), body(b"xy")],
    "length too large": [start(200, length(b"3")), body(b"xy")],
    "length of nothing": [start(200, length(b"3")), body()],
    "length negative": [start(200, length(b"-1")), body(b"x")],
    "length no number": [start(200, length(b"five")), body(b"x")],
    "length empty": [start(200, length(b"")), body(b"x")],
    "length with a sign": [start(200, length(b"+1")), body(b"x")],
    "length of many digits": [start(200, length(b"9" * 5000)), body(b"x")],
    "length twice": [start(200, length(b"1"), length(b"1")), body(b"x")],
    "length and coding": [start(200, length(b"1"), (b"transfer-encoding", b"chunked")), body(b"x")],
    "other coding": [start(200, (b"transfer-encoding", b"gzip")), body(b"x")],
    "coding too many": [start(200, (b"transfer-encoding", b"gzip, chunked")), body(b"x")],
    "first piece too large": [start(200, length(b"1")), body(b"xy", more=True)],
    "204 with a body": [start(204), body(b"x")],
    "204 with a piece of body": [start(204), body(b"x", more=True)],
    "204 with a length": [start(204, length(b"1")), body()],
    "205 with a body": [start(205), body(b"x")],
    "205 with a piece of body": [start(205), body(b"x", more=True)],
    "304 with a body": [start(304), body(b"x")],
    "304 with a piece of body": [start(304), body(b"x", more=True)],
    "status 100": [start(100), body()],
    "status 101": [start(101), body()],
    "status 199": [start(199), body(more=True)],
    "status 99": [start(99), body()],
    "status 1000": [start(1000), body()],
    "status -1": [start(-1), body()],
    "status text": [start("200"), body()],
    "status float": [start(299.5), body()],
    "status integral float": [start(298.0), body()],
    "name empty": [start(200, (b"", b"x")), body()],
    "name with a space": [start(200, (b"a b", b"x")), body()],
    "name with a colon": [start(200, (b"a:", b"x")), body()],
    "name with a line end": [start(200, (b"a\r\nb", b"x")), body()],
    "name beyond ASCII": [start(200, (b"\xe9", b"x")), body()],
    "name text": [start(200, ("a", b"x")), body()],
    "value with CRLF": [start(200, (b"a", b"x\r\nset-cookie: y")), body()],
    "value with LF": [start(200, (b"a", b"x\ny")), body()],
    "value with CR": [start(200, (b"a", b"x\ry")), body()],
    "value ending in CR": [start(200, (b"a", b"x\r")), body()],
    "values that make CRLF together": [start(200, (b"a", b"x\r"), (b"b", b"\ny")), body()],
    "value with NUL": [start(200, (b"a", b"x\0y")), body()],
    "value with 0x01": [start(200, (b"a", b"x\x01y")), body()],
    "value with DEL": [start(200, (b"a", b"x\x7fy")), body()],
    "value text": [start(200, (b"a", "x")), body()],
    "value a number": [start(200, (b"a", 1)), body()],
    "value None": [start(200, (b"a", None)), body()],
    "pair of three": [start(200, (b"a", b"b", b"c")), body()],
    "pair of one": [start(200, (b"a",)), body()],
    "pair of bytes": [start(200, b"ab"), body()],
    "CRLF in a connection option": [start(200, (b"connection", b"x\r\ny: z")), body()],
    "CRLF in a date": [start(200, (b"date", b"x\r\ny: z")), body()],
    "body text": [start(), body("hello")],
    "body text of known length": [start(200, length(b"5")), body("hello")],
    "empty text": [start(), body("")],
    "large text": [start(), body("x" * 100_000)],
    "piece of text": [start(), body("hello", more=True)],
    "body None": [start(), body(None)],
    "body a number": [start(), body(5)],
    "body a list": [start(), body([104, 105])],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_response(name: str, serving: Serving, log: ServerLog) -> None:
    await expect_500(Sending(*WRONG[name]), serving, log, ResponseError)


NO_EVENTS: dict[str, tuple[list[Event], type[Exception]]] = {
    "no type": ([{}], KeyError),
    "no status": ([{"type": "http.response.start"}], KeyError),
    "status None": ([start(None), body()], ResponseError),
    "headers None": (
        [{"type": "http.response.start", "status": 200, "headers": None}, body()],
        TypeError,
    ),
}


@pytest.mark.parametrize("name", NO_EVENTS)
async def test_no_event(name: str, serving: Serving, log: ServerLog) -> None:
    events, kind = NO_EVENTS[name]
    await expect_500(Sending(*events), serving, log, kind)


@pytest.mark.parametrize("sent", [GET, HEAD, post(b"hello"), post_chunked(b"1\r\nx\r\n0\r\n\r\n")])
async def test_raising(sent: bytes, serving: Serving, log: ServerLog) -> None:
    class Raising(Sending):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().__call__(scope, receive, send)
            if self.calls == 1:
                raise ZeroDivisionError

    text = await expect_500(Raising(), serving, log, ZeroDivisionError, sent)
    assert text == f"the application failed on {sent.split()[0].decode()} /"
    await expect_500(Raising(start(204, (b"x", b"y"))), serving, log, ZeroDivisionError, sent)


async def test_raising_at_once(serving: Serving, log: ServerLog) -> None:
    """Not even a coroutine comes of the call."""
    proper = Sending()
    proper.calls = 1
    calls = 0

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        nonlocal calls
        calls += 1
        return proper(scope, receive, send) if calls > 1 else 1 / 0  # type: ignore[return-value]

    await expect_500(app, serving, log, ZeroDivisionError)


async def test_what_is_not_async(serving: Serving, log: ServerLog) -> None:
    proper = Sending()
    proper.calls = 1
    calls = 0

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        nonlocal calls
        calls += 1
        return proper(scope, receive, send) if calls > 1 else None  # type: ignore[return-value]

    await expect_500(app, serving, log, TypeError)


async def test_group_of_errors(serving: Serving, log: ServerLog) -> None:
    proper = Sending()
    proper.calls = 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if proper.calls > 1:
            return await proper(scope, receive, send)
        proper.calls += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    async def fail() -> None:
        raise ZeroDivisionError

    await expect_500(app, serving, log, ExceptionGroup)


@pytest.mark.parametrize(
    "events", [[], [start()], [start(200, length(b"5"))]], ids=["nothing", "start", "length"]
)
async def test_returning_without_a_response(
    events: list[Event], serving: Serving, log: ServerLog
) -> None:
    text = await expect_500(Sending(*events), serving, log, None)
    assert text == "the application returned without starting a response to GET /"


async def test_500_closes_what_was_to_be_closed(serving: Serving, log: ServerLog) -> None:
    async with serving(Sending()) as site:
        client = await site.connect()
        response = await client.ask(request(b"connection: close"))
        assert (response.status, response.keeps_alive) == (500, False)
        assert await client.receive_rest() == b""
        log.take_error()


async def test_500_in_a_pipeline(serving: Serving, log: ServerLog) -> None:
    async with serving(Sending(body(b"x"))) as site:
        client = await site.connect()
        await client.send(GET * 3)
        assert [(await client.receive()).status for _ in range(3)] == [500, 200, 200]
        log.take_error(ResponseError)


# After something was sent -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (
            [start(200, length(b"5")), body(b"hel", more=True), body(b"loo")],
            EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH,
        ),
        (
            [start(200, length(b"5")), body(b"hel", more=True), body(b"l")],
            EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH,
        ),
        (
            [start(200, length(b"5")), body(more=True), body()],
            EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH,
        ),
        (
            [start(), body(b"x", more=True), start()],
            EndReason.ERROR_AFTER_STARTING_RESPONSE,
        ),
        (
            [start(), body(b"x", more=True), {"type": "http.response.trailers"}],
            EndReason.ERROR_AFTER_STARTING_RESPONSE,
        ),
        (
            [start(), body(b"x", more=True), body("y", more=True)],
            EndReason.ERROR_AFTER_STARTING_RESPONSE,
        ),
    ],
    ids=["too many bytes", "too few", "none", "start again", "unknown event", "text"],
)
async def test_wrong_after_the_start(
    events: list[Event], reason: EndReason, serving: Serving, log: ServerLog
) -> None:
    await expect_cut(Sending(*events), serving, log, ResponseError, reason)


async def test_raising_after_the_start(serving: Serving, log: ServerLog) -> None:
    class Raising(Sending):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().__call__(scope, receive, send)
            if self.calls == 1:
                raise ZeroDivisionError

    for framing in ([], [length(b"5")]):
        app = Raising(start(200, *framing), body(b"x", more=True))
        await expect_cut(
            app, serving, log, ZeroDivisionError, EndReason.ERROR_AFTER_STARTING_RESPONSE
        )
        log.ends.clear()


async def test_returning_after_the_start(serving: Serving, log: ServerLog) -> None:
    app = Sending(start(), body(b"x", more=True))
    await expect_cut(app, serving, log, None, EndReason.ERROR_AFTER_STARTING_RESPONSE)


async def test_cut_until_close(serving: Serving, log: ServerLog) -> None:
    """Where only the end of the connection tells where the body ends, it must be a reset."""
    async with serving(Sending(start(), body(b"x", more=True))) as site:
        client = await site.connect()
        await client.send(GET.replace(b"1.1", b"1.0"))
        with pytest.raises(UnexpectedEnd):
            await client.receive()
        log.take_error()


# After everything was sent ----------------------------------------------------------------------


@pytest.mark.parametrize("late", [start(), body(b"x"), body(more=True)])
async def test_sending_more_than_a_response(late: Event, serving: Serving, log: ServerLog) -> None:
    """The client has what it should have; the error is told all the same."""
    async with serving(Sending(start(), body(b"all"), late)) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"all"
        log.take_error(ResponseError)
        assert (await client.ask(GET)).body == b"fine"


async def test_raising_after_the_response(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"all")
        raise ZeroDivisionError

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == b"all"
            log.take_error(ZeroDivisionError)


# Native handlers --------------------------------------------------------------------------------


async def test_a_handler_may_correct_itself(serving: Serving, log: ServerLog) -> None:
    """As long as nothing was sent."""

    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ResponseError):
            await exchange.respond(200, [(b"bad name", b"")])
        with pytest.raises(ResponseError):
            await exchange.write(b"")
        with pytest.raises(ResponseError):
            await exchange.finish()
        for wrong_end in (exchange.finish, partial(exchange.write, b"xyz")):
            await exchange.start(200, [(b"content-length", b"2")])
            assert exchange.response_started
            with pytest.raises(ResponseError):
                await exchange.start(200, [])
            with pytest.raises(ResponseError):
                await wrong_end()
            assert not exchange.response_started
        await exchange.respond(200, [], b"fine")
        for late in (
            partial(exchange.respond, 200, []),
            partial(exchange.start, 200, []),
            partial(exchange.write, b""),
            exchange.finish,
        ):
            with pytest.raises(ResponseError):
                await late()

    async with serving(native=handler) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"fine"
        assert (await client.ask(GET)).body == b"fine"


async def test_a_handler_that_starts_and_raises(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [(b"x", b"y")])
        raise ZeroDivisionError

    async with serving(native=handler) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert (response.status, response.all(b"x")) == (500, [])
        log.take_error(ZeroDivisionError)


async def test_asking_for_a_body_after_the_response_harms_nobody(
    serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.respond(200, [], b"fine")
        with pytest.raises(ClientDisconnected):
            await exchange.receive()
        await exchange.receive()

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(post(b"x"))).body == b"fine"


# Neighbours -------------------------------------------------------------------------------------


async def test_neighbours_are_served(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            await send(start())
            await send(body(b"x", more=True))
            raise ZeroDivisionError
        await trio.lowlevel.checkpoint()
        await answer(send, b"fine")

    async with serving(app) as site:
        good = await site.connect()
        for _ in range(3):
            bad = await site.connect()
            await good.send(GET[:10])
            await bad.send(GET.replace(b"/ ", b"/bad "))
            await good.send(GET[10:])
            assert await bad.is_reset()
            assert (await good.receive()).body == b"fine"
            log.take_error(ZeroDivisionError)
        assert len(site.server.connections) == 1
