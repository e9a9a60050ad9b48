"""Fields of responses, beside what is remembered of them: checks, trailers, the server's own lines."""

import time
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_protocols.http import Headers, ResponseError
from kestrel_protocols.http.fields import (
    FieldLines,
    date_and_server,
    field_lines,
    reason_phrase,
    stamp_with,
    trailer_lines,
    without_own,
)

FIRST = b"HTTP/1.1 200 OK"

# RFC 9110, 5.6.2 and 5.5.
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
VALUE = frozenset([9, *range(32, 127), *range(128, 256)])

WRONG_NAMES = [b"", b" ", b"a b", b"a:", b"a\r\nb", b"a\n", b"\xe9", b"a\0", b"(a)", b"a ", b":a"]
WRONG_VALUES = [b"\0", b"a\r", b"a\nb: c", b"a\r\nb: c", b"\r\n", b"\x7f", b"\x0b", b"a\x1f"]


# Checks -----------------------------------------------------------------------------------------


@given(st.binary(max_size=8) | st.integers(0, 255).map(lambda byte: bytes([byte])))
def test_a_name_is_a_token_and_nothing_else_is(end: bytes) -> None:
    name = b"x-" + end
    fields = [(name, b"y")]
    if TOKEN.issuperset(name):
        assert FieldLines(200, fields, FIRST).lines == b"%b\r\n%b: y" % (FIRST, name)
        assert trailer_lines(fields) == b"%b: y\r\n" % name
    else:
        for check in (lambda: FieldLines(200, fields, FIRST), lambda: trailer_lines(fields)):
            with pytest.raises(ResponseError, match="is no field name"):
                check()


@given(st.binary(max_size=30) | st.integers(0, 255).map(lambda byte: bytes([byte])))
def test_a_value_has_no_control_characters(value: bytes) -> None:
    fields = [(b"x-name", value)]
    if VALUE.issuperset(value):
        assert FieldLines(200, fields, FIRST).lines == b"%b\r\nx-name: %b" % (FIRST, value)
        assert trailer_lines(fields) == b"x-name: %b\r\n" % value
    else:
        for check in (lambda: FieldLines(200, fields, FIRST), lambda: trailer_lines(fields)):
            with pytest.raises(ResponseError, match="control character"):
                check()


@pytest.mark.parametrize(
    "headers",
    [[("x", "y")], [(b"x", "y")], [("x", b"y")], [(b"x", 5)], [(b"x", None)], [b"x: y"], [(b"x",)], [None], 5],
    ids=repr,
)  # fmt: skip
def test_what_is_no_pair_of_bytes_is_told_so(headers: Headers) -> None:
    for check in (lambda: field_lines(200, headers, FIRST), lambda: trailer_lines(headers)):
        with pytest.raises((ResponseError, TypeError)):
            check()


# Trailers ---------------------------------------------------------------------------------------


def test_trailers_are_lines_as_they_are_given() -> None:
    fields = [
        (b"x-Sum", b"1"),
        (b"x-sum", b""),
        (b"server-timing", b"a;dur=1\t,b"),
        (b"x", b"caf\xe9"),
    ]
    expected = b"x-Sum: 1\r\nx-sum: \r\nserver-timing: a;dur=1\t,b\r\nx: caf\xe9\r\n"
    assert trailer_lines(fields) == trailer_lines(iter(fields)) == expected
    assert trailer_lines([list(field) for field in fields]) == expected  # type: ignore[misc]  # as ASGI has them


def test_no_trailers_are_no_lines() -> None:
    assert trailer_lines([]) == trailer_lines(iter(())) == b""


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_wrong_name_is_no_trailer(name: bytes) -> None:
    with pytest.raises(ResponseError, match="is no field name"):
        trailer_lines([(b"x-good", b""), (name, b"")])


@pytest.mark.parametrize("value", WRONG_VALUES)
def test_a_wrong_value_is_no_trailer(value: bytes) -> None:
    with pytest.raises(ResponseError, match="control character"):
        trailer_lines([(b"x-good", b""), (b"x", value)])


@pytest.mark.parametrize(
    "name",
    [
        *[b"transfer-encoding", b"content-length", b"Content-Length", b"host", b"connection", b"upgrade"],
        *[b"keep-alive", b"te", b"trailer", b"content-encoding", b"content-type", b"content-range"],
        *[b"cache-control", b"age", b"date", b"expires", b"location", b"retry-after", b"vary", b"warning"],
        *[b"set-cookie", b"Set-Cookie", b"authorization", b"www-authenticate", b"proxy-authenticate"],
    ],
)  # fmt: skip
def test_some_fields_mean_nothing_good_behind_a_body(name: bytes) -> None:
    value = {b"transfer-encoding": b"chunked", b"content-length": b"5"}.get(name.lower(), b"x")
    with pytest.raises(ResponseError, match="may not be a trailer"):
        trailer_lines([(b"x-good", b"x"), (name, value)])


# What the server adds ---------------------------------------------------------------------------


def test_the_date_is_now_and_made_once_a_second() -> None:
    while True:
        second = int(time.time())
        stamp = date_and_server()
        again = date_and_server()
        if int(time.time()) == second:
            break
    assert again is stamp
    empty, date, server = stamp.split(b"\r\n")
    assert (empty, server) == (b"", b"server: kestrel")
    assert date.startswith(b"date: ")
    assert date.endswith(b" GMT")
    assert parsedate_to_datetime(date[6:].decode()).timestamp() == second


def test_an_alternative_service_is_told_beside_them() -> None:
    stamp = stamp_with(b'h3=":443"; ma=86400')()
    assert stamp.split(b"\r\n")[3:] == [b'alt-svc: h3=":443"; ma=86400']
    assert stamp_with(None)().count(b"\r\n") == 2
    for wrong in WRONG_VALUES:
        with pytest.raises(ResponseError, match="control character"):
            stamp_with(wrong)


@pytest.mark.parametrize(
    "own", [[], [b"Date"], [b"server"], [b"alt-svc"], [b"date", b"Server", b"Alt-Svc"]]
)
def test_what_the_application_says_itself_is_not_added(own: list[bytes]) -> None:
    fields = FieldLines(200, [(name, b"mine") for name in own], FIRST)
    assert fields.is_plain == (not own)
    lines = without_own(stamp_with(b"clear")(), fields).split(b"\r\n")
    names = {line.partition(b":")[0] for line in lines[1:]}
    assert lines[0] == b""
    assert names == {b"date", b"server", b"alt-svc"} - {name.lower() for name in own}


def test_reasons_are_those_that_are_registered() -> None:
    assert [reason_phrase(status) for status in (103, 200, 404, 599)] == [
        *("Early Hints", "OK", "Not Found", ""),
    ]
