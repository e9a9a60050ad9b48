"""An HTTP/1.1 client, on h11, that shows what others hide.

These are informational responses, trailers, pipelining, half-closed connections, upgrades, and what
a server does that breaks HTTP.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import trio

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.testing.clients.http1_exchange import (
    BadResponse,
    Fields,
    Http1Exchange,
    ResponseHead,
)

__all__ = ["BadResponse", "Http1Client", "Http1Response", "ResponseHead"]

_Text: TypeAlias = str | bytes
_Body: TypeAlias = bytes | AsyncIterable[bytes] | None

# How much of a body that is at hand is given to the pipe before that has to send it.
_PIECE_BYTES = 64 * 1024


class Http1Response:
    """A response whose head is there; its body is read here, in parts or as a whole.

    Iterating takes the parts as they arrive; an iteration may be left, and another one goes on.
    """

    def __init__(self, exchange: Http1Exchange, head: ResponseHead, pipe: DuplexPipe) -> None:
        self._exchange = exchange
        self.status: int = head.status
        self.reason: str = head.reason
        self.headers: Fields = head.headers
        self.informational: Sequence[ResponseHead] = exchange.informational
        """The responses that came before this final one."""
        self.upgraded: DuplexPipe | None = pipe if exchange.switched else None
        """What to speak another protocol on from here, its first byte next, if the server has agreed
        to: it answered 101, or CONNECT with success. Closing the client closes it."""

    @property
    def trailers(self) -> Fields:
        """The fields behind the body, once that has been read to its end."""
        return self._exchange.trailers

    def values(self, name: str) -> list[str]:
        """Return the values of all header fields of that name."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for known, value in self.headers if known == wanted]

    async def receive(self) -> bytes:
        """Receive a part of the body, b"" at its end; a cancelled call has lost nothing.

        Raises:
            BadResponse: the server broke HTTP.
            trio.BusyResourceError: another task is receiving.
            trio.ClosedResourceError: the client was closed.
            trio.BrokenResourceError: the server has reset the connection.
        """
        return await self._exchange.receive_data()

    async def read(self) -> bytes:
        """Receive what is left of the body; raises as `receive` does."""
        return b"".join([part async for part in self])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        part = await self.receive()
        if not part:
            raise StopAsyncIteration
        return part


