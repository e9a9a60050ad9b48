"""One ASGI request: the events that `receive` returns, and those that `send` takes.

Theory of operation. The response goes through the states of `_Expects`, each named after what the
application has to send next. The head waits for the first piece of body, so that a body that comes
in one event is sent with its length, in one go.
"""

from enum import Enum, auto

from kestrel_protocols.asgi.events import DebugHook, Event
from kestrel_protocols.asgi.files import open_path, piece_of
from kestrel_protocols.http.exchange import (
    BadRequest,
    ClientDisconnected,
    Headers,
    HttpExchange,
    ResponseError,
)

__all__ = ["AsgiRequest"]


class _Expects(Enum):
    START = auto()
    FIRST_BODY = auto()
    BODY = auto()
    TRAILERS = auto()
    NOTHING = auto()


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_START, _FIRST_BODY, _BODY, _TRAILERS, _NOTHING = _Expects

# The fields that tell where a body ends.
_FRAMES = (b"content-length", b"transfer-encoding")


class AsgiRequest:
    """`receive` and `send` of one exchange."""

    __slots__ = (
        "_exchange",
        "_expects",
        "_headers",
        "_on_debug",
        "_over",
        "_sends_trailers",
        "_status",
        "_trailers",
    )

    # What the start of the response says, and what its end does.
    _status: int
    _headers: Headers
    _trailers: Headers

    def __init__(self, exchange: HttpExchange, on_debug: DebugHook | None) -> None:
        self._exchange = exchange
        self._on_debug = on_debug
        self._expects = _START
        self._over = False  # whether the end of the request's body was handed out
        self._sends_trailers = False

    async def receive(self) -> Event:
        """Return the next event of the request."""
        exchange = self._exchange
        if not (self._over or exchange.response_finished):
            try:
                data = await exchange.receive()
            except (BadRequest, ClientDisconnected):
                return {"type": "http.disconnect"}
            self._over = exchange.body_complete
            event: Event = {"type": "http.request", "body": data, "more_body": not self._over}
            if self._over and exchange.trailers:
                event["trailers"] = exchange.trailers
            return event
        if not exchange.response_finished:
            await exchange.wait_disconnected()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        """Take the next event of the response.

        Raises:
            ResponseError: it is not the right one, or says something that cannot be.
            ClientDisconnected: the client is gone.
            OSError: a file cannot be read.
        """
        kind = event["type"]
        if kind == "http.response.body":
            body = event.get("body", b"")
            more_body = event.get("more_body", False)
            if self._expects is _FIRST_BODY:
                if not (more_body or self._sends_trailers):
                    self._expects = _NOTHING
                    await self._exchange.respond(self._status, self._headers, body)
                    return
                await self._begin_body()
            elif self._expects is not _BODY:
                raise self._unexpected(kind)
            if more_body or self._sends_trailers:
                await self._exchange.write(body)
                if not more_body:
                    await self._end_body()
            else:
                self._expects = _NOTHING
                await self._exchange.finish(body=body)
        elif kind == "http.response.start":
            if self._expects is not _START:
                raise self._unexpected(kind)
            self._expects = _FIRST_BODY
            self._status = event["status"]
            self._headers = event.get("headers", [])
            if "trailers" in event:
                self._sends_trailers = event["trailers"]
        else:
            await self._send_rarely(kind, event)

    async def _send_rarely(self, kind: str, event: Event) -> None:
        """Take an event of an extension."""
        if kind == "http.response.pathsend":
            self._expect_body(kind)
            await self._send_path(event["path"])
        elif kind == "http.response.zerocopysend":
            self._expect_body(kind)
            piece = piece_of(event["file"], event.get("offset"), event.get("count"))
            more_body = event.get("more_body", False)
            if self._expects is _FIRST_BODY:
                await self._begin_body(None if more_body else piece.count)
            await self._exchange.write_file(piece.file, piece.offset, piece.count)
            if not more_body:
                await self._end_body()
        elif kind == "http.response.trailers":
            if self._expects is not _TRAILERS:
                raise self._unexpected(kind)
            self._trailers += event.get("headers", [])
            if not event.get("more_trailers", False):
                self._expects = _NOTHING
                await self._exchange.finish(self._trailers)
        elif kind == "http.response.early_hint":
            if self._expects is not _BODY:  # it may come as late as that, but is no use by then
                links = [(b"link", link) for link in event.get("links", ())]
                await self._exchange.inform(103, links)
        elif kind == "http.response.debug" and self._on_debug is not None:
            if self._expects is not _START:
                raise self._unexpected(kind)
            self._on_debug(self._exchange, event.get("info", {}))
        else:
            raise ResponseError(f"unknown event {kind!r}; expected http.response.start or .body")

    async def _send_path(self, path: str) -> None:
        """Send a whole file as what is left of the body."""
        opened = await open_path(path)
        with opened:
            if self._expects is _FIRST_BODY:
                if opened.content is not None and not self._sends_trailers:
                    self._expects = _NOTHING
                    await self._exchange.respond(self._status, self._headers, opened.content)
                    return
                await self._begin_body(opened.count)
            if opened.content is not None:
                await self._exchange.write(opened.content)
            else:
                await self._exchange.write_file(opened.file, 0, opened.count)
        await self._end_body()

    async def _begin_body(self, length: int | None = None) -> None:
        """Start the response; `length` is that of its body, if it is known."""
        headers = self._headers
        if length is not None and not self._sends_trailers:
            headers = list(headers)
            if not any(name.lower() in _FRAMES for name, _ in headers):
                headers.append((b"content-length", b"%d" % length))
        self._expects = _BODY
        await self._exchange.start(self._status, headers)

    async def _end_body(self) -> None:
        if self._sends_trailers:
            self._expects = _TRAILERS
            self._trailers = []
        else:
            self._expects = _NOTHING
            await self._exchange.finish()

    def _expect_body(self, kind: str) -> None:
        if self._expects not in (_FIRST_BODY, _BODY):
            raise self._unexpected(kind)

    def _unexpected(self, kind: str) -> ResponseError:
        match self._expects:
            case _Expects.START:
                text = f"{kind} comes after http.response.start"
            case _Expects.TRAILERS:
                text = f"http.response.trailers comes next, not {kind}"
            case _Expects.NOTHING:
                text = f"the response is complete; {kind} is too much"
            case _:
                text = f"{kind} does not belong here; http.response.start was sent already"
        return ResponseError(text)
