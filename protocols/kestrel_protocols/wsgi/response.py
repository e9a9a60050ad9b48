"""The application's response: what `start_response`, `write` and the iterable make of it.

Theory of operation. Everything here happens in the request's thread; each piece of the body is one
call into the event loop, which returns when the piece has been sent, and only then is the
application asked for the next one. Status and fields leave with the first piece that is not empty.
What is known to be the whole body is sent as such, and so gets a Content-Length. The last step is
not taken but returned, because the event loop can take it without another call.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sized
from functools import partial
from types import TracebackType
from typing import TypeAlias

from kestrel_protocols.http.exchange import Headers, HttpExchange, ResponseError
from kestrel_protocols.wsgi.request_thread import RequestThread

__all__ = ["LastStep", "WsgiResponse"]

LastStep: TypeAlias = Callable[[], Awaitable[None]]
"""What completes a response, to be called in the event loop."""

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

# The code and a phrase, which PEP 3333 wants and HTTP does not.
_STATUS = re.compile(r"([2-9][0-9]{2})(?: .*)?")

# RFC 9110, 7.6.1 and PEP 3333, "other HTTP features": these are the server's.
_OF_THE_SERVER = frozenset({
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
})  # fmt: skip


class WsgiResponse:
    """One response; `start_response` is the application's, `send` takes what it returns."""

    __slots__ = ("_exchange", "_finished", "_headers", "_length", "_status", "_thread")

    def __init__(self, exchange: HttpExchange, thread: RequestThread) -> None:
        self._exchange = exchange
        self._thread = thread
        self._status = 0  # until start_response was called
        self._headers: Headers = []
        self._length: int | None = None
        self._finished = False

    def start_response(
        self,
        status: str,
        response_headers: list[tuple[str, str]],
        exc_info: _ExcInfo | None = None,
    ) -> Callable[[bytes], None]:
        """Note status and fields, as PEP 3333 says; return `write`.

        Raises:
            ResponseError: the status or the fields are wrong, or this was called before, without
                `exc_info`.
            BaseException: that of `exc_info`, if status and fields have been sent.
        """
        if exc_info is not None and exc_info[1] is not None:
            try:
                if self._exchange.response_started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it refers to this frame
        elif self._status:
            raise ResponseError("start_response was called before, and now without exc_info")
        code = _status_code(status)
        self._note_headers(response_headers)
        self._status = code
        return self.write

    def _note_headers(self, headers: list[tuple[str, str]]) -> None:
        noted: Headers = []
        length = None
        try:
            for name, value in headers:
                lower = name.lower()
                if lower in _OF_THE_SERVER:
                    raise ResponseError(f"{name} is the server's to send, not the application's")
                noted.append((lower.encode("latin-1"), value.encode("latin-1")))
                if lower == "content-length" and value.isdigit():
                    length = int(value)
        except (AttributeError, TypeError, ValueError) as error:
            raise ResponseError(
                f"headers are pairs of str, of Latin-1 characters: {error}"
            ) from error
        self._headers, self._length = noted, length

    def write(self, data: bytes) -> None:
        """Send a piece of the body, waiting while the client does not read.

        Raises:
            ResponseError: it is not bytes, the fields are wrong, or the body gets too long.
            ClientDisconnected: the client is gone, or the request is over.
        """
        self._write(data, whole=False)

    def _write(self, data: bytes, *, whole: bool) -> None:
        _check_piece(data)
        if not data:
            return
        if not self._exchange.response_started:
            self._check_status()
            if whole or len(data) == self._length:
                self._thread.call(self._respond, data)
                self._finished = True
            else:
                self._thread.call(self._start, data)
        elif self._finished:
            raise ResponseError("the body is longer than its Content-Length")
        else:
            self._thread.call(self._exchange.write, data)

    def send(self, iterable: Iterable[bytes]) -> LastStep | None:
        """Send the body that `iterable` yields, all but the last step of it.

        Raises as `write` does, and what `iterable` raises.
        """
        if isinstance(iterable, list | tuple):
            for piece in iterable:
                _check_piece(piece)
            if not self._exchange.response_started:
                self._check_status()
                return partial(self._respond, b"".join(iterable))
        whole = isinstance(iterable, Sized) and len(iterable) == 1  # as the PEP suggests
        for piece in iterable:
            self._write(piece, whole=whole)
            if piece and self._exchange.method == "HEAD":
                break  # the rest, which may be endless, is for nobody
        if self._finished:
            return None
        if self._exchange.response_started:
            return self._exchange.finish
        self._check_status()
        return partial(self._respond, b"")

    def _check_status(self) -> None:
        if not self._status:
            raise ResponseError("the application did not call start_response")

    async def _respond(self, body: bytes) -> None:
        exchange = self._exchange
        if body or exchange.method != "HEAD":
            await exchange.respond(self._status, self._headers, body)
        else:  # the length that GET would have is not known
            await exchange.start(self._status, self._headers)
            await exchange.finish()

    async def _start(self, data: bytes) -> None:
        await self._exchange.start(self._status, self._headers)
        await self._exchange.write(data)


def _status_code(status: str) -> int:
    try:
        match = _STATUS.fullmatch(status)
    except TypeError as error:
        raise ResponseError(f"a status is a str, not {status!r}") from error
    if match is None:
        raise ResponseError(f"a status is like '200 OK', not {status!r}")
    return int(match[1])


def _check_piece(piece: object) -> None:
    if not isinstance(piece, bytes):
        raise ResponseError(f"a piece of the body is bytes, not {type(piece).__name__}")