class Http1Client:
    """Speaks HTTP/1.1 over one connection, which it closes; made for `async with`.

    One task sends at a time, and one receives. Responses come in the order of the requests. `host`
    is what the field Host says unless a request brings its own. A cancelled `send_request` leaves
    an output that nothing sound can follow, so the next one raises `trio.ClosedResourceError`.
    """

    def __init__(self, connection: Connection, *, host: str = "testserver") -> None:
        self.connection: Connection = connection
        self._pipe = connection.transport
        self._host = host.encode()
        self._awaited: deque[Http1Exchange] = deque()
        self._response: Http1Response | None = None
        self._is_sending = False
        self._is_cut = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, and before it what stands on it."""
        try:
            await self._pipe.aclose()
        finally:
            await self.connection.aclose()

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[_Text, _Text]] = (),
        body: _Body = None,
        trailers: Iterable[tuple[_Text, _Text]] = (),
    ) -> Http1Response:
        """Send a request, and return the response as soon as its head is there.

        If that is before all was given to the pipe, the rest of the request is not sent, and nothing
        can be sent after it; to send and receive at once, run `send_request` in a task of its own.
        With "Expect: 100-continue" the body waits for the response 100. A server that takes no more
        may have answered, so that alone is no error. Raises as `send_request` and `receive_response`
        do, and:

        Raises:
            RuntimeError: responses to other requests are to be received before.
        """
        if self._awaited:
            raise RuntimeError("receive the responses to the requests before this one first")
        exchange, last_fields = self._begin(method, target, headers, body, trailers)
        failures: list[Exception] = []
        response: Http1Response | None = None
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await self._send_message(
                        exchange, body, last_fields, waits=exchange.expects_continue
                    )
                except trio.BrokenResourceError:
                    pass  # receiving tells whether there is an answer
                except Exception as error:  # the body's own, too; raised below, without a group
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(send)
            try:
                response = await self.receive_response()
            except Exception as error:
                failures.append(error)
            if failures or not exchange.is_ended:
                nursery.cancel_scope.cancel()
        if failures or response is None:
            raise failures[0]
        return response

    async def send_request(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[_Text, _Text]] = (),
        body: _Body = None,
        trailers: Iterable[tuple[_Text, _Text]] = (),
    ) -> None:
        """Send a request, and leave the response to `receive_response`.

        The body is framed as `headers` say, and unless they do, with a length if it is bytes, and
        else in chunks, one for each part, sent as it comes. Trailers need chunks. An async generator
        is closed in any case.

        Raises:
            ValueError: no client may send such a request.
            trio.BusyResourceError: another task is sending.
            trio.ClosedResourceError: the client was closed, or a request before was cut.
            trio.BrokenResourceError: the server is gone.
        """
        exchange, last_fields = self._begin(method, target, headers, body, trailers)
        await self._send_message(exchange, body, last_fields, waits=False)

    async def receive_response(self, *, to: str = "GET") -> Http1Response:
        """Wait for the head of the next response, and for informational responses before it.

        What is left of the response before is read, and dropped. `to` is the method of a request
        that was sent by `send`. A cancelled call has lost nothing.

        Raises:
            trio.EndOfChannel: the connection has ended, and no response has begun.
            BadResponse: the server broke HTTP.
            trio.BusyResourceError: another task is receiving.
            trio.ClosedResourceError: the client was closed.
            trio.BrokenResourceError: the server has reset the connection.
        """
        if self._response is not None:
            await self._response.read()
        if not self._awaited:
            self._awaited.append(self._exchange_of_raw_request(to))
        exchange = self._awaited[0]
        head = await exchange.receive_head()
        self._awaited.popleft()
        self._response = Http1Response(exchange, head, self._pipe)
        return self._response

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; raises as `send_request` does."""
        self._claim_sending()
        try:
            await self._pipe.output.send(data)
        finally:
            self._is_sending = False

    async def send_eof(self) -> None:
        """End our side of the connection; receiving goes on. Raises as `send_request` does."""
        self._claim_sending()
        try:
            await self._pipe.output.send_eof()
        finally:
            self._is_sending = False

    async def receive(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes as they are, b"" at the end, from behind what was received of a response.

        Raises:
            trio.BusyResourceError: another task is receiving.
            trio.ClosedResourceError: the client was closed.
            trio.BrokenResourceError: the server has reset the connection.
        """
        return await self._pipe.input.receive(max_bytes)

    def _begin(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[_Text, _Text]],
        body: _Body,
        trailers: Iterable[tuple[_Text, _Text]],
    ) -> tuple[Http1Exchange, Fields]:
        """Queue a request, to be sent at once; also return its trailers."""
        fields, last_fields = _fields(headers), _fields(trailers)
        names = {name.lower() for name, _ in fields}
        if b"host" not in names:
            fields.insert(0, (b"host", self._host))
        if not names & {b"content-length", b"transfer-encoding"}:
            if isinstance(body, bytes) and not last_fields:
                fields.append((b"content-length", b"%d" % len(body)))
            elif body is not None or last_fields:
                fields.append((b"transfer-encoding", b"chunked"))
        exchange = Http1Exchange(self._pipe.input, method, target, fields)
        self._check_sending()
        self._awaited.append(exchange)
        return exchange, last_fields

    def _exchange_of_raw_request(self, method: str) -> Http1Exchange:
        """Return an exchange whose request was sent, we know not what; it may have asked to upgrade."""
        target = "x:1" if method == "CONNECT" else "/"
        exchange = Http1Exchange(
            self._pipe.input, method, target, [(b"host", b"x"), (b"upgrade", b"x")]
        )
        exchange.end(())
        return exchange

    async def _send_message(
        self, exchange: Http1Exchange, body: _Body, trailers: Fields, *, waits: bool
    ) -> None:
        self._claim_sending()
        writer = self._pipe.output
        try:
            try:
                writer.write(exchange.head)
            except trio.ClosedResourceError:
                self._awaited.remove(exchange)
                raise
            self._is_cut = True  # unless all goes well
            if waits:
                await writer.flush()
                await exchange.may_continue.wait()
            if isinstance(body, bytes):
                for start in range(0, len(body), _PIECE_BYTES):
                    if start:
                        await writer.flush()
                    writer.write(exchange.data(body[start : start + _PIECE_BYTES]))
            elif body is not None:
                await writer.flush()
                await self._send_parts(exchange, aiter(body))
            writer.write(exchange.end(trailers))
            await writer.flush()
            self._is_cut = False
        finally:
            self._is_sending = False

    async def _send_parts(self, exchange: Http1Exchange, parts: AsyncIterator[bytes]) -> None:
        try:
            async for part in parts:
                await self._pipe.output.send(exchange.data(part))
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()

    def _claim_sending(self) -> None:
        self._check_sending()
        self._is_sending = True

    def _check_sending(self) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is already sending")
        if self._is_cut:
            raise trio.ClosedResourceError("a request before was cut, so nothing can follow it")


def _fields(pairs: Iterable[tuple[_Text, _Text]]) -> list[tuple[bytes, bytes]]:
    return [(_bytes(name), _bytes(value)) for name, value in pairs]


def _bytes(text: _Text) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
