"""Fields behind a body: the client's, which the application gets, and the application's own."""

import random
from collections.abc import Generator, Iterable
from pathlib import Path

import h11
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http import (
    BadRequest,
    ClientDisconnected,
    Headers,
    HttpExchange,
    ResponseError,
)
from tests.http1_site import Disconnected, Flushes, ServerLog, Serving, answer, read_body
from tests.raw_client import GET, RawClient, UnexpectedEnd, post, post_chunked, request
from tests.socket_ends import open_descriptors

# A client's ---------------------------------------------------------------------------------------


class Keeping:
    """Keeps what it receives of each request, up to the end of its body."""

    def __init__(self) -> None:
        self.requests: list[list[Event]] = []
        self.headers: list[Headers] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers.append(scope["headers"])
        events = [await receive()]
        while events[-1].get("more_body"):
            events.append(await receive())
        self.requests.append(events)
        if events[-1]["type"] == "http.request":
            await answer(send, b"kept")


@pytest.mark.parametrize(
    ("lines", "trailers"),
    [
        (b"x: y\r\n", [(b"x", b"y")]),
        (b"X-Mixed:  Case \t\r\n", [(b"x-mixed", b"Case")]),
        (b"x: 1\r\ny: 2\r\nx: 3\r\n", [(b"x", b"1"), (b"y", b"2"), (b"x", b"3")]),
        (b"x:\r\n", [(b"x", b"")]),
        (b"x: caf\xe9:\t!\r\n", [(b"x", b"caf\xe9:\t!")]),
        (b"digest: sha-256=abc=\r\n" * 3, [(b"digest", b"sha-256=abc=")] * 3),
    ],
)
@pytest.mark.parametrize("chunks", [b"", b"5\r\nhello\r\n", b"1\r\nh\r\n4\r\nello\r\n"])
async def test_they_come_with_the_end_of_the_body(
    chunks: bytes, lines: bytes, trailers: Headers, serving: Serving, log: ServerLog
) -> None:
    app = Keeping()
    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            sent = post_chunked(chunks + b"0\r\n" + lines + b"\r\n")
            assert (await client.ask(sent)).body == b"kept"
    for events in app.requests:
        assert b"".join(event["body"] for event in events) == (b"hello" if chunks else b"")
        assert [event["more_body"] for event in events] == [True] * (len(events) - 1) + [False]
        assert all("trailers" not in event for event in events[:-1])
        assert events[-1]["trailers"] == trailers
        assert all(type(name) is type(value) is bytes for name, value in events[-1]["trailers"])
    assert app.headers == [[(b"host", b"a"), (b"transfer-encoding", b"chunked")]] * 2


@pytest.mark.parametrize(
    "sent",
    [
        GET,
        post(b""),
        post(b"hello"),
        post_chunked(b"0\r\n\r\n"),
        post_chunked(b"1\r\nx\r\n0\r\n\r\n"),
    ],
)
async def test_most_requests_have_none(sent: bytes, serving: Serving, log: ServerLog) -> None:
    app = Keeping()
    async with serving(app) as site:
        client = await site.connect()
        with_trailers = post_chunked(b"0\r\nx: y\r\n\r\n")
        for each in (with_trailers, sent, with_trailers, sent):
            assert (await client.ask(each)).body == b"kept"
    for number, events in enumerate(app.requests):
        assert [event.get("trailers") for event in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1].get("trailers") == (None if number % 2 else [(b"x", b"y")])


