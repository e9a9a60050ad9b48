"""A real server in memory that speaks HTTP/1, what it logs, and applications for it to serve."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.server import Server
from kestrel_core.testing import OpenServer, open_server
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import HttpApplication, HttpExchange
from kestrel_protocols.http1 import Http1
from tests.raw_client import RawClient
from tests.ways import STRAIGHT, Way

__all__ = [
    "Disconnected",
    "Flushes",
    "ServerLog",
    "Serving",
    "Site",
    "answer",
    "echo",
    "hello",
    "read_body",
    "serving",
    "watch_log",
]


# What it logs -----------------------------------------------------------------------------------


class ServerLog(logging.Handler):
    """Every record of the framework, those that tell of a connection's end sorted out."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.ends: list[EndReason | None] = []
        """Why connections ended, in that order."""
        self.records: list[logging.LogRecord] = []
        """All other records, until `take`n."""

    def emit(self, record: logging.LogRecord) -> None:
        """Sort a record."""
        if record.name == "kestrel.wiretap":  # of which there is no end
            return
        if hasattr(record, "end_reason"):
            assert (record.name, record.levelno) == ("kestrel.connection", logging.DEBUG)
            assert vars(record)["connection_id"] in record.getMessage()
            self.ends.append(vars(record)["end_reason"])
        else:
            self.records.append(record)

    def take(self) -> logging.LogRecord:
        """Return the one other record there is, and forget it."""
        (record,) = self.records
        self.records.clear()
        return record

    def take_error(self, kind: type[BaseException] | None = None) -> str:
        """Return the text of the one record there is: an error, with a traceback of `kind`."""
        record = self.take()
        assert record.levelno == logging.ERROR
        assert getattr(record, "connection_id", None)
        raised = record.exc_info[0] if record.exc_info else None
        assert raised is kind
        return record.getMessage()


@contextmanager
def watch_log() -> Generator[ServerLog]:
    """Watch what is logged in the block; at its end nothing may be left that nobody took."""
    log, logger = ServerLog(), logging.getLogger("kestrel")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    try:
        yield log
        assert [record.getMessage() for record in log.records] == []
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)


# The server -------------------------------------------------------------------------------------


@attrs.frozen
class Site:
    """A server that serves one application, and makes clients of it."""

    opened: OpenServer
    byte_by_byte: bool
    way: Way = attrs.field(default=STRAIGHT, kw_only=True)

    async def connect(self, *, byte_by_byte: bool | None = None, **options: str) -> RawClient:
        """Connect; the client delivers as the site's do, unless told otherwise."""
        if byte_by_byte is None:
            byte_by_byte = self.byte_by_byte
        connection = await self.opened.connect(options=options)
        await self.way.prepare(connection)
        return RawClient(connection, byte_by_byte=byte_by_byte)

    @property
    def server(self) -> Server:
        """The server."""
        return self.opened.server

    @property
    def connection(self) -> Connection:
        """The server's end of the only connection."""
        (connection,) = self.server.connections
        return connection

    async def all_ended(self) -> None:
        """Wait until no connection is left."""
        while self.server.connections:  # noqa: ASYNC110  # the server has no event for it
            await trio.sleep(0.01)


class Serving(Protocol):
    """Serves the ASGI application `app`, or the handler `native`, while a block runs."""

    def __call__(
        self,
        app: AsgiApp | None = None,
        *,
        native: HttpApplication | None = None,
        limits: Limits | None = None,
        on_exchange_end: Callable[[HttpExchange], None] | None = None,
        middleware: Sequence[Middleware] = (),
        endpoint: str | None = None,
        drain_seconds: float = 1.0,
    ) -> AbstractAsyncContextManager[Site]: ...


def serving(*, byte_by_byte: bool, way: Way = STRAIGHT) -> Serving:
    """Return what serves to clients that deliver so, and whose bytes go that way."""

    @asynccontextmanager
    async def serve(
        app: AsgiApp | None = None,
        *,
        native: HttpApplication | None = None,
        limits: Limits | None = None,
        on_exchange_end: Callable[[HttpExchange], None] | None = None,
        middleware: Sequence[Middleware] = (),
        endpoint: str | None = None,
        drain_seconds: float = 1.0,
    ) -> AsyncGenerator[Site]:
        application = native or AsgiApplication(app or hello)
        async with open_server(
            Http1(application, on_exchange_end=on_exchange_end),
            limits=limits,
            middleware=[*way.middleware, *middleware],
            endpoint=endpoint,
            drain_seconds=drain_seconds,
        ) as opened:
            yield Site(opened, byte_by_byte, way=way)
        assert not opened.server.connections

    return serve


class Flushes:
    """A middleware that notes what leaves together."""

    def __init__(self) -> None:
        self.all: list[bytes] = []

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Watch the connection's output."""
        inner = connection.transport
        connection.transport = _WatchedPipe(inner, self.all)
        try:
            await following(connection)
        finally:
            connection.transport = inner


class _WatchedPipe(DuplexPipe):
    def __init__(self, inner: DuplexPipe, flushes: list[bytes]) -> None:
        self._inner = inner
        self._output = _WatchedWriter(inner.output, flushes)

    @property
    def input(self) -> PipeReader:
        return self._inner.input

    @property
    def output(self) -> PipeWriter:
        return self._output

    async def aclose(self) -> None:
        await self._inner.aclose()

    def abort(self) -> None:
        self._inner.abort()


class _WatchedWriter(PipeWriter):
    def __init__(self, inner: PipeWriter, flushes: list[bytes]) -> None:
        super().__init__()
        self._inner = inner
        self._flushes = flushes

    async def _transmit(self, data: bytes | memoryview) -> None:
        self._flushes.append(bytes(data))
        await self._inner.send(data)

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        self._flushes.append(bytes(data))
        self._inner.write(data)
        self._inner.flush_nowait()
        return len(data)

    async def _transmit_eof(self) -> None:
        await self._inner.send_eof()


# Applications -----------------------------------------------------------------------------------


async def answer(
    send: Send,
    body: bytes = b"",
    *,
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


class Disconnected(Exception):
    """The application was told so, before the end of the body."""


async def read_body(receive: Receive) -> bytes:
    """Receive a whole request body.

    Raises:
        Disconnected: the client went away.
    """
    parts: list[bytes] = []
    more_body = True
    while more_body:
        event = await receive()
        if event == {"type": "http.disconnect"}:
            raise Disconnected
        assert event["type"] == "http.request"
        assert event.keys() - {"trailers"} == {"type", "body", "more_body"}
        assert isinstance(event["body"], bytes)
        parts.append(event["body"])
        more_body = event["more_body"]
    return b"".join(parts)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and do not look at the body."""
    await answer(send, b"hello", headers=[(b"content-length", b"5")])


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's path and body; leave when the client is gone."""
    try:
        body = await read_body(receive)
    except Disconnected:
        return
    await answer(send, scope["path"].encode() + b" " + body)
