"""Connected stream sockets as pipes: what TCP and Unix sockets have in common.

A read waits for readiness first and receives then, so that an idle connection holds no buffer.
A write tries the socket first and waits only if that is full. The socket is the standard
library's, not blocking; readiness to read comes from the context's `Poller`.

A failed write ends writing alone: what the peer said before it went can still be read, such as the
answer to an upload that it did not want to see the end of.
"""

import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Awaitable, Generator
from contextlib import suppress
from enum import Enum, auto
from typing import Any

import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.features import FeatureSource, SocketInfo
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.signals import Signal
from kestrel_core.transport import TransportContext
from kestrel_transports._poller import Pollable, Poller

__all__ = ["SocketPipe", "connection_over"]

# What one recv asks for: it grows while the peer fills it, as an upload does, up to the larger.
# (Receiving into fresh bytes costs the same for every size up to 1 MiB; but copies of more than
# this make the allocator give its memory back and take it again, a page fault for each 4 KiB.)
_RECEIVE_BYTES = 64 * 1024
_MOST_RECEIVE_BYTES = 128 * 1024

# The most that one sendfile sends, so that a fast peer and a slow disk leave others their turn.
_MOST_FILE_BYTES = 1024 * 1024

# A receiver makes room known in steps of a full segment, or of a part of its buffer (RFC 9293,
# 3.8.6.2.2); measured over loopback, whose segments are the largest there are, were up to 130 KB.
_WINDOW_STEP_BYTES = 128 * 1024

# What sendfile says of the socket and not of the file.
_PEER_ERRORS = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)

# Closing with this linger time drops what is unsent and resets the connection.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _State(Enum):
    OPEN = auto()
    CLOSED = auto()
    BROKEN = auto()


# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_OPEN, _CLOSED, _BROKEN = _State


class SocketPipe(DuplexPipe, Pollable, FeatureSource):
    """A connected stream socket, which it owns; `gone` is set when the peer reset it.

    `stops_short` says that a read may find less than it asked for though there is more, and always
    so; otherwise events tell when that is so.

    Raises:
        OSError: there is no room to watch the socket, which stays the caller's.
    """

    __slots__ = (
        "_closing",
        "_input",
        "_output",
        "connected",
        "gone",
        "input_cut",
        "is_awaited",
        "poller",
        "state",
        "stops_short",
    )

    def __init__(
        self, connected: socket.socket, poller: Poller, *, stops_short: bool = False
    ) -> None:
        connected.setblocking(False)
        Pollable.__init__(self, connected.fileno())
        self.connected = connected
        self.poller = poller
        self.state = _OPEN
        self.stops_short = stops_short
        self.input_cut = False
        self.gone: Signal | None = None
        self.is_awaited = False
        self._closing = False
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

    def alert(self, *, dead: bool) -> None:
        """Trust no short read from now on; if `dead`, tell that the connection is gone."""
        self.stops_short = True
        if dead and self.gone is not None:
            self.gone.set()

    def find_feature(self, kind: type[object]) -> object | None:
        """Tell the socket, while it is open."""
        if kind is SocketInfo and self.connected.fileno() >= 0:
            return SocketInfo(self.connected.fileno())
        return None

    async def aclose(self) -> None:
        """Flush and close; the kernel still delivers what it has taken."""
        if self._closing:
            return
        self._closing = True
        try:
            if self._output.unflushed_bytes:
                await self._output.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # nobody is left to receive it
        except BaseException:  # cancelled: the peer must not take what it has for all of it
            self.abort()
            raise
        finally:
            self._end(_CLOSED)

    def close_nowait(self) -> bool:
        """Close, unless something has to be flushed first."""
        if not self._closing and not self._output.unflushed_bytes:
            self._closing = True
            self._end(_CLOSED)
        return self.state is _CLOSED

    def abort(self) -> None:
        """Reset the connection; a Unix socket has no reset, its peer sees the end."""
        if self.state is _OPEN:
            with suppress(OSError):  # a connection that is dead already is what was wanted
                self.connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._end(_BROKEN)

    def broke(self) -> None:
        """Note that reading failed: the connection is gone in both directions."""
        self.state = _BROKEN
        self._input.end()
        self.broke_output(None)

    def broke_output(self, error: OSError | None) -> None:
        """Note that writing failed with `error`, or is known to be in vain."""
        # The kernel tells an error once. If it told the writer of a reset, the reader would find
        # what looks like an orderly end. (EPIPE is no such error: nothing was cut off.)
        if error is not None and error.errno != errno.EPIPE:
            self.input_cut = True
        self._output.end(closed=False)
        if self.gone is not None:
            self.gone.set()

    def _end(self, state: _State) -> None:
        self.state = state
        self._input.end()
        self._output.end(closed=state is _CLOSED)
        fileno = self.connected.fileno()
        if fileno >= 0:
            self.poller.wake(self)
            if self.is_awaited:  # by a writer, who waits through trio
                trio.lowlevel.notify_closing(fileno)
            self.poller.remove(self)
            self.connected.close()

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

    def _fetch_nowait(self) -> None:
        pipe = self._pipe
        if pipe.readable or not pipe.poller.tells_unasked:
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
            pipe.readable = pipe.stops_short
            if not chunk and pipe.input_cut:
                pipe.broke()
                raise trio.BrokenResourceError("the peer reset the connection")
        else:
            self._receive_bytes = min(2 * asked, _MOST_RECEIVE_BYTES)
        if chunk and not self._buffer:
            self._buffer = chunk
        else:
            self._feed(chunk)
        return True

    def _wake(self) -> None:
        self._pipe.poller.wake(self._pipe)

    def end(self) -> None:
        """Drop what is held; the pipe's state says why."""
        self._discard()