async def test_a_native_handler_finds_them_when_the_body_is_complete(
    serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        while not exchange.body_complete:
            assert exchange.trailers == []
            await exchange.receive()
        assert await exchange.receive() == b""
        await exchange.respond(200, exchange.trailers)
        assert all(name != b"x-sum" for name, _ in exchange.headers)

    async with serving(native=handler) as site:
        client = await site.connect()
        for number in range(3):
            sent = post_chunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: %d\r\n\r\n" % number)
            assert (await client.ask(sent)).all(b"x-sum") == [b"%d" % number]
            assert (await client.ask(post(b"hello"))).all(b"x-sum") == []


async def test_there_are_none_while_they_are_on_their_way(serving: Serving, log: ServerLog) -> None:
    exchanges: list[HttpExchange] = []

    async def handler(exchange: HttpExchange) -> None:
        exchanges.append(exchange)
        while not exchange.body_complete:
            await exchange.receive()
        await exchange.respond(200, exchange.trailers)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(post_chunked(b"1\r\nx\r\n0\r\na: b\r\nc: d"))
        await wait_all_tasks_blocked()
        (exchange,) = exchanges
        assert (exchange.trailers, exchange.body_complete) == ([], False)
        await client.send(b"\r\n")
        await wait_all_tasks_blocked()
        assert (exchange.trailers, exchange.body_complete) == ([], False)
        await client.send(b"\r\n")
        assert (await client.receive()).headers[:2] == [(b"a", b"b"), (b"c", b"d")]


async def test_a_body_that_nobody_reads_may_have_them(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            sent = post_chunked(b"3\r\nabc\r\n0\r\nx: y\r\nz: \r\n\r\n")
            assert (await client.ask(sent)).body == b"hello"


@pytest.mark.parametrize(
    ("lines", "status", "reason"),
    [
        (b"x", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"x : y", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"x: \0", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"x: a\rb", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"Content-Length: 5", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"transfer-encoding: chunked", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"x: " + b"y" * 200, 431, EndReason.MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED),
        (b"a: b\r\n" * 5 + b"a: b", 431, EndReason.MAX_REQUEST_HEADER_COUNT_EXCEEDED),
    ],
)
async def test_wrong_ones_are_the_clients_error(
    lines: bytes, status: int, reason: EndReason, serving: Serving, log: ServerLog
) -> None:
    limits = Limits(max_request_headers_bytes=128, max_request_header_count=5)
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await read_body(receive)
        except Disconnected:
            heard.append("disconnected")

    async with serving(app, limits=limits) as site:
        client = await site.connect()
        response = await client.ask(post_chunked(b"1\r\nx\r\n0\r\n" + lines + b"\r\n\r\n"))
        assert (response.status, response.keeps_alive) == (status, False)
        await client.aclose()
        await site.all_ended()
    assert heard == ["disconnected"]
    assert log.ends == [reason]


async def test_a_native_handler_hears_of_wrong_ones(serving: Serving, log: ServerLog) -> None:
    heard: list[BadRequest] = []

    async def handler(exchange: HttpExchange) -> None:
        try:
            while not exchange.body_complete:
                await exchange.receive()
        except BadRequest as error:
            heard.append(error)
            assert exchange.trailers == []
            raise

    async with serving(native=handler) as site:
        client = await site.connect()
        assert (await client.ask(post_chunked(b"0\r\na: b\r\nc\r\n\r\n"))).status == 400
    assert len(heard) == 1


async def test_a_client_that_leaves_among_them(serving: Serving, log: ServerLog) -> None:
    async with serving(Keeping()) as site:
        client = await site.connect()
        await client.send(post_chunked(b"0\r\nx: y\r\n"))
        await client.send_eof()
        assert (await client.receive()).status == 400
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT]


# The application's own: what the client gets ----------------------------------------------------


TE_GET = request(b"connection: te", b"te: trailers")


class Trailing:
    """Sends these events for everything but /fine, and keeps the scopes."""

    def __init__(self, *events: Event) -> None:
        self.events = events
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["path"] == "/fine":
            await answer(send, b"fine")
            return
        for event in self.events:
            await send(event)


FINE = request(first=b"GET /fine HTTP/1.1")


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Event:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": list(headers),
        "trailers": True,
    }


def body(data: bytes = b"", *, more: bool = False) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}


def trailers(*fields: tuple[bytes, bytes], more: bool = False) -> Event:
    return {"type": "http.response.trailers", "headers": list(fields), "more_trailers": more}


def length(value: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % value)


