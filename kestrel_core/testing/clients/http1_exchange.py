"""One request of HTTP/1.1 and its response, as h11 has them.

Theory of operation. h11 knows of no pipelining; therefore each exchange has an `h11.Connection` of
its own, which ends with the response.

What h11 was fed and has not consumed stays in the pipe's reader as well, as examined: after each
event the reader advances by what h11 has consumed. So behind a response the reader stands at the
first byte that is not of it: for the next response, for raw bytes, or for another protocol.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import attrs
import h11
import trio

from kestrel_core.pipe_reader import PipeReader

__all__ = ["BadResponse", "Fields", "Http1Exchange", "ResponseHead"]

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Header or trailer fields, their names in lower case."""

# httpcore's; servers send less.
_MAX_HEAD_BYTES = 100 * 1024


class BadResponse(Exception):
    """The server broke HTTP/1.1, maybe by an end in the middle of a response."""


@attrs.frozen
class ResponseHead:
    """What a response begins with; of an informational one, such as 103, it is all there is."""

    status: int
    reason: str
    headers: Fields


class Http1Exchange:
    """Turns a request into bytes, and bytes from `reader` into a response.

    Raises:
        ValueError: no client may send such a request.
    """

    def __init__(
        self,
        reader: PipeReader,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]],
    ) -> None:
        self._reader = reader
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._fed_bytes = 0  # how many of those that the reader holds h11 has been given
        self._is_over = False
        try:
            request = h11.Request(method=method, target=target, headers=list(headers))
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from error
        self.head: bytes = self._bytes_of(request)
        """The request up to its body."""
        self.expects_continue: bool = (b"expect", b"100-continue") in [
            (name, value.lower()) for name, value in request.headers
        ]
        """Whether the request asks to be told to go on before its body."""
        self.is_ended: bool = False
        """Whether the request's end was asked for."""
        self.may_continue: trio.Event = trio.Event()
        """Set when the server has said 100 (Continue)."""
        self.informational: list[ResponseHead] = []
        """The responses so far that were not the final one."""
        self.trailers: Fields = ()
        """What came behind the response's body, known at its end."""

    @property
    def switched(self) -> bool:
        """Whether something else than HTTP follows the response's head."""
        return self._http.their_state is h11.SWITCHED_PROTOCOL

    def data(self, data: bytes) -> bytes:
        """Return the bytes of a part of the request's body.

        Raises:
            ValueError: the body becomes longer than the request's head says.
        """
        return self._bytes_of(h11.Data(data=data))

    def end(self, trailers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the bytes of the request's end.

        Raises:
            ValueError: the body is shorter than the request's head says, or may have no trailers.
        """
        data = self._bytes_of(h11.EndOfMessage(headers=list(trailers)))
        self.is_ended = True
        return data

    async def receive_head(self) -> ResponseHead:
        """Wait for the final response's head; a cancelled call has lost nothing.

        Raises:
            trio.EndOfChannel: the connection has ended, and no response has begun.
            BadResponse: the server broke HTTP.
        """
        while True:
            event = await self._next_event()
            if not isinstance(event, h11.InformationalResponse | h11.Response):
                raise AssertionError(f"h11 tells of {event!r} before a response")
            head = ResponseHead(
                event.status_code, event.reason.decode("latin-1"), list(event.headers)
            )
            if isinstance(event, h11.Response) or self.switched:
                return head
            self.informational.append(head)
            if event.status_code == 100:
                self.may_continue.set()

    async def receive_data(self) -> bytes:
        """Wait for a part of the response's body, b"" at its end.

        Raises:
            BadResponse: the server broke HTTP.
        """
        while not self._is_over:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                self.trailers = list(event.headers)
            elif isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
        return b""

    def _bytes_of(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> bytes:
        try:
            return self._http.send(event) or b""
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from error

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        http, reader = self._http, self._reader
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise BadResponse(str(error)) from error
            if event is not h11.NEED_DATA:
                break
            data = await reader.read()
            if len(data) > self._fed_bytes:
                http.receive_data(data[self._fed_bytes :])
                self._fed_bytes = len(data)
                reader.advance(0, len(data))
            elif reader.at_eof:
                if not data and http.their_state is h11.SEND_RESPONSE and not self.informational:
                    raise trio.EndOfChannel("the server ended the connection before a response")
                http.receive_data(b"")
        unconsumed_bytes = len(http.trailing_data[0])
        consumed_bytes = self._fed_bytes - unconsumed_bytes
        self._is_over = self.switched or isinstance(event, h11.EndOfMessage)
        if self._is_over:
            reader.advance(consumed_bytes)
        else:
            reader.advance(consumed_bytes, self._fed_bytes)
        self._fed_bytes = unconsumed_bytes
        return event  # type: ignore[return-value]  # mypy takes a sentinel's class for any class
