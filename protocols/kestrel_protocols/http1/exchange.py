"""One request and its response on an HTTP/1 connection: the half that answers.

Theory of operation. A response goes through NOT_STARTED, STARTED, ENDING, FINISHED. `start` only notes
the head; it is written together with the first piece of body, so that a small answer leaves in one
segment. How the body is framed is decided with the head: by the application's Content-Length, by
chunks, by the end of the connection for HTTP/1.0, or not at all where no body belongs. An upgrade
finishes the response, and what HTTP has to say on the connection.
"""

from collections.abc import Iterable

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.exchange import ClientDisconnected, ResponseError
from kestrel_protocols.http.fields import FieldLines, field_lines, trailer_lines, without_own
from kestrel_protocols.http1.request import Http1Request, Response
from kestrel_protocols.http1.response_framing import (
    Framing,
    decide_framing,
    informational_head,
    upgrade_head,
)
from kestrel_protocols.http1.status_line import STATUS_LINES

__all__ = ["Http1Exchange"]

_LAST_CHUNK = b"0\r\n\r\n"

# A stream that never has to wait lets others have a turn after so many pieces.
_MOST_PIECES_IN_A_ROW = 16

# Bodies up to this size are copied behind their head, which is cheaper than a second write.
_MOST_COPIED_BYTES = 64 * 1024


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Framing
_NOT_STARTED, _STARTED, _ENDING, _FINISHED = Response