def by_h11(sent: bytes, received: bytes) -> tuple[bytes, Headers]:
    """Return the body and trailers that another implementation sees in a response to `sent`."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=sent.split(b" ")[0], target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(received)
    parts: list[bytes] = []
    while True:
        event = client.next_event()
        if isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert client.trailing_data == (b"", False)
            return b"".join(parts), list(event.headers)
        else:
            assert isinstance(event, (h11.Response, h11.InformationalResponse)), event


async def ask(client: RawClient, sent: bytes) -> tuple[bytes, Headers]:
    await client.send(sent)
    return by_h11(sent, await client.received_by_now())


SUM = (b"x-sum", b"1")
TIMING = (b"Server-Timing", b"db;dur=5")


@pytest.mark.parametrize(
    ("events", "expected", "fields"),
    [
        ([start(), body(b"hello"), trailers(SUM)], b"hello", [SUM]),
        ([start(), body(b"hello"), trailers(SUM, TIMING, SUM)], b"hello", [SUM, TIMING, SUM]),
        ([start(), body(b"hel", more=True), body(b"lo"), trailers(SUM)], b"hello", [SUM]),
        ([start(), body(b"hello", more=True), body(), trailers(SUM)], b"hello", [SUM]),
        ([start(), body(), trailers(SUM)], b"", [SUM]),
        ([start(), body(b"hello"), trailers()], b"hello", []),
        (
            [start(), body(b"hello"), trailers(SUM, more=True), trailers(more=True), trailers(TIMING)],
            b"hello",
            [SUM, TIMING],
        ),
        ([start(), body(b"hello"), trailers(SUM, more=True), trailers()], b"hello", [SUM]),
        (
            [start((b"trailer", b"x-sum"), (b"transfer-encoding", b"chunked")), body(b"x"), trailers(SUM)],
            b"x",
            [SUM],
        ),
        ([start(status=404), body(b"x" * 100_000), trailers(SUM)], b"x" * 100_000, [SUM]),
    ],
)  # fmt: skip
async def test_they_come_behind_the_last_chunk(
    events: list[Event], expected: bytes, fields: Headers, serving: Serving, log: ServerLog
) -> None:
    app = Trailing(*events)
    async with serving(app, endpoint="memory://wide?pause_at_bytes=200000") as site:
        client = await site.connect()
        for _ in range(2):
            seen, seen_fields = await ask(client, TE_GET)
            assert (seen, seen_fields) == (
                expected,
                [(name.lower(), value) for name, value in fields],
            )
        assert (await client.ask(FINE)).body == b"fine"
    assert app.scopes[0]["extensions"]["http.response.trailers"] == {}


async def test_what_is_on_the_wire(serving: Serving, log: ServerLog) -> None:
    flushes = Flushes()
    app = Trailing(start(), body(b"hello"), trailers(SUM, TIMING))
    async with serving(app, middleware=[flushes]) as site:
        client = await site.connect()
        await client.send(TE_GET)
        received = await client.received_by_now()
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    assert b"content-length" not in head
    end = b"0\r\nx-sum: 1\r\nServer-Timing: db;dur=5\r\n\r\n"
    assert rest == b"5\r\nhello\r\n" + end
    assert flushes.all[-1] == end


@pytest.mark.parametrize(
    ("lines", "takes"),
    [
        ([b"te: trailers"], True),
        ([b"TE: Trailers"], True),
        ([b"te: deflate;q=0.5, trailers"], True),
        ([b"te: deflate", b"te: \ttrailers ,"], True),
        ([], False),
        ([b"te:"], False),
        ([b"te: deflate"], False),
        ([b"te: trailers-not"], False),
        ([b"te: not trailers"], False),
        ([b"trailer: x-sum"], False),
    ],
)
async def test_who_did_not_ask_gets_none(
    lines: list[bytes], takes: bool, serving: Serving, log: ServerLog
) -> None:
    app = Trailing(start(), body(b"hello"), trailers(SUM))
    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert await ask(client, request(*lines)) == (b"hello", [SUM] if takes else [])
        assert (await client.ask(FINE)).body == b"fine"
    assert ("http.response.trailers" in app.scopes[0]["extensions"]) == takes


@pytest.mark.parametrize(
    ("sent", "events", "expected"),
    [
        (TE_GET, [start(length(5)), body(b"hello"), trailers(SUM)], b"hello"),
        (TE_GET.replace(b"1.1", b"1.0"), [start(), body(b"hello"), trailers(SUM)], b"hello"),
        (TE_GET.replace(b"GET", b"HEAD"), [start(), body(b"hello"), trailers(SUM)], b""),
        (TE_GET, [start(status=204), body(), trailers(SUM)], b""),
        (TE_GET, [start(status=304), body(), trailers(SUM)], b""),
    ],
    ids=["length", "1.0", "HEAD", "204", "304"],
)
async def test_where_there_is_no_last_chunk_there_are_none(
    sent: bytes, events: list[Event], expected: bytes, serving: Serving, log: ServerLog
) -> None:
    app = Trailing(*events)
    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(sent, to_head=sent.startswith(b"HEAD"))
        assert response.body == expected
        offered = app.scopes[0]["extensions"].keys()
        assert ("http.response.trailers" in offered) == (b"1.0" not in sent)
        if b"1.0" in sent:
            assert await client.receive_rest() == b""
        else:
            assert (await client.ask(FINE)).body == b"fine"
            assert await client.received_by_now() == b""


async def test_in_a_pipeline(serving: Serving, log: ServerLog) -> None:
    async with serving(Trailing(start(), body(b"hello"), trailers(SUM))) as site:
        client = await site.connect()
        await client.send((TE_GET + FINE) * 3)
        received = await client.received_by_now()
    assert received.count(b"\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\nHTTP/1.1 200 OK\r\n") == 3
    assert received.count(b"\r\n\r\nfine") == 3


@pytest.fixture
def path(tmp_path: Path) -> Generator[Path]:
    before = open_descriptors()
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    yield path
    assert open_descriptors() <= before


CONTENT = random.Random(6).randbytes(100_000)


@pytest.mark.parametrize("size", [0, 1, 65536, 100_000])
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
async def test_behind_a_file(
    kind: str, takes: bool, size: int, path: Path, serving: Serving, log: ServerLog
) -> None:
    shorten(path, size)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        async with await trio.open_file(path, "rb") as file:
            await send({"type": f"http.response.{kind}", "path": str(path), "file": file})
        await send(trailers(SUM))

    async with serving(app, endpoint="memory://wide?pause_at_bytes=200000") as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(TE_GET if takes else GET)
            received = b""
            while not received.endswith(b"\r\n\r\n") or b"\r\n0\r\n" not in received:
                received += await client.receive_some()
            assert by_h11(GET, received) == (CONTENT[:size], [SUM] if takes else [])


def shorten(path: Path, size: int) -> None:
    path.write_bytes(CONTENT[:size])


# The application's own: errors ------------------------------------------------------------------


FORBIDDEN: list[tuple[bytes, bytes]] = [
    (b"content-length", b"5"),
    (b"Content-Length", b"5"),
    (b"transfer-encoding", b"chunked"),
    (b"host", b"a"),
    (b"connection", b"close"),
    (b"set-cookie", b"a=b"),
    (b"content-type", b"text/plain"),
    (b"content-encoding", b"gzip"),
    (b"trailer", b"x"),
    (b"date", b"today"),
]
MALFORMED: list[tuple[bytes, bytes]] = [
    (b"", b"x"),
    (b"a b", b"x"),
    (b"a:", b"x"),
    (b"a\r\nb", b"x"),
    (b"x", b"a\r\nb: c"),
    (b"x", b"a\n"),
    (b"x", b"\0"),
    (b"x", b"\r\n\r\nHTTP/1.1 200 OK"),
]


async def expect_cut(
    app: Trailing, kind: type[Exception] | None, serving: Serving, log: ServerLog
) -> None:
    """The error is the application's: logged once, and what the client has is not complete."""
    for sent in (TE_GET, GET):
        async with serving(app) as site:
            client = await site.connect()
            await client.send(sent)
            with pytest.raises(UnexpectedEnd):
                await client.receive()
            await site.all_ended()
        log.take_error(kind)
    assert log.ends == [EndReason.ERROR_AFTER_STARTING_RESPONSE] * 2


