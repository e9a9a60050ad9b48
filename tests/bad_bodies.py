"""The rejection table's rows whose head is good; what follows it is wrong, or does not come."""

from kestrel_protocols.http.rejection import Rejection
from tests.bad_request import SMALL, Bad
from tests.raw_client import GET, post, post_chunked, request

__all__ = ["CHUNKS", "EARLY_ENDS", "LIMITS", "PIPELINED", "SILENCES"]

LINE = Rejection.INVALID_REQUEST_LINE
VERSION = Rejection.UNRECOGNIZED_HTTP_VERSION
FIELD = Rejection.INVALID_REQUEST_HEADER
CHUNK_SIZE = Rejection.BAD_CHUNK_SIZE
CHUNK_EXTENSION = Rejection.BAD_CHUNK_EXTENSION
CHUNK_SUFFIX = Rejection.BAD_CHUNK_SUFFIX
END = Rejection.UNEXPECTED_END

LIMITS = [
    Bad("length", post(b"x" * 21), Rejection.BODY_TOO_LARGE, limits=SMALL),
    Bad("chunk", post_chunked(b"15\r\n" + b"x" * 21), Rejection.BODY_TOO_LARGE, limits=SMALL),
    Bad(
        "extension",
        post_chunked(b"1;" + b"x" * 21 + b"\r\n"),
        Rejection.BODY_TOO_LARGE,
        limits=SMALL,
    ),
    Bad(
        "trailers",
        post_chunked(b"0\r\nx: " + b"y" * 90 + b"\r\n\r\n"),
        Rejection.HEADERS_TOO_LARGE,
        limits=SMALL,
    ),
    Bad(
        "trailer fields",
        post_chunked(b"0\r\n" + b"a: b\r\n" * 3 + b"\r\n"),
        Rejection.TOO_MANY_HEADERS,
        limits=SMALL,
    ),
]

