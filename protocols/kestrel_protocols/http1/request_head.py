"""The fast lane: request heads that look as nearly all do, read by two strict patterns.

Theory of operation. A head is a request line and a block of field lines. Each is looked up in a
cache by its bytes, because clients repeat themselves; one that is new is matched, as a whole,
against a pattern that admits nothing questionable: origin-form targets, CRLF line ends, tokens for
names, no control characters in values. A line or block that matches is right; one that does not
may still be, and is left to `unusual_head`. What fields mean together (lengths, codings, Host) is
decided by `check_framing` for both lanes.

Quantifiers are possessive, because what follows them never needs what they took: a long input that
is wrong at its end is refused as fast as it would have been accepted.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from kestrel_protocols.http.exchange import BadRequest, Headers
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.leniency import Leniency, Tolerance

__all__ = [
    "FieldBlock",
    "FieldBlocks",
    "RequestLine",
    "RequestLines",
    "check_framing",
    "check_head_so_far",
]

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110, 5.6.2
FIELD_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"  # RFC 9110, 5.5; white space around it goes

_LINE = re.compile(rb"(" + TOKEN + rb") ((/[!-\"$->@-~]*+)(?:\?([!-\"$-~]*+))?) HTTP/1\.([01])")
_BLOCK = re.compile(rb"(?:" + TOKEN + rb":" + FIELD_VALUE + rb"\r\n)*+")
_FIELD = re.compile(rb"(" + TOKEN + rb"):[\t ]*+(" + FIELD_VALUE + rb")\r\n")

# RFC 3986, 3.2.2, without percent-escapes: a name, or an address.
HOST: Final = rb"(?:[!$&'()*+,;=\-.~_0-9A-Za-z]++|\[[0-9A-Fa-f:.]++\])"

# A host with or without a port, or nothing (RFC 9110, 7.2).
_HOST_FIELD = re.compile(rb"(?:" + HOST + rb"(?::[0-9]*+)?)?")

# A cache holds this many entries of at most this many bytes each; when full it starts anew.
_MOST_ENTRIES = 512
_MOST_ENTRY_BYTES = 2048

# Content-Length has no upper bound in HTTP; Kestrel's is the largest 64-bit number.
_MOST_LENGTH_DIGITS = 19


class RequestLine:
    """A request line taken apart."""

    __slots__ = (
        "authority",
        "default_port",
        "http11",
        "method",
        "path",
        "query",
        "raw_path",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        raw_path: bytes,
        query: bytes,
        *,
        http11: bool,
        authority: bytes | None = None,
        default_port: bytes = b"",
    ) -> None:
        self.path: str
        if b"%" in raw_path:
            decoded = unquote_to_bytes(raw_path)
            if b"\0" in decoded:
                raise BadRequest(Rejection.INVALID_REQUEST_TARGET)
            self.path = decoded.decode("utf-8", "replace")
        else:
            self.path = raw_path.decode("ascii")
        self.method: str = method.decode("ascii")
        self.target: bytes = target
        self.raw_path: bytes = raw_path
        self.query: bytes = query
        self.http11: bool = http11
        self.authority: bytes | None = authority
        """The authority that the target names, if it names one; Host must then agree."""
        self.default_port: bytes = default_port
        """The port, with a colon before it, that may be left out of that authority."""


class RequestLines(dict[bytes, RequestLine | None]):
    """Request lines by their bytes; None stands for one that is not usual, and is not kept."""

    def __missing__(self, line: bytes) -> RequestLine | None:
        match = _LINE.fullmatch(line)
        if match is None or match[1] == b"CONNECT":  # whose targets look different
            return None
        method, target, raw_path, query, minor = match.groups()
        parsed = RequestLine(method, target, raw_path, query or b"", http11=minor == b"1")
        if len(line) <= _MOST_ENTRY_BYTES:
            if len(self) >= _MOST_ENTRIES:
                self.clear()
            self[line] = parsed
        return parsed


class FieldBlock:
    """Field lines taken apart, and what the server itself has to know of them."""

    __slots__ = (
        "close",
        "content_length",
        "expect_continue",
        "fields",
        "hosts",
        "keep_alive",
        "lengths",
        "plain",
        "takes_trailers",
        "transfer_codings",
        "upgrade",
    )

    def __init__(self, fields: Headers) -> None:
        self.fields: Headers = fields
        self.hosts: list[bytes] = []
        self.lengths: list[bytes] = []
        self.transfer_codings: list[bytes] = []
        self.expect_continue: bool = False
        self.close: bool = False
        self.keep_alive: bool = False
        self.upgrade: bool = False
        self.takes_trailers: bool = False
        for name, value in fields:
            if name == b"host":
                self.hosts.append(value)
            elif name == b"content-length":
                self.lengths.append(value)
            elif name == b"transfer-encoding":
                # Empty members count: a field that says nothing must not be overlooked.
                self.transfer_codings += [
                    coding.strip(b" \t") for coding in value.lower().split(b",")
                ]
            elif name == b"connection":
                options = _list_items(value)
                self.close = self.close or b"close" in options
                self.keep_alive = self.keep_alive or b"keep-alive" in options
                self.upgrade = self.upgrade or b"upgrade" in options
            elif name == b"te":
                self.takes_trailers = self.takes_trailers or b"trailers" in _list_items(value)
            elif name == b"expect":
                self.expect_continue = value.lower() == b"100-continue"
        self.content_length: int | None = None
        self.plain: bool = (
            len(self.hosts) == 1
            and not self.lengths
            and not self.transfer_codings
            and is_host(self.hosts[0])
        )
        """Whether there is a good Host and no body, so that there is nothing more to check."""


def _list_items(value: bytes) -> list[bytes]:
    """Return the members of a comma-separated list in lower case (RFC 9110, 5.6.1)."""
    return [item for part in value.lower().split(b",") if (item := part.strip(b" \t"))]


class FieldBlocks(dict[bytes, FieldBlock | None]):
    """Field blocks, without the blank line, by their bytes; None as in `RequestLines`."""

    def __missing__(self, block: bytes) -> FieldBlock | None:
        if _BLOCK.fullmatch(block) is None:
            return None
        parsed = FieldBlock(split_fields(block))
        if len(block) <= _MOST_ENTRY_BYTES:
            if len(self) >= _MOST_ENTRIES:
                self.clear()
            self[block] = parsed
        return parsed


def split_fields(block: bytes) -> Headers:
    """Return the fields of a block that matches the pattern."""
    fields = [(name.lower(), value) for name, value in _FIELD.findall(block)]
    if b" \r\n" in block or b"\t\r\n" in block:
        return [(name, value.rstrip(b" \t")) for name, value in fields]
    return fields


def is_field_block(block: bytes) -> bool:
    """Tell whether `block` is nothing but field lines."""
    return _BLOCK.fullmatch(block) is not None


def check_framing(line: RequestLine, block: FieldBlock) -> None:
    """Check what fields say about the message together: Host and the body's length.

    A body in a request to CONNECT means nothing that is agreed on (RFC 9110, 9.3.6), and what
    follows it belongs to the tunnel; so it has none here.

    Raises:
        BadRequest: they say it wrongly, or twice.
    """
    _check_host(line, block)
    if block.transfer_codings:
        if block.lengths:
            raise BadRequest(Rejection.LENGTH_AND_TRANSFER_ENCODING)
        if not line.http11:
            raise BadRequest(Rejection.TRANSFER_ENCODING_HTTP10)
        if block.transfer_codings[-1] != b"chunked":
            raise BadRequest(Rejection.FINAL_CODING_NOT_CHUNKED)
        if len(block.transfer_codings) > 1:
            raise BadRequest(Rejection.UNKNOWN_TRANSFER_CODING)
    elif block.lengths:
        if len(block.lengths) > 1:
            raise BadRequest(Rejection.MULTIPLE_CONTENT_LENGTHS)
        digits = block.lengths[0]
        if not is_length(digits):
            raise BadRequest(Rejection.INVALID_CONTENT_LENGTH)
        block.content_length = int(digits)
    elif not line.http11 and line.method in ("POST", "PUT"):
        raise BadRequest(Rejection.LENGTH_REQUIRED_HTTP10)
    if line.method == "CONNECT" and (block.transfer_codings or block.content_length):
        raise BadRequest(Rejection.CONNECT_WITH_BODY)


def is_length(value: bytes) -> bool:
    """Tell whether that can be the length of a body."""
    return value.isdigit() and len(value) <= _MOST_LENGTH_DIGITS


def _check_host(line: RequestLine, block: FieldBlock) -> None:
    """Check Host as RFC 9112, 3.2 asks; empty is right for a target without authority."""
    if len(block.hosts) > 1:
        raise BadRequest(Rejection.MULTIPLE_HOSTS)
    if not block.hosts:
        if line.http11:
            raise BadRequest(Rejection.MISSING_HOST)
        return
    if not (is_host(block.hosts[0]) and host_agrees(line, block.hosts[0])):
        raise BadRequest(Rejection.INVALID_HOST)


def is_host(value: bytes) -> bool:
    """Tell whether that can be the value of Host."""
    return _HOST_FIELD.fullmatch(value) is not None


def host_agrees(line: RequestLine, host: bytes) -> bool:
    """Tell whether a Host names what the target names, if that names anything."""
    if line.authority is None:
        return True
    named, host = line.authority.lower(), host.lower()
    return named.removesuffix(line.default_port) == host.removesuffix(line.default_port)


def check_head_so_far(
    data: bytes,
    max_line_bytes: int,
    max_headers_bytes: int,
    tolerance: Tolerance | None = None,
) -> None:
    """Refuse the beginning of a head that no good end can follow.

    Raises:
        BadRequest: it is too large, has a line end that is not CRLF where that is not tolerated, or
            is no HTTP at all.
    """
    if data.startswith(b"\x16\x03"):  # a TLS handshake record (RFC 8446, 5.1)
        raise BadRequest(Rejection.TLS_OVER_HTTP)
    line_end = data.find(b"\n")
    if (line_end if line_end >= 0 else len(data)) >= max_line_bytes:
        raise BadRequest(Rejection.REQUEST_LINE_TOO_LONG)
    if data.count(b"\n") != data.count(b"\r\n") and not (
        tolerance is not None and tolerance.allows(Leniency.BARE_LINE_FEED)
    ):
        raise BadRequest(
            Rejection.INVALID_REQUEST_HEADER
            if data.endswith(b"\r\n", 0, line_end + 1)
            else Rejection.INVALID_REQUEST_LINE
        )
    if line_end >= 0 and len(data) - line_end - 1 >= max_headers_bytes:
        raise BadRequest(Rejection.HEADERS_TOO_LARGE)
