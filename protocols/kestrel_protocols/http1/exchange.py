"""One request and its response on an HTTP/1 connection.

Theory of operation. A response goes through NOT_STARTED, STARTED, FINISHED. `start` only notes
the head; it is written together with the first piece of body, so that a small answer leaves in one
segment. How the body is framed is decided with the head: by the application's Content-Length, by
chunks, by the end of the connection for HTTP/1.0, or not at all where no body belongs.
"""

from collections.abc import Callable, Iterable
from enum import Enum, auto

import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.signals import Signal
from kestrel_protocols.http.exchange import (
    BadRequest,
    ClientDisconnected,
    Headers,
    HttpExchange,
    ResponseError,
)
from kestrel_protocols.http.fields import FieldLines, date_and_server, date_line, field_lines
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.body import Body
from kestrel_protocols.http1.request_head import FieldBlock, RequestLine
from kestrel_protocols.http1.response_framing import Framing, decide_framing
from kestrel_protocols.http1.status_line import STATUS_LINES
from kestrel_protocols.http1.wire import Wire

__all__ = ["Http1Exchange"]

_LAST_CHUNK = b"0\r\n\r\n"

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Bodies up to this size are copied behind their head, which is cheaper than a second write.
_MOST_COPIED_BYTES = 64 * 1024


class _Response(Enum):
    NOT_STARTED = auto()
    STARTED = auto()
    FINISHED = auto()


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Framing
_NOT_STARTED, _STARTED, _FINISHED = _Response


