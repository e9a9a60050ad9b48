"""What each leniency lets in, what it makes of that, and what none of them ever lets in."""

import attrs
import pytest

from kestrel_core.protocol import Sniff
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1 import Http1, Leniency
from kestrel_protocols.http1.leniency import Tolerance
from kestrel_protocols.http1.request_head import FieldBlocks
from kestrel_protocols.http1.unusual_head import (
    read_unusual_line,
    without_contradictions,
)
from tests.bad_heads import HEADS
from tests.bad_request import Bad
from tests.head_reading import Head, Tolerated, read_head
from tests.raw_client import GET, request

BARE = Leniency.BARE_LINE_FEED
FOLDED = Leniency.OBSOLETE_LINE_FOLDING
LENGTH_TOO = Leniency.LENGTH_WITH_TRANSFER_ENCODING
REPEATED = Leniency.REPEATED_CONTENT_LENGTH
SPACES = Leniency.SPACES_IN_REQUEST_LINE
OVERRIDE = Leniency.ABSOLUTE_TARGET_OVERRIDES_HOST

HOST = (b"host", b"a")


@attrs.frozen
class Loose:
    """A head that is refused, for a reason, unless it is tolerated, as what it then is."""

    leniency: Leniency
    sent: bytes
    rejection: Rejection
    meant: bytes


LINE = Rejection.INVALID_REQUEST_LINE
FIELD = Rejection.INVALID_REQUEST_HEADER

LOOSE = [
    Loose(BARE, GET.replace(b"\r\n", b"\n"), LINE, GET),
    Loose(BARE, GET.replace(b"\r\n", b"\n", 1), LINE, GET),
    Loose(BARE, GET[:-2] + b"\n", FIELD, GET),
    Loose(BARE, GET[:-4] + b"\n\r\n", FIELD, GET),
    Loose(BARE, request(b"x: y\nz:"), FIELD, request(b"x: y", b"z:")),
    Loose(FOLDED, request(b"x: y", b" z"), FIELD, request(b"x: y z")),
    Loose(FOLDED, request(b"x: y", b"\t z", b"  \tw"), FIELD, request(b"x: y z w")),
    Loose(FOLDED, request(b"x:", b" z"), FIELD, request(b"x: z")),
    Loose(FOLDED, request(b"x: y", b" z: w"), FIELD, request(b"x: y z: w")),
    Loose(
        LENGTH_TOO,
        request(b"content-length: 5", b"x: y", b"transfer-encoding: chunked"),
        Rejection.LENGTH_AND_TRANSFER_ENCODING,
        request(b"x: y", b"transfer-encoding: chunked"),
    ),
    Loose(
        REPEATED,
        request(b"content-length: 5", b"x: y", b"Content-Length: 5"),
        Rejection.MULTIPLE_CONTENT_LENGTHS,
        request(b"content-length: 5", b"x: y"),
    ),
    Loose(
        REPEATED,
        request(*[b"content-length: 0"] * 3),
        Rejection.MULTIPLE_CONTENT_LENGTHS,
        request(b"content-length: 0"),
    ),
    Loose(SPACES, request(first=b"GET  / HTTP/1.1"), LINE, GET),
    Loose(SPACES, request(first=b"GET /   HTTP/1.1"), LINE, GET),
    Loose(SPACES, request(first=b"GET / HTTP/1.1  "), LINE, GET),
    Loose(
        SPACES, request(first=b"OPTIONS  * HTTP/1.1"), LINE, request(first=b"OPTIONS * HTTP/1.1")
    ),
    Loose(
        OVERRIDE,
        request(b"x: y", first=b"GET http://B:81/ HTTP/1.1"),
        Rejection.INVALID_HOST,
        request(b"x: y", first=b"GET http://B:81/ HTTP/1.1").replace(b": a", b": B:81"),
    ),
    Loose(
        OVERRIDE,
        request(first=b"GET http://b HTTP/1.0"),
        Rejection.INVALID_HOST,
        request(first=b"GET http://b HTTP/1.0").replace(b": a", b": b"),
    ),
]

loose_heads = pytest.mark.parametrize("loose", LOOSE, ids=lambda loose: repr(loose.sent))


@loose_heads
def test_what_is_tolerated_is_read_as_it_was_meant(loose: Loose) -> None:
    tolerated, meant = Tolerated.of(loose.leniency), read_head(loose.meant)
    assert isinstance(meant, Head)
    assert tolerated.read(loose.sent) == meant
    assert tolerated.counts == {loose.leniency: 1}


@loose_heads
def test_no_other_leniency_lets_it_in(loose: Loose) -> None:
    others = Tolerated.of(*(leniency for leniency in Leniency if leniency is not loose.leniency))
    assert others.read(loose.sent) is loose.rejection is read_head(loose.sent)
    assert not others.used


def test_all_at_once() -> None:
    sent = (
        b"POST   http://b/  HTTP/1.1 \nhost: a\nx: y\n z\r\n"
        b"content-length: 5\ncontent-length: 5\ntransfer-encoding: chunked\n\n"
    )
    fields = [(b"host", b"b"), (b"x", b"y z"), (b"transfer-encoding", b"chunked")]
    tolerated = Tolerated.of(*Leniency)
    assert tolerated.read(sent) == Head(b"POST", b"http://b/", http11=True, fields=fields)
    assert tolerated.used == set(Leniency)


