"""Responses: how they are framed, what the server adds, and whether the connection goes on."""

from typing import cast

import attrs
import pytest

from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import Headers, HttpExchange
from tests.http1_site import Flushes, ServerLog, Serving, answer
from tests.raw_client import GET, request


class Responding:
    """Responds to everything with the same pieces: in one event if there is one."""

    def __init__(self, *pieces: object, status: int = 200, headers: object = None) -> None:
        self.pieces = pieces
        self.status = status
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: dict[str, object] = {"type": "http.response.start", "status": self.status}
        if self.headers is not None:
            start["headers"] = self.headers
        await send(start)
        for piece in self.pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": self.pieces[-1]})


HEAD = GET.replace(b"GET", b"HEAD")
GET10 = GET.replace(b"1.1", b"1.0")
HEAD10 = HEAD.replace(b"1.1", b"1.0")
GET10_KEEP = request(b"connection: keep-alive", first=b"GET / HTTP/1.0")
HEAD10_KEEP = request(b"connection: keep-alive", first=b"HEAD / HTTP/1.0")

# How a body ends.
LENGTH, CHUNKED, CLOSE, NOTHING = "length", "chunked", "close", "nothing"


@attrs.frozen
class Row:
    """A request and a response; how the response's end is told, and whether another may follow."""

    name: str
    sent: bytes
    app: Responding
    framing: str
    body: bytes = b""
    length: bytes | None = None
    keeps: bool = True


def length(value: int) -> Headers:
    return [(b"content-length", b"%d" % value)]


CODED: Headers = [(b"transfer-encoding", b"chunked")]
HELLO = Responding(b"hello")
KNOWN = Responding(b"hello", headers=length(5))
PARTS = Responding(b"hel", b"lo")
KNOWN_PARTS = Responding(b"hel", b"", b"lo", b"", headers=length(5))
CODED_PARTS = Responding(b"hel", b"", b"lo", headers=CODED)
LARGE = b"0123456789" * 10_000

