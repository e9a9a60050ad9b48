"""How the end of a response's body is told (RFC 9112, 6.3), and heads that no body follows."""

from collections.abc import Iterable
from enum import Enum, auto

from kestrel_protocols.http.exchange import ResponseError
from kestrel_protocols.http.fields import FieldLines, field_lines, without_own
from kestrel_protocols.http1.status_line import STATUS_LINES

__all__ = ["Framing", "decide_framing", "informational_head", "upgrade_head"]

# Statuses whose responses end with their head (RFC 9110, 6.4.1 and 15.3.6).
_WITHOUT_BODY = frozenset({204, 205, 304})


class Framing(Enum):
    """How the end of a response body is told."""

    NONE = auto()
    """There is no body."""
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


def decide_framing(
    status: int, fields: FieldLines, length: int | None, *, to_head: bool, http11: bool
) -> tuple[Framing, bytes]:
    """Return the framing, and the line that says so, with a line end before it, if it takes one.

    `length` is that of the whole body, where it is known, and `to_head` whether the request was
    HEAD, whose response has the fields of a body and none.

    Raises:
        ResponseError: the status cannot have that body, or the fields announce another.
    """
    if status < 200:
        raise ResponseError(f"{status} is not a final status")
    announced = fields.content_length
    if status in _WITHOUT_BODY:
        if length or (announced and status != 304):
            raise ResponseError(f"a response {status} has no body")
        says_nothing = status == 205 and announced is None
        return Framing.NONE, b"\r\ncontent-length: 0" if says_nothing else b""
    if to_head:
        if length is None or announced is not None or fields.chunked:
            return Framing.NONE, b""
        return Framing.NONE, b"\r\ncontent-length: %d" % length
    if announced is not None:
        if length is not None and announced != length:
            raise ResponseError(f"the body has {length} bytes, but Content-Length says {announced}")
        return Framing.LENGTH, b""
    if length is not None and not (fields.chunked and http11):
        return Framing.LENGTH, b"\r\ncontent-length: %d" % length
    if http11:
        return Framing.CHUNKED, b"\r\ntransfer-encoding: chunked"
    return Framing.UNTIL_CLOSE, b""


def informational_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a whole informational response (RFC 9110, 15.2).

    Raises:
        ResponseError: it is not one, or it switches protocols.
    """
    fields = _without_body(status, headers)
    if status >= 200 or status == 101:
        raise ResponseError(f"{status} is no informational status")
    return fields.lines + b"\r\n\r\n"


def upgrade_head(status: int, headers: Iterable[tuple[bytes, bytes]], stamp: bytes) -> bytes:
    """Return a whole response that ends HTTP on its connection: 101, or 200 to CONNECT.

    `stamp` is the lines that it has unless `headers` have them.

    Raises:
        ResponseError: a field is wrong, or 101 does not say what to switch to.
    """
    headers = list(headers)
    fields = _without_body(status, headers)
    lines = fields.lines
    if status == 101:
        names = {name.lower() for name, _ in headers}
        if b"upgrade" not in names:
            raise ResponseError("a response 101 has a field Upgrade (RFC 9110, 7.8)")
        if b"connection" not in names:
            lines += b"\r\nconnection: upgrade"
    return b"%b%b\r\n\r\n" % (lines, without_own(stamp, fields))


def _without_body(status: int, headers: Iterable[tuple[bytes, bytes]]) -> FieldLines:
    fields = field_lines(status, headers, STATUS_LINES[status])
    if fields.content_length is not None or fields.chunked:
        raise ResponseError(f"a response {status} has no body, and no field that frames one")
    return fields
