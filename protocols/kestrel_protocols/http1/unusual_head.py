"""The slow lane: heads that do not match the fast lane's patterns, judged one by one.

h11 decides what is a request at all. Where this server is stricter than h11 it rejects by rules
of its own: line ends are CRLF, fields are not folded, values have no control characters.
"""

import re

import h11

from kestrel_protocols.http.exchange import BadRequest
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.request_head import (
    HOST,
    TOKEN,
    FieldBlock,
    RequestLine,
)

__all__ = ["read_unusual_block", "read_unusual_line", "split_target"]

_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) (HTTP/[0-9]\.[0-9])")
_OTHER_VERSION = re.compile(TOKEN + rb" [!-~]+ [Hh][Tt][Tt][Pp]/[0-9]+(?:\.[0-9]+)?")
# What h11 lets pass and this server does not: a line end that is not CRLF, a control character in
# a line, a line that continues the one before.
_LOOSE = re.compile(rb"(?<!\r)\n|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|^[ \t]|\n[ \t]")

_ORIGIN = re.compile(rb"(/[^?#]*)(?:\?([^#]*))?")
_ABSOLUTE = re.compile(
    rb"(https?)://(" + HOST + rb"(?::[0-9]*)?)(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE
)
_AUTHORITY = re.compile(HOST + rb":[0-9]{1,5}")

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def read_unusual_line(line: bytes) -> RequestLine:
    """Take apart a request line that the fast lane's pattern does not match.

    Raises:
        BadRequest: it is no request line, or its target does not fit its method.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        if line.startswith(b"\x16\x03"):  # a TLS handshake record (RFC 8446, 5.1)
            raise BadRequest(Rejection.TLS_OVER_HTTP)
        if _OTHER_VERSION.fullmatch(line):
            raise BadRequest(Rejection.UNRECOGNIZED_HTTP_VERSION)
        raise BadRequest(Rejection.INVALID_REQUEST_LINE)
    method, target, version = match.groups()
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise BadRequest(Rejection.UNRECOGNIZED_HTTP_VERSION)
    return split_target(method, target, http11=version == b"HTTP/1.1")


def split_target(method: bytes, target: bytes, *, http11: bool) -> RequestLine:
    """Take apart a target in any of the four forms of RFC 9112, 3.2.

    Raises:
        BadRequest: it has none of the forms, or one that is for another method.
    """
    if method == b"CONNECT":
        if _AUTHORITY.fullmatch(target) is None:
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


def read_unusual_block(block: bytes) -> FieldBlock:
    """Take apart a field block that the fast lane's pattern does not match.

    Raises:
        BadRequest: it is looser than this server allows, or h11 refuses it.
    """
    if _LOOSE.search(block):
        raise BadRequest(Rejection.INVALID_REQUEST_HEADER)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(block) + 128)
    connection.receive_data(b"GET / HTTP/1.1\r\n" + block + b"\r\n")
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest(Rejection.INVALID_REQUEST_HEADER) from error
    if not isinstance(event, h11.Request):
        raise BadRequest(Rejection.INVALID_REQUEST_HEADER)
    return FieldBlock([(bytes(name), bytes(value)) for name, value in event.headers])
