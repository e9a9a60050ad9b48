"""One HTTP/1 connection: heads in, exchanges run one after the other, in this task.

Theory of operation. `serve` is a loop over requests. What has been read and not used stays in the
`Wire`, so that pipelined requests are taken apart in place; the reader is told what was consumed
only when it has to fetch, or when a body begins.

The application runs inside the loop. Its answer is written and, unless another request is at hand
already, flushed; so the answers to a pipelined burst leave together. They never wait for anything
else: whenever the application is about to wait, what is written is sent as far as possible.

A request that is wrong ends the loop through `_reject`. The end of the loop lingers where the
client may still be sending, because closing then would reset the connection and could destroy the
answer on its way. A deadline that expires, and a server that drains, wake the pending read; who
waits looks at `_phase` and at the connection's `close_requested` to see why.
"""

from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.exchange import (
    BadRequest,
    ClientDisconnected,
    HttpApplication,
    HttpExchange,
)
from kestrel_protocols.http.fields import date_and_server
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http.request_context import run_in_fresh_context
from kestrel_protocols.http1.application_failure import application_failed, application_left
from kestrel_protocols.http1.body import Body, ChunkedBody, LengthBody
from kestrel_protocols.http1.exchange import Http1Exchange
from kestrel_protocols.http1.request_head import (
    FieldBlock,
    FieldBlocks,
    RequestLine,
    RequestLines,
    check_framing,
    check_head_so_far,
)
from kestrel_protocols.http1.status_line import STATUS_LINES
from kestrel_protocols.http1.unusual_head import read_unusual_block, read_unusual_line
from kestrel_protocols.http1.wire import Wire

__all__ = ["Http1Connection"]

# Clients of long ago sent a line end too much after a body (RFC 9112, 2.2).
_MOST_BLANK_LINES = 4

_ALLOW = {
    Rejection.OPTIONS_METHOD_REQUIRED: b"\r\nallow: OPTIONS",
    Rejection.CONNECT_METHOD_REQUIRED: b"\r\nallow: CONNECT",
}


class _Phase(Enum):
    """What the connection waits for, as far as its deadline is concerned."""

    IDLE = auto()
    HEAD = auto()
    EXCHANGE = auto()
    DRAIN = auto()
    LAST_FLUSH = auto()
    IDLE_EXPIRED = auto()
    HEAD_EXPIRED = auto()
    DRAIN_EXPIRED = auto()


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_IDLE, _HEAD, _EXCHANGE, _DRAIN = _Phase.IDLE, _Phase.HEAD, _Phase.EXCHANGE, _Phase.DRAIN

# The phases in which the deadline ends a wait, and those that say that it did.
_EXPIRED = {
    _Phase.IDLE: _Phase.IDLE_EXPIRED,
    _Phase.HEAD: _Phase.HEAD_EXPIRED,
    _Phase.DRAIN: _Phase.DRAIN_EXPIRED,
}