class Http1Exchange(HttpExchange):
    """See `HttpExchange`; made by `Http1Connection` for each request."""

    __slots__ = (
        "_body",
        "_continue_expected",
        "_framing",
        "_http11",
        "_length",
        "_pending_head",
        "_response",
        "_wake_receiver",
        "_wire",
        "rejection",
    )

    def __init__(self, wire: Wire, line: RequestLine, block: FieldBlock, body: Body | None) -> None:
        self.connection: Connection = wire.connection
        self.method: str = line.method
        self.target: bytes = line.target
        self.path: str = line.path
        self.raw_path: bytes = line.raw_path
        self.query: bytes = line.query
        self.http_version: str = "1.1" if line.http11 else "1.0"
        self.headers: Headers = block.fields.copy()
        self.started_at: float = wire.arrived_at
        self.status: int | None = None
        self.response_body_bytes: int = 0
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
        self._wake_receiver: Callable[[], None] | None = None

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
        wire = self._wire
        self._wake_receiver = wire.reader.cancel_pending_read
        try:
            if self._continue_expected:
                body.check_length()
                await self._send_continue()
            while self._response is not _FINISHED:
                await wire.look()
                data = await body.receive()
                if data or body.complete:
                    return data
        except BadRequest as error:
            self.rejection = error.rejection
            self.connection.record_end(error.rejection.end_reason)
            wire.keep_alive = False
            raise
        except ClientDisconnected:
            # It may have ended its side alone, and then it is told that this was too early.
            self.rejection = Rejection.UNEXPECTED_END
            self.connection.record_end(self.rejection.end_reason)
            wire.keep_alive = False
            wire.told_gone = True
            raise
        except trio.BrokenResourceError as error:
            raise self._gone() from error
        finally:
            self._wake_receiver = None
        raise ClientDisconnected("the exchange is over; the rest of the body is dropped")

    async def _send_continue(self) -> None:
        """Send 100 unless the body is on its way, or the final status is (RFC 9110, 10.1.1)."""
        self._continue_expected = False
        if self._response is _NOT_STARTED and not self._wire.reader.buffered:
            self._wire.writer.write(_CONTINUE)
            await self._flush()

    async def wait_disconnected(self) -> None:
        """See `HttpExchange`; reads ahead, within bounds, because that is how one finds out."""
        wire, reader = self._wire, self._wire.reader
        if wire.data:
            wire.consume()
        try:
            while self._response is not _FINISHED:
                await wire.look()
                if self.disconnected or self._response is _FINISHED:
                    break
                held = len(reader.buffered)
                if reader.at_eof or held >= self.connection.limits.max_request_buffer_bytes:
                    # A client that pipelines this much is not read from, only waited for.
                    await self._wait_closed_or_finished()
                else:
                    self._wake_receiver = reader.cancel_pending_read
                    reader.advance(0, held)
                    await reader.read()
        except trio.BrokenResourceError:
            pass  # gone is what was waited for
        finally:
            self._wake_receiver = None
            if not self.connection.closed.is_set:
                reader.advance(0)
        if self._response is not _FINISHED:
            wire.told_gone = True

    async def _wait_closed_or_finished(self) -> None:
        signal = Signal()
        self._wake_receiver = signal.set
        self.connection.closed.listen(signal.set)
        try:
            await signal.wait()
        finally:
            self.connection.closed.unlisten(signal.set)

    # The response.

    def give_up(self) -> None:
        """Note that the response will never be complete."""
        self._response = _FINISHED
        self._wire.keep_alive = False

    def retract(self) -> bool:
        """Take back a response that was started, if nothing of it was sent; tell whether so."""
        if not self._pending_head:
            return False
        self._pending_head = b""
        self._response = _NOT_STARTED
        self.status = None
        self.response_body_bytes = 0
        return True

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
        if type(body) is not bytes:
            body = _as_bytes(body)
        length = len(body)
        if self._response is not _NOT_STARTED:
            raise self._out_of_order("a response was started already")
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
            if self._wake_receiver is not None:
                self._wake_receiver()
            if wire.position >= len(wire.data) or self._may_flush():
                writer.flush_nowait()
                if writer.unflushed_bytes:
                    await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `HttpExchange`."""
        if self._response is not _NOT_STARTED:
            raise self._out_of_order("a response was started already")
        fields = field_lines(status, headers, STATUS_LINES[status])
        self._pending_head = self._head(status, fields, None)
        self._response = _STARTED

    async def write(self, data: bytes) -> None:
        """See `HttpExchange`."""
        if self._response is not _STARTED:
            raise self._out_of_order("write() comes after start() and before finish()")
        if type(data) is not bytes:
            data = _as_bytes(data)
        self.response_body_bytes += len(data)
        piece = self._framed(data)
        writer = self._wire.writer
        try:
            if self._pending_head:
                head, self._pending_head = self._pending_head, b""
                writer.write(head)
            writer.write(piece)
            await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    async def finish(self) -> None:
        """See `HttpExchange`."""
        if self._response is not _STARTED:
            raise self._out_of_order("finish() comes once, after start()")
        if self._framing is _LENGTH and self.response_body_bytes < self._length:
            raise self._wrong_length(
                f"the response has {self.response_body_bytes} bytes"
                f" of the {self._length} that its Content-Length announced"
            )
        self._response = _FINISHED
        writer = self._wire.writer
        try:
            if self._pending_head:
                head, self._pending_head = self._pending_head, b""
                writer.write(head)
            if self._framing is _CHUNKED:
                writer.write(_LAST_CHUNK)
            if self._wake_receiver is not None:
                self._wake_receiver()
            if self._may_flush():
                await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    def _may_flush(self) -> bool:
        """Tell whether the finished response leaves now, or joins the answer to a next request."""
        wire = self._wire
        return (
            wire.position >= len(wire.data)
            or not wire.driving
            or not wire.keep_alive
            or wire.writer.unflushed_bytes >= self.connection.limits.max_response_buffer_bytes
        )

    async def _flush(self) -> None:
        try:
            await self._wire.writer.flush()
        except trio.Cancelled:
            # By the application, most likely. Nobody knows how much has left, so nothing can follow.
            self.give_up()
            self._wire.torn = True
            raise

    def _gone(self) -> ClientDisconnected:
        """Return the error that tells the application that its client is gone."""
        self._wire.told_gone = True
        self.connection.record_end(EndReason.CONNECTION_RESET)
        return ClientDisconnected("the client is gone")

    def _out_of_order(self, text: str) -> ResponseError | ClientDisconnected:
        if self._wire.torn:
            return ClientDisconnected("a send was cancelled half-way; the response cannot go on")
        return ResponseError(text)

    def _wrong_length(self, text: str) -> ResponseError:
        """Return the error for a body that is not as announced, after ending what was sent of it."""
        if not self.retract():
            self.give_up()
            self.connection.abort(EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH)
        return ResponseError(text)

    def _framed(self, data: bytes) -> bytes:
        if self._framing is _CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if self._framing is _NONE:
            if data and self.method != "HEAD":
                raise self._wrong_length(f"a response {self.status} has no body")
            return b""
        if self._framing is _LENGTH and self.response_body_bytes > self._length:
            raise self._wrong_length(
                f"the response is longer than the {self._length} bytes of its Content-Length"
            )
        return data

    def _head(self, status: int, fields: FieldLines, length: int | None) -> bytes:
        """Return the head of the response, blank line included, and decide its framing."""
        if self.rejection is not None:
            raise ClientDisconnected("the request was wrong, and the server answers for it")
        wire = self._wire
        self._framing, framing_line = decide_framing(
            status, fields, length, to_head=self.method == "HEAD", http11=self._http11
        )
        self._length = length or fields.content_length or 0
        if self._framing is _UNTIL_CLOSE:
            wire.keep_alive = False
        self.status = status
        if fields.closes:
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


def _as_bytes(data: bytes) -> bytes:
    """Return a copy of what is nearly bytes; applications are not type-checked by us."""
    try:
        return bytes(memoryview(data))
    except TypeError as error:
        raise ResponseError(f"a body is bytes, not {type(data).__name__}") from error
