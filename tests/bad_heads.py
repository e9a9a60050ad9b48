"""The rejection table's rows whose head is wrong."""

from kestrel_protocols.http.rejection import Rejection
from tests.bad_request import SMALL, Bad
from tests.raw_client import GET, post, post_chunked, request

__all__ = ["FIELDS", "HEADS", "HOSTS", "LENGTHS", "LIMITS", "LINES", "TARGETS"]

LINE = Rejection.INVALID_REQUEST_LINE
TARGET = Rejection.INVALID_REQUEST_TARGET
VERSION = Rejection.UNRECOGNIZED_HTTP_VERSION
FIELD = Rejection.INVALID_REQUEST_HEADER
HOST = Rejection.INVALID_HOST
LENGTH = Rejection.INVALID_CONTENT_LENGTH


def first_line(line: bytes) -> bytes:
    return request(first=line)


def without_host(line: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([line, *lines, b"", b""])


def connect(*lines: bytes, to: bytes = b"a:80") -> bytes:
    return without_host(b"CONNECT %b HTTP/1.1" % to, b"host: " + to, *lines)


LINES = [
    Bad("five blank lines", b"\r\n" * 5 + GET, LINE),
    Bad("LF for line ends", GET.replace(b"\r\n", b"\n"), LINE),
    Bad("LF after the request line", GET.replace(b"\r\n", b"\n", 1), LINE),
    Bad("LF before the request line", b"\n" + GET, LINE),
    Bad("CR for line ends", GET.replace(b"\r\n", b"\r") + b"\r\n\r\n", LINE),
    Bad("CR before the request line", b"\r" + GET, LINE),
    Bad("CR in the line", first_line(b"GET /\r HTTP/1.1"), LINE),
    Bad("CR after the line", first_line(b"GET / HTTP/1.1\r"), LINE),
    Bad("NUL in the target", first_line(b"GET /\x00 HTTP/1.1"), LINE),
    Bad("NUL in the method", first_line(b"G\x00T / HTTP/1.1"), LINE),
    Bad("DEL in the target", first_line(b"GET /\x7f HTTP/1.1"), LINE),
    Bad("UTF-8 in the target", first_line("GET /\u00e9 HTTP/1.1".encode()), LINE),
    Bad("UTF-8 in the method", first_line("G\u00c9T / HTTP/1.1".encode()), LINE),
    Bad("two spaces before the version", first_line(b"GET /  HTTP/1.1"), LINE),
    Bad("two spaces after the method", first_line(b"GET  / HTTP/1.1"), LINE),
    Bad("a space in the target", first_line(b"GET /a b HTTP/1.1"), LINE),
    Bad("tabs for spaces", first_line(b"GET\t/\tHTTP/1.1"), LINE),
    Bad("space before the method", first_line(b" GET / HTTP/1.1"), LINE),
    Bad("space after the version", first_line(b"GET / HTTP/1.1 "), LINE),
    Bad("no version", first_line(b"GET /"), LINE),
    Bad("no version, and no headers", b"GET /\r\n", LINE),
    Bad("no target", first_line(b"GET HTTP/1.1"), LINE),
    Bad("no method", first_line(b"/ HTTP/1.1"), LINE),
    Bad("method that is no token", first_line(b"G(T / HTTP/1.1"), LINE),
    Bad("lower-case version", first_line(b"GET / http/1.1"), VERSION),
    Bad("HTTP/1.2", first_line(b"GET / HTTP/1.2"), VERSION),
    Bad("HTTP/2.0", first_line(b"GET / HTTP/2.0"), VERSION),
    Bad("HTTP/1.10", first_line(b"GET / HTTP/1.10"), VERSION),
    Bad("HTTP/01.1", first_line(b"GET / HTTP/01.1"), VERSION),
    Bad("HTTP/1", first_line(b"GET / HTTP/1"), VERSION),
    Bad("HTTP/0.9", first_line(b"GET / HTTP/0.9"), VERSION),
    Bad("HTCPCP/1.0", first_line(b"GET / HTCPCP/1.0"), LINE),
    Bad("version with a sign", first_line(b"GET / HTTP/+1.1"), LINE),
    Bad("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Rejection.HTTP2_PREFACE),
    Bad("HTTP/2 preface, its first line", b"PRI * HTTP/2.0\r\n", Rejection.HTTP2_PREFACE),
    Bad("HTTP/2.1 preface", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", VERSION),
    Bad(
        "TLS client hello",
        b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03\x0a\x0d\x0a\x0d\x0a" + bytes(range(224)),
        Rejection.TLS_OVER_HTTP,
    ),
]

TARGETS = [
    Bad("%00 in the path", first_line(b"GET /a%00b HTTP/1.1"), TARGET),
    Bad("fragment", first_line(b"GET /a#b HTTP/1.1"), TARGET),
    Bad("fragment after a query", first_line(b"GET /a?b#c HTTP/1.1"), TARGET),
    Bad("query alone", first_line(b"GET ?a=b HTTP/1.1"), TARGET),
    Bad("relative path", first_line(b"GET index.html HTTP/1.1"), TARGET),
    Bad("percent first", first_line(b"GET %2f HTTP/1.1"), TARGET),
    Bad("** ", first_line(b"OPTIONS ** HTTP/1.1"), TARGET),
    *(
        Bad(
            f"* with {method.decode()}",
            first_line(method + b" * HTTP/1.1"),
            Rejection.OPTIONS_METHOD_REQUIRED,
            allow=b"OPTIONS",
        )
        for method in (b"GET", b"options", b"PRI")
    ),
    *(
        Bad(
            f"authority with {method.decode()}",
            first_line(method + b" a:80 HTTP/1.1"),
            Rejection.CONNECT_METHOD_REQUIRED,
            allow=b"CONNECT",
        )
        for method in (b"GET", b"OPTIONS", b"connect")
    ),
    *(
        Bad(f"CONNECT {target.decode()}", connect(to=target), TARGET)
        for target in (
            b"/",
            b"*",
            b"a",
            b"a:",
            b":80",
            b"a:0",
            b"a:65536",
            b"a:+1",
            b"a:80/",
            b"u@a:80",
            b"http://a:80",
            b"[::1:80",
            b"a%20b:80",
        )
    ),
    Bad("CONNECT for another host", first_line(b"CONNECT b:80 HTTP/1.1"), HOST),
    Bad(
        "CONNECT without Host",
        without_host(b"CONNECT a:80 HTTP/1.1"),
        Rejection.MISSING_HOST,
    ),
    Bad("absolute for another host", first_line(b"GET http://b/ HTTP/1.1"), HOST),
    Bad("absolute for another port", first_line(b"GET http://a:81/ HTTP/1.1"), HOST),
    Bad("absolute, default of another", first_line(b"GET http://a:443/ HTTP/1.1"), HOST),
    Bad(
        "absolute without Host",
        without_host(b"GET http://a/ HTTP/1.1"),
        Rejection.MISSING_HOST,
    ),
    Bad("absolute, other scheme", first_line(b"GET ftp://a/ HTTP/1.1"), TARGET),
    Bad("absolute with user", first_line(b"GET http://u@a/ HTTP/1.1"), TARGET),
    Bad("absolute without host", first_line(b"GET http:///x HTTP/1.1"), TARGET),
    Bad("absolute with %00", first_line(b"GET http://a/%00 HTTP/1.1"), TARGET),
    Bad("absolute with a fragment", first_line(b"GET http://a/#b HTTP/1.1"), TARGET),
    Bad("absolute with a backslash", first_line(b"GET http://a\\b/ HTTP/1.1"), TARGET),
]

FIELDS = [
    Bad("space before the colon", request(b"x : y"), FIELD),
    Bad("tab before the colon", request(b"x\t: y"), FIELD),
    Bad("space before the colon of a length", request(b"content-length : 5"), FIELD),
    Bad("folded", request(b"x: y", b" z"), FIELD),
    Bad("folded with a tab", request(b"x: y", b"\tz"), FIELD),
    Bad("folded first", without_host(b"GET / HTTP/1.1", b" host: a"), FIELD),
    Bad("a line of blanks", request(b"x: y", b" "), FIELD),
    Bad("no colon", request(b"x"), FIELD),
    Bad("no name", request(b": y"), FIELD),
    *(
        Bad(f"{bytes([byte])!r} in the name", request(b"x%cy: z" % byte), FIELD)
        for byte in b'"(),/;<=>?@[\\]{} \x00\x01\x7f'
    ),
    Bad("UTF-8 in the name", request("\u00e9: y".encode()), FIELD),
    *(
        Bad(f"{bytes([byte])!r} in the value", request(b"x: a%cb" % byte), FIELD)
        for byte in b"\x00\x01\x08\x0b\x0c\x1f\x7f\r"
    ),
    Bad("LF in the value", request(b"x: a\nb: c"), FIELD),
    Bad("LF for the blank line", GET[:-2] + b"\n", FIELD),
    Bad("CR for the blank line", GET[:-2] + b"\rx: y\r\n\r\n", FIELD),
    Bad("CR CR LF", request(b"x: y\r"), FIELD),
]

HOSTS = [
    Bad("none", without_host(b"GET / HTTP/1.1"), Rejection.MISSING_HOST),
    Bad("none, other fields", without_host(b"GET / HTTP/1.1", b"x: y"), Rejection.MISSING_HOST),
    Bad("two", request(b"host: a"), Rejection.MULTIPLE_HOSTS),
    Bad("two, one empty", request(b"host:"), Rejection.MULTIPLE_HOSTS),
    Bad(
        "two in HTTP/1.0",
        request(b"host: a", first=b"GET / HTTP/1.0"),
        Rejection.MULTIPLE_HOSTS,
    ),
    Bad("bad one in HTTP/1.0", without_host(b"GET / HTTP/1.0", b"host: a b"), HOST),
    *(
        Bad(f"{host!r}", without_host(b"GET / HTTP/1.1", b"host: " + host), HOST)
        for host in (
            b"a b",
            b"a, b",
            b"u@a",
            b"a/b",
            b"a%20b",
            b"a:b",
            b"a:80:80",
            b"a:-1",
            b":80",
            b"[::1",
            b"[::g]",
            b"[]",
            b"::1",
            b"a\xff",
            b"a?",
            b"a#",
            b"a\\b",
            b"http://a",
        )
    ),
]

LENGTHS = [
    Bad(
        "length twice, equal",
        post(b"x", b"content-length: 1"),
        Rejection.MULTIPLE_CONTENT_LENGTHS,
    ),
    Bad(
        "length twice, different",
        post(b"x", b"content-length: 2"),
        Rejection.MULTIPLE_CONTENT_LENGTHS,
    ),
    *(
        Bad(f"length {length!r}", request(b"content-length: " + length), LENGTH)
        for length in (
            b"+5",
            b"-0",
            b"-5",
            b"5, 5",
            b"5,",
            b"",
            b"0x5",
            b"5 5",
            b"5.0",
            b"1e1",
            b"1_0",
            b"9" * 20,
            b"\xb2",
            b"\xd9\xa5",
        )
    ),
    Bad(
        "chunked and length",
        post(b"x", b"transfer-encoding: chunked"),
        Rejection.LENGTH_AND_TRANSFER_ENCODING,
    ),
    Bad(
        "chunked and length of nothing",
        request(b"content-length: 0", b"transfer-encoding: chunked"),
        Rejection.LENGTH_AND_TRANSFER_ENCODING,
    ),
    Bad(
        "length and no coding",
        request(b"transfer-encoding:", b"content-length: 5"),
        Rejection.LENGTH_AND_TRANSFER_ENCODING,
    ),
    *(
        Bad(
            f"coding {coding!r}",
            request(b"transfer-encoding: " + coding),
            Rejection.FINAL_CODING_NOT_CHUNKED,
        )
        for coding in (
            b"chunked, gzip",
            b"gzip",
            b"identity",
            b"",
            b",",
            b"chunked,",
            b"xchunked",
            b"chunked;q=1",
            b'"chunked"',
            b"chunked\xa0",
        )
    ),
    *(
        Bad(
            f"coding {coding!r}",
            request(b"transfer-encoding: " + coding),
            Rejection.UNKNOWN_TRANSFER_CODING,
        )
        for coding in (b"gzip, chunked", b"chunked, chunked", b", chunked", b"identity,chunked")
    ),
    Bad(
        "chunked and gzip in two fields",
        post_chunked(b"0\r\n\r\n", b"transfer-encoding: gzip"),
        Rejection.UNKNOWN_TRANSFER_CODING,
    ),
    Bad(
        "chunked in HTTP/1.0",
        request(b"transfer-encoding: chunked", first=b"POST / HTTP/1.0"),
        Rejection.TRANSFER_ENCODING_HTTP10,
    ),
    Bad(
        "HTTP/1.0 POST without length",
        first_line(b"POST / HTTP/1.0"),
        Rejection.LENGTH_REQUIRED_HTTP10,
    ),
    Bad(
        "HTTP/1.0 PUT without length",
        first_line(b"PUT / HTTP/1.0"),
        Rejection.LENGTH_REQUIRED_HTTP10,
    ),
    Bad("CONNECT with a length", connect(b"content-length: 1"), Rejection.CONNECT_WITH_BODY),
    Bad("CONNECT with chunks", connect(b"transfer-encoding: chunked"), Rejection.CONNECT_WITH_BODY),
]

LIMITS = [
    Bad(
        "request line",
        first_line(b"GET /" + b"x" * 50 + b" HTTP/1.1"),
        Rejection.REQUEST_LINE_TOO_LONG,
        limits=SMALL,
    ),
    Bad("no request line", b"x" * 64, Rejection.REQUEST_LINE_TOO_LONG, limits=SMALL),
    Bad("headers", request(b"x" * 120 + b": y"), Rejection.HEADERS_TOO_LARGE, limits=SMALL),
    Bad("fields", request(*[b"a: b"] * 4), Rejection.TOO_MANY_HEADERS, limits=SMALL),
    Bad("short fields", request(*[b"a:"] * 101), Rejection.TOO_MANY_HEADERS),
]

HEADS = [*LINES, *TARGETS, *FIELDS, *HOSTS, *LENGTHS, *LIMITS]
"""All of them."""
