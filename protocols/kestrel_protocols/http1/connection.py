"""One HTTP/1 connection: heads in, exchanges run one after the other, in this task.

Theory of operation. `serve` is a loop over requests. What has been read and not used stays in the
`Wire`, so that pipelined requests are taken apart in place; the reader is told what was consumed
only when it has to fetch, or when a body begins.

The application runs inside the loop. Its answer is written and, unless another request is at hand
already, flushed; so the answers to a pipelined burst leave together. They never wait for anything
else: whenever the application is about to wait, what is written is sent as far as possible.

A request that is wrong ends the loop through `reject`, and what else ends it is in `ending`. A
deadline that expires, and a server that drains, wake the pending read; who waits looks at the
wire's `phase` and at the connection's `close_requested` to see why.
"""

import math
from collections.abc import Callable
from contextlib import suppress

import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.exchange import (
    BadRequest,
    HttpApplication,
    HttpExchange,
)
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http.request_context import run_in_fresh_context
from kestrel_protocols.http1.application_failure import (
    application_failed,
    application_left,
    application_timed_out,
)
from kestrel_protocols.http1.body import Body, ChunkedBody, LengthBody
from kestrel_protocols.http1.ending import drain, linger, reject, write_rejection
from kestrel_protocols.http1.exchange import Http1Exchange
from kestrel_protocols.http1.leniency import Leniency, Tolerance
from kestrel_protocols.http1.request_head import (
    FieldBlock,
    FieldBlocks,
    RequestLine,
    RequestLines,
    check_framing,
    check_head_so_far,
)
from kestrel_protocols.http1.unusual_head import (
    read_unusual_block,
    read_unusual_line,
    with_crlf,
    without_contradictions,
)
from kestrel_protocols.http1.wire import Phase, Wire

__all__ = ["MOST_BLANK_LINES", "Http1Connection"]

# Clients of long ago sent a line end too much after a body (RFC 9112, 2.2).
MOST_BLANK_LINES = 4

# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_IDLE, _HEAD, _EXCHANGE = Phase.IDLE, Phase.HEAD, Phase.EXCHANGE


