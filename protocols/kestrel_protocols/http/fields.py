"""Response fields: checked, and formatted for HTTP/1, at the price of a dictionary look-up each."""

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from enum import IntEnum
from http import HTTPStatus
from typing import Any

from kestrel_protocols.http.exchange import ResponseError

__all__ = [
    "FieldLines",
    "date_and_server",
    "field_lines",
    "reason_phrase",
    "stamp_with",
    "trailer_lines",
    "without_own",
]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2

# What no field value may contain, besides line ends, which are counted (RFC 9110, 5.5).
_CONTROLS = bytes([*range(9), *range(11, 13), *range(14, 32), 127])

# Responses whose fields are remembered, each of at most so many bytes.
_MOST_CACHED = 512
_MOST_CACHED_BYTES = 1024

# Distinct names that are remembered; an application that invents names does not fill memory.
_MOST_NAMES = 1024


class FieldKind(IntEnum):
    """The fields that a server has to know about."""

    ORDINARY = 0
    CONTENT_LENGTH = 1
    TRANSFER_ENCODING = 2
    CONNECTION = 3
    DATE = 4
    SERVER = 5
    SET_COOKIE = 6
    ALT_SVC = 7


# What may not follow a body, because it frames or routes the message, says how to read its content,
# authenticates somebody or controls caches (RFC 9110, 6.5.1).
_NOT_IN_TRAILERS = frozenset(
    b"age authorization cache-control connection content-encoding content-length content-range"
    b" content-type date expires host keep-alive location pragma proxy-authenticate"
    b" proxy-authorization retry-after set-cookie te trailer transfer-encoding upgrade vary warning"
    b" www-authenticate".split()
)

_KINDS = {
    b"content-length": FieldKind.CONTENT_LENGTH,
    b"transfer-encoding": FieldKind.TRANSFER_ENCODING,
    b"connection": FieldKind.CONNECTION,
    b"date": FieldKind.DATE,
    b"server": FieldKind.SERVER,
    b"set-cookie": FieldKind.SET_COOKIE,
    b"alt-svc": FieldKind.ALT_SVC,
}


class _Names(dict[bytes, tuple[bytes, FieldKind]]):
    """Field names that were checked once, with their line's beginning and their kind."""

    def __missing__(self, name: bytes) -> tuple[bytes, FieldKind]:
        if not isinstance(name, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]  # applications are not type-checked by us
            raise ResponseError(f"a field name is bytes, not {name!r}")
        if _TOKEN.fullmatch(name) is None:
            raise ResponseError(f"{name!r} is no field name")
        known = (name + b": ", _KINDS.get(name.lower(), FieldKind.ORDINARY))
        if len(self) < _MOST_NAMES:
            self[name] = known
        return known


_names = _Names()
_CONTENT_LENGTH = FieldKind.CONTENT_LENGTH
_TRANSFER_ENCODING = FieldKind.TRANSFER_ENCODING


class FieldLines:
    """An application's fields as lines, and what those that matter to the server say.

    Transfer-Encoding has no line: whether a response is chunked depends on the request, too, and
    so the server writes it. Nor has the Content-Length of a response 204 (RFC 9110, 8.6).

    Raises:
        ResponseError: a name or a value is not one, or Content-Length is no number or repeated.
    """

    __slots__ = (
        "cacheable",
        "chunked",
        "closes",
        "content_length",
        "is_plain",
        "lines",
        "own_stamps",
    )

    def __init__(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], first_line: bytes
    ) -> None:
        self.content_length: int | None = None
        self.chunked: bool = False
        self.closes: bool = False
        self.cacheable: bool = True
        self.own_stamps: list[bytes] = []
        """The names of those fields that the server would otherwise add."""
        lines = [first_line]
        try:
            for name, value in headers:
                beginning, kind = _names[name]
                lines.append(beginning + value)
                if kind:
                    if kind is _CONTENT_LENGTH and self.content_length is None and value.isdigit():
                        self.content_length = int(value)
                    else:
                        self._note(kind, value)
                    if kind is _TRANSFER_ENCODING or (kind is _CONTENT_LENGTH and status == 204):
                        lines.pop()
        except (AttributeError, TypeError, ValueError) as error:
            raise ResponseError(f"headers are pairs of bytes; this one is not: {error}") from error
        self.is_plain: bool = not (self.closes or self.chunked or self.own_stamps)
        """Whether no field but Content-Length concerns the server."""
        if self.chunked and self.content_length is not None:
            raise ResponseError("a response has Content-Length or Transfer-Encoding, not both")
        self.lines: bytes = b"\r\n".join(lines)
        """`first_line` and a line for each field; no line end after the last."""
        ends = len(lines) - 1
        if (
            self.lines.count(b"\r") != ends
            or self.lines.count(b"\n") != ends
            or len(self.lines.translate(None, _CONTROLS)) != len(self.lines)
        ):
            raise ResponseError(f"a field value has a control character: {_bad_line(lines)!r}")

    def _note(self, kind: FieldKind, value: bytes) -> None:
        if kind is FieldKind.CONTENT_LENGTH:
            if self.content_length is not None:
                raise ResponseError("the response has two Content-Length fields")
            if not value.isdigit():
                raise ResponseError(f"Content-Length is {value!r}, which is no length")
            self.content_length = int(value)
        elif kind is FieldKind.TRANSFER_ENCODING:
            if value.lower() != b"chunked":
                raise ResponseError(f"Transfer-Encoding is {value!r}; it can only be chunked")
            self.chunked = True
        elif kind is FieldKind.CONNECTION:
            options = [option.strip(b" \t") for option in value.lower().split(b",")]
            self.closes = self.closes or b"close" in options
        elif kind is FieldKind.SET_COOKIE:
            self.cacheable = False  # a secret of one client has no business in a cache
        else:
            self.own_stamps.append(kind.name.lower().replace("_", "-").encode("ascii"))


