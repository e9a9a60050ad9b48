"""Every number an operator may change about a connection, with its unit and its pedigree."""

import math

import attrs

from kestrel_core.validators import above_zero, above_zero_and_finite, not_negative, or_none

__all__ = ["Limits"]


@attrs.frozen(kw_only=True)
class Limits:
    """What a server lets one peer have. None, or infinity for a time, means unlimited.

    The defaults are Kestrel's (`KestrelServerLimits`), which in turn follow nginx, IIS and
    Apache; what Kestrel fixes in code is an option here.

    Raises:
        ValueError: a number is out of its range, or the read buffer could not hold a head.
    """

    max_connections: int | None = attrs.field(default=None, validator=or_none(above_zero))
    """Connections at once on the whole server; the next is closed without a byte."""

    max_upgraded_connections: int | None = attrs.field(
        default=None, validator=or_none(not_negative)
    )
    """Connections at once that HTTP was upgraded on, to a WebSocket or a tunnel; then 503. They do
    not count towards `max_connections`."""

    max_requests_per_connection: int | None = attrs.field(
        default=None, validator=or_none(above_zero)
    )
    """Requests on one connection; the last is answered with `Connection: close` (nginx: 1000)."""

    max_pipelined_requests: int = attrs.field(default=64, validator=above_zero)
    """Requests served in a row of those that a client sent at once; then its answers are flushed
    and other connections have a turn."""

    max_connection_age_seconds: float = attrs.field(default=math.inf, validator=above_zero)
    """From then on a connection serves no further request, so that clients come back through the
    load balancer (gRPC: MAX_CONNECTION_AGE, never by default)."""

    max_request_buffer_bytes: int = attrs.field(default=1024 * 1024, validator=above_zero)
    """Input held for one connection before the handler takes it; then the peer must wait."""

    max_response_buffer_bytes: int = attrs.field(default=64 * 1024, validator=above_zero)
    """Output held for one connection; beyond it the writer waits for the peer to read."""

    max_request_line_bytes: int = attrs.field(default=8 * 1024, validator=above_zero)
    """Bytes of an HTTP/1 request line with its line end (nginx: one 8 KiB buffer); then 414."""

    max_request_headers_bytes: int = attrs.field(default=32 * 1024, validator=above_zero)
    """Bytes of all header lines and the blank line after them (nginx: 4 x 8 KiB); then 431.
    Trailers share what the headers left."""

    max_request_header_count: int = attrs.field(default=100, validator=above_zero)
    """Header fields of one request (Apache: `LimitRequestFields` 100); then 431."""

    max_request_body_bytes: int | None = attrs.field(
        default=30_000_000, validator=or_none(not_negative)
    )
    """Bytes of one request body, chunk framing included (IIS: 30,000,000); then 413."""

    keep_alive_seconds: float = attrs.field(default=130.0, validator=above_zero)
    """How long a connection may wait for a request's first byte (IIS: 120 s and a tick)."""

    request_headers_seconds: float = attrs.field(default=30.0, validator=above_zero)
    """From a request's first byte to the end of its headers; then 408."""

    request_body_drain_seconds: float = attrs.field(default=5.0, validator=above_zero_and_finite)
    """How long a body that the application did not read is read and dropped after the answer."""

    min_request_body_bytes_per_second: float | None = attrs.field(
        default=240.0, validator=or_none(above_zero)
    )
    """How fast a body must arrive while the application waits for it; else 408."""

    request_body_grace_seconds: float = attrs.field(default=5.0, validator=above_zero)
    """How long the application waits for a body before that is asked."""

    min_response_bytes_per_second: float | None = attrs.field(
        default=240.0, validator=or_none(above_zero)
    )
    """How fast a client must take a response while it keeps the server waiting; else it is cut."""

    response_grace_seconds: float = attrs.field(default=5.0, validator=above_zero)
    """How long the client may keep the server waiting before that is asked."""

    max_request_seconds: float = attrs.field(default=math.inf, validator=above_zero)
    """From a request's head to the end of the application's call; then that is cancelled, and the
    client told 503 if it was not told anything else before."""

    linger_seconds: float = attrs.field(default=2.0, validator=above_zero_and_finite)
    """How long input is dropped after a last answer that the peer may still be sending past
    (Apache: lingering close, 2 s), so that a reset does not destroy the answer."""

    def __attrs_post_init__(self) -> None:
        head_bytes = max(self.max_request_line_bytes, self.max_request_headers_bytes)
        if self.max_request_buffer_bytes < head_bytes:
            raise ValueError(
                "max_request_buffer_bytes must be at least max_request_line_bytes and"
                f" max_request_headers_bytes, {head_bytes}, not {self.max_request_buffer_bytes}"
            )