CHUNKS = [
    Bad("size ended by LF", post_chunked(b"1\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("size ended by CR", post_chunked(b"1\rx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("last size ended by LF", post_chunked(b"0\n\r\n"), CHUNK_SIZE),
    Bad("no size", post_chunked(b"\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("no size, but an extension", post_chunked(b";a\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("size of nine digits", post_chunked(b"000000001\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("size of nine digits to come", post_chunked(b"000000001"), CHUNK_SIZE),
    Bad("size not hexadecimal", post_chunked(b"g"), CHUNK_SIZE),
    Bad("size with a sign", post_chunked(b"+1\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("size below zero", post_chunked(b"-1\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("size with 0x", post_chunked(b"0x1\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("size with _", post_chunked(b"1_0\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("blank before the size", post_chunked(b" 1\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("blank after the size", post_chunked(b"1 \r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("blank before an extension", post_chunked(b"1 ;a\r\nx\r\n0\r\n\r\n"), CHUNK_SIZE),
    Bad("LF in an extension", post_chunked(b"1;a\nb\r\nx\r\n0\r\n\r\n"), CHUNK_EXTENSION),
    Bad("CR in an extension", post_chunked(b"1;a\rb\r\nx\r\n0\r\n\r\n"), CHUNK_EXTENSION),
    Bad("LF after an extension", post_chunked(b"1;a\nx\r\n0\r\n\r\n"), CHUNK_EXTENSION),
    Bad("CR after the last extension", post_chunked(b"0;a\r\rx"), CHUNK_EXTENSION),
    Bad("NUL in an extension", post_chunked(b"1;\x00\r\nx\r\n0\r\n\r\n"), CHUNK_EXTENSION),
    Bad("endless extension", post_chunked(b"1;" + b"a" * 5000), CHUNK_EXTENSION),
    Bad("data longer than its size", post_chunked(b"1\r\nxy\r\n0\r\n\r\n"), CHUNK_SUFFIX),
    Bad("data ended by LF", post_chunked(b"1\r\nx\n0\r\n\r\n"), CHUNK_SUFFIX),
    Bad("data ended by CR", post_chunked(b"1\r\nx\r0\r\n\r\n"), CHUNK_SUFFIX),
    Bad("data ended by two other bytes", post_chunked(b"1\r\nxXX0\r\n\r\n"), CHUNK_SUFFIX),
    Bad("data not ended", post_chunked(b"1\r\nx0\r\n\r\n"), CHUNK_SUFFIX),
    Bad("trailer folded", post_chunked(b"0\r\nx: y\r\n z\r\n\r\n"), FIELD),
    Bad("trailer without colon", post_chunked(b"0\r\nx\r\n\r\n"), FIELD),
    Bad("trailer with a space before the colon", post_chunked(b"0\r\nx : y\r\n\r\n"), FIELD),
    Bad("trailer with NUL", post_chunked(b"0\r\nx: \x00\r\n\r\n"), FIELD),
    Bad("trailer with CR", post_chunked(b"0\r\nx: a\rb\r\n\r\n"), FIELD),
    Bad("trailer ended by LF", post_chunked(b"0\r\nx: y\n"), FIELD),
    Bad("second trailer ended by LF", post_chunked(b"0\r\nx: y\r\nx: y\n\r\n"), FIELD),
    Bad("LF for the last line", post_chunked(b"0\r\n\n"), FIELD),
    Bad("LF for the last line of trailers", post_chunked(b"0\r\nx: y\r\n\n"), FIELD),
    Bad("length in a trailer", post_chunked(b"0\r\ncontent-length: 1\r\n\r\n"), FIELD),
    Bad("coding in a trailer", post_chunked(b"0\r\ntransfer-encoding: gzip\r\n\r\n"), FIELD),
    Bad("Host in a trailer", post_chunked(b"0\r\nHost: b\r\n\r\n"), FIELD),
]

EARLY_ENDS = [
    Bad("in the request line", b"GET / HT", END, ends=True),
    Bad("after the request line", b"GET / HTTP/1.1\r\n", END, ends=True),
    Bad("in a field", GET[:20], END, ends=True),
    Bad("before the blank line", GET[:-2], END, ends=True),
    Bad("in a body", request(b"content-length: 5", body=b"hell"), END, ends=True),
    Bad("before a body", request(b"content-length: 5"), END, ends=True),
    Bad("before a chunk", post_chunked(b""), END, ends=True),
    Bad("in a chunk's size", post_chunked(b"5"), END, ends=True),
    Bad("in a chunk", post_chunked(b"5\r\nhell"), END, ends=True),
    Bad("after a chunk", post_chunked(b"5\r\nhello"), END, ends=True),
    Bad("before the last chunk", post_chunked(b"5\r\nhello\r\n"), END, ends=True),
    Bad("in the trailers", post_chunked(b"0\r\nx: y\r\n"), END, ends=True),
    Bad("in the last line", post_chunked(b"0\r\n\r"), END, ends=True),
]

SILENCES = [
    Bad("in the request line", b"GET / HT", Rejection.HEADERS_TIMEOUT),
    Bad("before the blank line", GET[:-2], Rejection.HEADERS_TIMEOUT),
    Bad("in a body", request(b"content-length: 5", body=b"hell"), Rejection.BODY_TIMEOUT),
    Bad("in a chunk", post_chunked(b"5\r\nhell"), Rejection.BODY_TIMEOUT),
    Bad("in the trailers", post_chunked(b"0\r\nx: y\r\n"), Rejection.BODY_TIMEOUT),
]

# Behind a request that is served.
PIPELINED = [
    Bad("good, bad line", GET + b"GET / HTTP/3.0\r\n\r\n", VERSION),
    Bad("good, no Host", GET + b"GET / HTTP/1.1\r\n\r\n", Rejection.MISSING_HOST),
    Bad("good, LF for line ends", GET + GET.replace(b"\r\n", b"\n"), LINE),
    Bad("good, folded", GET + request(b"x: y", b" z"), FIELD),
    Bad("body shorter than its bytes", post(b"x") + b"y\r\n", LINE),
    Bad("chunks, and a byte more", post_chunked(b"0\r\n\r\n") + b"0\r\n", LINE),
]
