"""The network of httpcore, and of httpcore2, made of a transport: neither is imported here."""

from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.testing.connect import Connect

__all__ = ["CoreErrors", "PipeNetworkBackend", "PipeNetworkStream", "StartTls", "translated_errors"]

StartTls: TypeAlias = Callable[[DuplexPipe, str | None], Awaitable[DuplexPipe]]
"""Does a TLS handshake over a pipe, for a server of the given name; returns the pipe inside.

The TLS middleware for clients has one, `start_tls`. If it raises, whoever called it closes the pipe.
"""


class CoreErrors(Protocol):
    """What these libraries call their errors; the library's own module is the implementation."""

    # Properties, as a module's own classes are narrower than `Exception`.
    @property
    def ConnectError(self) -> type[Exception]: ...  # noqa: D102
    @property
    def ConnectTimeout(self) -> type[Exception]: ...  # noqa: D102
    @property
    def LocalProtocolError(self) -> type[Exception]: ...  # noqa: D102
    @property
    def PoolTimeout(self) -> type[Exception]: ...  # noqa: D102
    @property
    def ReadError(self) -> type[Exception]: ...  # noqa: D102
    @property
    def ReadTimeout(self) -> type[Exception]: ...  # noqa: D102
    @property
    def RemoteProtocolError(self) -> type[Exception]: ...  # noqa: D102
    @property
    def UnsupportedProtocol(self) -> type[Exception]: ...  # noqa: D102
    @property
    def WriteError(self) -> type[Exception]: ...  # noqa: D102
    @property
    def WriteTimeout(self) -> type[Exception]: ...  # noqa: D102


class PipeNetworkStream:
    """A connection's pipe, or one that wraps it, as these libraries want it.

    A subclass adds the library's own class, and its module as `errors`.

    They ask, without waiting, whether an idle connection has become readable, which means that the
    server has ended it, and take another one then. Of a pipe over a trio stream nobody can tell; a
    request on it fails if the server has ended it meanwhile.
    """

    errors: ClassVar[CoreErrors]

    def __init__(
        self,
        connection: Connection,
        pipe: DuplexPipe,
        start_tls: StartTls | None,
    ) -> None:
        self._connection = connection
        self._pipe = pipe
        self._start_tls = start_tls

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Receive, as the pipe does."""
        with _within(timeout, self.errors.ReadTimeout, self.errors.ReadError):
            return await self._pipe.input.receive(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send, as the pipe does."""
        with _within(timeout, self.errors.WriteTimeout, self.errors.WriteError):
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
    ) -> Self:
        """Wrap the pipe; `ssl_context` is the pool's, and the one who wraps brings another."""
        try:
            if self._start_tls is None:
                raise self.errors.ConnectError(
                    "this client speaks no TLS: give it `start_tls`, or use http:// in the URL"
                )
            with _within(timeout, self.errors.ConnectTimeout, self.errors.ConnectError):
                pipe = await self._start_tls(self._pipe, server_hostname)
        except BaseException:  # nobody else would
            await self.aclose()
            raise
        return type(self)(self._connection, pipe, None)

    def get_extra_info(self, info: str) -> object:
        """Answer what these libraries ask, and None to what does not apply."""
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
        reader = self._pipe.input
        try:
            reader.look()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        return reader.at_eof or reader.buffered != b""


StreamT = TypeVar("StreamT", bound=PipeNetworkStream)


class PipeNetworkBackend(Generic[StreamT]):
    """Connects as it is told, whichever host and port an URL names, and makes a `stream_type`.

    A subclass adds the library's own class.
    """

    def __init__(
        self,
        stream_type: type[StreamT],
        connect: Connect,
        start_tls: StartTls | None,
    ) -> None:
        self._stream_type = stream_type
        self._connect = connect
        self._start_tls = start_tls

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[object] | None = None,
    ) -> StreamT:
        """Connect."""
        errors = self._stream_type.errors
        with _within(timeout, errors.ConnectTimeout, errors.ConnectError):
            connection = await self._connect()
        return self._stream_type(connection, connection.transport, self._start_tls)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
        socket_options: Iterable[object] | None = None,
    ) -> StreamT:
        """Connect."""
        return await self.connect_tcp(path, 0, timeout)

    async def sleep(self, seconds: float) -> None:
        """Sleep on trio's clock."""
        await trio.sleep(seconds)


@contextmanager
def translated_errors(core: CoreErrors, client: CoreErrors) -> Generator[None]:
    """Raise the errors of the library that stands on `core`, which have the same names."""
    try:
        yield
    except core.ConnectTimeout as error:
        raise client.ConnectTimeout(str(error)) from error
    except core.ConnectError as error:
        raise client.ConnectError(str(error)) from error
    except core.PoolTimeout as error:
        raise client.PoolTimeout(str(error)) from error
    except core.ReadTimeout as error:
        raise client.ReadTimeout(str(error)) from error
    except core.ReadError as error:
        raise client.ReadError(str(error)) from error
    except core.WriteTimeout as error:
        raise client.WriteTimeout(str(error)) from error
    except core.WriteError as error:
        raise client.WriteError(str(error)) from error
    except core.LocalProtocolError as error:
        raise client.LocalProtocolError(str(error)) from error
    except core.RemoteProtocolError as error:
        raise client.RemoteProtocolError(str(error)) from error
    except core.UnsupportedProtocol as error:
        raise client.UnsupportedProtocol(str(error)) from error


@contextmanager
def _within(
    seconds: float | None, too_slow: type[Exception], failed: type[Exception]
) -> Generator[None]:
    """Bound the block by `seconds`, and raise the library's errors instead of trio's."""
    try:
        with trio.fail_after(float("inf") if seconds is None else seconds):
            yield
    except trio.TooSlowError as error:
        raise too_slow("it took too long") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise failed(str(error)) from error


def _address(address: Address | None) -> tuple[str, int | None] | None:
    return None if address is None else address.pair
