"""The slow lane: heads that do not match the fast lane's patterns, judged one by one.

Theory of operation. What is wrong with a request line is told apart here, and so are the targets
that are not paths. A field block that does not match the fast lane's pattern is wrong: everything
that h11 would accept beyond the pattern is a line end that is not CRLF, a folded line or a control
character in a value, none of which this server takes.

Where something is tolerated, it is rewritten into what the strict rules take: line ends by
`with_crlf` before a head is looked at, spaces and folded lines as the line and the block are read,
and fields that contradict each other by `without_contradictions`, before `check_framing`. A folded
block must be to h11's liking as well.
"""

import re

import h11

from kestrel_protocols.http.exchange import BadRequest, Headers
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.leniency import Leniency, Tolerance
from kestrel_protocols.http1.request_head import (
    HOST,
    TOKEN,
    FieldBlock,
    RequestLine,
    host_agrees,
    is_field_block,
    is_host,
    is_length,
    split_fields,
)

__all__ = [
    "read_unusual_block",
    "read_unusual_line",
    "split_target",
    "with_crlf",
    "without_contradictions",
]

_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]++) (HTTP/[0-9]\.[0-9])")
_SPACED_LINE = re.compile(rb"(" + TOKEN + rb") ++([!-~]++) ++([!-~]++) *+")
_OTHER_VERSION = re.compile(TOKEN + rb" [!-~]++ [Hh][Tt][Tt][Pp]/[0-9]++(?:\.[0-9]++)?")

# How an HTTP/2 connection begins (RFC 9113, 3.4), so that servers like this one refuse it.
_HTTP2_PREFACE = b"PRI * HTTP/2.0"

_ORIGIN = re.compile(rb"(/[^?#]*+)(?:\?([^#]*+))?")
_ABSOLUTE = re.compile(
    rb"(https?)://(" + HOST + rb"(?::[0-9]*+)?)(/[^?#]*+)?(?:\?([^#]*+))?", re.IGNORECASE
)
_AUTHORITY = re.compile(HOST + rb":([0-9]{1,5})")

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}

# Where a head ends whose lines may end with LF alone.
_BLANK_LINE = re.compile(rb"\n\r?\n")

_FOLD = re.compile(rb"\r\n[ \t]++(?!\r)")

# A folded line that other servers may well read as something else, and with another outcome: one of
# a field that frames or routes the message, or one that looks like such a field.
_UNSAFE_FOLD = re.compile(
    rb"(?:\A|\n)(?:content-length|host|transfer-encoding):[^\r]*+\r\n[ \t]"
    rb"|\n[ \t]++(?:content-length|host|transfer-encoding)[ \t]*+:",
    re.IGNORECASE,
)


def read_unusual_line(line: bytes, tolerance: Tolerance | None = None) -> RequestLine:
    """Take apart a request line that the fast lane's pattern does not match.

    Raises:
        BadRequest: it is no request line, or its target does not fit its method.
    """
    if tolerance is not None and tolerance.allows(Leniency.SPACES_IN_REQUEST_LINE):
        line = _with_single_spaces(line, tolerance)
    match = _LINE.fullmatch(line)
    if match is None:
        if line.startswith(b"\x16\x03"):  # a TLS handshake record (RFC 8446, 5.1)
            raise BadRequest(Rejection.TLS_OVER_HTTP)
        if _OTHER_VERSION.fullmatch(line):
            raise BadRequest(Rejection.UNRECOGNIZED_HTTP_VERSION)
        raise BadRequest(Rejection.INVALID_REQUEST_LINE)
    method, target, version = match.groups()
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        if line == _HTTP2_PREFACE:
            raise BadRequest(Rejection.HTTP2_PREFACE)
        raise BadRequest(Rejection.UNRECOGNIZED_HTTP_VERSION)
    return split_target(method, target, http11=version == b"HTTP/1.1")


def _with_single_spaces(line: bytes, tolerance: Tolerance) -> bytes:
    spaced = _SPACED_LINE.fullmatch(line)
    if spaced is None:
        return line
    rewritten = b" ".join(spaced.groups())
    if rewritten != line:
        tolerance.note(Leniency.SPACES_IN_REQUEST_LINE)
    return rewritten


