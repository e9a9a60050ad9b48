"""`wsgi.input`: a file whose bytes are fetched from the client as the application reads them."""

import io
from typing import TYPE_CHECKING, BinaryIO

from kestrel_protocols.http.exchange import BadRequest, ClientDisconnected, HttpExchange
from kestrel_protocols.wsgi.request_thread import RequestThread

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["open_request_body"]

# What the file reads ahead at most. Most servers' files have 8 KiB, which is Python's default; here
# each time that the buffer is empty costs a visit to the event loop.
_BUFFER_BYTES = 64 * 1024


def open_request_body(exchange: HttpExchange, thread: RequestThread) -> BinaryIO:
    """Return the body of `exchange`'s request as a file to be read in `thread`.

    It holds a buffer of 64 KiB and one piece of what `exchange` receives. `read(size)` waits for
    that many bytes or the end, as files do; `read1` takes what there is.

    Reading raises `ClientDisconnected` when the rest of the body will not come: the client has
    gone, the body is framed wrongly or too large, or the request is over.
    """
    if exchange.body_complete:
        return io.BytesIO()
    return io.BufferedReader(_PulledBody(exchange, thread), _BUFFER_BYTES)


class _PulledBody(io.RawIOBase):
    def __init__(self, exchange: HttpExchange, thread: RequestThread) -> None:
        self._exchange = exchange
        self._thread = thread
        self._piece = memoryview(b"")
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        target = memoryview(buffer).cast("B")
        piece = self._piece or memoryview(self._fetch())
        count = min(len(piece), len(target))
        target[:count] = piece[:count]
        self._piece = piece[count:]
        return count

    def readall(self) -> bytes:
        pieces = [bytes(self._piece)]
        self._piece = memoryview(b"")
        while piece := self._fetch():
            pieces.append(piece)
        return b"".join(pieces)

    def _fetch(self) -> bytes:
        return b"" if self._over else self._thread.call(self._receive)

    async def _receive(self) -> bytes:
        try:
            piece = await self._exchange.receive()
        except BadRequest as error:  # the server will answer for the application
            raise ClientDisconnected(f"the request was refused: {error}") from error
        self._over = self._exchange.body_complete
        return piece
