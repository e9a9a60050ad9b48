"""Requests that are wrong: for each the status, the reason that is recorded, and the end.

The rows are those of the table of acceptance vectors that Kestrel's behaviour was written down in,
with the verdicts of a strict server, and further ones of the same kind.
"""

import attrs
import pytest
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_protocols.http import HttpExchange
from tests.http1_site import ServerLog, Serving, echo
from tests.raw_client import GET, post, post_chunked, request

LINE = EndReason.INVALID_REQUEST_LINE
HEADERS = EndReason.INVALID_REQUEST_HEADERS
VERSION = EndReason.INVALID_HTTP_VERSION
FRAMING = EndReason.INVALID_BODY_FRAMING


@attrs.frozen
class Bad:
    """What a client sends, and what must come of it."""

    name: str
    sent: bytes
    status: int
    reason: EndReason
    allow: bytes | None = None


def first_line(line: bytes) -> bytes:
    return request(first=line)


def without_host(line: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([line, *lines, b"", b""])


LINES = [
    Bad("five blank lines", b"\r\n" * 5 + GET, 400, LINE),
    Bad("LF for line ends", GET.replace(b"\r\n", b"\n"), 400, LINE),
    Bad("LF after the request line", GET.replace(b"\r\n", b"\n", 1), 400, LINE),
    Bad("CR for line ends", GET.replace(b"\r\n", b"\r") + b"\r\n\r\n", 400, LINE),
    Bad("CR in the line", first_line(b"GET /\r HTTP/1.1"), 400, LINE),
    Bad("NUL in the target", first_line(b"GET /\x00 HTTP/1.1"), 400, LINE),
    Bad("DEL in the target", first_line(b"GET /\x7f HTTP/1.1"), 400, LINE),
    Bad("UTF-8 in the target", first_line("GET /\u00e9 HTTP/1.1".encode()), 400, LINE),
    Bad("two spaces before the version", first_line(b"GET /  HTTP/1.1"), 400, LINE),
    Bad("two spaces after the method", first_line(b"GET  / HTTP/1.1"), 400, LINE),
    Bad("tabs for spaces", first_line(b"GET\t/\tHTTP/1.1"), 400, LINE),
    Bad("space before the method", first_line(b" GET / HTTP/1.1"), 400, LINE),
    Bad("space after the version", first_line(b"GET / HTTP/1.1 "), 400, LINE),
    Bad("no version", first_line(b"GET /"), 400, LINE),
    Bad("no version, and no headers", b"GET /\r\n", 400, LINE),
    Bad("no target", first_line(b"GET HTTP/1.1"), 400, LINE),
    Bad("no method", first_line(b"/ HTTP/1.1"), 400, LINE),
    Bad("method that is no token", first_line(b"G(T / HTTP/1.1"), 400, LINE),
    Bad("lower-case version", first_line(b"GET / http/1.1"), 505, VERSION),
    Bad("HTTP/1.2", first_line(b"GET / HTTP/1.2"), 505, VERSION),
    Bad("HTTP/2.0", first_line(b"GET / HTTP/2.0"), 505, VERSION),
    Bad("HTTP/1.10", first_line(b"GET / HTTP/1.10"), 505, VERSION),
    Bad("HTTP/1", first_line(b"GET / HTTP/1"), 505, VERSION),
    Bad("HTTP/0.9", first_line(b"GET / HTTP/0.9"), 505, VERSION),
    Bad("HTCPCP/1.0", first_line(b"GET / HTCPCP/1.0"), 400, LINE),
    Bad("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, VERSION),
    Bad(
        "TLS client hello",
        b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03\x0a\x0d\x0a\x0d\x0a" + bytes(range(224)),
        400,
        EndReason.TLS_NOT_SUPPORTED,
    ),
]

TARGETS = [
    Bad("%00 in the path", first_line(b"GET /a%00b HTTP/1.1"), 400, LINE),
    Bad("fragment", first_line(b"GET /a#b HTTP/1.1"), 400, LINE),
    Bad("query alone", first_line(b"GET ?a=b HTTP/1.1"), 400, LINE),
    Bad("relative path", first_line(b"GET index.html HTTP/1.1"), 400, LINE),
    Bad("percent first", first_line(b"GET %2f HTTP/1.1"), 400, LINE),
    Bad("* with GET", first_line(b"GET * HTTP/1.1"), 405, LINE, allow=b"OPTIONS"),
    Bad("authority with GET", first_line(b"GET a:80 HTTP/1.1"), 405, LINE, allow=b"CONNECT"),
    Bad("CONNECT", without_host(b"CONNECT a:80 HTTP/1.1", b"host: a:80"), 501, LINE),
    Bad("CONNECT to a path", first_line(b"CONNECT / HTTP/1.1"), 400, LINE),
    Bad("CONNECT without port", first_line(b"CONNECT a HTTP/1.1"), 400, LINE),
    Bad("CONNECT for another host", first_line(b"CONNECT b:80 HTTP/1.1"), 400, HEADERS),
    Bad("absolute for another host", first_line(b"GET http://b/ HTTP/1.1"), 400, HEADERS),
    Bad("absolute for another port", first_line(b"GET http://a:81/ HTTP/1.1"), 400, HEADERS),
    Bad("absolute, default of another", first_line(b"GET http://a:443/ HTTP/1.1"), 400, HEADERS),
    Bad("absolute, other scheme", first_line(b"GET ftp://a/ HTTP/1.1"), 400, LINE),
    Bad("absolute with user", first_line(b"GET http://u@a/ HTTP/1.1"), 400, LINE),
    Bad("absolute without host", first_line(b"GET http:///x HTTP/1.1"), 400, LINE),
]

FIELDS = [
    Bad("space before the colon", request(b"x : y"), 400, HEADERS),
    Bad("tab before the colon", request(b"x\t: y"), 400, HEADERS),
    Bad("folded", request(b"x: y", b" z"), 400, HEADERS),
    Bad("folded first", without_host(b"GET / HTTP/1.1", b" host: a"), 400, HEADERS),
    Bad("no colon", request(b"x"), 400, HEADERS),
    Bad("no name", request(b": y"), 400, HEADERS),
    Bad("( in the name", request(b"x(: y"), 400, HEADERS),
    Bad("NUL in the name", request(b"x\x00: y"), 400, HEADERS),
    Bad("UTF-8 in the name", request("\u00e9: y".encode()), 400, HEADERS),
    Bad("0x01 in the value", request(b"x: a\x01b"), 400, HEADERS),
    Bad("NUL in the value", request(b"x: a\x00b"), 400, HEADERS),
    Bad("DEL in the value", request(b"x: a\x7fb"), 400, HEADERS),
    Bad("CR in the value", request(b"x: a\rb"), 400, HEADERS),
    Bad("LF in the value", request(b"x: a\nb: c"), 400, HEADERS),
    Bad("LF for the blank line", GET[:-2] + b"\n", 400, HEADERS),
    Bad("CR CR LF", request(b"x: y\r"), 400, HEADERS),
]

HOSTS = [
    Bad("none", without_host(b"GET / HTTP/1.1"), 400, HEADERS),
    Bad("none, other fields", without_host(b"GET / HTTP/1.1", b"x: y"), 400, HEADERS),
    Bad("two", request(b"host: a"), 400, HEADERS),
    Bad("two in HTTP/1.0", request(b"host: a", first=b"GET / HTTP/1.0"), 400, HEADERS),
    *(
        Bad(f"{host!r}", without_host(b"GET / HTTP/1.1", b"host: " + host), 400, HEADERS)
        for host in (
            b"a b",
            b"u@a",
            b"a/b",
            b"a%20b",
            b"a:b",
            b"a:80:80",
            b":80",
            b"[::1",
            b"[::g]",
            b"::1",
            b"a\xff",
            b"a?",
            b"a#",
            b"a\\b",
        )
    ),
]

BODIES = [
    Bad("length twice, equal", post(b"x", b"content-length: 1"), 400, HEADERS),
    Bad("length twice, different", post(b"x", b"content-length: 2"), 400, HEADERS),
    *(
        Bad(f"length {length!r}", request(b"content-length: " + length), 400, HEADERS)
        for length in (
            b"+5",
            b"-0",
            b"-5",
            b"5, 5",
            b"",
            b"0x5",
            b"5 5",
            b"1_0",
            b"9" * 20,
            b"\xb2",
        )
    ),
    Bad("chunked and length", post(b"x", b"transfer-encoding: chunked"), 400, HEADERS),
    *(
        Bad(f"coding {coding!r}", request(b"transfer-encoding: " + coding), 400, HEADERS)
        for coding in (b"chunked, gzip", b"gzip", b"identity", b"", b",", b"chunked,", b"xchunked")
    ),
    *(
        Bad(f"coding {coding!r}", request(b"transfer-encoding: " + coding), 501, HEADERS)
        for coding in (b"gzip, chunked", b"chunked, chunked", b", chunked")
    ),
    Bad(
        "chunked and gzip in two fields",
        post_chunked(b"0\r\n\r\n", b"transfer-encoding: gzip"),
        501,
        HEADERS,
    ),
    Bad(
        "chunked in HTTP/1.0",
        request(b"transfer-encoding: chunked", first=b"POST / HTTP/1.0"),
        400,
        HEADERS,
    ),
    Bad("HTTP/1.0 POST without length", first_line(b"POST / HTTP/1.0"), 400, HEADERS),
    Bad("HTTP/1.0 PUT without length", first_line(b"PUT / HTTP/1.0"), 400, HEADERS),
]

CHUNKS = [
    Bad("size ended by LF", post_chunked(b"1\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("size ended by CR", post_chunked(b"1\rx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("no size", post_chunked(b"\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("size of nine digits", post_chunked(b"000000001\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("size of nine digits to come", post_chunked(b"000000001"), 400, FRAMING),
    Bad("size not hexadecimal", post_chunked(b"g"), 400, FRAMING),
    Bad("size with a sign", post_chunked(b"+1\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("size with 0x", post_chunked(b"0x1\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("blank before the size", post_chunked(b" 1\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("blank after the size", post_chunked(b"1 \r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("blank before an extension", post_chunked(b"1 ;a\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("LF in an extension", post_chunked(b"1;a\nb\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("CR in an extension", post_chunked(b"1;a\rb\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("NUL in an extension", post_chunked(b"1;\x00\r\nx\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("endless extension", post_chunked(b"1;" + b"a" * 5000), 400, FRAMING),
    Bad("data longer than its size", post_chunked(b"1\r\nxy\r\n0\r\n\r\n"), 400, FRAMING),
    Bad("data ended by LF", post_chunked(b"1\r\nx\n0\r\n\r\n"), 400, FRAMING),
    Bad("data not ended", post_chunked(b"1\r\nx0\r\n\r\n"), 400, FRAMING),
    Bad("trailer folded", post_chunked(b"0\r\nx: y\r\n z\r\n\r\n"), 400, HEADERS),
    Bad("trailer without colon", post_chunked(b"0\r\nx\r\n\r\n"), 400, HEADERS),
    Bad("trailer ended by LF", post_chunked(b"0\r\nx: y\n"), 400, HEADERS),
    Bad("LF for the last line", post_chunked(b"0\r\n\n"), 400, HEADERS),
    Bad("length in a trailer", post_chunked(b"0\r\ncontent-length: 1\r\n\r\n"), 400, HEADERS),
    Bad("Host in a trailer", post_chunked(b"0\r\nHost: b\r\n\r\n"), 400, HEADERS),
]

PIPELINED = [
    Bad("good, bad line", GET + b"GET / HTTP/3.0\r\n\r\n", 505, VERSION),
    Bad("good, no Host", GET + b"GET / HTTP/1.1\r\n\r\n", 400, HEADERS),
    Bad("body shorter than its bytes", post(b"x") + b"y\r\n", 400, LINE),
]


def named(rows: list[Bad]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", rows, ids=[row.name for row in rows])


async def expect_rejection(bad: Bad, serving: Serving, log: ServerLog, answers: int = 0) -> None:
    """Send what is bad: the answer says so and that the connection ends, which it does."""
    statuses: list[int | None] = []

    def note(exchange: HttpExchange) -> None:
        statuses.append(exchange.status)

    async with serving(echo, on_exchange_end=note) as site:
        client = await site.connect()
        await client.send(bad.sent)
        for _ in range(answers):
            response = await client.receive()
            assert response.status == 200
            assert response.keeps_alive
        response = await client.receive()
        assert response.status == bad.status
        assert response.body == b""
        assert response.all(b"content-length") == [b"0"]
        assert response.all(b"connection") == [b"close"]
        assert len(response.all(b"date")) == len(response.all(b"server")) == 1
        assert response.all(b"allow") == ([bad.allow] if bad.allow else [])
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
        assert log.ends == [bad.reason]
    assert set(statuses) <= {200, bad.status}


@named(LINES)
async def test_request_lines(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(TARGETS)
async def test_targets(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(FIELDS)
async def test_fields(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(HOSTS)
async def test_hosts(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(BODIES)
async def test_body_lengths(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(CHUNKS)
async def test_chunks(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(PIPELINED)
async def test_after_a_good_request(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log, answers=1)


async def test_client_that_does_not_close_is_left_after_lingering(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(b"nonsense\r\n\r\n")).status == 400
        assert await client.receive_rest() == b""
        start = autojump_clock.current_time()
        await site.all_ended()
        assert autojump_clock.current_time() - start == pytest.approx(2.0, abs=0.02)