def split_target(method: bytes, target: bytes, *, http11: bool) -> RequestLine:
    """Take apart a target in any of the four forms of RFC 9112, 3.2.

    Raises:
        BadRequest: it has none of the forms, or one that is for another method.
    """
    if method == b"CONNECT":
        tunnel = _AUTHORITY.fullmatch(target)
        if tunnel is None or not 0 < int(tunnel[1]) < 1 << 16:
            raise BadRequest(Rejection.INVALID_REQUEST_TARGET)
        return RequestLine(method, target, b"", b"", http11=http11, authority=target)
    if target == b"*":
        if method != b"OPTIONS":
            raise BadRequest(Rejection.OPTIONS_METHOD_REQUIRED)
        return RequestLine(method, target, b"*", b"", http11=http11)
    origin = _ORIGIN.fullmatch(target)
    if origin is not None:
        return RequestLine(method, target, origin[1], origin[2] or b"", http11=http11)
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        scheme, authority, raw_path, query = absolute.groups()
        return RequestLine(
            method,
            target,
            raw_path or b"/",
            query or b"",
            http11=http11,
            authority=authority,
            default_port=_DEFAULT_PORTS[scheme.lower()],
        )
    if _AUTHORITY.fullmatch(target):
        raise BadRequest(Rejection.CONNECT_METHOD_REQUIRED)
    raise BadRequest(Rejection.INVALID_REQUEST_TARGET)


def read_unusual_block(block: bytes, tolerance: Tolerance | None = None) -> FieldBlock:
    """Take apart a field block that the fast lane's pattern does not match.

    Raises:
        BadRequest: it is no field block, with all that is tolerated.
    """
    if tolerance is not None and tolerance.allows(Leniency.OBSOLETE_LINE_FOLDING):
        unfolded = _FOLD.sub(b" ", block)
        if is_field_block(unfolded) and not _UNSAFE_FOLD.search(block):
            _consult_h11(block)
            tolerance.note(Leniency.OBSOLETE_LINE_FOLDING)
            return FieldBlock(split_fields(unfolded))
    raise BadRequest(Rejection.INVALID_REQUEST_HEADER)


def _consult_h11(block: bytes) -> None:
    """Let h11 see a block as it came.

    Raises:
        BadRequest: h11 refuses it.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(block) + 128)
    connection.receive_data(b"GET / HTTP/1.0\r\n" + block + b"\r\n")
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest(Rejection.INVALID_REQUEST_HEADER) from error
    if not isinstance(event, h11.Request):
        raise BadRequest(Rejection.INVALID_REQUEST_HEADER)


def with_crlf(data: bytes, start: int, tolerance: Tolerance) -> tuple[bytes, int] | None:
    """Return the head that begins at `start` with CRLF for every line end, and its size in `data`.

    None if there is nothing to do: the head is not complete, its line ends are CRLF, or others are
    not tolerated. A lone CR stays one. What follows the head is not looked at.
    """
    if not tolerance.allows(Leniency.BARE_LINE_FEED):
        return None
    blank_line = _BLANK_LINE.search(data, start)
    if blank_line is None:
        return None
    head = data[start : blank_line.end()]
    if head.count(b"\n") == head.count(b"\r\n"):
        return None
    tolerance.note(Leniency.BARE_LINE_FEED)
    return head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), len(head)


def without_contradictions(
    line: RequestLine, block: FieldBlock, tolerance: Tolerance
) -> FieldBlock:
    """Return a block in which fields that contradict each other, as far as tolerated, are settled.

    The block that was given is left as it is, because it may be remembered for other requests.
    """
    hosts, lengths = block.hosts, block.lengths
    if (
        line.authority is not None
        and line.method != "CONNECT"
        and len(hosts) == 1
        and is_host(hosts[0])
        and not host_agrees(line, hosts[0])
        and tolerance.allows(Leniency.ABSOLUTE_TARGET_OVERRIDES_HOST)
    ):
        tolerance.note(Leniency.ABSOLUTE_TARGET_OVERRIDES_HOST)
        block = FieldBlock(_with_one(block.fields, b"host", line.authority))
    if (
        len(lengths) > 1
        and len(set(lengths)) == 1
        and is_length(lengths[0])
        and tolerance.allows(Leniency.REPEATED_CONTENT_LENGTH)
    ):
        tolerance.note(Leniency.REPEATED_CONTENT_LENGTH)
        block = FieldBlock(_with_one(block.fields, b"content-length", lengths[0]))
    if (
        block.transfer_codings == [b"chunked"]
        and line.http11
        and len(block.lengths) == 1
        and is_length(lengths[0])
        and tolerance.allows(Leniency.LENGTH_WITH_TRANSFER_ENCODING)
    ):
        tolerance.note(Leniency.LENGTH_WITH_TRANSFER_ENCODING)
        block = FieldBlock([field for field in block.fields if field[0] != b"content-length"])
        block.close = True
    return block


def _with_one(fields: Headers, name: bytes, value: bytes) -> Headers:
    """Return `fields` with one of that name, which has that value, where the first one was."""
    place = next(index for index, field in enumerate(fields) if field[0] == name)
    others = [field for field in fields[place + 1 :] if field[0] != name]
    return [*fields[:place], (name, value), *others]