@pytest.mark.parametrize("field", FORBIDDEN + MALFORMED)
async def test_what_may_not_be_one(
    field: tuple[bytes, bytes], serving: Serving, log: ServerLog
) -> None:
    """Also where none are sent, so that it shows with every client."""
    app = Trailing(start(), body(b"hello"), trailers(SUM, field))
    await expect_cut(app, ResponseError, serving, log)


@pytest.mark.parametrize(
    "events",
    [
        [start(), body(b"hello"), body(b"more")],
        [start(), body(b"hello"), start()],
        [start(), body(b"hello"), {"type": "http.response.pathsend", "path": "/"}],
        [start(), body(b"hello"), {"type": "http.response.early_hint"}],
        [start(), body(b"hello", more=True), trailers(SUM)],
        [start(), body(b"hello"), trailers(SUM, more=True), body()],
    ],
)
async def test_events_out_of_order(events: list[Event], serving: Serving, log: ServerLog) -> None:
    await expect_cut(Trailing(*events), ResponseError, serving, log)


@pytest.mark.parametrize(
    "events",
    [
        [start(), body(b"hello")],
        [start(), body(b"hello"), trailers(SUM, more=True)],
    ],
)
async def test_trailers_that_were_promised_and_do_not_come(
    events: list[Event], serving: Serving, log: ServerLog
) -> None:
    await expect_cut(Trailing(*events), None, serving, log)