class _LinesCache(dict[tuple[Any, ...], FieldLines]):
    """Checked fields of recent responses: most applications send the same ones again and again.

    The key is the status and, behind it, each pair, so that one tuple is made and not two.
    """

    def store(self, key: tuple[Any, ...], fields: FieldLines) -> None:
        if len(fields.lines) <= _MOST_CACHED_BYTES:
            if len(self) >= _MOST_CACHED:
                self.clear()
            self[key] = fields


_cache = _LinesCache()


def field_lines(
    status: int, headers: Iterable[tuple[bytes, bytes]], first_line: bytes
) -> FieldLines:
    """Return `headers` behind `first_line`, which belongs to `status`, checked.

    Raises:
        ResponseError: as `FieldLines` does.
    """
    key: tuple[Any, ...] = (status, *headers)
    try:
        known = _cache.get(key)
    except TypeError:  # lists for pairs: right in ASGI, but no key
        return FieldLines(status, key[1:], first_line)
    if known is None:
        known = FieldLines(status, key[1:], first_line)
        if known.cacheable:
            _cache.store(key, known)
    return known


def _bad_line(lines: list[bytes]) -> bytes:
    bad = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
    return next((line for line in lines if bad.search(line)), b"")[:128]


_stamped_second = 0
_stamp = b""


def date_and_server() -> bytes:
    """Return the lines Date and Server, each with a line end before it; Date is per second."""
    global _stamp, _stamped_second
    second = int(time.time())
    if second != _stamped_second:
        _stamped_second = second
        _stamp = b"\r\ndate: " + formatdate(second, usegmt=True).encode() + b"\r\nserver: kestrel"
    return _stamp


def stamp_with(alt_svc: bytes | None) -> Callable[[], bytes]:
    """Return a function like `date_and_server` that adds a line Alt-Svc (RFC 7838, 3), if any.

    Raises:
        ResponseError: `alt_svc` is no field value.
    """
    if alt_svc is None:
        return date_and_server
    line = FieldLines(200, [(b"alt-svc", alt_svc)], b"").lines
    return lambda: date_and_server() + line


def without_own(stamp: bytes, fields: FieldLines) -> bytes:
    """Return the lines of `stamp` but for those fields that the application sends itself."""
    lines = stamp.split(b"\r\n")[1:]
    return b"".join(
        b"\r\n" + line for line in lines if line.partition(b":")[0] not in fields.own_stamps
    )


def trailer_lines(trailers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return `trailers` as lines, each with its line end.

    Raises:
        ResponseError: a name or value is not one, or a field may not be a trailer.
    """
    fields = list(trailers)
    lines = FieldLines(200, fields, b"").lines
    for name, _ in fields:
        if name.lower() in _NOT_IN_TRAILERS:
            raise ResponseError(f"{name!r} may not be a trailer")
    return lines[2:] + b"\r\n" if lines else b""


def reason_phrase(status: int) -> str:
    """Return the registered reason phrase of `status`, or an empty one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
