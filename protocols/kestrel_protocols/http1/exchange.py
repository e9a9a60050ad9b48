"""One request and its response on an HTTP/1 connection.

Theory of operation. A response goes through NOT_STARTED, STARTED, FINISHED. `start` only notes
the head; it is written together with the first piece of body, so that a small answer leaves in one
segment. How the body is framed is decided with the head: by the application's Content-Length, by
chunks, by the end of the connection for HTTP/1.0, or not at all where no body belongs.
"""

from collections.abc import Iterable
from enum import Enum, auto

import trio

from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.exchange import (
    BadRequest,
    ClientDisconnected,
    HttpExchange,
    ResponseError,
)
from kestrel_protocols.http.fields import FieldLines, date_and_server, date_line, field_lines
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.body import Body
from kestrel_protocols.http1.request_head import FieldBlock, RequestLine
from kestrel_protocols.http1.status_line import STATUS_LINES
from kestrel_protocols.http1.wire import Wire

__all__ = ["Http1Exchange"]

_LAST_CHUNK = b"0\r\n\r\n"

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Bodies up to this size are copied behind their head, which is cheaper than a second write.
_MOST_COPIED_BYTES = 64 * 1024


class _Framing(Enum):
    """How the end of a response body is told."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


class _Response(Enum):
    NOT_STARTED = auto()
    STARTED = auto()
    FINISHED = auto()


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = _Framing
_NOT_STARTED, _STARTED, _FINISHED = _Response


class Http1Exchange(HttpExchange):
    """See `HttpExchange`; made by `Http1Connection` for each request."""

    __slots__ = (
        "_awaited",
        "_body",
        "_continue_expected",
        "_framing",
        "_http11",
        "_length",
        "_pending_head",
        "_response",
        "_wire",
        "rejection",
    )

    def __init__(self, wire: Wire, line: RequestLine, block: FieldBlock, body: Body | None) -> None:
        self.connection = wire.connection
        self.method = line.method
        self.target = line.target
        self.path = line.path
        self.raw_path = line.raw_path
        self.query = line.query
        self.http_version = "1.1" if line.http11 else "1.0"
        self.headers = block.fields.copy()
        self.started_at = wire.arrived_at
        self.status = None
        self.response_body_bytes = 0
        self.rejection: Rejection | None = None
        """Why the rest of the request turned out wrong, once it did."""
        self._http11 = line.http11
        self._wire = wire
        self._body = body
        self._continue_expected = block.expect_continue and line.http11 and body is not None
        self._response = _NOT_STARTED
        self._framing = _NONE
        self._length = 0
        self._pending_head = b""
        self._awaited = False

    # The request.

    @property
    def body_complete(self) -> bool:
        """See `HttpExchange`."""
        return self._body is None or self._body.complete

    @property
    def disconnected(self) -> bool:
        """See `HttpExchange`."""
        return self.connection.closed.is_set or (
            self._wire.reader.at_eof and not self._wire.reader.buffered
        )

    async def receive(self) -> bytes:
        """See `HttpExchange`; sends 100 (Continue) if the client waits for that."""
        body = self._body
        if body is None or body.complete:
            return b""
        if self.rejection is not None:
            raise BadRequest(self.rejection)
        if self._response is _FINISHED:
            raise ClientDisconnected("the exchange is over; the rest of the body is dropped")
        try:
            if self._continue_expected:
                await self._send_continue()
            while not (data := await body.receive()) and not body.complete:
                pass  # a pending read was cancelled, which concerns others
        except BadRequest as error:
            self.rejection = error.rejection
            self._wire.keep_alive = False
            raise
        except trio.BrokenResourceError as error:
            raise ClientDisconnected("the client reset the connection") from error
        return data

    async def _send_continue(self) -> None:
        """Send 100 unless the body is on its way, or the final status is (RFC 9110, 10.1.1)."""
        self._continue_expected = False
        if self._response is _NOT_STARTED and not self._wire.reader.buffered:
            await self._wire.writer.send(_CONTINUE)

    async def wait_disconnected(self) -> None:
        """See `HttpExchange`; reads ahead, within bounds, because that is how one finds out."""
        wire = self._wire
        if wire.data:
            wire.consume()
        reader = wire.reader
        most_bytes = self.connection.limits.max_request_buffer_bytes
        try:
            while not (self.disconnected or self._response is _FINISHED):
                self._awaited = True
                held = len(reader.buffered)
                if held >= most_bytes or reader.at_eof:
                    # A client that pipelines this much is not read from, only waited for.
                    await self.connection.closed.wait()
                else:
                    reader.advance(0, held)
                    await reader.read()
        except trio.BrokenResourceError:
            pass  # gone is what was waited for
        finally:
            self._awaited = False
            if not self.connection.closed.is_set:
                reader.advance(0)

    # The response.

    def give_up(self) -> None:
        """Note that the response will never be complete."""
        self._response = _FINISHED

    @property
    def response_started(self) -> bool:
        """See `HttpExchange`."""
        return self._response is not _NOT_STARTED

    @property
    def response_finished(self) -> bool:
        """See `HttpExchange`."""
        return self._response is _FINISHED

    async def respond(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b""
    ) -> None:
        """See `HttpExchange`."""
        wire = self._wire
        writer = wire.writer
        length = len(body)
        if self._response is not _NOT_STARTED:
            raise ResponseError("a response was started already")
        fields = field_lines(status, headers, STATUS_LINES[status])
        if (
            fields.content_length == length <= _MOST_COPIED_BYTES
            and fields.is_plain
            and 200 <= status < 204
            and wire.keep_alive
            and self._http11
            and self.method != "HEAD"
        ):
            # What nearly all answers are like: everything below, for them, in one go.
            head = None
            self.status = status
        else:
            head = self._head(status, fields, length)
        self.response_body_bytes = length
        self._response = _FINISHED
        try:
            if head is None:
                writer.write(b"%b%b\r\n\r\n%b" % (fields.lines, date_and_server(), body))
            elif self._framing is _LENGTH:
                if length <= _MOST_COPIED_BYTES:
                    writer.write(head + body)
                else:
                    writer.write(head)
                    writer.write(body)
            elif self._framing is _CHUNKED:
                writer.write(head + self._framed(body) + _LAST_CHUNK)
            else:
                writer.write(head)
                writer.write(self._framed(body))
            if self._awaited or wire.position >= len(wire.data) or self._may_flush():
                writer.flush_nowait()
                if writer.unflushed_bytes:
                    await writer.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientDisconnected("the client is gone") from error

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `HttpExchange`."""
        if self._response is not _NOT_STARTED:
            raise ResponseError("a response was started already")
        fields = field_lines(status, headers, STATUS_LINES[status])
        self._pending_head = self._head(status, fields, None)
        self._response = _STARTED

    async def write(self, data: bytes) -> None:
        """See `HttpExchange`."""
        if self._response is not _STARTED:
            raise ResponseError("write() comes after start() and before finish()")
        self.response_body_bytes += len(data)
        piece = self._framed(data)
        writer = self._wire.writer
        try:
            if self._pending_head:
                head, self._pending_head = self._pending_head, b""
                writer.write(head)
            writer.write(piece)
            await writer.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientDisconnected("the client is gone") from error

    async def finish(self) -> None:
        """See `HttpExchange`."""
        if self._response is not _STARTED:
            raise ResponseError("finish() comes once, after start()")
        self._response = _FINISHED
        if self._framing is _LENGTH and self.response_body_bytes < self._length:
            self._wire.connection.abort(EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH)
            raise ResponseError(
                f"the response has {self.response_body_bytes} bytes"
                f" of the {self._length} that its Content-Length announced"
            )
        writer = self._wire.writer
        try:
            if self._pending_head:
                writer.write(self._pending_head)
            if self._framing is _CHUNKED:
                writer.write(_LAST_CHUNK)
            if self._may_flush():
                await writer.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientDisconnected("the client is gone") from error

    def _may_flush(self) -> bool:
        """Tell whether the finished response leaves now, or joins the answer to a next request."""
        wire = self._wire
        if self._awaited:
            wire.reader.cancel_pending_read()
        return (
            wire.position >= len(wire.data)
            or not wire.driving
            or not wire.keep_alive
            or wire.writer.unflushed_bytes >= self.connection.limits.max_response_buffer_bytes
        )

    def _framed(self, data: bytes) -> bytes:
        if self._framing is _CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if self._framing is _NONE:
            return b""
        if self._framing is _LENGTH and self.response_body_bytes > self._length:
            self._response = _FINISHED
            self._wire.connection.abort(EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH)
            raise ResponseError(
                f"the response is longer than the {self._length} bytes of its Content-Length"
            )
        return data

    def _head(self, status: int, fields: FieldLines, length: int | None) -> bytes:
        """Return the head of the response, blank line included, and decide its framing."""
        if self.rejection is not None:
            raise ClientDisconnected("the request was wrong, and the server answers for it")
        framing_line = self._decide_framing(status, fields, length)
        self.status = status
        wire = self._wire
        if fields.connection is not None and b"close" in fields.connection:
            wire.keep_alive = False
        elif not wire.keep_alive:
            framing_line += b"\r\nconnection: close"
        elif not self._http11:
            framing_line += b"\r\nconnection: keep-alive"
        if not fields.has_date:
            framing_line += date_line() if fields.has_server else date_and_server()
        elif not fields.has_server:
            framing_line += b"\r\nserver: kestrel"
        return b"%b%b\r\n\r\n" % (fields.lines, framing_line)

    def _decide_framing(self, status: int, fields: FieldLines, length: int | None) -> bytes:
        """Decide how the body ends, and return the line that says so, if it takes one more."""
        announced = fields.content_length
        if announced == length is not None and 200 <= status < 204 and self.method != "HEAD":
            self._framing = _LENGTH
            self._length = length
            return b""
        if status < 200:
            raise ResponseError(f"{status} is not a final status")
        chunked = fields.transfer_encoding is not None
        if status in (204, 304) or self.method == "HEAD":
            if status == 204 and (announced or chunked):
                raise ResponseError("a response 204 has no body, and no fields that frame one")
            self._framing = _NONE
            if announced is None and not chunked and status not in (204, 304):
                return b"\r\ncontent-length: %d" % length if length is not None else b""
            return b""
        if announced is not None:
            if length is not None and announced != length:
                raise ResponseError(
                    f"the body has {length} bytes, but Content-Length says {announced}"
                )
            self._framing = _LENGTH
            self._length = announced
            return b""
        if length is not None and not chunked:
            self._framing = _LENGTH
            self._length = length
            return b"\r\ncontent-length: %d" % length
        if self._http11:
            self._framing = _CHUNKED
            return b"" if chunked else b"\r\ntransfer-encoding: chunked"
        self._framing = _UNTIL_CLOSE
        self._wire.keep_alive = False
        return b""