# What is never tolerated ------------------------------------------------------------------------

TOLERATED_NAMES = {
    "LF for line ends",
    "LF after the request line",
    "LF before the request line",
    "LF in the value",
    "LF for the blank line",
    "two spaces before the version",
    "two spaces after the method",
    "space after the version",
    "folded",
    "folded with a tab",
    "length twice, equal",
    "chunked and length",
    "chunked and length of nothing",
    "absolute for another host",
    "absolute for another port",
    "absolute, default of another",
}
"""The rows of the rejection table that some leniency is for."""

NEVER = [bad for bad in HEADS if bad.name not in TOLERATED_NAMES]


def test_the_rows_that_are_tolerated_exist() -> None:
    assert {bad.name for bad in HEADS} >= TOLERATED_NAMES
    assert len(NEVER) == len(HEADS) - len(TOLERATED_NAMES)


@pytest.mark.parametrize("bad", NEVER, ids=lambda bad: bad.name)
def test_everything_else_is_refused_whatever_is_tolerated(bad: Bad) -> None:
    assert (
        read_head(bad.sent, Tolerance(dict.fromkeys(Leniency, 0), ""), bad.limits) is bad.rejection
    )


CHUNKED = b"transfer-encoding: chunked"


@pytest.mark.parametrize(
    ("sent", "rejection"),
    [
        (request(b"content-length:", b" 5"), FIELD),
        (request(b"x: y", b" z", b"Transfer-Encoding:", b"\tchunked"), FIELD),
        (b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n", FIELD),
        (b"GET / HTTP/1.1\nHost:\n a\n\n", FIELD),
        (request(b"x: y", b" content-length: 5"), FIELD),
        (request(b"x: y", b"\tTransfer-Encoding : chunked"), FIELD),
        (request(b"x: y", b" z", b" host: b"), FIELD),
        (request(b"x: y", b" ", b" z"), FIELD),
        (request(b"x: y", b" z\x00"), FIELD),
        (request(b"x: y", b" z", b"w : v"), FIELD),
        # h11 is asked about folded blocks, and has more to say of them.
        (request(b"x: y", b" z", b"content-length: 5", b"content-length: 6"), FIELD),
        (request(b"x: y", b" z\rw"), FIELD),
        (b"GET / HTTP/1.1\r\n host: a\r\n\r\n", FIELD),
        (b"GET / HTTP/1.1\n host: a\n\n", FIELD),
        (b"GET / HTTP/1.1\r\r\nhost: a\r\n\r\n", LINE),
        (b"GET / HTTP/1.1\nhost: a\r\r\n\n", FIELD),
        (b"GET / HTTP/1.1\rhost: a\n\n", LINE),
        (b"GET /a b HTTP/1.1\nhost: a\n\n", LINE),
        (b" GET / HTTP/1.1\nhost: a\n\n", LINE),
        (b"GET\t/ HTTP/1.1\nhost: a\n\n", LINE),
        (b"GET  / \t HTTP/1.1\nhost: a\n\n", LINE),
        (b"GET  /  HTTP/1.2\nhost: a\n\n", Rejection.UNRECOGNIZED_HTTP_VERSION),
        (b"PRI  *  HTTP/2.0\n\n", Rejection.HTTP2_PREFACE),
        (
            request(b"content-length: 5", b"content-length: 05"),
            Rejection.MULTIPLE_CONTENT_LENGTHS,
        ),
        (
            request(*[b"content-length: +5"] * 2),
            Rejection.MULTIPLE_CONTENT_LENGTHS,
        ),
        (
            request(*[b"content-length: 5, 5"] * 2),
            Rejection.MULTIPLE_CONTENT_LENGTHS,
        ),
        (
            request(b"content-length: +5", CHUNKED),
            Rejection.LENGTH_AND_TRANSFER_ENCODING,
        ),
        (
            request(b"content-length: 5", b"content-length: 6", CHUNKED),
            Rejection.LENGTH_AND_TRANSFER_ENCODING,
        ),
        (
            request(b"content-length: 5", b"transfer-encoding: gzip"),
            Rejection.LENGTH_AND_TRANSFER_ENCODING,
        ),
        (
            request(b"content-length: 5", CHUNKED, first=b"POST / HTTP/1.0"),
            Rejection.LENGTH_AND_TRANSFER_ENCODING,
        ),
        (
            b"CONNECT a:80 HTTP/1.1\r\nhost: a:81\r\n\r\n",
            Rejection.INVALID_HOST,
        ),
        (b"GET http://b/ HTTP/1.1\r\n\r\n", Rejection.MISSING_HOST),
        (b"GET http://b/ HTTP/1.1\r\nhost: a b\r\n\r\n", Rejection.INVALID_HOST),
        (request(b"host: a", first=b"GET http://b/ HTTP/1.1"), Rejection.MULTIPLE_HOSTS),
        (b"CONNECT a:80 HTTP/1.1\nhost: a:80\ncontent-length: 1\n\n", Rejection.CONNECT_WITH_BODY),
    ],
    ids=repr,
)
def test_nearly_tolerated(sent: bytes, rejection: Rejection) -> None:
    assert Tolerated.of(*Leniency).read(sent) is rejection


def test_limits_hold_for_what_is_rewritten() -> None:
    tolerance = Tolerance(dict.fromkeys(Leniency, 0), "")
    line = b"GET /" + b"x" * 8177 + b" HTTP/1.1\n"
    assert len(line) == 8192  # with CR it would be too long
    sent = line + b"host: a\n\n"
    assert read_head(sent, tolerance) is Rejection.REQUEST_LINE_TOO_LONG
    assert read_head(b"x" * 8192, tolerance) is Rejection.REQUEST_LINE_TOO_LONG
    sent = b"GET / HTTP/1.1\n" + b"x:\n" * 8192
    assert read_head(sent + b"\n", tolerance) is Rejection.HEADERS_TOO_LARGE
    assert read_head(sent + b"x:\n" * 4096, tolerance) is Rejection.HEADERS_TOO_LARGE
    folded = request(b"x: y", *[b" z"] * 99)
    assert read_head(folded, tolerance) is Rejection.TOO_MANY_HEADERS


# Counting ---------------------------------------------------------------------------------------


def test_what_is_not_needed_is_not_counted() -> None:
    tolerated = Tolerated.of(*Leniency)
    for sent in (
        GET,
        request(b"content-length: 5"),
        request(CHUNKED),
        request(first=b"GET http://a:80/ HTTP/1.1"),
        b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    ):
        assert isinstance(tolerated.read(sent), Head)
    assert not tolerated.used


def test_a_head_counts_once_however_often_it_is_looked_at() -> None:
    counts = {SPACES: 0}
    tolerance = Tolerance(counts, "")
    for _ in range(3):
        read_unusual_line(b"GET  / HTTP/1.1", tolerance)
    assert counts == {SPACES: 0}
    tolerance.count()
    tolerance.count()
    assert counts == {SPACES: 1}
    read_unusual_line(b"GET  / HTTP/1.1", tolerance)
    tolerance.count()
    assert counts == {SPACES: 2}


def test_a_block_that_is_remembered_is_left_as_it_is() -> None:
    blocks, counts = FieldBlocks(), {LENGTH_TOO: 0, REPEATED: 0}
    tolerance = Tolerance(counts, "")
    line = read_unusual_line(b"GET / HTTP/1.1")
    lines = b"host: a\r\ncontent-length: 5\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n"
    for count in (1, 2):
        block = blocks[lines]
        assert block is not None
        settled = without_contradictions(line, block, tolerance)
        tolerance.count()
        assert settled.fields == [HOST, (b"transfer-encoding", b"chunked")]
        assert settled.close
        assert len(block.fields) == 4
        assert not block.close
        assert counts == {LENGTH_TOO: count, REPEATED: count}


# Http1 ------------------------------------------------------------------------------------------


async def nobody(exchange: HttpExchange) -> None:
    """Is never called."""


def test_nothing_is_tolerated_unless_asked_for() -> None:
    assert Http1(nobody).tolerated == {}


def test_counts_are_there_from_the_start_and_only_to_be_read() -> None:
    tolerated = Http1(nobody, lenient=[BARE, FOLDED]).tolerated
    assert tolerated == {BARE: 0, FOLDED: 0}
    assert not hasattr(tolerated, "__setitem__")


@pytest.mark.parametrize("lenient", [["bare lf"], "bare_line_feed"])
def test_what_is_no_leniency(lenient: list[Leniency]) -> None:
    with pytest.raises(ValueError, match="is not a valid Leniency"):
        Http1(nobody, lenient=lenient)


@pytest.mark.parametrize(
    ("leniency", "beginning", "strict", "lenient"),
    [
        (BARE, b"\nGET / HTTP/1", Sniff.NO, Sniff.YES),
        (BARE, b"\n\r\n\nGET / HTTP/1", Sniff.NO, Sniff.YES),
        (BARE, b"\n", Sniff.NO, Sniff.MORE),
        (BARE, b"GET\n", Sniff.NO, Sniff.NO),
        (SPACES, b"GET  / HTTP/1", Sniff.NO, Sniff.YES),
        (SPACES, b"GET h  HTTP/1", Sniff.NO, Sniff.YES),
        (SPACES, b"GET  ", Sniff.NO, Sniff.MORE),
        (SPACES, b"GET ", Sniff.MORE, Sniff.MORE),
        (SPACES, b"GET \t", Sniff.NO, Sniff.NO),
        (SPACES, b" GET", Sniff.NO, Sniff.NO),
    ],
)
def test_what_is_tolerated_is_recognized(
    leniency: Leniency, beginning: bytes, strict: Sniff, lenient: Sniff
) -> None:
    assert Http1(nobody).sniff(beginning) is strict
    assert Http1(nobody, lenient=[leniency]).sniff(beginning) is lenient
