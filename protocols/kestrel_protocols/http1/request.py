"""What arrives of one exchange: the request's head, its body, and the news that the client is gone.

Theory of operation. The head is known from the start. The body is read from the connection as the
application asks for it; while it has to wait, the exchange's `Pace` watches that something comes.
What turns out to be wrong with the rest of the request is kept in `rejection`, for the connection
to answer when the application has returned.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto

import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.signals import Signal
from kestrel_protocols.http.exchange import BadRequest, ClientDisconnected, Headers, HttpExchange
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.body import Body
from kestrel_protocols.http1.request_head import FieldBlock, RequestLine
from kestrel_protocols.http1.wire import Wire

__all__ = ["Http1Request", "Response"]


class Response(Enum):
    """How far the other half is."""

    NOT_STARTED = auto()
    STARTED = auto()
    ENDING = auto()
    """The application has said all of it, and it is on its way."""
    FINISHED = auto()


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_NOT_STARTED, _ENDING, _FINISHED = Response.NOT_STARTED, Response.ENDING, Response.FINISHED

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Http1Request(HttpExchange, ABC):
    """The receiving half of an `HttpExchange`; `Http1Exchange` is the other."""

    __slots__ = (
        "_block",
        "_body",
        "_continue_sent",
        "_http11",
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
        self.scheme: str = wire.scheme
        self.http_version: str = "1.1" if line.http11 else "1.0"
        self.headers: Headers = block.fields.copy()
        self.takes_trailers: bool = block.takes_trailers and line.http11
        self.started_at: float = wire.arrived_at
        self.status: int | None = None
        self.response_body_bytes: int = 0
        self.rejection: Rejection | None = None
        """Why the rest of the request turned out wrong, once it did."""
        self._http11 = line.http11
        self._wire = wire
        self._block = block
        self._body = body
        self._continue_sent = False
        self._response = _NOT_STARTED
        self._wake_receiver: Callable[[], None] | None = None

    @property
    def body_complete(self) -> bool:
        """See `HttpExchange`."""
        return self._body is None or self._body.complete

    @property
    def trailers(self) -> Headers:
        """See `HttpExchange`."""
        return [] if self._body is None else self._body.trailers

    @property
    def response_started(self) -> bool:
        """See `HttpExchange`."""
        return self._response is not _NOT_STARTED

    @property
    def response_finished(self) -> bool:
        """See `HttpExchange`."""
        return self._response is _FINISHED

    @property
    def upgradable(self) -> bool:
        """See `HttpExchange`; a request with a body keeps to HTTP."""
        if self._body is not None or not self._http11:
            return False
        return self.method == "CONNECT" or (
            self._block.upgrade and any(name == b"upgrade" for name, _ in self._block.fields)
        )

    @property
    def max_body_bytes(self) -> int | None:
        """See `HttpExchange`."""
        if self._body is None:
            return self.connection.limits.max_request_body_bytes
        return self._body.max_bytes

    @max_body_bytes.setter
    def max_body_bytes(self, value: int | None) -> None:
        if value is not None and value < 0:
            raise ValueError(f"max_body_bytes must be zero or above, or None, not {value}")
        if self._body is not None:
            if self._body.asked_for:
                raise RuntimeError("max_body_bytes is set before the first receive()")
            self._body.max_bytes = value

    @property
    def min_body_bytes_per_second(self) -> float | None:
        """See `HttpExchange`."""
        return self._wire.exchange_pace.min_body_bytes_per_second

    @min_body_bytes_per_second.setter
    def min_body_bytes_per_second(self, value: float | None) -> None:
        self._wire.exchange_pace.min_body_bytes_per_second = value

    @property
    def min_response_bytes_per_second(self) -> float | None:
        """See `HttpExchange`."""
        return self._wire.exchange_pace.min_response_bytes_per_second

    @min_response_bytes_per_second.setter
    def min_response_bytes_per_second(self, value: float | None) -> None:
        self._wire.exchange_pace.min_response_bytes_per_second = value

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
            if not body.asked_for:
                body.asked_for = True
                body.check_length()
                if self._block.expect_continue and self._http11:
                    await self._send_continue()
            while not self.response_finished:
                await wire.look()
                if wire.reader.buffered and not body.may_wait_for_more:
                    data = await body.receive()
                else:
                    data = await self._wait_for(body)
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

    async def _wait_for(self, body: Body) -> bytes:
        """Wait for a piece of the body as long as it comes fast enough; b"" as `Body.receive`."""
        pace = self._wire.exchange_pace
        pace.begin_body(body)
        try:
            data = await body.receive()
        finally:
            pace.end_body()
        if not data and pace.body_expired:
            raise BadRequest(Rejection.BODY_TIMEOUT)
        return data

    async def _send_continue(self) -> None:
        """Send 100 unless the body is on its way, or the final status is (RFC 9110, 10.1.1)."""
        if not (self._continue_sent or self.response_started or self._wire.reader.buffered):
            self._continue_sent = True
            self._wire.writer.write(_CONTINUE)
            await self._flush()

    async def wait_disconnected(self) -> None:
        """See `HttpExchange`; reads ahead, within bounds, because that is how one finds out."""
        wire, reader = self._wire, self._wire.reader
        if wire.upgraded:
            return
        if wire.data:
            wire.consume()
        try:
            while not self.response_finished:
                await wire.look()
                if self._is_gone() or self.response_finished:
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
        if not self.response_finished:
            wire.told_gone = True

    async def _wait_receiver_left(self) -> None:
        """Wake who waits for the client, and wait until the reader is somebody else's to use."""
        if self._wake_receiver is not None:
            self._wake_receiver()
        while self._wake_receiver is not None:
            await trio.lowlevel.checkpoint()

    def _is_gone(self) -> bool:
        """Tell whether the client is; one that ended its side gets a response that is on its way."""
        if self._response is _ENDING:
            return self.connection.closed.is_set
        return self.disconnected

    async def _wait_closed_or_finished(self) -> None:
        signal = Signal()
        self._wake_receiver = signal.set
        self.connection.closed.listen(signal.set)
        try:
            await signal.wait()
        finally:
            self.connection.closed.unlisten(signal.set)

    async def _flush(self) -> None:
        """Send what is written."""
        wire = self._wire
        try:
            await wire.flush()
        except trio.Cancelled:
            # By the application, most likely. Nobody knows how much has left, so nothing can follow.
            self.give_up()
            wire.torn = True
            raise

    @abstractmethod
    def give_up(self) -> None:
        """Note that the response will never be complete."""

    def _gone(self) -> ClientDisconnected:
        """Return the error that tells the application that its client is gone."""
        self._wire.told_gone = True
        self.connection.record_end(EndReason.CONNECTION_RESET)
        return ClientDisconnected("the client is gone")
