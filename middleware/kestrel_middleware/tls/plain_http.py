"""What a client hears that speaks HTTP, without TLS, where TLS is spoken."""

import re
from enum import Enum

import trio

from kestrel_core.connection import Connection

__all__ = ["PlainHttp", "answer_plain_http", "is_http"]

# A method, a space, and what begins a target; or as much of that as has come.
_METHOD = re.compile(rb"[A-Z]{1,20}(?: [!-~]|$)")

_REQUEST_LINE = re.compile(rb"[A-Z]{1,20} (/[!-~]*) HTTP/1\.[01]\r?\n")
_HOST_FIELD = re.compile(rb"\nhost[ \t]*:([^\r\n]*)", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_END_OF_HEAD = re.compile(rb"\n\r?\n")

# What is read of a head, in search of its end; Kestrel allows as much for a request line.
_MOST_HEAD_BYTES = 8192

_BAD_REQUEST = b"This port speaks TLS: use https://.\n"


class PlainHttp(Enum):
    """What becomes of such a client."""

    REJECT = "reject"
    """400, with a sentence."""
    REDIRECT = "redirect"
    """308 to the same place with https, where the request tells what place that is; else 400."""
    CLOSE = "close"
    """Nothing: it is disconnected, like every other that does not speak TLS."""


def is_http(prefix: bytes) -> bool:
    """Tell whether `prefix`, which is not empty, begins like an HTTP request."""
    return _METHOD.match(prefix) is not None


async def answer_plain_http(connection: Connection, how: PlainHttp) -> None:
    """Answer the request that is coming in on `connection`, and wait for the client to leave.

    The caller bounds the time. Raises what pipes raise.
    """
    reader, writer = connection.transport.input, connection.transport.output
    reader.advance(0)
    while True:
        head = await reader.read()
        if _END_OF_HEAD.search(head) or len(head) >= _MOST_HEAD_BYTES or reader.at_eof:
            break
        reader.advance(0, len(head))
    location = _https_location(head) if how is PlainHttp.REDIRECT else None
    reader.advance(len(head))
    if location is None:
        await writer.send(_response(b"400 Bad Request", b"content-type: text/plain", _BAD_REQUEST))
    else:
        await writer.send(_response(b"308 Permanent Redirect", b"location: " + location, b""))
    await writer.send_eof()
    # Closing with something unread would reset the connection, and the answer might be lost.
    with trio.move_on_after(connection.limits.linger_seconds):
        while await reader.receive():
            pass


def _https_location(head: bytes) -> bytes | None:
    """Return where the request's target is with https, or None if the request does not tell."""
    line, end = _REQUEST_LINE.match(head), _END_OF_HEAD.search(head)
    hosts = _HOST_FIELD.findall(head, 0, end.end()) if end else []
    host = hosts[0].strip(b" \t") if len(hosts) == 1 else b""
    if line is None or not _HOST.fullmatch(host):
        return None
    return b"https://%b%b" % (host, line[1])


def _response(status: bytes, field: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\n%b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        status,
        field,
        len(body),
        body,
    )
