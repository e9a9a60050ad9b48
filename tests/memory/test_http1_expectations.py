"""What people who come from other servers expect of HTTP/1.1, where no other file tests it.

The ideas are those of uvicorn's and hypercorn's own tests of HTTP/1; most of theirs were covered.
"""

import time
from email.utils import parsedate_to_datetime

import h11
import httpx
import pytest
import trio
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.testing import open_server
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, Serving, answer, echo, hello, read_body
from tests.raw_client import GET, RawClient, post, post_chunked, request

# Requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"G?T / HTTP/1.1", b"GET /?x=y z HTTP/1.1", b"GET / HTTP1.1", b"GET /HTTP/1.1"]
)
async def test_near_misses_of_a_request_line(line: bytes, serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(request(first=line))).status == 400
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


async def test_fields_reach_the_application_one_by_one(serving: Serving, log: ServerLog) -> None:
    """In order, names in lower case and otherwise as they were; none is joined with another."""
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["headers"])
        await answer(send)

    lines = [b"FOO_BAR: Foo_Bar", b"Cookie: a=1", b"accept: x", b"cookie: b=2", b"Accept:"]
    async with serving(app) as site:
        client = await site.connect()
        await client.ask(request(*lines))
    assert seen == [
        [
            (b"host", b"a"),
            (b"foo_bar", b"Foo_Bar"),
            (b"cookie", b"a=1"),
            (b"accept", b"x"),
            (b"cookie", b"b=2"),
            (b"accept", b""),
        ]
    ]


# Responses --------------------------------------------------------------------------------------


async def test_what_an_application_returns_does_not_matter(
    serving: Serving, log: ServerLog
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> object:
        if scope["path"] == "/later":
            await trio.lowlevel.checkpoint()
        await hello(scope, receive, send)
        return 123

    async with serving(app) as site:  # type: ignore[arg-type]  # wrong on purpose
        client = await site.connect()
        for path in (b"/", b"/later", b"/"):
            response = await client.ask(request(first=b"GET %b HTTP/1.1" % path))
            assert (response.body, response.keeps_alive) == (b"hello", True)


async def test_a_stream_opens_before_it_has_anything_to_say(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A first piece that is empty sends the head; those who wait for events see that they may."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        for number in range(3):
            await trio.sleep(60)
            data = b"data: %d\n\n" % number
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await trio.sleep(60)
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        status, headers = await client.receive_head()
        assert (status, autojump_clock.current_time()) == (200, 0)
        assert (b"content-type", b"text/event-stream") in headers
        for number in range(3):
            assert await client.receive_some() == b"9\r\ndata: %d\n\n\r\n" % number
            assert autojump_clock.current_time() == 60 * (number + 1)
        assert await client.receive_some() == b"0\r\n\r\n"


async def test_a_conversation_within_one_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Each piece of the body is answered before the next is sent."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        more_body = True
        while more_body:
            event = await receive()
            more_body = event["more_body"]
            body = event["body"].upper()
            await send({"type": "http.response.body", "body": body, "more_body": more_body})

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(request(b"transfer-encoding: chunked"))
        for number, word in enumerate((b"one", b"two", b"six")):
            await client.send(b"3\r\n%b\r\n" % word)
            if number == 0:
                assert (await client.receive_head())[0] == 200
            assert await client.receive_some() == b"3\r\n%b\r\n" % word.upper()
        await client.send(b"0\r\n\r\n")
        assert await client.receive_some() == b"0\r\n\r\n"


async def test_a_stream_that_closes(serving: Serving, log: ServerLog) -> None:
    """`Connection: close` of the application's ends the connection behind the last chunk."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (b"hel", b"lo"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert (response.body, response.all(b"transfer-encoding")) == (b"hello", [b"chunked"])
        assert response.all(b"connection") == [b"close"]
        assert await client.receive_rest() == b""


async def test_the_date_is_now(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        before = int(time.time())
        (date,) = (await client.ask(GET)).all(b"date")
    assert before <= parsedate_to_datetime(date.decode()).timestamp() <= time.time()


# Other people's clients -------------------------------------------------------------------------


async def h11_events(client: RawClient, connection: h11.Connection) -> list[h11.Event]:
    """Receive one response as h11 sees it."""
    events: list[h11.Event] = []
    while not events or not isinstance(events[-1], h11.EndOfMessage):
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await client.receive_some())
        else:
            assert isinstance(event, h11.Event)
            events.append(event)
    return events


async def test_h11_as_a_client(serving: Serving, log: ServerLog) -> None:
    """One connection, every framing: it understands each response, and that there may be another."""
    async with serving(echo) as site:
        client = await site.connect()
        connection = h11.Connection(h11.CLIENT)
        for method, headers, body in (
            ("GET", [], b""),
            ("POST", [("content-length", "5")], b"hello"),
            ("HEAD", [], b""),
            ("POST", [("transfer-encoding", "chunked")], b"hello"),
            ("POST", [("expect", "100-continue"), ("content-length", "5")], b"hello"),
            ("GET", [("connection", "close")], b""),
        ):
            sent = connection.send(
                h11.Request(method=method, target="/x", headers=[("host", "a"), *headers])
            )
            assert sent is not None
            await client.send(sent)
            if connection.client_is_waiting_for_100_continue:
                event = connection.next_event()
                while event is h11.NEED_DATA:
                    connection.receive_data(await client.receive_some())
                    event = connection.next_event()
                assert isinstance(event, h11.InformationalResponse)
                assert event.status_code == 100
            if body:
                await client.send(connection.send(h11.Data(data=body)) or b"")
            await client.send(connection.send(h11.EndOfMessage()) or b"")
            response, *data, _ = await h11_events(client, connection)
            assert isinstance(response, h11.Response)
            assert response.status_code == 200
            received = b"".join(bytes(part.data) for part in data if isinstance(part, h11.Data))
            assert received == (b"" if method == "HEAD" else b"/x " + body)
            if connection.their_state is h11.DONE:
                connection.start_next_cycle()
        assert connection.their_state is h11.MUST_CLOSE
        assert await client.receive_rest() == b""


async def test_a_client_with_a_pool_survives_that_connections_end(log: ServerLog) -> None:
    """Where a connection serves so many requests, the client is told in time, and opens another."""
    connections = set[str]()

    def note(exchange: HttpExchange) -> None:
        connections.add(exchange.connection.id)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/read":
            await read_body(receive)
        await answer(send, b"hello")

    handler = Http1(AsgiApplication(app), on_exchange_end=note)
    limits = Limits(max_requests_per_connection=2)
    async with open_server(handler, limits=limits) as opened, opened.httpx_client() as client:
        for number in range(10):
            path = "/read" if number % 3 else "/"
            response: httpx.Response = await client.post(path, json={"key": "value"})
            assert (response.status_code, response.text) == (200, "hello")
    assert len(connections) == 5


async def test_bodies_of_every_size_come_back(serving: Serving, log: ServerLog) -> None:
    """Around the sizes at which buffers end."""
    async with serving(echo) as site:
        client = await site.connect(byte_by_byte=False)
        for size in (0, 1, 4095, 4096, 65_535, 65_536, 65_537, 200_000):
            body = bytes(range(256)) * (size // 256 + 1)
            body = body[:size]
            chunks = b"%x\r\n%b\r\n" % (size, body) if size else b""
            for sent in (post(body), post_chunked(chunks + b"0\r\n\r\n")):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send, sent)
                    assert (await client.receive()).body == b"/ " + body
