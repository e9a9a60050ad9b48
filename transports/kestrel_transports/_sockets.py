"""Stream sockets as pipes and listeners: what TCP and Unix sockets have in common.

A read waits for readiness first and receives then, so that an idle connection holds no buffer.
A write tries the socket first and waits only if that is full. The socket is the standard
library's, not blocking; readiness to read comes from the context's `Poller`.
"""

import errno
import logging
import socket
import struct
from abc import abstractmethod
from collections.abc import Awaitable, Generator
from contextlib import suppress
from enum import Enum, auto
from typing import Any

import trio

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.features import FeatureSource, SocketInfo
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.signals import Signal
from kestrel_core.transport import Listener, TransportContext
from kestrel_transports._poller import Pollable, Poller

__all__ = ["SocketListener", "SocketPipe"]

_log = logging.getLogger("kestrel.transport")

# What one recv asks for: it grows while the peer fills it, as an upload does, up to the larger.
# (Receiving into fresh bytes costs the same for every size up to 1 MiB.)
_RECEIVE_BYTES = 64 * 1024
_MOST_RECEIVE_BYTES = 512 * 1024

# Closing with this linger time drops what is unsent and resets the connection.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# accept() failing with one of these says that there is no room, now. Waiting 100 ms and trying
# again is what trio's serve_listeners does.
_FULL_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_FULL_SECONDS = 0.1

# accept() also reports what became of the connection it would have returned: see "Error handling"
# in Linux's accept(2). Those are to be treated like "nothing there, try again".
_GONE_ERRNOS = {
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EPERM,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    getattr(errno, "ENONET", errno.ENETDOWN),
}

# Connections that are accepted in a row before the other tasks get a turn.
_ACCEPTS_PER_TURN = 64


class _State(Enum):
    OPEN = auto()
    CLOSED = auto()
    BROKEN = auto()


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_OPEN, _CLOSED, _BROKEN = _State


class SocketPipe(DuplexPipe, Pollable, FeatureSource):
    """A connected stream socket, which it owns; `gone` is set when the peer reset it."""

    __slots__ = ("_input", "_output", "connected", "ended_by_peer", "gone", "poller", "state")

    def __init__(self, connected: socket.socket, poller: Poller) -> None:
        connected.setblocking(False)
        Pollable.__init__(self, connected.fileno())
        self.connected = connected
        self.poller = poller
        self.state = _OPEN
        self.ended_by_peer = False
        self.gone: Signal | None = None
        self._input = _SocketReader(self)
        self._output = _SocketWriter(self)
        poller.add(self)

    @property
    def input(self) -> PipeReader:
        """What the peer sends."""
        return self._input

    @property
    def output(self) -> PipeWriter:
        """What the peer will receive."""
        return self._output

    def hung_up(self, *, both_ways: bool) -> None:
        """Remember that the end of the input is on its way; tell that the connection is gone."""
        self.ended_by_peer = True
        if both_ways and self.gone is not None:
            self.gone.set()

    def find_feature(self, kind: type[object]) -> object | None:
        """Tell the socket, while it is open."""
        if kind is SocketInfo and self.connected.fileno() >= 0:
            return SocketInfo(self.connected.fileno())
        return None

    async def aclose(self) -> None:
        """Flush and close; the kernel still delivers what it has taken."""
        if self.state is _CLOSED:
            return
        try:
            if self._output.unflushed_bytes:
                await self._output.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # nobody is left to receive it
        finally:
            self._end(_CLOSED)

    def abort(self) -> None:
        """Reset the connection."""
        if self.state is _OPEN:
            with suppress(OSError):  # a connection that is dead already is what was wanted
                self.connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._end(_BROKEN)

    def broke(self) -> None:
        """Note that the socket reported an error: the connection is gone in both directions."""
        if self.state is _OPEN:
            self.state = _BROKEN
            self._output.end(closed=False)
            if self.gone is not None:
                self.gone.set()

    def _end(self, state: _State) -> None:
        if self.connected.fileno() >= 0:
            self.poller.remove(self)
            trio.lowlevel.notify_closing(self.filenos[0])
            self.connected.close()
        self.state = state
        self._output.end(closed=state is _CLOSED)
        self.poller.wake(self)

    def raise_unless_open(self) -> None:
        """Raise what trio's streams raise after closing and after breaking."""
        if self.state is _CLOSED:
            raise trio.ClosedResourceError("this connection was closed on our side")
        if self.state is _BROKEN:
            raise trio.BrokenResourceError("the connection is gone")


