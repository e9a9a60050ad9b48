"""Whole heads of requests, read as the connection reads them, and by h11."""

from typing import TypeAlias

import attrs
import h11

from kestrel_core.limits import Limits
from kestrel_protocols.http import BadRequest, Headers
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.leniency import Leniency, Tolerance
from kestrel_protocols.http1.request_head import (
    FieldBlock,
    FieldBlocks,
    RequestLine,
    RequestLines,
    check_framing,
    check_head_so_far,
)
from kestrel_protocols.http1.unusual_head import (
    read_unusual_block,
    read_unusual_line,
    with_crlf,
    without_contradictions,
)

__all__ = [
    "Head",
    "Reading",
    "Tolerated",
    "in_h11_terms",
    "read_by_fast_lane",
    "read_by_h11",
    "read_head",
]


@attrs.frozen
class Head:
    """What a head says."""

    method: bytes
    target: bytes
    http11: bool
    fields: Headers


Reading: TypeAlias = Head | Rejection | None
"""A head, or why it is refused, or None while more of it is wanted."""


def read_head(
    data: bytes, tolerance: Tolerance | None = None, limits: Limits | None = None
) -> Reading:
    """Read what a client sent, up to the end of the first head in it."""
    limits = limits or Limits()
    try:
        return _read(data, tolerance, limits)
    except BadRequest as error:
        return error.rejection


def _read(data: bytes, tolerance: Tolerance | None, limits: Limits) -> Head | None:
    if tolerance is not None:
        rewritten = with_crlf(data, 0, tolerance)
        if rewritten is not None:
            data = rewritten[0]
    end = data.find(b"\r\n\r\n")
    if end < 0:
        check_head_so_far(
            data, limits.max_request_line_bytes, limits.max_request_headers_bytes, tolerance
        )
        line_bytes = data[: max(0, data.find(b"\n"))].removesuffix(b"\r")
        if line_bytes and RequestLines()[line_bytes] is None:
            read_unusual_line(line_bytes, tolerance)
        return None
    line_bytes, _, rest = data[: end + 2].partition(b"\r\n")
    if len(line_bytes) + 2 > limits.max_request_line_bytes:
        raise BadRequest(Rejection.REQUEST_LINE_TOO_LONG)
    if len(rest) + 2 > limits.max_request_headers_bytes:
        raise BadRequest(Rejection.HEADERS_TOO_LARGE)
    line = RequestLines()[line_bytes] or read_unusual_line(line_bytes, tolerance)
    if rest.count(b"\n") > limits.max_request_header_count:
        raise BadRequest(Rejection.TOO_MANY_HEADERS)
    block = FieldBlocks()[rest] or read_unusual_block(rest, tolerance)
    if tolerance is not None:
        block = without_contradictions(line, block, tolerance)
    check_framing(line, block)
    if tolerance is not None:
        tolerance.count()
    return _head(line, block)


@attrs.define
class Tolerated:
    """Reads heads as one connection does that tolerates this, and counts it."""

    counts: dict[Leniency, int]

    @classmethod
    def of(cls, *lenient: Leniency) -> "Tolerated":
        return cls(dict.fromkeys(lenient, 0))

    def read(self, data: bytes) -> Reading:
        return read_head(data, Tolerance(self.counts, "of-the-test"))

    @property
    def used(self) -> set[Leniency]:
        """What was needed for the one head that was read."""
        assert set(self.counts.values()) <= {0, 1}
        return {leniency for leniency, count in self.counts.items() if count}


def read_by_fast_lane(data: bytes) -> Head | None:
    """Read a complete head by the strict patterns alone; None if they abstain, or refuse it."""
    line_bytes, _, rest = data.removesuffix(b"\r\n").partition(b"\r\n")
    try:
        line, block = RequestLines()[line_bytes], FieldBlocks()[rest]
        if line is None or block is None:
            return None
        check_framing(line, block)
    except BadRequest:
        return None
    return _head(line, block)


def _head(line: RequestLine, block: FieldBlock) -> Head:
    return Head(line.method.encode("ascii"), line.target, line.http11, block.fields)


def read_by_h11(data: bytes) -> Head | bool:
    """What h11 makes of that; False if it refuses, True while it wants more."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return False
    if not isinstance(event, h11.Request):
        return True
    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
    version = bytes(event.http_version)
    return Head(bytes(event.method), bytes(event.target), version == b"1.1", fields)


def in_h11_terms(head: Head) -> Head:
    """Write what means the same as h11 does: Transfer-Encoding is in lower case there."""
    fields = [
        (name, value.lower() if name == b"transfer-encoding" else value)
        for name, value in head.fields
    ]
    return attrs.evolve(head, fields=fields)
