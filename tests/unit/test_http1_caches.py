"""What is remembered of requests and responses: bounded, and nobody's secret."""

import pytest

from kestrel_protocols.http import ResponseError
from kestrel_protocols.http.fields import FieldLines, field_lines
from kestrel_protocols.http1.request_head import FieldBlocks, RequestLines

FIRST = b"HTTP/1.1 200 OK"


# Requests ---------------------------------------------------------------------------------------


def test_a_request_line_is_taken_apart_once() -> None:
    lines = RequestLines()
    line = b"GET /a?b HTTP/1.1"
    assert lines[line] is lines[line]


def test_a_field_block_is_taken_apart_once() -> None:
    blocks = FieldBlocks()
    block = b"host: a\r\nx: y\r\n"
    assert blocks[block] is blocks[block]


def test_request_lines_do_not_fill_memory() -> None:
    lines = RequestLines()
    for number in range(2000):
        assert lines[b"GET /%d HTTP/1.1" % number] is not None
    assert 0 < len(lines) <= 512


def test_field_blocks_do_not_fill_memory() -> None:
    blocks = FieldBlocks()
    for number in range(2000):
        assert blocks[b"host: a\r\nx: %d\r\n" % number] is not None
    assert 0 < len(blocks) <= 512


def test_long_ones_are_not_remembered() -> None:
    lines, blocks = RequestLines(), FieldBlocks()
    assert lines[b"GET /" + b"x" * 3000 + b" HTTP/1.1"] is not None
    assert blocks[b"host: a\r\nx: " + b"y" * 3000 + b"\r\n"] is not None
    assert not lines
    assert not blocks


@pytest.mark.parametrize(
    "line", [b"CONNECT /a HTTP/1.1", b"GET a HTTP/1.1", b"GET / HTTP/1.2", b"GET  / HTTP/1.1", b""]
)
def test_unusual_lines_are_left_to_others(line: bytes) -> None:
    lines = RequestLines()
    assert lines[line] is None
    assert not lines


@pytest.mark.parametrize("block", [b"x", b"x : y\r\n", b"x: y\n", b"x: y\r\n z\r\n", b"x: \0\r\n"])
def test_unusual_blocks_are_left_to_others(block: bytes) -> None:
    blocks = FieldBlocks()
    assert blocks[block] is None
    assert not blocks


# Responses --------------------------------------------------------------------------------------


def lines_of(*headers: tuple[bytes, bytes], status: int = 200) -> FieldLines:
    return field_lines(status, headers, FIRST)


def test_fields_are_checked_once() -> None:
    field = (b"x-checked", b"once")
    assert lines_of(field) is lines_of(field)
    assert lines_of(field) is not lines_of(field, status=201)
    assert lines_of(field).lines == b"HTTP/1.1 200 OK\r\nx-checked: once"


def test_cookies_are_not_remembered() -> None:
    field = (b"Set-Cookie", b"session=secret")
    assert lines_of(field) is not lines_of(field)


def test_large_fields_are_not_remembered() -> None:
    field = (b"x-large", b"x" * 2000)
    assert lines_of(field) is not lines_of(field)


def test_fields_do_not_fill_memory() -> None:
    first = lines_of((b"x-number", b"0"))
    for number in range(1, 600):
        lines_of((b"x-number", b"%d" % number))
    assert lines_of((b"x-number", b"0")) is not first


def test_names_do_not_fill_memory() -> None:
    """An application that invents names is served all the same."""
    for number in range(1500):
        name = b"x-%d" % number
        assert lines_of((name, b"y")).lines.endswith(b"\r\n%b: y" % name)


def test_what_is_wrong_is_not_remembered() -> None:
    for _ in range(2):
        with pytest.raises(ResponseError, match="control character"):
            lines_of((b"x", b"a\r\nb: c"))
        with pytest.raises(ResponseError, match="two Content-Length"):
            lines_of((b"content-length", b"1"), (b"Content-Length", b"1"))
        with pytest.raises(ResponseError, match="no field name"):
            lines_of((b"a b", b""))


def test_which_field_is_wrong_is_told() -> None:
    with pytest.raises(ResponseError, match="x-bad"):
        lines_of((b"x-good", b"a"), (b"x-bad", b"\0"))


@pytest.mark.parametrize(
    ("headers", "chunked", "closes", "length"),
    [
        ([], False, False, None),
        ([(b"content-length", b"5")], False, False, 5),
        ([(b"transfer-encoding", b"Chunked")], True, False, None),
        ([(b"connection", b"keep-alive, Close")], False, True, None),
        ([(b"connection", b"x"), (b"connection", b"close")], False, True, None),
        ([(b"connection", b"closed")], False, False, None),
    ],
)
def test_what_matters_to_the_server(
    headers: list[tuple[bytes, bytes]], chunked: bool, closes: bool, length: int | None
) -> None:
    fields = lines_of(*headers)
    assert (fields.chunked, fields.closes, fields.content_length) == (chunked, closes, length)
    assert fields.is_plain == (not chunked and not closes)
    assert b"transfer-encoding" not in fields.lines