class _SocketReader(PipeReader):
    __slots__ = ("_pipe", "_receive_bytes")

    def __init__(self, pipe: SocketPipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._receive_bytes = _RECEIVE_BYTES

    def _fetch(self) -> Awaitable[None]:
        pipe = self._pipe
        if pipe.readable and self._receive():
            # What was received is held, if this is cancelled.
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105  # the caller awaits it
        if pipe.state is not _OPEN:
            pipe.raise_unless_open()
        return self

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait for the socket, then receive: a coroutine less than an async function would take."""
        pipe = self._pipe
        yield from pipe.poller.wait_readable(pipe).__await__()
        if pipe.state is not _OPEN:
            pipe.raise_unless_open()
        if pipe.readable:
            self._receive()

    def _receive(self) -> bool:
        """Receive what is there, and tell whether that was anything."""
        pipe = self._pipe
        if pipe.state is not _OPEN:
            return False
        asked = self._receive_bytes
        try:
            chunk = pipe.connected.recv(asked)
        except BlockingIOError:
            pipe.readable = False
            return False
        except OSError as error:
            pipe.broke()
            raise trio.BrokenResourceError("the peer reset the connection") from error
        if len(chunk) < asked:
            pipe.readable = pipe.ended_by_peer
        else:
            self._receive_bytes = min(2 * asked, _MOST_RECEIVE_BYTES)
        if chunk and not self._buffer:
            self._buffer = chunk
        else:
            self._feed(chunk)
        return True

    def _wake(self) -> None:
        self._pipe.poller.wake(self._pipe)


class _SocketWriter(PipeWriter):
    __slots__ = ("_pipe",)

    def __init__(self, pipe: SocketPipe) -> None:
        super().__init__()
        self._pipe = pipe

    async def _transmit(self, data: bytes) -> None:
        sent = self._send(data)
        if sent < len(data):
            await self._transmit_rest(memoryview(data)[sent:])

    async def _transmit_rest(self, rest: memoryview) -> None:
        while rest:
            try:
                await trio.lowlevel.wait_writable(self._pipe.connected)
            except trio.ClosedResourceError:
                self._pipe.raise_unless_open()  # else a reader was woken, and we along with it
            rest = rest[self._send(rest) :]

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._pipe.connected.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._pipe.broke()
            raise trio.BrokenResourceError("the peer is gone") from error

    def _transmit_nowait(self, data: bytes) -> int:
        try:
            return self._pipe.connected.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._pipe.broke()
            return len(data)

    async def _transmit_eof(self) -> None:
        try:
            self._pipe.connected.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._pipe.broke()
            raise trio.BrokenResourceError("the peer is gone") from error

    def end(self, *, closed: bool) -> None:
        """Refuse every later write."""
        self._closed = closed
        self._broken = True
        self._chunks.clear()
        self.unflushed_bytes = 0


class SocketListener(Listener, Pollable):
    """Accepts from one or more listening sockets, which it owns.

    A subclass makes the `Connection` out of an accepted socket.
    """

    def __init__(
        self, listening: list[socket.socket], endpoint: Endpoint, context: TransportContext
    ) -> None:
        for each in listening:
            each.setblocking(False)
        Pollable.__init__(self, *(each.fileno() for each in listening))
        self._listening = listening
        self._endpoint = endpoint
        self.context = context
        self.poller = context.shared(Poller.of)
        self._accepted_in_turn = 0
        self._closed = False
        self.poller.add(self)

    @property
    def endpoint(self) -> Endpoint:
        """What was really bound."""
        return self._endpoint

    @abstractmethod
    def connection(self, accepted: socket.socket, address: object) -> Connection:
        """Return the connection over `accepted`, whose peer has the socket address `address`.

        Raises:
            OSError: the peer is gone already.
        """

    def hung_up(self, *, both_ways: bool) -> None:
        """Nothing hangs up on a listening socket; what went wrong, accept() will tell."""

    async def accept(self) -> Connection:
        """Accept from whichever socket has somebody; see `Listener.accept`."""
        if self._accepted_in_turn >= _ACCEPTS_PER_TURN:
            self._accepted_in_turn = 0
            await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError(f"{self._endpoint} is no longer bound")
            if self.readable:
                for listening in self._listening:
                    connection = await self._accept_from(listening)
                    if connection is not None:
                        self._accepted_in_turn += 1
                        return connection
                    if self._closed:
                        break
                else:
                    self.readable = False
            else:
                self._accepted_in_turn = 0
                await self.poller.wait_readable(self)

    async def _accept_from(self, listening: socket.socket) -> Connection | None:
        """Accept one connection from `listening` if there is one, waiting only while full."""
        while not self._closed:
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _FULL_ERRNOS:
                    _log.warning(
                        "%s cannot accept: %s; trying again every %g s",
                        self._endpoint,
                        error.strerror,
                        _FULL_SECONDS,
                    )
                    await trio.sleep(_FULL_SECONDS)
                elif error.errno not in _GONE_ERRNOS:
                    raise
                continue
            try:
                return self.connection(accepted, address)
            except OSError:
                accepted.close()  # reset while it was queued
        return None

    def connect_pipe(self, accepted: socket.socket) -> SocketPipe:
        """Return a pipe over an accepted socket."""
        return SocketPipe(accepted, self.poller)

    async def unbind(self) -> None:
        """Close the listening sockets."""
        if not self._closed:
            self._closed = True
            self.poller.remove(self)
            for listening in self._listening:
                trio.lowlevel.notify_closing(listening)
                listening.close()
            self.poller.wake(self)

    async def aclose(self) -> None:
        """Do what `unbind` does; there is nothing more to release."""
        await self.unbind()
