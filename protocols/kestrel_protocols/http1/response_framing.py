"""How the end of a response's body is told (RFC 9112, 6.3)."""

from enum import Enum, auto

from kestrel_protocols.http.exchange import ResponseError
from kestrel_protocols.http.fields import FieldLines

__all__ = ["Framing", "decide_framing"]

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