class Http1Connection:
    """Serves one connection; see the module."""

    __slots__ = (
        "_application",
        "_blank_line",
        "_blank_lines",
        "_blocks",
        "_connection",
        "_lines",
        "_on_exchange_end",
        "_served",
        "_tolerance",
        "_wire",
    )

    def __init__(
        self,
        connection: Connection,
        application: HttpApplication,
        lines: RequestLines,
        blocks: FieldBlocks,
        on_exchange_end: Callable[[HttpExchange], None] | None,
        stamp: Callable[[], bytes],
        tolerance: Tolerance | None,
    ) -> None:
        self._connection = connection
        self._application = application
        self._lines = lines
        self._blocks = blocks
        self._on_exchange_end = on_exchange_end
        self._tolerance = tolerance
        self._wire = Wire(connection, stamp)
        lenient = tolerance is not None and tolerance.allows(Leniency.BARE_LINE_FEED)
        self._blank_line = (b"\r\n", b"\n") if lenient else b"\r\n"
        self._blank_lines = 0
        self._served = 0
        self._wire.retires_at = (
            connection.deadline.now() + connection.limits.max_connection_age_seconds
        )

    async def serve(self) -> None:
        """Serve requests until either side ends the connection.

        Raises:
            trio.BrokenResourceError: the client reset it.
        """
        connection, wire = self._connection, self._wire
        connection.deadline.on_expiry = wire.on_deadline
        connection.close_requested.listen(wire.on_close_requested)
        try:
            await self._serve_requests()
        except BadRequest as error:
            await reject(wire, error.rejection)
        finally:
            connection.close_requested.unlisten(wire.on_close_requested)
            connection.deadline.clear()
            if wire.upgraded:
                connection.context.release_upgrade()

    async def _serve_requests(self) -> None:
        wire, deadline = self._wire, self._connection.deadline
        reader, writer = wire.reader, wire.writer
        limits = self._connection.limits
        max_line_bytes = limits.max_request_line_bytes - 2
        max_headers_bytes = limits.max_request_headers_bytes - 2
        max_header_count = limits.max_request_header_count
        lines, blocks, application = self._lines, self._blocks, self._application
        known_block = blocks.get
        before_waiting = wire.before_waiting
        time_is_limited = limits.max_request_seconds < math.inf
        retires = wire.retires_at < math.inf or limits.max_requests_per_connection is not None
        tolerance = self._tolerance
        is_watched = retires or tolerance is not None
        most_in_a_row = limits.max_pipelined_requests
        in_a_row = 0
        pipelines = asked_to_close = False
        while wire.keep_alive:
            end = wire.data.find(b"\r\n\r\n", wire.position)
            if tolerance is not None:
                end = self._end_of_head()
            if end < 0:
                wire.consume()
                if writer.unflushed_bytes:
                    await wire.flush()
                    if not wire.keep_alive:
                        break  # somebody asked for that meanwhile
                deadline.set_after(limits.keep_alive_seconds)
                if retires:
                    wire.watch_age()
                    if not wire.keep_alive:
                        break
                wire.phase = _IDLE
                wire.pace = None
                data = reader.buffered
                if not data:
                    in_a_row = 0
                    # Nearly always the next request is still to come, and comes in one piece.
                    data = await reader.read()
                else:
                    pipelines = True
                wire.data = data
                wire.arrived_at = deadline.now()
                end = data.find(b"\r\n\r\n")
                if tolerance is not None:
                    end = self._end_of_head()
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
            line = lines[line_bytes] or read_unusual_line(line_bytes, tolerance)
            block_bytes = data[line_end + 2 : end + 2]
            block = known_block(block_bytes)
            if block is None:
                # New ones are counted before they are taken apart, which costs more.
                if block_bytes.count(b"\n") > max_header_count:
                    raise BadRequest(Rejection.TOO_MANY_HEADERS)
                block = blocks[block_bytes] or read_unusual_block(block_bytes, tolerance)
            elif len(block.fields) > max_header_count:
                raise BadRequest(Rejection.TOO_MANY_HEADERS)
            if tolerance is not None:
                block = without_contradictions(line, block, tolerance)
            wire.position = end + 4
            self._blank_lines = 0
            wire.phase = _EXCHANGE
            body: Body | None = None
            if not (block.plain and line.http11 and line.authority is None):
                body = self._body(line, block, len(block_bytes) + 2)
            if block.close or not (line.http11 or block.keep_alive):
                wire.keep_alive = False
                asked_to_close = True
            if is_watched:
                self._note_request()
            exchange = Http1Exchange(wire, line, block, body)
            wire.driving = True
            rest = None
            try:
                if time_is_limited:
                    await self._run_in_time(exchange)
                else:
                    rest = run_in_fresh_context(application(exchange), before_waiting)
                    if rest is not None:
                        await rest
            except Exception as error:  # the application's, which must not end the server's loop
                if wire.upgraded and not wire.told_gone:
                    if self._on_exchange_end is not None:
                        self._on_exchange_end(exchange)
                    raise  # HTTP is over, and there is nothing to answer
                await application_failed(wire, exchange, error)
            if not exchange.response_finished:
                await self._application_left(exchange)
            if self._on_exchange_end is not None:
                self._on_exchange_end(exchange)
            if body is not None and not body.complete:
                await drain(wire, body)
            if wire.position >= len(wire.data):
                # An idle connection holds nothing of its last request.
                del data, line_bytes, line, block_bytes, block, body, exchange, rest
            else:
                wire.pace = None
                pipelines = True
            in_a_row += 1
            if in_a_row == most_in_a_row and wire.keep_alive:
                in_a_row = 0
                await wire.flush()
                await trio.lowlevel.checkpoint()
        if wire.torn:
            self._connection.abort(EndReason.ABORTED_BY_APP)
            return
        if wire.upgraded:
            self._connection.record_end(EndReason.UPGRADED)
            return
        if self._connection.close_requested.is_set:
            self._connection.record_end(EndReason.SHUTDOWN)
        wire.consume()
        # More may be on its way from a client that has not waited for answers, unless it said not.
        if reader.buffered or (pipelines and not asked_to_close):
            await linger(wire)

    async def _run_in_time(self, exchange: Http1Exchange) -> None:
        """Run the application, and cancel it when the request's time is up."""
        wire = self._wire
        expires_at = wire.arrived_at + self._connection.limits.max_request_seconds
        with trio.CancelScope(deadline=expires_at) as scope:
            wire.request_scope = scope
            try:
                rest = run_in_fresh_context(self._application(exchange), wire.before_waiting)
                if rest is not None:
                    await rest
            finally:
                wire.request_scope = None
        if scope.cancelled_caught:
            await application_timed_out(wire, exchange)

    def _note_request(self) -> None:
        """Count the request at hand and what it needed; make it the last, if it is time for that."""
        if self._tolerance is not None:
            self._tolerance.count()
        self._served += 1
        if self._served == self._connection.limits.max_requests_per_connection:
            self._connection.record_end(EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED)
            self._wire.keep_alive = False
        else:
            self._wire.watch_age()

    def _body(self, line: RequestLine, block: FieldBlock, head_bytes: int) -> Body | None:
        check_framing(line, block)
        wire = self._wire
        if line.method == "CONNECT":
            # A client that did not wait for the answer has sent bytes that are no request.
            wire.keep_alive = False
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
            check_head_so_far(
                data,
                limits.max_request_line_bytes,
                limits.max_request_headers_bytes,
                self._tolerance,
            )
            line, line_end, _ = data.partition(b"\n")
            if line_end and self._lines[line.removesuffix(b"\r")] is None:
                read_unusual_line(line.removesuffix(b"\r"), self._tolerance)
            if begun and wire.phase is _IDLE:
                wire.phase = _HEAD
                deadline.set_after(limits.request_headers_seconds)
            searched = len(data)
            reader.advance(0, searched)
            wire.data = await reader.read()
            if self._tolerance is None:
                end = wire.data.find(b"\r\n\r\n", max(0, searched - 3))
            else:
                end = self._end_of_head()
            if end >= 0:
                wire.arrived_at = deadline.now()
                return end
            wire.data = b""

    def _end_of_head(self) -> int:
        """Return where the head at hand ends, or -1, with line ends that are tolerated rewritten."""
        wire = self._wire
        wire.consume()
        data = self._without_blank_lines()
        rewritten = None if self._tolerance is None else with_crlf(data, 0, self._tolerance)
        if rewritten is None:
            wire.data = data
        else:
            head, size = rewritten
            wire.data = head  # what follows it is looked at when it has been read
            wire.added_bytes = len(head) - size
        return wire.data.find(b"\r\n\r\n")

    def _stop_waiting(self, *, begun: bool) -> bool:
        """Tell whether whoever cancelled the pending read wants no further request.

        Raises:
            BadRequest: the head took too long.
        """
        if self._wire.phase is Phase.HEAD_EXPIRED:
            raise BadRequest(Rejection.HEADERS_TIMEOUT)
        if self._wire.phase is Phase.IDLE_EXPIRED:
            is_old = self._connection.deadline.now() >= self._wire.retires_at
            self._connection.record_end(
                EndReason.MAX_CONNECTION_AGE_REACHED if is_old else EndReason.KEEP_ALIVE_TIMEOUT
            )
            return True
        if self._connection.close_requested.is_set and not begun:
            self._connection.record_end(EndReason.SHUTDOWN)
            return True
        return False

    def _without_blank_lines(self) -> bytes:
        """Consume the blank lines before a head; return what the reader then holds."""
        reader = self._wire.reader
        while reader.buffered.startswith(self._blank_line):
            self._count_blank_line()
            size = reader.buffered.index(b"\n") + 1
            if size == 1 and self._tolerance is not None:
                self._tolerance.note(Leniency.BARE_LINE_FEED)
            reader.advance(size)
        return reader.buffered

    def _count_blank_line(self) -> None:
        self._blank_lines += 1
        if self._blank_lines > MOST_BLANK_LINES:
            raise BadRequest(Rejection.INVALID_REQUEST_LINE)

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
                write_rejection(self._wire, rejection)
                exchange.status = rejection.status