@pytest.mark.parametrize("early", [[], [start()], [start(length(5))]])
async def test_trailers_before_any_body(
    early: list[Event], serving: Serving, log: ServerLog
) -> None:
    async with serving(Trailing(*early, trailers(SUM))) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(TE_GET)).status == 500
            log.take_error(ResponseError)


@pytest.mark.parametrize("promised", [True, False])
async def test_trailers_behind_the_end(promised: bool, serving: Serving, log: ServerLog) -> None:
    """The client has what it should have; the error is told all the same."""
    first = {**start(), "trailers": promised}
    events = [first, body(b"hello"), *([trailers(SUM)] if promised else []), trailers(TIMING)]
    async with serving(Trailing(*events)) as site:
        client = await site.connect()
        for _ in range(2):
            assert await ask(client, TE_GET) == (b"hello", [SUM] if promised else [])
            log.take_error(ResponseError)


# Native handlers --------------------------------------------------------------------------------


def once(fields: Headers) -> Iterable[tuple[bytes, bytes]]:
    yield from fields


async def test_a_handler_finishes_with_them(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        assert exchange.takes_trailers == (exchange.path != "/none")
        await exchange.start(200, [])
        await exchange.write(b"hel")
        await exchange.write(b"lo")
        fields: Headers = [SUM, TIMING]
        await exchange.finish(once(fields) if exchange.path == "/once" else fields)
        assert exchange.response_finished

    async with serving(native=handler) as site:
        client = await site.connect()
        expected = [SUM, (b"server-timing", b"db;dur=5")]
        for target in (b"/", b"/once", b"/"):
            assert await ask(client, TE_GET.replace(b"/ ", target + b" ", 1)) == (
                b"hello",
                expected,
            )
        assert await ask(client, GET.replace(b"/ ", b"/none ")) == (b"hello", [])


async def test_a_handler_may_correct_itself(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ResponseError, match="comes once, after start"):
            await exchange.finish([SUM])
        await exchange.start(200, [])
        await exchange.write(b"hello")
        for wrong in FORBIDDEN + MALFORMED:
            with pytest.raises(ResponseError):
                await exchange.finish([SUM, wrong])
            assert not exchange.response_finished
        await exchange.finish([SUM])
        with pytest.raises(ResponseError, match="comes once, after start"):
            await exchange.finish([SUM])

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            assert await ask(client, TE_GET) == (b"hello", [SUM])


async def test_a_client_that_is_gone_gets_none(serving: Serving, log: ServerLog) -> None:
    gone = trio.Event()

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write(b"hello")
        await gone.wait()
        with pytest.raises(ClientDisconnected):
            await exchange.finish([SUM])

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(TE_GET)
        await client.receive_head()
        client.reset()
        gone.set()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]