class _SocketWriter(PipeWriter):
    __slots__ = ("_in_transit_bytes", "_pipe")

    sends_files = True

    def __init__(self, pipe: SocketPipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._in_transit_bytes = 0

    @property
    def backlog_bytes(self) -> int:
        if self._pipe.state is not _OPEN:
            return 0
        return self.unflushed_bytes + self._in_transit_bytes + _queued_bytes(self._pipe.connected)

    @property
    def backlog_step_bytes(self) -> int:
        return _WINDOW_STEP_BYTES

    async def _transmit(self, data: bytes | memoryview) -> None:
        sent = self._send(data)
        if sent < len(data):
            await self._transmit_rest(memoryview(data)[sent:])

    async def _transmit_rest(self, rest: memoryview) -> None:
        try:
            while rest:
                self._in_transit_bytes = len(rest)
                await self._wait_writable()
                rest = rest[self._send(rest) :]
        finally:
            self._in_transit_bytes = 0

    async def _wait_writable(self) -> None:
        pipe = self._pipe
        pipe.is_awaited = True
        try:
            with suppress(trio.ClosedResourceError):  # or a reader was woken, and we along with it
                await trio.lowlevel.wait_writable(pipe.connected)
        finally:
            pipe.is_awaited = False
        pipe.raise_unless_open()

    async def _transmit_file(self, file: int, offset: int, count: int) -> int:
        try:
            return await self._send_file(file, offset, count)
        finally:
            self._in_transit_bytes = 0

    async def _send_file(self, file: int, offset: int, count: int) -> int:
        pipe = self._pipe
        sent = 0
        while sent < count:
            self._in_transit_bytes = count - sent
            most = min(count - sent, _MOST_FILE_BYTES)
            try:
                just_sent = os.sendfile(pipe.connected.fileno(), file, offset + sent, most)
            except BlockingIOError:
                await self._wait_writable()
                continue
            except OSError as error:
                if error.errno not in _PEER_ERRORS:
                    if sent:
                        break
                    raise
                pipe.broke_output(error)
                raise trio.BrokenResourceError("the peer is gone") from error
            if not just_sent:
                break
            sent += just_sent
            if just_sent == _MOST_FILE_BYTES and sent < count:
                await trio.lowlevel.checkpoint()
                pipe.raise_unless_open()
        return sent

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._pipe.connected.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._pipe.broke_output(error)
            raise trio.BrokenResourceError("the peer is gone") from error

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._pipe.connected.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._pipe.broke_output(error)
            return len(data)

    async def _transmit_eof(self) -> None:
        try:
            self._pipe.connected.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._pipe.broke_output(None)
            raise trio.BrokenResourceError("the peer is gone") from error

    def end(self, *, closed: bool) -> None:
        """Refuse every later write."""
        self._closed = closed
        self._broken = True
        self._chunks.clear()
        self.unflushed_bytes = 0


def _queued_bytes(connected: socket.socket) -> int:
    """Return how much of what was sent the kernel still holds because the peer has not taken it.

    Only some systems tell that of a socket; the others are taken at their word that it is sent.
    """
    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(queued)


def connection_over(
    pipe: SocketPipe,
    context: TransportContext,
    *,
    local: Address | None,
    remote: Address | None,
) -> Connection:
    """Return a new connection over `pipe`, which knows when that is gone."""
    connection = Connection(pipe, context, local=local, remote=remote)
    pipe.gone = connection.closed
    return connection