class Http1Exchange(Http1Request):
    """See `HttpExchange`; made by `Http1Connection` for each request."""

    __slots__ = ("_framing", "_length", "_pending_head")  # all three are set with the head

    status: int | None
    response_body_bytes: int
    _framing: Framing
    _length: int
    _pending_head: bytes

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

    async def inform(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """See `HttpExchange`."""
        if self._response is not _NOT_STARTED:
            raise self._out_of_order("an informational response comes before the final one")
        head = informational_head(status, headers)
        if not self._http11:
            return
        if status == 100:
            self._continue_sent = True
        try:
            self._wire.writer.write(head)
            await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    async def upgrade(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> DuplexPipe:
        """See `HttpExchange`."""
        if self._response is not _NOT_STARTED:
            raise self._out_of_order("a response was started already")
        if not self.upgradable:
            raise ResponseError("the client did not ask for an upgrade")
        wire = self._wire
        status = 200 if self.method == "CONNECT" else 101
        head = upgrade_head(status, headers, wire.stamp())
        wire.begin_upgrade()
        self.status = status
        self._response = _FINISHED
        try:
            await self._wait_receiver_left()
            wire.writer.write(head)
            await self._flush()
        except trio.Cancelled:
            wire.torn = True
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error
        return self.connection.transport

    async def respond(
        self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b""
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
                writer.write(b"%b%b\r\n\r\n%b" % (fields.lines, wire.stamp(), body))
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
            if wire.position >= len(wire.data) or self._may_flush():
                writer.flush_nowait()
                if writer.unflushed_bytes:
                    await self._flush_end()
                    return
            if self._wake_receiver is not None:
                self._wake_receiver()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
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
        try:
            self._write_pending_head()
            self._wire.writer.write(piece)
            await self._flush()
            self._wire.pieces_in_a_row += 1
            if self._wire.pieces_in_a_row >= _MOST_PIECES_IN_A_ROW:
                # An application that only computes would keep all others waiting. This is no place
                # to be cancelled, as the piece was sent.
                self._wire.pieces_in_a_row = 0
                await trio.lowlevel.cancel_shielded_checkpoint()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    async def write_file(self, file: int, offset: int, count: int) -> None:
        """See `HttpExchange`."""
        if self._response is not _STARTED:
            raise self._out_of_order("write_file() comes after start() and before finish()")
        if offset < 0 or count < 0:
            raise ResponseError(f"cannot send {count} bytes of a file from {offset} on")
        self.response_body_bytes += count
        self._check_length(count)
        chunked = self._framing is _CHUNKED
        writer = self._wire.writer
        try:
            self._write_pending_head()
            if self._framing is _NONE or not count:
                await self._flush()
                return
            if chunked:
                writer.write(b"%x\r\n" % count)
            try:
                sent = await self._wire.send_file(file, offset, count)
            except OSError:
                self.give_up()
                self.connection.abort(EndReason.ERROR_AFTER_STARTING_RESPONSE)
                raise
            except BaseException:  # whatever it was, nobody knows how much of it has left
                self.give_up()
                self._wire.torn = True
                raise
            if sent < count:
                raise self._wrong_length(f"the file has {sent} bytes from {offset} on, not {count}")
            if chunked:
                writer.write(b"\r\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    async def finish(
        self, trailers: Iterable[tuple[bytes, bytes]] = (), *, body: bytes = b""
    ) -> None:
        """See `HttpExchange`."""
        lines = trailer_lines(trailers) if trailers else b""
        if self._response is not _STARTED:
            raise self._out_of_order("finish() comes once, after start()")
        if type(body) is not bytes:
            body = _as_bytes(body)
        self.response_body_bytes += len(body)
        piece = self._framed(body)
        if self._framing is _LENGTH and self.response_body_bytes < self._length:
            raise self._wrong_length(
                f"the response has {self.response_body_bytes} bytes"
                f" of the {self._length} that its Content-Length announced"
            )
        self._response = _FINISHED
        try:
            self._write_pending_head()
            self._wire.writer.write(piece)
            if self._framing is _CHUNKED:
                self._wire.writer.write(
                    b"0\r\n%b\r\n" % lines if lines and self.takes_trailers else _LAST_CHUNK
                )
            if self._may_flush():
                await self._flush_end()
            elif self._wake_receiver is not None:
                self._wake_receiver()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error

    async def _flush_end(self) -> None:
        """Send what is left of the response; only then is it finished for who waits for that.

        Frameworks cancel what they are doing as soon as they hear that the client is gone or the
        response over, and would cancel this.
        """
        self._response = _ENDING
        try:
            await self._flush()
        finally:
            self._response = _FINISHED
            if self._wake_receiver is not None:
                self._wake_receiver()

    def _may_flush(self) -> bool:
        """Tell whether the finished response leaves now, or joins the answer to a next request."""
        wire = self._wire
        return (
            wire.position >= len(wire.data)
            or not wire.driving
            or not wire.keep_alive
            or wire.writer.unflushed_bytes >= self.connection.limits.max_response_buffer_bytes
        )

    def _write_pending_head(self) -> None:
        if self._pending_head:
            head, self._pending_head = self._pending_head, b""
            self._wire.writer.write(head)

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
        self._check_length(len(data))
        return b"" if self._framing is _NONE else data

    def _check_length(self, more_bytes: int) -> None:
        """Refuse a piece of a body, already counted, that does not belong to this response."""
        if self._framing is _NONE:
            if more_bytes and self.method != "HEAD":
                raise self._wrong_length(f"a response {self.status} has no body")
        elif self._framing is _LENGTH and self.response_body_bytes > self._length:
            raise self._wrong_length(
                f"the response is longer than the {self._length} bytes of its Content-Length"
            )

    def _head(self, status: int, fields: FieldLines, length: int | None) -> bytes:
        """Return the head of the response, blank line included, and decide its framing."""
        if self.rejection is not None:
            raise ClientDisconnected("the request was wrong, and the server answers for it")
        if self.method == "CONNECT" and 200 <= status < 300:
            raise ResponseError("upgrade() opens the tunnel; a response refuses it")
        wire = self._wire
        self._framing, framing_line = decide_framing(
            status, fields, length, to_head=self.method == "HEAD", http11=self._http11
        )
        self._length = length or fields.content_length or 0
        self._pending_head = b""
        if self._framing is _UNTIL_CLOSE:
            wire.keep_alive = False
        self.status = status
        if fields.closes:
            wire.keep_alive = False
        elif not wire.keep_alive:
            framing_line += b"\r\nconnection: close"
        elif not self._http11:
            framing_line += b"\r\nconnection: keep-alive"
        return b"%b%b%b\r\n\r\n" % (
            fields.lines,
            framing_line,
            wire.stamp() if fields.is_plain else without_own(wire.stamp(), fields),
        )


def _as_bytes(data: bytes) -> bytes:
    """Return a copy of what is nearly bytes; applications are not type-checked by us."""
    try:
        return bytes(memoryview(data))
    except TypeError as error:
        raise ResponseError(f"a body is bytes, not {type(data).__name__}") from error
