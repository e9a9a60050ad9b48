"""What h11 makes of a client's bytes, to compare with what we make of them.

h11 is the more lenient: it may take what this server refuses. What this server takes, h11 must take
too, and understand in the same way.
"""

from collections.abc import Iterable

import attrs
import h11

from kestrel_protocols.http import Headers

__all__ = ["Opinion", "as_h11_has_them", "h11_opinion"]

# Nothing that is to be compared is refused for its size.
_MOST_BYTES = 1 << 24


@attrs.frozen
class Opinion:
    """One request as h11 reads it, and what it leaves for the next."""

    method: bytes
    target: bytes
    version: bytes
    fields: Headers
    body: bytes
    trailers: Headers
    complete: bool
    """Whether the body is all there, and framed as it should be."""
    rest: bytes


def h11_opinion(data: bytes) -> Opinion | None:
    """Return what h11 reads at the beginning of `data`; None if it refuses it or wants more."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
    connection.receive_data(data)
    try:
        head = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(head, h11.Request):
        return None
    body = bytearray()
    trailers: Headers = []
    complete = False
    try:
        while not complete:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                trailers = _pairs(event.headers)
                complete = True
            else:
                break
    except h11.RemoteProtocolError:
        pass
    rest, _ = connection.trailing_data
    return Opinion(
        bytes(head.method),
        bytes(head.target),
        bytes(head.http_version),
        _pairs(head.headers),
        bytes(body),
        trailers,
        complete,
        bytes(rest),
    )


def _pairs(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in headers]


def as_h11_has_them(fields: Headers) -> Headers:
    """Return fields with Transfer-Encoding in lower case, as h11 writes it; it means the same."""
    return [
        (name, value.lower() if name == b"transfer-encoding" else value) for name, value in fields
    ]
