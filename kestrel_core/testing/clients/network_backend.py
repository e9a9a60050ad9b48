"""httpcore's network, made of a transport: so httpcore and httpx speak over any of them."""

from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import TypeAlias

import httpcore
import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.transport import Transport, TransportContext

__all__ = ["StartTls", "TransportBackend"]

StartTls: TypeAlias = Callable[[DuplexPipe, str | None], Awaitable[DuplexPipe]]
"""Does a TLS handshake over a pipe, for a server of the given name; returns the pipe inside."""


class TransportBackend(httpcore.AsyncNetworkBackend):
    """Connects to `endpoint`, whichever host and port an URL names."""

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        context: TransportContext,
        start_tls: StartTls | None,
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._context = context
        self._start_tls = start_tls

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the endpoint."""
        with (
            _translated(timeout, httpcore.ConnectTimeout, httpcore.ConnectError),
        ):
            connection = await self._transport.connect(self._endpoint, self._context)
        return _PipeStream(connection, connection.transport, self._context, self._start_tls)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the endpoint."""
        return await self.connect_tcp(path, 0, timeout)

    async def sleep(self, seconds: float) -> None:
        """Sleep on trio's clock."""
        await trio.sleep(seconds)


class _PipeStream(httpcore.AsyncNetworkStream):
    """A connection's pipe, or one that wraps it, as httpcore wants it.

    httpcore asks, without waiting, whether an idle connection has become readable, which means
    that the server has ended it. No pipe can tell. Therefore, after each read, a task waits for
    what comes next and leaves it in the pipe.
    """

    def __init__(
        self,
        connection: Connection,
        pipe: DuplexPipe,
        context: TransportContext,
        start_tls: StartTls | None,
    ) -> None:
        self._connection = connection
        self._pipe = pipe
        self._context = context
        self._start_tls = start_tls
        self._readable: trio.Event | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Receive, as the pipe does."""
        with _translated(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            if self._readable is not None:
                await self._readable.wait()
            data = await self._pipe.input.receive(max_bytes)
        if not self._pipe.input.buffered:
            self._readable = trio.Event()
            self._context.nursery.start_soon(self._watch, self._readable)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send, as the pipe does."""
        with _translated(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            await self._pipe.output.send(buffer)

    async def aclose(self) -> None:
        """Close the pipe and the connection."""
        try:
            await self._pipe.aclose()
        finally:
            await self._connection.aclose()

    async def start_tls(
        self,
        ssl_context: object,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """Wrap the pipe; `ssl_context` is the pool's, and the one who wraps brings another."""
        if self._start_tls is None:
            raise httpcore.ConnectError(
                "this client speaks no TLS: give it `start_tls`, or use http:// in the URL"
            )
        with _translated(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            pipe = await self._start_tls(self._pipe, server_hostname)
        return _PipeStream(self._connection, pipe, self._context, None)

    def get_extra_info(self, info: str) -> object:
        """Answer what httpcore asks, and None to what does not apply."""
        match info:
            case "is_readable":
                return bool(self._connection.closed) or self._is_readable()
            case "client_addr":
                return _address(self._connection.local)
            case "server_addr":
                return _address(self._connection.remote)
            case _:
                return None

    def _is_readable(self) -> bool:
        if self._readable is None:
            return self._pipe.input.buffered != b""
        return self._readable.is_set()

    async def _watch(self, readable: trio.Event) -> None:
        """Set `readable` when a read would not wait."""
        try:
            with suppress(
                trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
            ):
                await self._pipe.input.read()
        finally:
            readable.set()


@contextmanager
def _translated(
    seconds: float | None,
    too_slow: type[httpcore.TimeoutException],
    failed: type[httpcore.NetworkError],
) -> Generator[None]:
    """Bound the block by `seconds`, and raise httpcore's errors instead of trio's."""
    try:
        with trio.fail_after(float("inf") if seconds is None else seconds):
            yield
    except trio.TooSlowError as error:
        raise too_slow(f"not within {seconds} s") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise failed(str(error)) from error


def _address(address: Address | None) -> tuple[str, int | None] | None:
    return None if address is None else (address.host, address.port)