ROWS = [
    Row("one piece", GET, HELLO, LENGTH, b"hello", b"5"),
    Row("one piece of known length", GET, KNOWN, LENGTH, b"hello", b"5"),
    Row("several of known length", GET, KNOWN_PARTS, LENGTH, b"hello", b"5"),
    Row("several", GET, PARTS, CHUNKED, b"hello"),
    Row("several, chunked", GET, CODED_PARTS, CHUNKED, b"hello"),
    Row("one, chunked", GET, Responding(b"hello", headers=CODED), CHUNKED, b"hello"),
    Row("none", GET, Responding(b""), LENGTH, b"", b"0"),
    Row("none of length 0", GET, Responding(b"", headers=length(0)), LENGTH, b"", b"0"),
    Row("none, twice", GET, Responding(b"", b""), CHUNKED),
    Row("none, chunked", GET, Responding(b"", headers=CODED), CHUNKED),
    Row("large", GET, Responding(LARGE), LENGTH, LARGE, b"100000"),
    Row("large pieces", GET, Responding(LARGE, LARGE), CHUNKED, LARGE + LARGE),
    Row("bytearray", GET, Responding(bytearray(b"hello")), LENGTH, b"hello", b"5"),
    Row("memoryview", GET, Responding(memoryview(b"hello")), LENGTH, b"hello", b"5"),
    Row("memoryview of words", GET, Responding(memoryview(b"12345678").cast("I")), LENGTH, b"12345678", b"8"),
    Row("such pieces", GET, Responding(bytearray(b"hel"), memoryview(b"lo")), CHUNKED, b"hello"),
    Row("lists for headers", GET, Responding(b"hello", headers=[[b"content-length", b"5"]]), LENGTH, b"hello", b"5"),
    Row("1.0", GET10, HELLO, LENGTH, b"hello", b"5", keeps=False),
    Row("1.0, several", GET10, PARTS, CLOSE, b"hello", keeps=False),
    Row("1.0, several of known length", GET10, KNOWN_PARTS, LENGTH, b"hello", b"5", keeps=False),
    Row("1.0, several, chunked", GET10, CODED_PARTS, CLOSE, b"hello", keeps=False),
    Row("1.0, one, chunked", GET10, Responding(b"hello", headers=CODED), LENGTH, b"hello", b"5", keeps=False),
    Row("1.0, kept", GET10_KEEP, HELLO, LENGTH, b"hello", b"5"),
    Row("1.0, kept, of known length", GET10_KEEP, KNOWN_PARTS, LENGTH, b"hello", b"5"),
    Row("1.0, kept, several", GET10_KEEP, PARTS, CLOSE, b"hello", keeps=False),
    Row("HEAD", HEAD, HELLO, NOTHING, length=b"5"),
    Row("HEAD of known length", HEAD, KNOWN, NOTHING, length=b"5"),
    Row("HEAD of another length", HEAD, Responding(b"", headers=length(99)), NOTHING, length=b"99"),
    Row("HEAD, several", HEAD, PARTS, NOTHING),
    Row("HEAD, several of known length", HEAD, KNOWN_PARTS, NOTHING, length=b"5"),
    Row("HEAD, chunked", HEAD, CODED_PARTS, NOTHING),
    Row("HEAD, none", HEAD, Responding(b""), NOTHING, length=b"0"),
    Row("HEAD, large", HEAD, Responding(LARGE), NOTHING, length=b"100000"),
    Row("HEAD, 1.0", HEAD10, PARTS, NOTHING, keeps=False),
    Row("HEAD, 1.0, kept", HEAD10_KEEP, PARTS, NOTHING),
    Row("204", GET, Responding(b"", status=204), NOTHING),
    Row("204, twice nothing", GET, Responding(b"", b"", status=204), NOTHING),
    Row("204 of length 0", GET, Responding(b"", status=204, headers=length(0)), NOTHING),
    Row("204, chunked", GET, Responding(b"", status=204, headers=CODED), NOTHING),
    Row("204, 1.0", GET10_KEEP, Responding(b"", b"", status=204), NOTHING),
    Row("205", GET, Responding(b"", status=205), LENGTH, length=b"0"),
    Row("205, twice nothing", GET, Responding(b"", b"", status=205), LENGTH, length=b"0"),
    Row("205 of length 0", GET, Responding(b"", status=205, headers=length(0)), LENGTH, length=b"0"),
    Row("304", GET, Responding(b"", status=304), NOTHING),
    Row("304 of a length", GET, Responding(b"", status=304, headers=length(99)), NOTHING, length=b"99"),
    Row("304, twice nothing", GET, Responding(b"", b"", status=304), NOTHING),
    Row("304 to HEAD", HEAD, Responding(b"", status=304), NOTHING),
    Row("404", GET, Responding(b"hello", status=404), LENGTH, b"hello", b"5"),
    Row("418", GET, Responding(b"hello", status=418), LENGTH, b"hello", b"5"),
    Row("599", GET, Responding(b"hello", status=599), LENGTH, b"hello", b"5"),
    Row("999", GET, Responding(b"hello", status=999), LENGTH, b"hello", b"5"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_framing(row: Row, serving: Serving, log: ServerLog) -> None:
    async with serving(row.app) as site:
        client = await site.connect()
        for _ in range(2 if row.keeps else 1):
            response = await client.ask(row.sent, to_head=row.sent.startswith(b"HEAD"))
            assert (response.status, response.body) == (row.app.status, row.body)
            assert response.all(b"content-length") == ([row.length] if row.length else [])
            chunked = [b"chunked"] if row.framing is CHUNKED else []
            assert response.all(b"transfer-encoding") == chunked
            assert response.until_close == (row.framing is CLOSE)
            options = [] if b"HTTP/1.1" in row.sent else [b"keep-alive"]
            assert response.all(b"connection") == (options if row.keeps else [b"close"])
        if not row.keeps:
            assert await client.receive_rest() == b""


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_framing_by_native_calls(row: Row, serving: Serving, log: ServerLog) -> None:
    """The same, with every response in pieces: only the length may be unknown then."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(row.app.status, cast("Headers", row.app.headers or []))
        for piece in row.app.pieces:
            await exchange.write(cast("bytes", piece))
        await exchange.finish()
        assert exchange.response_finished
        assert exchange.status == row.app.status

    async with serving(native=handler) as site:
        client = await site.connect()
        response = await client.ask(row.sent, to_head=row.sent.startswith(b"HEAD"))
        assert (response.status, response.body) == (row.app.status, row.body)


# What the server adds ---------------------------------------------------------------------------


async def respond_with(headers: Headers, serving: Serving) -> Headers:
    """Serve one response with these fields; return those that the client gets."""
    async with serving(Responding(b"x", headers=[*headers, *length(1)])) as site:
        client = await site.connect()
        return (await client.ask(GET)).headers


async def test_date_and_server(serving: Serving, log: ServerLog) -> None:
    fields = dict(await respond_with([], serving))
    assert fields.keys() == {b"content-length", b"date", b"server"}
    assert fields[b"server"] == b"kestrel"
    day, _, rest = fields[b"date"].partition(b", ")
    assert day in (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
    assert rest.endswith(b" GMT")


@pytest.mark.parametrize(
    "own",
    [
        [(b"date", b"yesterday")],
        [(b"server", b"mine")],
        [(b"Date", b"yesterday"), (b"Server", b"mine")],
    ],
    ids=["date", "server", "both"],
)
async def test_own_date_and_server(own: Headers, serving: Serving, log: ServerLog) -> None:
    headers = await respond_with(own, serving)
    names = [name for name, _ in headers]
    assert sorted(names) == [b"content-length", b"date", b"server"]
    assert dict(headers).items() >= {(name.lower(), value) for name, value in own}


async def test_fields_are_sent_as_they_are(serving: Serving, log: ServerLog) -> None:
    own = [
        (b"x-Mixed", b"a"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-empty", b""),
        (b"x-latin", b"caf\xe9"),
        (b"x-tab", b"a\tb"),
    ]
    async with serving(Responding(b"", headers=own)) as site:
        client = await site.connect()
        await client.send(GET)
        data = await client.received_by_now()
    for name, value in own:
        assert b"\r\n%b: %b\r\n" % (name, value) in data
    assert data.index(b"a=1") < data.index(b"b=2")


async def test_headers_may_come_from_anywhere(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = ((b"x-%d" % number, b"y") for number in range(3))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        names = [name for name, _ in (await client.ask(GET)).headers]
    assert names[:3] == [b"x-0", b"x-1", b"x-2"]


@pytest.mark.parametrize(
    ("app", "ends"),
    [
        (HELLO, [b"\r\n\r\nhello"]),
        (KNOWN, [b"\r\n\r\nhello"]),
        (PARTS, [b"\r\n\r\n3\r\nhel\r\n", b"2\r\nlo\r\n0\r\n\r\n"]),
        (Responding(b"", b""), [b"\r\n\r\n", b"0\r\n\r\n"]),
    ],
    ids=["one piece", "of known length", "several", "none"],
)
async def test_what_leaves_together(
    app: Responding, ends: list[bytes], serving: Serving, log: ServerLog
) -> None:
    """A head never leaves alone while there is a body, and no piece of body waits for another."""
    flushes = Flushes()
    async with serving(app, middleware=[flushes]) as site:
        client = await site.connect()
        await client.ask(GET)
        assert len(flushes.all) == len(ends)
        for flush, end in zip(flushes.all, ends, strict=True):
            assert flush.endswith(end)


# Whether the connection goes on -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "own", "options"),
    [
        (request(), None, []),
        (request(b"connection: keep-alive"), None, []),
        (request(b"connection: Close"), None, [b"close"]),
        (request(b"connection: x, close ,y"), None, [b"close"]),
        (request(b"connection: keep-alive", b"connection: close"), None, [b"close"]),
        (request(b"connection: close-not"), None, []),
        (request(), b"close", [b"close"]),
        (request(), b"Keep-Alive, Close", [b"Keep-Alive, Close"]),
        (request(), b"x-close", [b"x-close"]),
        (request(b"connection: close"), b"close", [b"close"]),
        (request(b"connection: close"), b"keep-alive", [b"keep-alive", b"close"]),
        (request(first=b"GET / HTTP/1.0"), None, [b"close"]),
        (request(first=b"GET / HTTP/1.0"), b"close", [b"close"]),
        (request(b"connection: Keep-Alive", first=b"GET / HTTP/1.0"), None, [b"keep-alive"]),
        (request(b"connection: keep-alive", first=b"GET / HTTP/1.0"), b"close", [b"close"]),
        (
            request(b"connection: keep-alive, close", first=b"GET / HTTP/1.0"),
            None,
            [b"close"],
        ),
        (b"GET / HTTP/1.0\r\n\r\n", None, [b"close"]),
    ],
)
async def test_keep_alive(
    sent: bytes, own: bytes | None, options: list[bytes], serving: Serving, log: ServerLog
) -> None:
    headers = [(b"connection", own)] if own else []
    ends = any(b"close" in option.lower().split(b", ") for option in options)
    async with serving(Responding(b"hello", headers=headers)) as site:
        client = await site.connect()
        response = await client.ask(sent)
        assert response.body == b"hello"
        assert response.all(b"connection") == options
        if ends:
            assert await client.receive_rest() == b""
        else:
            assert (await client.ask(sent)).body == b"hello"


async def test_requests_behind_the_last_one_are_not_served(
    serving: Serving, log: ServerLog
) -> None:
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        await client.send(request(b"connection: close") + GET + GET)
        assert (await client.receive()).status == 200
        assert await client.receive_rest() == b""
    assert served == ["/"]
