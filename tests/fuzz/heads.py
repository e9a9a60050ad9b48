"""Fuzz target: request heads, through both lanes that read them, and through h11."""

import re

from kestrel_core.protocol import Sniff
from kestrel_protocols.http import BadRequest
from kestrel_protocols.http1 import Http1
from kestrel_protocols.http1.request_head import (
    FieldBlock,
    FieldBlocks,
    RequestLine,
    RequestLines,
    check_framing,
    check_head_so_far,
)
from kestrel_protocols.http1.unusual_head import read_unusual_block, read_unusual_line
from tests.fuzz.h11_opinion import as_h11_has_them, h11_opinion

__all__ = ["check"]

MAX_LINE_BYTES = 8192
MAX_HEADERS_BYTES = 32_768

# What no part of a request that was accepted may have in it (RFC 9110, 5.5).
FORBIDDEN = re.compile(rb"[\0-\x08\x0a-\x1f\x7f]")

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# A sniffer does not take a longer word for a method, though it may be one.
LONGEST_SNIFFED_METHOD = 32


async def nobody(exchange: object) -> None:
    """Stand where an application belongs: nothing is served here."""


def check(data: bytes) -> None:
    """Read `data` as a head; it is refused or understood, and in no two ways."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        is_good_so_far(data)
        return
    head = data[: end + 4]
    line_end = head.find(b"\r\n")
    if line_end == 0:  # a blank line before a head, which the connection skips
        return
    line_bytes, block_bytes = head[:line_end], head[line_end + 2 : -2]
    accepted = read(line_bytes, block_bytes)
    if accepted is None:
        return
    line, block = accepted
    check_values(line, block)
    check_h11_agrees(head, line, block)
    for cut in range(len(head)):
        assert is_good_so_far(head[:cut]), f"a good head is refused after {cut} bytes"
        if len(line.method) <= LONGEST_SNIFFED_METHOD:
            assert Http1(nobody).sniff(head[:cut]) is not Sniff.NO


def read(line_bytes: bytes, block_bytes: bytes) -> tuple[RequestLine, FieldBlock] | None:
    """Read a head as a connection does; where both lanes take it, they must agree."""
    try:
        usual_line = RequestLines()[line_bytes]
        line = usual_line or read_unusual_line(line_bytes)
        if usual_line is not None:
            check_lines_agree(usual_line, read_unusual_line(line_bytes))
        block = FieldBlocks()[block_bytes] or read_unusual_block(block_bytes)
        check_framing(line, block)
    except BadRequest:
        return None
    return line, block


def is_good_so_far(data: bytes) -> bool:
    """Tell whether the beginning of a head is not refused."""
    try:
        check_head_so_far(data, MAX_LINE_BYTES, MAX_HEADERS_BYTES)
        line = data[: max(0, data.find(b"\r\n"))]
        if line and RequestLines()[line] is None:
            read_unusual_line(line)
    except BadRequest:
        return False
    return True


def check_lines_agree(usual: RequestLine, unusual: RequestLine) -> None:
    for name in ("method", "target", "path", "raw_path", "query", "http11", "authority"):
        assert getattr(usual, name) == getattr(unusual, name), name


def check_values(line: RequestLine, block: FieldBlock) -> None:
    """What was accepted is harmless for whoever writes it down, or sends it on."""
    assert TOKEN.fullmatch(line.method.encode())
    assert not FORBIDDEN.search(line.target)
    assert b" " not in line.target
    assert "\0" not in line.path
    for name, value in block.fields:
        assert TOKEN.fullmatch(name)
        assert name == name.lower()
        assert not FORBIDDEN.search(value.replace(b"\t", b""))
        assert value == value.strip(b" \t")
    assert block.content_length is None or 0 <= block.content_length < 10**19
    assert len(block.hosts) <= 1
    assert not (block.lengths and block.transfer_codings)


def check_h11_agrees(head: bytes, line: RequestLine, block: FieldBlock) -> None:
    opinion = h11_opinion(head)
    assert opinion is not None, "h11 refuses it"
    assert opinion.method == line.method.encode()
    assert opinion.target == line.target
    assert opinion.version == (b"1.1" if line.http11 else b"1.0")
    assert as_h11_has_them(opinion.fields) == as_h11_has_them(block.fields)
    has_body = bool(block.content_length or block.transfer_codings)
    assert opinion.complete is not has_body
