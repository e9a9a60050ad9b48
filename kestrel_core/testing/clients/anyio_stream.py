"""A pipe as anyio's `ByteStream`, for clients that are written for anyio."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.abc
import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.duplex_pipe import DuplexPipe

__all__ = ["PipeByteStream"]


class PipeByteStream(anyio.abc.ByteStream):
    """A connection, or a pipe, behind anyio's interface, with anyio's errors; it runs on trio alone.

    Closing it closes that. Of a connection it takes the pipe that is in place when this is made, and
    has the addresses as anyio's attributes, where there are any.
    """

    def __init__(self, source: Connection | DuplexPipe) -> None:
        if isinstance(source, Connection):
            self._connection: Connection | None = source
            self._stream = source.transport.as_stream()
        else:
            self._connection = None
            self._stream = source.as_stream()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least a byte; see `anyio.abc.ByteReceiveStream.receive`."""
        with _translated("receiving from"):
            data = await self._stream.receive_some(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of `item`; see `anyio.abc.ByteSendStream.send`."""
        with _translated("sending to"):
            await self._stream.send_all(item)

    async def send_eof(self) -> None:
        """Send the end, and go on receiving; see `anyio.abc.ByteStream.send_eof`."""
        with _translated("sending to"):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close what this stands on."""
        try:
            await self._stream.aclose()
        finally:
            if self._connection is not None:
                await self._connection.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The ends' addresses, as far as they are known, by `anyio.abc.SocketAttribute`."""
        attributes: dict[Any, Callable[[], Any]] = {}
        if self._connection is not None:
            names = anyio.abc.SocketAttribute
            _add(attributes, self._connection.local, names.local_address, names.local_port)
            _add(attributes, self._connection.remote, names.remote_address, names.remote_port)
        return attributes


def _add(
    attributes: dict[Any, Callable[[], Any]],
    address: Address | None,
    whole: object,
    port: object,
) -> None:
    if address is None:
        return
    if address.port is None:
        attributes[whole] = lambda: address.host
    else:
        attributes[whole] = lambda: address.pair
        attributes[port] = lambda: address.port


@contextmanager
def _translated(action: str) -> Generator[None]:
    """Raise anyio's errors instead of trio's."""
    try:
        yield
    except trio.BusyResourceError as error:
        raise anyio.BusyResourceError(action) from error
    except trio.ClosedResourceError as error:
        raise anyio.ClosedResourceError(str(error)) from error
    except trio.BrokenResourceError as error:
        raise anyio.BrokenResourceError(str(error)) from error
