"""The fast lane against h11: wherever it answers, h11 gives the same answer."""

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from kestrel_protocols.http import BadRequest, Headers
from kestrel_protocols.http1.request_head import (
    FieldBlocks,
    RequestLines,
    check_framing,
)

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~09azAZ"
TARGET_CHARACTERS = TOKEN_CHARACTERS.replace("#", "/")
NAMES = st.one_of(
    st.sampled_from(
        ["host", "Host", "content-length", "Transfer-Encoding", "connection", "expect", "x", "X-Y"]
    ),
    st.text(TOKEN_CHARACTERS, min_size=1, max_size=8),
)
VALUES = st.one_of(
    st.sampled_from(
        ["a", "a:80", "5", "chunked", "close", "keep-alive, Upgrade", "", "100-continue"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=12),
)
WHITE = st.text(" \t", max_size=2)
FIELDS = st.tuples(NAMES, WHITE, VALUES, WHITE).map(lambda f: f"{f[0]}:{f[1]}{f[2]}{f[3]}\r\n")
BLOCKS = st.lists(FIELDS, max_size=5).map(lambda fields: "Host: a\r\n" + "".join(fields))
METHODS = st.sampled_from(["GET", "POST", "OPTIONS", "get", "M-SEARCH"])
TARGETS = st.one_of(
    st.sampled_from(["/", "/a%20b", "/%2e%2e/x?y=%00", "/a?b?c", "*", "http://a/b", "//", "/#f"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=10).map("/".__add__),
)
VERSIONS = st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/2.0"])
LINES = st.tuples(METHODS, TARGETS, VERSIONS).map(" ".join)


@st.composite
def mutated(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> bytes:
    """Text as bytes, now and then with a few of them dropped, doubled or replaced."""
    data = bytearray(draw(texts).encode("latin-1"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        if data:
            place = draw(st.integers(0, len(data) - 1))
            other = draw(st.sampled_from(b"\x00\r\n\t :;,\x7f\xffA/"))
            data[place : place + 1] = draw(
                st.sampled_from([b"", bytes([other]), bytes([data[place], other])])
            )
    return bytes(data)


def asked_of_h11(head: bytes) -> tuple[bytes, bytes, bytes, Headers] | None:
    """h11's answer, or None if it refuses or wants more."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
    return bytes(event.method), bytes(event.target), bytes(event.http_version), fields


def asked_of_fast_lane(line: bytes, block: bytes) -> tuple[bytes, bytes, bytes, Headers] | None:
    """The fast lane's answer, or None if it abstains or the framing is refused."""
    try:
        parsed, fields = RequestLines()[line], FieldBlocks()[block]
        if parsed is None or fields is None:
            return None
        check_framing(parsed, fields)
    except BadRequest:
        return None
    version = b"1.1" if parsed.http11 else b"1.0"
    return parsed.method.encode(), parsed.target, version, fields.fields


def lower_lengths(headers: Headers) -> Headers:
    """h11 writes the value of Transfer-Encoding in lower case, which means the same."""
    return [
        (name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers
    ]


@settings(max_examples=1500, deadline=None)
@given(mutated(LINES), mutated(BLOCKS))
def test_what_the_fast_lane_accepts_h11_accepts_alike(line: bytes, block: bytes) -> None:
    answer = asked_of_fast_lane(line, block)
    if answer is not None:
        theirs = asked_of_h11(line + b"\r\n" + block + b"\r\n")
        assert theirs is not None, "h11 refuses it"
        assert (*theirs[:3], lower_lengths(theirs[3])) == (*answer[:3], lower_lengths(answer[3]))


@settings(max_examples=300, deadline=None)
@given(METHODS, st.text(TARGET_CHARACTERS, max_size=9), st.lists(FIELDS, max_size=4))
def test_the_fast_lane_does_not_abstain_from_what_is_usual(
    method: str, path: str, fields: list[str]
) -> None:
    line = f"{method} /{path} HTTP/1.1".encode()
    block = "".join(field for field in fields if field.isascii() and "\x7f" not in field).encode()
    if "%" not in path:  # an escape may stand for NUL
        assert RequestLines()[line] is not None
    assert FieldBlocks()[block] is not None
