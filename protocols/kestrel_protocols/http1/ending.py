"""How a connection comes to its end: what is left of a body, the last answer, and the lingering.

Closing a connection while the client is still sending resets it, and the reset may destroy an
answer that is on its way. So the end of the output comes first, then what the client sends is
dropped until it ends, too, or for a bounded time (RFC 9112, 9.6).
"""

import re
from contextlib import suppress

import trio

from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.exchange import BadRequest, ClientDisconnected
from kestrel_protocols.http.rejection import HTTP2_REFUSAL, Rejection
from kestrel_protocols.http1.body import Body
from kestrel_protocols.http1.status_line import STATUS_LINES
from kestrel_protocols.http1.wire import Phase, Wire

__all__ = ["drain", "linger", "reject", "write_rejection"]

# In any of the heads at hand, which is cheaper to see than in which.
_ANNOUNCED_BODY = re.compile(rb"\n(?:content-length|transfer-encoding|expect)", re.IGNORECASE)

_ALLOW = {
    Rejection.OPTIONS_METHOD_REQUIRED: b"\r\nallow: OPTIONS",
    Rejection.CONNECT_METHOD_REQUIRED: b"\r\nallow: CONNECT",
}


async def drain(wire: Wire, body: Body) -> None:
    """Read and drop what the application left of a body, so that a next request can come."""
    if wire.torn:
        return
    if not wire.keep_alive:
        await linger(wire)
        return
    connection = wire.connection
    wire.phase = Phase.DRAIN
    connection.deadline.set_after(connection.limits.request_body_drain_seconds)
    try:
        while not body.complete and wire.phase is Phase.DRAIN:
            await body.receive()
    except BadRequest as error:
        connection.record_end(error.rejection.end_reason)
        await linger(wire)
    except ClientDisconnected:
        connection.record_end(EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT)
        wire.keep_alive = False
    else:
        if not body.complete:
            connection.record_end(EndReason.REQUEST_BODY_DRAIN_TIMEOUT)
            wire.keep_alive = False


async def reject(wire: Wire, rejection: Rejection) -> None:
    """Answer a request that is wrong, and end the connection without losing the answer."""
    wire.connection.record_end(rejection.end_reason)
    write_rejection(wire, rejection)
    if _may_be_sending(wire):
        await linger(wire)


def _may_be_sending(wire: Wire) -> bool:
    """Tell whether more may come of the request at hand, or came behind it.

    A first request that ends with a blank line and announces no body is all there is. Then the
    connection is closed as it is behind any other last answer, which costs less.
    """
    rest = wire.data[wire.position :]
    if wire.phase is Phase.EXCHANGE:  # the head was taken, or this is not the first
        is_whole = not rest
    else:
        is_whole = rest.find(b"\r\n\r\n") == len(rest) - 4 >= 0
    return not is_whole or _ANNOUNCED_BODY.search(wire.data) is not None


def write_rejection(wire: Wire, rejection: Rejection) -> None:
    """Write the answer to a request that is wrong; the connection is to end behind it."""
    if rejection is Rejection.HTTP2_PREFACE:
        wire.writer.write(HTTP2_REFUSAL)
        return
    wire.writer.write(
        b"%b\r\ncontent-length: 0\r\nconnection: close%b%b\r\n\r\n"
        % (STATUS_LINES[rejection.status], _ALLOW.get(rejection, b""), wire.stamp())
    )


async def linger(wire: Wire) -> None:
    """End the output, then drop input until the client ends too, or for a bounded time.

    A client that by then has not even read what there was to send is cut off. A second call does
    nothing.
    """
    if wire.phase is Phase.LINGERED:
        return
    connection, reader = wire.connection, wire.reader
    wire.consume()
    wire.keep_alive = False
    wire.phase = Phase.LAST_FLUSH
    connection.deadline.set_after(connection.limits.linger_seconds)
    with suppress(trio.ClosedResourceError):  # some pipes can end both ways only
        await wire.writer.send_eof()
    wire.phase = Phase.DRAIN
    while not reader.at_eof and wire.phase is Phase.DRAIN:
        await reader.receive()
    wire.phase = Phase.LINGERED
