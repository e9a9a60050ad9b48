"""Connections of many streams within one program: what QUIC is to TCP, without either.

`memory-streams://name` is to protocols on multiplexed connections what `memory://name` is to those
on plain ones; the two kinds of name do not meet. Each stream has back-pressure, half-close and
resets of its own.

Options are those of `memory://` (see `kestrel_transports.memory`), where `pause_at_bytes` is what
each direction of each stream holds, and:

* `max_concurrent_streams=100`: how many streams that it opened either side may have at a time
  before its next `open_stream` waits.

Theory of operation. An end of a connection knows its peer, the streams it has not closed, and those
that the peer opened and nobody has accepted. A stream is a pair of pipes in memory. It is counted
against its opener's limit until the other side has closed it or either has aborted it, as QUIC does
(RFC 9000, 4.6). Closing a connection closes its streams: what was flushed still arrives, on streams
too that the peer has not accepted yet. Aborting it resets all of them on both sides. Begin with
`open_stream`.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import ClassVar

import attrs
import trio

from kestrel_core.byteless_pipe import BytelessPipe
from kestrel_core.connection import Address, Connection, ConnectionContext, MultiplexedConnection
from kestrel_core.end_reason import EndReason
from kestrel_core.memory_pipe import MemoryDuplexPipe, duplex_pipe_pair
from kestrel_core.transport import TransportContext
from kestrel_transports._memory_listener import NamedTransport, Wire

__all__ = ["MemoryStreamsTransport"]


@attrs.frozen
class _StreamsWire(Wire):
    """Connections that carry streams."""

    # Kestrel's, for HTTP/2 and for QUIC; also the least that RFC 9113, 6.5.2 recommends.
    max_concurrent_streams: int = 100

    def join(
        self, name: str, client: TransportContext, server: TransportContext
    ) -> tuple[Connection, Connection]:
        here, there = self.addresses(name)
        client_end = _StreamsConnection(client, here, there, self)
        server_end = _StreamsConnection(server, there, here, self)
        client_end.peer, server_end.peer = server_end, client_end
        return client_end, server_end


class MemoryStreamsTransport(NamedTransport):
    """`memory-streams://name`: connections that carry streams, within one run of trio."""

    scheme = "memory-streams"
    multiplexed = True
    wire: ClassVar[type[Wire]] = _StreamsWire


class _StreamsConnection(MultiplexedConnection):
    """One end of a connection that carries streams."""

    __slots__ = (
        "_arrived",
        "_ended",
        "_is_closed",
        "_opened",
        "_released",
        "_streams",
        "_unaccepted",
        "_wire",
        "peer",
    )

    peer: "_StreamsConnection"

    def __init__(
        self, context: ConnectionContext, local: Address, remote: Address, wire: _StreamsWire
    ) -> None:
        super().__init__(BytelessPipe(), context, local=local, remote=remote)
        self._wire = wire
        self._streams: dict[Connection, MemoryDuplexPipe] = {}
        self._unaccepted: dict[MemoryDuplexPipe, MemoryDuplexPipe] = {}  # our end: the other end
        self._arrived = trio.lowlevel.ParkingLot()
        self._opened = 0
        self._released = trio.lowlevel.ParkingLot()
        self._ended = False
        self._is_closed = False
        self.close_requested.listen(self._request_of_streams)

    async def accept_stream(self) -> Connection:
        await trio.lowlevel.checkpoint()
        while not self._unaccepted and not self._ended:
            await self._arrived.park()
        if not self._unaccepted:
            raise trio.EndOfChannel("the connection ended")
        near = next(iter(self._unaccepted))
        return self._stream(near, self._unaccepted.pop(near))

    async def open_stream(self) -> Connection:
        await trio.lowlevel.checkpoint()
        while self._opened >= self._wire.max_concurrent_streams and not self._ended:
            await self._released.park()
        if self._ended:
            raise trio.BrokenResourceError("the connection is gone")
        near, far = duplex_pipe_pair(self._wire.pause_at_bytes)
        self._opened += 1
        near.peer_gone.listen(self._release)
        self.peer._take_in(far, near)
        return self._stream(near, far)

    def abort(self, reason: EndReason) -> None:
        super().abort(reason)
        if self._is_closed:
            return  # what was sent before is on its way
        if not self.peer._ended:
            self.peer.record_end(EndReason.CONNECTION_RESET)
        for stream in list(self._streams):
            stream.abort(reason)
        for pipe in list(self.peer._streams.values()):
            pipe.abort()  # those whose end on our side was closed before
        for end in (self, self.peer):
            end._reset_unaccepted()
            end._end()

    async def aclose(self) -> None:
        self._reset_unaccepted()
        self._end()
        self.peer._end()
        try:
            await _close_all(self._streams)
        finally:
            self._is_closed = True
            await super().aclose()

    def _take_in(self, near: MemoryDuplexPipe, far: MemoryDuplexPipe) -> None:
        """Queue a stream that the peer opened, until it is accepted or aborted."""
        self._unaccepted[near] = far
        far.peer_gone.listen(lambda: self._drop(near))
        self._arrived.unpark()

    def _drop(self, near: MemoryDuplexPipe) -> None:
        self._unaccepted.pop(near, None)

    def _stream(self, near: MemoryDuplexPipe, far: MemoryDuplexPipe) -> Connection:
        """Return the connection over `near`, whose other end is `far`."""
        stream = Connection(near, self.context, local=self.local, remote=self.remote)
        self._streams[stream] = near
        near.peer_gone.listen(stream.closed.set)
        far.peer_gone.listen(stream.closed.set)  # closed or aborted on our side
        far.peer_gone.listen(lambda: self._forget(stream))
        if self.close_requested.is_set:
            stream.request_close()
        return stream

    def _forget(self, stream: Connection) -> None:
        self._streams.pop(stream, None)

    def _release(self) -> None:
        self._opened -= 1
        self._released.unpark()

    def _request_of_streams(self) -> None:
        for stream in list(self._streams):
            stream.request_close()

    def _reset_unaccepted(self) -> None:
        for pipe in list(self._unaccepted):
            pipe.abort()

    def _end(self) -> None:
        """Open no more streams, and accept none but those that have arrived."""
        self._ended = True
        self._arrived.unpark_all()
        self._released.unpark_all()
        self.closed.set()


async def _close_all(streams: Mapping[Connection, MemoryDuplexPipe]) -> None:
    """Close all of `streams` in any case, those last that would have to wait for the peer."""
    for pipe in streams.values():
        pipe.output.flush_nowait()
    async with AsyncExitStack() as closing:  # which calls the last one first
        for stream in sorted(streams, key=lambda each: -streams[each].output.unflushed_bytes):
            closing.push_async_callback(stream.aclose)