class Http1Connection:
    """Serves one connection; see the module."""

    __slots__ = (
        "_application",
        "_blank_lines",
        "_blocks",
        "_connection",
        "_lines",
        "_on_exchange_end",
        "_phase",
        "_wire",
    )

    def __init__(
        self,
        connection: Connection,
        application: HttpApplication,
        lines: RequestLines,
        blocks: FieldBlocks,
        on_exchange_end: Callable[[HttpExchange], None] | None,
    ) -> None:
        self._connection = connection
        self._application = application
        self._lines = lines
        self._blocks = blocks
        self._on_exchange_end = on_exchange_end
        self._wire = Wire(connection)
        self._phase = _IDLE
        self._blank_lines = 0

    async def serve(self) -> None:
        """Serve requests until either side ends the connection.

        Raises:
            trio.BrokenResourceError: the client reset it.
        """
        self._connection.deadline.on_expiry = self._on_deadline
        self._connection.close_requested.listen(self._on_close_requested)
        try:
            await self._serve_requests()
        except BadRequest as error:
            await self._reject(error.rejection)
        finally:
            self._connection.close_requested.unlisten(self._on_close_requested)
            self._connection.deadline.clear()

    async def _serve_requests(self) -> None:
        wire, deadline = self._wire, self._connection.deadline
        reader, writer = wire.reader, wire.writer
        limits = self._connection.limits
        max_line_bytes = limits.max_request_line_bytes - 2
        max_headers_bytes = limits.max_request_headers_bytes - 2
        max_header_count = limits.max_request_header_count
        lines, blocks, application = self._lines, self._blocks, self._application
        before_waiting = wire.before_waiting
        while wire.keep_alive:
            end = wire.data.find(b"\r\n\r\n", wire.position)
            if end < 0:
                wire.consume()
                if writer.unflushed_bytes:
                    await writer.flush()
                    if not wire.keep_alive:
                        break  # somebody asked for that meanwhile
                self._phase = _IDLE
                deadline.set_after(limits.keep_alive_seconds)
                # Nearly always the next request is still to come, and comes in one piece.
                wire.data = reader.buffered or await reader.read()
                wire.arrived_at = deadline.now()
                end = wire.data.find(b"\r\n\r\n")
                if end < 0:
                    end = await self._wait_for_head()
                    if end < 0:
                        return
            data, start = wire.data, wire.position
            line_end = data.find(b"\r\n", start)
            if line_end == start:
                self._count_blank_line()
                wire.position += 2
                continue
            if line_end - start > max_line_bytes:
                raise BadRequest(Rejection.REQUEST_LINE_TOO_LONG)
            if end - line_end > max_headers_bytes:
                raise BadRequest(Rejection.HEADERS_TOO_LARGE)
            line_bytes = data[start:line_end]
            line = lines[line_bytes] or read_unusual_line(line_bytes)
            block_bytes = data[line_end + 2 : end + 2]
            block = blocks[block_bytes] or read_unusual_block(block_bytes)
            if len(block.fields) > max_header_count:
                raise BadRequest(Rejection.TOO_MANY_HEADERS)
            wire.position = end + 4
            self._blank_lines = 0
            self._phase = _EXCHANGE
            body: Body | None = None
            if not (block.plain and line.http11 and line.authority is None):
                body = self._body(line, block, len(block_bytes) + 2)
            if block.close or not (line.http11 or block.keep_alive):
                wire.keep_alive = False
            exchange = Http1Exchange(wire, line, block, body)
            wire.driving = True
            rest = None
            try:
                rest = run_in_fresh_context(application(exchange), before_waiting)
                if rest is not None:
                    await rest
            except Exception as error:  # the application's, which must not end the server's loop
                await application_failed(wire, exchange, error)
            if not exchange.response_finished:
                await self._application_left(exchange)
            if self._on_exchange_end is not None:
                self._on_exchange_end(exchange)
            if body is not None and not body.complete:
                await self._drain(body)
            if wire.position >= len(wire.data):
                # An idle connection holds nothing of its last request.
                del data, line_bytes, line, block_bytes, block, body, exchange, rest
        if wire.torn:
            self._connection.abort(EndReason.ABORTED_BY_APP)
            return
        if self._connection.close_requested.is_set:
            self._connection.record_end(EndReason.SHUTDOWN)
        wire.consume()
        if reader.buffered:
            await self._linger()

    def _body(self, line: RequestLine, block: FieldBlock, head_bytes: int) -> Body | None:
        check_framing(line, block)
        wire = self._wire
        if block.transfer_codings:
            wire.consume()
            return ChunkedBody(
                wire.reader,
                self._connection.limits,
                head_bytes=head_bytes,
                field_count=len(block.fields),
            )
        if block.content_length:
            wire.consume()
            return LengthBody(wire.reader, self._connection.limits, block.content_length)
        return None

    # Waiting for a head.

    async def _wait_for_head(self) -> int:
        """Wait until a head is complete; return where it ends, or -1 if there is no next one.

        To be called when the last read, or what is left of it, has no complete head.

        Raises:
            BadRequest: it grows too large, takes too long, or ends too early.
        """
        wire, deadline, reader = self._wire, self._connection.deadline, self._wire.reader
        limits = self._connection.limits
        wire.data = b""
        while True:
            data = self._without_blank_lines()
            begun = data not in (b"", b"\r")
            if reader.read_cancelled and self._stop_waiting(begun=begun):
                return -1
            if reader.at_eof:
                if begun:
                    raise BadRequest(Rejection.UNEXPECTED_END)
                self._connection.record_end(EndReason.PEER_CLOSED)
                return -1
            check_head_so_far(data, limits.max_request_line_bytes, limits.max_request_headers_bytes)
            line = data[: max(0, data.find(b"\r\n"))]
            if line and self._lines[line] is None:
                read_unusual_line(line)
            if begun and self._phase is _IDLE:
                self._phase = _HEAD
                deadline.set_after(limits.request_headers_seconds)
            searched = len(data)
            reader.advance(0, searched)
            data = await reader.read()
            end = data.find(b"\r\n\r\n", max(0, searched - 3))
            if end >= 0:
                wire.data = data
                wire.arrived_at = deadline.now()
                return end

    def _stop_waiting(self, *, begun: bool) -> bool:
        """Tell whether whoever cancelled the pending read wants no further request.

        Raises:
            BadRequest: the head took too long.
        """
        if self._phase is _Phase.HEAD_EXPIRED:
            raise BadRequest(Rejection.HEADERS_TIMEOUT)
        if self._phase is _Phase.IDLE_EXPIRED:
            self._connection.record_end(EndReason.KEEP_ALIVE_TIMEOUT)
            return True
        if self._connection.close_requested.is_set and not begun:
            self._connection.record_end(EndReason.SHUTDOWN)
            return True
        return False

    def _without_blank_lines(self) -> bytes:
        """Consume the blank lines before a head; return what the reader then holds."""
        reader = self._wire.reader
        while reader.buffered.startswith(b"\r\n"):
            self._count_blank_line()
            reader.advance(2)
        return reader.buffered

    def _count_blank_line(self) -> None:
        self._blank_lines += 1
        if self._blank_lines > _MOST_BLANK_LINES:
            raise BadRequest(Rejection.INVALID_REQUEST_LINE)

    def _on_deadline(self) -> None:
        # The hot path does not clear the keep-alive deadline when a request comes.
        if self._phase is _Phase.LAST_FLUSH:
            self._connection.abort(EndReason.REQUEST_BODY_DRAIN_TIMEOUT)
        elif self._phase is not _EXCHANGE:
            self._phase = _EXPIRED[self._phase]
            self._wire.reader.cancel_pending_read()

    def _on_close_requested(self) -> None:
        self._wire.keep_alive = False
        if self._phase is _IDLE:
            self._wire.reader.cancel_pending_read()

    # Ending.

    async def _application_left(self, exchange: Http1Exchange) -> None:
        """Bring to an end a response that the application did not finish."""
        rejection = exchange.rejection
        if rejection is None:
            await application_left(self._wire, exchange)
        elif exchange.response_started:
            exchange.give_up()
            self._connection.abort(rejection.end_reason)
        else:
            # It was told by `receive` that the request is wrong; the client, if there, is told now.
            exchange.give_up()
            with suppress(trio.BrokenResourceError):
                self._write_rejection(rejection)
                exchange.status = rejection.status

    async def _drain(self, body: Body) -> None:
        """Read and drop what the application left of a body, so that a next request can come."""
        wire = self._wire
        if wire.torn:
            return
        if not wire.keep_alive:
            await self._linger()
            return
        self._phase = _DRAIN
        self._connection.deadline.set_after(self._connection.limits.request_body_drain_seconds)
        try:
            while not body.complete and self._phase is _DRAIN:
                await body.receive()
        except BadRequest as error:
            self._connection.record_end(error.rejection.end_reason)
            await self._linger()
        except ClientDisconnected:
            self._connection.record_end(EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT)
            wire.keep_alive = False
        else:
            if not body.complete:
                self._connection.record_end(EndReason.REQUEST_BODY_DRAIN_TIMEOUT)
                wire.keep_alive = False

    async def _reject(self, rejection: Rejection) -> None:
        """Answer a request that is wrong, and end the connection without losing the answer."""
        self._connection.record_end(rejection.end_reason)
        self._write_rejection(rejection)
        await self._linger()

    def _write_rejection(self, rejection: Rejection) -> None:
        self._wire.writer.write(
            b"%b\r\ncontent-length: 0\r\nconnection: close%b%b\r\n\r\n"
            % (STATUS_LINES[rejection.status], _ALLOW.get(rejection, b""), date_and_server())
        )

    async def _linger(self) -> None:
        """End the output, then drop input until the client ends too, or for a bounded time.

        A client that by then has not even read what there was to send is cut off.
        """
        wire, reader = self._wire, self._wire.reader
        wire.consume()
        wire.keep_alive = False
        self._phase = _Phase.LAST_FLUSH
        self._connection.deadline.set_after(self._connection.limits.linger_seconds)
        with suppress(trio.ClosedResourceError):  # some pipes can end both ways only
            await wire.writer.send_eof()
        self._phase = _DRAIN
        while not reader.at_eof and self._phase is _DRAIN:
            await reader.receive()
