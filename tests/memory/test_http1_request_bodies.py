"""Request bodies on their way to the application, and those that it does not want."""

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import HttpExchange
from tests.http1_site import ServerLog, Serving, answer, echo, read_body
from tests.raw_client import GET, post, post_chunked, request

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


# Read by the application ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (GET, b""),
        (post(b""), b""),
        (post(b"hello"), b"hello"),
        (post(bytes(range(256))), bytes(range(256))),
        (request(b"content-length: 0000000000000000001", body=b"x"), b"x"),
        (request(b"Content-Length:\t5 ", first=b"GET / HTTP/1.1", body=b"hello"), b"hello"),
        (request(b"content-length: 5", first=b"POST / HTTP/1.0", body=b"hello"), b"hello"),
        (post_chunked(b"0\r\n\r\n"), b""),
        (post_chunked(b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
        (post_chunked(b"00000005\r\nhello\r\n00000000\r\n\r\n"), b"hello"),
        (post_chunked(b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n"), b"hello"),
        (post_chunked(b"a\r\n\r\n0\r\n\r\n\r\nx\r\n0\r\n\r\n"), b"\r\n0\r\n\r\n\r\nx"),
        (post_chunked(b"5;a=b;c\r\nhello\r\n0;x\r\n\r\n"), b"hello"),
        (post_chunked(b"5\r\nhello\r\n0\r\nx: y\r\nz: \r\n\r\n"), b"hello"),
        (request(b"Transfer-Encoding: Chunked ", body=b"1\r\nx\r\n0\r\n\r\n"), b"x"),
    ],
)
async def test_bodies(sent: bytes, body: bytes, serving: Serving, log: ServerLog) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        response = await client.ask(sent)
        assert (response.status, response.body) == (200, b"/ " + body)
        if response.keeps_alive:
            assert (await client.ask(post(b"again"))).body == b"/ again"


async def test_trailers_are_no_headers(serving: Serving, log: ServerLog) -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        seen.append(scope["headers"])
        await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        await client.ask(post_chunked(b"0\r\nauthorization: x\r\n\r\n"))
    assert seen == [[(b"host", b"a"), (b"transfer-encoding", b"chunked")]]


async def test_pieces_arrive_as_they_are_sent(serving: Serving, log: ServerLog) -> None:
    pieces: list[bytes] = []
    arrived = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            pieces.append(event["body"])
            arrived.set()
            if not event["more_body"]:
                return await answer(send)

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(request(b"transfer-encoding: chunked"))
        for number in range(1, 4):
            arrived = trio.Event()
            await client.send(b"1\r\n%d\r\n" % number)
            await arrived.wait()
            assert pieces == [b"%d" % each for each in range(1, number + 1)]
        await client.send(b"0\r\n\r\n")
        await client.receive()
    assert pieces == [b"1", b"2", b"3", b""]


async def test_upgrade_is_ignored(serving: Serving, log: ServerLog) -> None:
    lines = b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABk"
    async with serving(echo) as site:
        client = await site.connect()
        response = await client.ask(post(b"hello", *lines))
        assert (response.status, response.body) == (200, b"/ hello")
        assert (await client.ask(request(*lines))).status == 200


async def test_a_request_right_behind_a_body(serving: Serving, log: ServerLog) -> None:
    for sent in (post(b"x"), post_chunked(b"1\r\nx\r\n0\r\n\r\n")):
        async with serving(echo) as site:
            client = await site.connect()
            await client.send(sent + post(b"y") + GET)
            assert [(await client.receive()).body for _ in range(3)] == [b"/ x", b"/ y", b"/ "]


async def test_a_request_right_behind_an_unread_body(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(post(b"x") + post_chunked(b"1\r\nx\r\n0\r\n\r\n") + GET + GET)
        assert [(await client.receive()).body for _ in range(4)] == [b"hello"] * 4


# Expect: 100-continue ---------------------------------------------------------------------------


EXPECTING = request(b"content-length: 5", b"Expect: 100-Continue", first=b"POST / HTTP/1.1")


async def test_continue_is_sent_when_the_body_is_asked_for(
    serving: Serving, log: ServerLog
) -> None:
    ask, asked = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ask.wait()
        asked.set()
        body = await read_body(receive)
        await answer(send, body)

    async with serving(app) as site:
        client = await site.connect()
        await client.send(EXPECTING)
        assert await client.received_by_now() == b""
        ask.set()
        assert await client.receive_head() == (100, [])
        assert await client.received_by_now() == b""
        assert (await client.ask(b"hello")).body == b"hello"
        assert (await client.ask(post(b"again"))).body == b"again"


async def test_continue_is_sent_once(serving: Serving, log: ServerLog) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        await client.send(EXPECTING)
        assert await client.receive_head() == (100, [])
        await client.send(b"hel")
        assert await client.received_by_now() == b""
        assert (await client.ask(b"lo")).body == b"/ hello"


async def test_continue_to_a_chunked_body(serving: Serving, log: ServerLog) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        await client.send(request(b"transfer-encoding: chunked", b"expect: 100-continue"))
        assert await client.receive_head() == (100, [])
        assert (await client.ask(b"1\r\nx\r\n0\r\n\r\n")).body == b"/ x"


@pytest.mark.parametrize(
    "sent",
    [
        EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"),
        EXPECTING.replace(b"100-Continue", b"200-ok"),
        EXPECTING.replace(b": 5", b": 0") + b"\r\n" * 5,
    ],
    ids=["HTTP/1.0", "another expectation", "no body"],
)
async def test_no_continue(sent: bytes, serving: Serving, log: ServerLog) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        await client.send(sent)
        if sent.endswith(b"\r\n" * 6):
            assert (await client.receive()).status == 200
        else:
            assert await client.received_by_now() == b""
            assert (await client.ask(b"hello")).body == b"/ hello"


async def test_no_continue_when_the_body_is_there(serving: Serving, log: ServerLog) -> None:
    async with serving(echo) as site:
        client = await site.connect(byte_by_byte=False)
        assert (await client.ask(EXPECTING + b"hello")).body == b"/ hello"


async def test_no_continue_after_the_response_began(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await send({"type": "http.response.body", "body": await read_body(receive)})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(EXPECTING)
        status, _ = await client.receive_head()
        assert status == 200
        assert b"100" not in await client.received_by_now()
        await client.send(b"hello")
        assert await client.received_by_now() == b"5\r\nhello\r\n0\r\n\r\n"


async def test_no_continue_when_the_application_does_not_read(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(EXPECTING)).body == b"hello"
        start = autojump_clock.current_time()
        assert await client.receive_rest() == b""
        assert autojump_clock.current_time() - start == pytest.approx(5)
        await site.all_ended()
    assert log.ends == [EndReason.REQUEST_BODY_DRAIN_TIMEOUT]


async def test_the_body_may_come_after_a_final_response(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(EXPECTING)).body == b"hello"
        assert (await client.ask(b"hello" + GET)).body == b"hello"


# Not read by the application --------------------------------------------------------------------


async def test_an_unread_body_is_dropped(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        for body in (post(b"x" * 1000), post_chunked(b"3\r\nabc\r\n0\r\n\r\n")):
            await client.send(body)
            assert (await client.receive()).body == b"hello"
        assert (await client.ask(GET)).keeps_alive


async def test_an_unread_body_may_take_a_while(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(request(b"content-length: 4"))
        assert (await client.receive()).body == b"hello"
        for _ in range(4):
            await trio.sleep(1.2)
            await client.send(b"x")
        assert (await client.ask(GET)).body == b"hello"


@pytest.mark.parametrize(
    "slow", [request(b"content-length: 9"), post_chunked(b"f\r\n")], ids=["length", "chunked"]
)
async def test_an_unread_body_has_five_seconds(
    slow: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site, trio.open_nursery() as nursery:

        async def trickle() -> None:
            while True:
                await client.send(b"x")
                await trio.sleep(0.9)

        client = await site.connect(byte_by_byte=False)
        assert (await client.ask(slow)).keeps_alive
        start = autojump_clock.current_time()
        nursery.start_soon(trickle)
        assert await client.receive_rest() == b""
        assert autojump_clock.current_time() - start == pytest.approx(5)
        nursery.cancel_scope.cancel()
        await site.all_ended()
    assert log.ends == [EndReason.REQUEST_BODY_DRAIN_TIMEOUT]


async def test_bad_framing_of_an_unread_body_gets_no_second_answer(
    serving: Serving, log: ServerLog
) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(post_chunked(b"zz\r\n" + GET))).body == b"hello"
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_BODY_FRAMING]


async def test_an_unread_body_that_ends_early(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(request(b"content-length: 9", body=b"x"))).body == b"hello"
        await client.send_eof()
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT]


async def test_before_the_last_response_is_lost_an_unread_body_is_read(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A connection closed with input unread is reset, and the reset destroys the response."""
    async with serving() as site:
        client = await site.connect(byte_by_byte=False)
        sent = request(b"connection: close", b"content-length: 200000")
        await client.send(sent)
        assert (await client.receive()).body == b"hello"
        assert await client.receive_rest() == b""
        for _ in range(19):
            await client.send(b"x" * 10000)
            await trio.sleep(0.1)
        await client.aclose()
        await site.all_ended()
        assert autojump_clock.current_time() == pytest.approx(1.9, abs=0.02)
    assert log.ends == [EndReason.COMPLETED]


async def test_a_body_partly_read(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        event = await receive()
        assert event["more_body"]
        await answer(send, event["body"])

    async with serving(app) as site:
        client = await site.connect()
        for sent in (
            request(b"content-length: 5", body=b"h"),
            post_chunked(b"5\r\nh"),
        ):
            assert (await client.ask(sent)).body == b"h"
            await client.send(b"ello" if b"length" in sent else b"ello\r\n0\r\n\r\n")


async def test_reading_goes_on_after_the_response_began(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        more_body = True
        while more_body:
            event = await receive()
            more_body = event["more_body"]
            await send(
                {"type": "http.response.body", "body": event["body"], "more_body": more_body}
            )

    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(post(b"hello"))).body == b"hello"
        assert (await client.ask(post_chunked(b"2\r\nhi\r\n0\r\n\r\n"))).body == b"hi"


async def test_reading_after_the_response_tells_of_its_end(
    serving: Serving, log: ServerLog
) -> None:
    events: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"early")
        events.extend([await receive(), await receive()])

    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(post(b"hello"))).body == b"early"
        assert (await client.ask(GET)).body == b"early"
    assert events == [{"type": "http.disconnect"}] * 4


@pytest.mark.parametrize("finishes", [True, False])
async def test_a_body_that_is_wrong_after_the_response_began(
    finishes: bool, serving: Serving, log: ServerLog
) -> None:
    """Too late for another status: the response is finished, or the connection cut."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        assert (await receive())["body"] == b"x"
        assert await receive() == {"type": "http.disconnect"}
        if finishes:
            await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(request(b"transfer-encoding: chunked", body=b"1\r\nx\r\n"))
        assert (await client.receive_head())[0] == 200
        assert await client.received_by_now() == b"5\r\nbegun\r\n"
        await client.send(b"zz")
        if finishes:
            assert await client.receive_rest() == b"0\r\n\r\n"
            await client.aclose()
        else:
            assert await client.is_reset()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_BODY_FRAMING]


async def test_a_native_handler_may_let_errors_of_the_request_pass(
    serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        while await exchange.receive():
            pass
        await exchange.respond(200, [])

    async with serving(native=handler) as site:
        client = await site.connect()
        assert (await client.ask(post_chunked(b"zz\r\n"))).status == 400
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_BODY_FRAMING]
