"""Heads as this server reads them against h11, on good ones and on such as were tampered with.

Both give the same answer, or this server is the stricter one, for a reason that is listed here.
"""

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.request_head import FieldBlocks, RequestLines
from tests.head_reading import Head, in_h11_terms, read_by_fast_lane, read_by_h11, read_head
from tests.request_strategies import FIELDS, METHODS, good_heads, mutated

TARGET_CHARACTERS = "!$%&'*+-.^_`|~09azAZ/"


def method_of(head: bytes) -> bytes:
    return head.split(b" ")[0]


def target_of(head: bytes) -> bytes:
    return head.split(b" ")[1]


def values_of(name: bytes, head: bytes) -> list[bytes]:
    return re.findall(rb"\n%b:[ \t]*(.*?)[ \t]*(?=\r?\n)" % name, head, re.IGNORECASE)


def names_a_host(head: bytes) -> bool:
    return not target_of(head).startswith((b"/", b"*"))


# What h11 takes and this server does not: reasons, and what must be seen in a head to give one.
STRICTER: dict[Rejection, Callable[[bytes], object]] = {
    Rejection.INVALID_REQUEST_LINE: lambda head: re.match(rb"[^\r\n]*\n", head),
    Rejection.INVALID_REQUEST_HEADER: lambda head: re.search(
        rb"(?<!\r)\n|\n[ \t]|[\x01-\x08\x0e-\x1f\x7f]", head
    ),
    Rejection.INVALID_REQUEST_TARGET: lambda head: re.search(
        rb"#|%00|^[^/]", target_of(head), re.IGNORECASE
    ),
    Rejection.UNRECOGNIZED_HTTP_VERSION: lambda head: re.search(rb"HTTP/(?!1\.[01]\r)", head),
    Rejection.HTTP2_PREFACE: lambda head: head.startswith(b"PRI * HTTP/2.0"),
    Rejection.OPTIONS_METHOD_REQUIRED: lambda head: (
        target_of(head) == b"*" and method_of(head) != b"OPTIONS"
    ),
    Rejection.CONNECT_METHOD_REQUIRED: lambda head: (
        re.search(rb":[0-9]+$", target_of(head)) and method_of(head) != b"CONNECT"
    ),
    Rejection.CONNECT_WITH_BODY: lambda head: method_of(head) == b"CONNECT",
    Rejection.INVALID_HOST: lambda head: (
        names_a_host(head)
        or not re.fullmatch(rb"([0-9A-Za-z.]+(:[0-9]*)?)?", values_of(b"host", head)[0])
    ),
    Rejection.INVALID_CONTENT_LENGTH: lambda head: (
        b"," in values_of(b"content-length", head)[0]
        or len(values_of(b"content-length", head)[0]) > 19
    ),
    Rejection.MULTIPLE_CONTENT_LENGTHS: lambda head: len(values_of(b"content-length", head)) > 1,
    Rejection.LENGTH_AND_TRANSFER_ENCODING: lambda head: (
        values_of(b"content-length", head) and values_of(b"transfer-encoding", head)
    ),
    Rejection.TRANSFER_ENCODING_HTTP10: lambda head: (
        b" HTTP/1.0\r\n" in head and values_of(b"transfer-encoding", head)
    ),
    Rejection.LENGTH_REQUIRED_HTTP10: lambda head: (
        re.match(rb"(POST|PUT) .* HTTP/1.0\r\n", head) and not values_of(b"content-length", head)
    ),
}

EXAMPLES = {
    Rejection.INVALID_REQUEST_LINE: b"GET / HTTP/1.1\nhost: a\r\n\r\n",
    Rejection.INVALID_REQUEST_HEADER: b"GET / HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n",
    Rejection.INVALID_REQUEST_TARGET: b"GET a HTTP/1.1\r\nhost: a\r\n\r\n",
    Rejection.UNRECOGNIZED_HTTP_VERSION: b"GET / HTTP/1.2\r\nhost: a\r\n\r\n",
    Rejection.HTTP2_PREFACE: b"PRI * HTTP/2.0\r\n\r\n",
    Rejection.OPTIONS_METHOD_REQUIRED: b"GET * HTTP/1.1\r\nhost: a\r\n\r\n",
    Rejection.CONNECT_METHOD_REQUIRED: b"GET a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    Rejection.CONNECT_WITH_BODY: b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\ncontent-length: 1\r\n\r\n",
    Rejection.INVALID_HOST: b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
    Rejection.INVALID_CONTENT_LENGTH: b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\n",
    Rejection.MULTIPLE_CONTENT_LENGTHS: (
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n"
    ),
    Rejection.LENGTH_AND_TRANSFER_ENCODING: (
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    ),
    Rejection.TRANSFER_ENCODING_HTTP10: b"GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
    Rejection.LENGTH_REQUIRED_HTTP10: b"PUT / HTTP/1.0\r\n\r\n",
}


def expect_agreement(data: bytes) -> None:
    """Both read the same, or this server refuses it, for a reason that h11 does not have."""
    ours, theirs = read_head(data), read_by_h11(data)
    if isinstance(ours, Head):
        assert isinstance(theirs, Head), "h11 refuses it"
        assert theirs == in_h11_terms(ours)
    elif isinstance(theirs, Head):
        assert ours is not None, "it waits for more, and h11 does not"
        assert ours in STRICTER
        head, end, _ = data.partition(b"\r\n\r\n")  # behind which there may be the likes of fields
        assert STRICTER[ours](head + end)


@settings(max_examples=500, deadline=None)
@given(good_heads())
def test_good_heads_are_read_alike(head: bytes) -> None:
    ours = read_head(head)
    assert isinstance(ours, Head)
    assert read_by_h11(head) == in_h11_terms(ours)


@settings(max_examples=2500, deadline=None)
@given(mutated(good_heads()))
@example(b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n")
@example(b"GET /  HTTP/1.1\r\nhost: a\r\n\r\n")
@example(b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nhost: a\r\n\n\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nhost: a\n\n")
@example(b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n \r\n\r\n")
def test_heads_that_were_tampered_with_are_read_alike_or_refused(head: bytes) -> None:
    expect_agreement(head)


@settings(max_examples=1500, deadline=None)
@given(mutated(good_heads()))
def test_what_the_fast_lane_accepts_h11_accepts_alike(head: bytes) -> None:
    first = head[: head.find(b"\r\n\r\n") + 4]
    ours = read_by_fast_lane(first)
    if ours is not None:
        assert read_by_h11(first) == in_h11_terms(ours)


@pytest.mark.parametrize(("reason", "head"), EXAMPLES.items(), ids=lambda value: str(value)[:40])
def test_where_this_server_is_the_stricter_one(reason: Rejection, head: bytes) -> None:
    assert isinstance(read_by_h11(head), Head)
    assert read_head(head) is reason
    expect_agreement(head)


def test_every_reason_to_be_stricter_has_an_example() -> None:
    assert EXAMPLES.keys() == STRICTER.keys()


@settings(max_examples=300, deadline=None)
@given(METHODS, st.text(TARGET_CHARACTERS, max_size=9), st.lists(FIELDS, max_size=4))
def test_the_fast_lane_does_not_abstain_from_what_is_usual(
    method: str, path: str, fields: list[str]
) -> None:
    line = f"{method} /{path} HTTP/1.1".encode()
    if "%" not in path:  # an escape may stand for NUL
        assert RequestLines()[line] is not None
    assert FieldBlocks()["".join(fields).encode("latin-1")] is not None
