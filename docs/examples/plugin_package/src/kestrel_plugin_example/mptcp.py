"""Multipath TCP: a connection that uses several paths at once, and survives the loss of one.

The kernel does the work (RFC 8684; `ip mptcp` configures it). To a program it is TCP under another
number. A peer without it is served, and connected to, in plain TCP: the handshake tells.

The pipes are made of trio's streams by `DuplexPipe.from_stream`; `MptcpPipe` is a layer on top.
After a close Linux waits for a minute in which a peer that goes on sending hears nothing
(`net.mptcp.close_timeout`), as another path might bring more; TCP would answer with a reset. So
does `_see_off`, for as long as it stays.
"""

import errno
import logging
import socket
import struct
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeAlias, cast

import attrs
import trio

from kestrel_core import (
    Address,
    BindError,
    Connection,
    DuplexPipe,
    Endpoint,
    FeatureSource,
    LayeredPipe,
    LayerReader,
    LayerWriter,
    Listener,
    Signal,
    SocketInfo,
    Transport,
    TransportContext,
)

__all__ = ["MptcpTransport", "Multipath"]

_log = logging.getLogger("kestrel.transport")

# Of <linux/in.h> and <linux/mptcp.h>; Python has names for neither.
IPPROTO_MPTCP = 262
_SOL_MPTCP = 284
_MPTCP_INFO = 1

_DEFAULT_BACKLOG = 512
_MOST_BACKLOG = 2**31 - 1  # a C int; the kernel has a bound of its own

# accept() failing with one of these says that there is no room, now; see its man page.
_FULL_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_FULL_SECONDS = 0.1

# The kernel was built without MPTCP, or `net.mptcp.enabled` is 0.
_NO_MPTCP_ERRNOS = {errno.EPROTONOSUPPORT, errno.ENOPROTOOPT}

# Closing with this linger time drops what is unsent and resets the connection.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# How long a peer that has been told of the end may take to end its own side (Apache: 2 s).
_SEE_OFF_SECONDS = 2.0

_SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


@attrs.frozen
class Multipath:
    """A feature of connections whose peer speaks Multipath TCP, too."""

    paths: int
    """How many paths the connection has now."""


class MptcpTransport(Transport):
    """`mptcp://host:port`: Multipath TCP at one address, or for `*` at every one of IPv4.
    Option: `backlog` (512).
    """

    scheme = "mptcp"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        backlog = _backlog(endpoint)
        try:
            family, name = await _address_of(endpoint)
            with _closed_on_failure(_make_socket(family)) as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                await listening.bind(name)
                listening.listen(backlog)
                return _MptcpListener(trio.SocketListener(listening), endpoint, context)
        except OSError as error:
            raise BindError(f"cannot bind {endpoint}: {error.strerror or error}") from error

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        _backlog(endpoint)  # of no use here; but what was bound can be connected to as it is
        family, name = await _address_of(endpoint)
        with _closed_on_failure(_make_socket(family)) as connecting:
            await connecting.connect(name)
            return _connection(trio.SocketStream(connecting), context)


class _MptcpListener(Listener):
    def __init__(
        self, listening: trio.SocketListener, asked: Endpoint, context: TransportContext
    ) -> None:
        self._listening = listening
        self._context = context
        host, _ = asked.host_and_port()
        port = listening.socket.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._endpoint = attrs.evolve(asked, address=address)

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    async def accept(self) -> Connection:
        while True:
            try:
                # Skips the failures that are those of a single connection.
                stream = await self._listening.accept()
            except OSError as error:
                if error.errno not in _FULL_ERRNOS:
                    raise
                _log.warning("%s cannot accept: %s", self._endpoint, error.strerror)
                await trio.sleep(_FULL_SECONDS)
                continue
            try:
                return _connection(stream, self._context)
            except OSError:  # it has no peer any more
                stream.socket.close()

    async def unbind(self) -> None:
        self._listening.socket.close()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.unbind()


class MptcpPipe(LayeredPipe, FeatureSource):
    """A pipe over a stream, which can also be reset, and whose peer is seen off at its end."""

    def __init__(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        self.gone: Signal = Signal()
        self._socket = stream.socket
        self._nursery = nursery
        inner = DuplexPipe.from_stream(stream, reset=self._reset, gone=self.gone)
        super().__init__(inner, LayerReader(inner.input), LayerWriter(inner.output))

    async def finish(self) -> None:
        """Flush, and take the socket away from the stream, which is closed next."""
        try:
            await super().finish()
        finally:
            if self._socket.fileno() >= 0:  # else it was reset
                ended = trio.socket.socket(fileno=self._socket.detach())
                self._nursery.start_soon(_see_off, ended)

    def _reset(self) -> None:
        with suppress(OSError):  # it is dead already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    def find_feature(self, kind: type[object]) -> object | None:
        fileno = self._socket.fileno()
        if kind is SocketInfo and fileno >= 0:
            return SocketInfo(fileno)
        if kind is Multipath:
            with suppress(OSError):  # the peer speaks plain TCP, or the socket is closed
                return Multipath(1 + self._socket.getsockopt(_SOL_MPTCP, _MPTCP_INFO, 1)[0])
        return None


async def _see_off(ended: trio.socket.SocketType) -> None:
    """End our side, and wait for the peer's end; if it sends more instead, tell that nobody reads."""
    with ended, suppress(OSError), trio.move_on_after(_SEE_OFF_SECONDS):
        ended.shutdown(socket.SHUT_WR)
        if await ended.recv(1):
            ended.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _connection(stream: trio.SocketStream, context: TransportContext) -> Connection:
    """Return a connection over `stream`.

    Raises:
        OSError: the peer is gone already.
    """
    local, remote = stream.socket.getsockname(), stream.socket.getpeername()
    pipe = MptcpPipe(stream, context.nursery)
    connection = Connection(pipe, context, local=_address(local), remote=_address(remote))
    pipe.gone.listen(connection.closed.set)
    return connection


def _address(name: _SocketAddress) -> Address:
    return Address(name[0], name[1])


def _backlog(endpoint: Endpoint) -> int:
    """Return the one option there is.

    Raises:
        EndpointError: there is another, or it is not a number.
    """
    endpoint.option_names_within(["backlog"])
    return min(endpoint.integer_option("backlog", _DEFAULT_BACKLOG), _MOST_BACKLOG)


async def _address_of(endpoint: Endpoint) -> tuple[socket.AddressFamily, _SocketAddress]:
    """Return the first address that the endpoint's host has; for `*`, that of every address."""
    host, port = endpoint.host_and_port()
    asked = None if host == "*" else host
    try:
        found = await trio.socket.getaddrinfo(
            asked, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:  # names pass through a codec, which knows their form
        raise endpoint.error("its host has not the form of a name") from error
    family, _, _, _, name = found[0]
    return family, cast(_SocketAddress, name)


def _make_socket(family: socket.AddressFamily) -> trio.socket.SocketType:
    try:
        return trio.socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        if error.errno in _NO_MPTCP_ERRNOS:
            raise OSError(error.errno, "this system has no Multipath TCP") from error
        raise


@contextmanager
def _closed_on_failure(made: trio.socket.SocketType) -> Generator[trio.socket.SocketType]:
    with ExitStack() as undo:
        yield undo.enter_context(made)
        undo.pop_all()
