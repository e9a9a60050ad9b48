"""A bounded pipe in memory: the in-memory transport's wire, and every test's partner.

Theory of operation. A `Pipe` is one direction: a queue of chunks between a `PipeWriter` and a
`PipeReader`. A flush moves its bytes into the queue until the reader is `pause_at_bytes` behind,
then waits until it is fewer than `resume_at_bytes` behind. "Behind" counts the bytes that the
reader has not *examined*, wherever they lie, so that a parser which looks at everything and asks
for more never locks up a paused writer. Each end holds one waiting task at most.
"""

from collections import deque
from enum import Enum, auto

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.signals import Signal

__all__ = ["MemoryDuplexPipe", "Pipe", "duplex_pipe_pair"]

# System.IO.Pipelines' defaults.
DEFAULT_PAUSE_AT_BYTES = 65536


class _End(Enum):
    OPEN = auto()
    CLOSED = auto()
    BROKEN = auto()


class _Waiter:
    """At most one task that waits, and may be woken any number of times."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)


class Pipe:
    """One direction of bounded memory, from its `writer` to its `reader`.

    `pause_at_bytes` is how far the reader may fall behind before a flush waits, and
    `resume_at_bytes` how near it must come for the flush to go on (half, unless given).

    Raises:
        ValueError: a threshold is below one, or resuming is above pausing.
    """

    def __init__(
        self,
        pause_at_bytes: int = DEFAULT_PAUSE_AT_BYTES,
        resume_at_bytes: int | None = None,
    ) -> None:
        if resume_at_bytes is None:
            resume_at_bytes = max(1, pause_at_bytes // 2)
        if not 1 <= resume_at_bytes <= pause_at_bytes:
            raise ValueError(
                "a pipe needs 1 <= resume_at_bytes <= pause_at_bytes,"
                f" not {resume_at_bytes} and {pause_at_bytes}"
            )
        self.pause_at_bytes: int = pause_at_bytes
        self.resume_at_bytes: int = resume_at_bytes
        self.unexamined_bytes: int = 0
        """How far the reader is behind the writer. Read only."""
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self.reader_gone: Signal = Signal()
        """Set when the reading end was closed or broken."""
        self._readable = _Waiter()
        self._writable = _Waiter()
        self._reader = _MemoryReader(self)
        self._writer = _MemoryWriter(self)

    @property
    def reader(self) -> PipeReader:
        """The reading end."""
        return self._reader

    @property
    def writer(self) -> PipeWriter:
        """The writing end."""
        return self._writer

    def close_reader(self, *, broken: bool = False) -> None:
        """End the reading end, as our side closing it or, if `broken`, as the wire breaking.

        What was not read is lost; the writer finds the pipe broken.
        """
        self._reader.end(_End.BROKEN if broken else _End.CLOSED)
        self._writer.end(_End.BROKEN)
        self._chunks.clear()
        self.reader_gone.set()

    def close_writer(self, *, broken: bool = False) -> None:
        """End the writing end: the reader gets what was flushed and then the end of the input.

        If `broken` the reader gets nothing more but `trio.BrokenResourceError`.
        """
        self._writer.end(_End.BROKEN if broken else _End.CLOSED)
        if broken:
            self._reader.end(_End.BROKEN)
            self._chunks.clear()
            self.reader_gone.set()
        else:
            self.put_eof()

    def put_nowait(self, data: bytes | memoryview) -> int:
        """Queue what there is room for; return how many bytes that was."""
        room = self.pause_at_bytes - self.unexamined_bytes
        if room <= 0:
            return 0
        chunk = bytes(data[:room])
        self._chunks.append(chunk)
        self.unexamined_bytes += len(chunk)
        self._readable.wake()
        return len(chunk)

    def put_eof(self) -> None:
        """Queue the end of the output."""
        self._ended = True
        self._readable.wake()

    def take(self) -> bytes | None:
        """Return all that is queued, b"" at the end, None when there is nothing yet."""
        if self._chunks:
            data = b"".join(self._chunks)
            self._chunks.clear()
            return data
        return b"" if self._ended else None

    def note_examined(self, count: int) -> None:
        """Count `count` more bytes as seen by the reader."""
        self.unexamined_bytes -= count
        if self.unexamined_bytes < self.resume_at_bytes:
            self._writable.wake()

    async def wait_readable(self) -> None:
        """Wait until the reader has a reason to look."""
        await self._readable.wait()

    async def wait_writable(self) -> None:
        """Wait until the writer has a reason to look."""
        await self._writable.wait()

    def wake_reader(self) -> None:
        """Give the reader a reason to look."""
        self._readable.wake()

    def wake_writer(self) -> None:
        """Give the writer a reason to look."""
        self._writable.wake()


class _MemoryReader(PipeReader):
    __slots__ = ("_most_examined", "_pipe", "_state")

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._state = _End.OPEN
        self._most_examined = 0  # of the bytes still held: back-pressure never counts one twice

    def advance(self, consumed: int, examined: int | None = None) -> None:
        super().advance(consumed, examined)
        seen = consumed + self._examined
        if seen > self._most_examined:
            self._pipe.note_examined(seen - self._most_examined)
            self._most_examined = seen
        self._most_examined -= consumed

    def _fetch_nowait(self) -> None:
        self._raise_unless_open()
        data = self._pipe.take()
        if data is not None:
            self._feed(data)

    async def _fetch(self) -> None:
        self._raise_unless_open()
        data = self._pipe.take()
        if data is None:
            await self._pipe.wait_readable()
            self._raise_unless_open()
            data = self._pipe.take()
            if data is not None:
                self._feed(data)
        else:
            self._feed(data)
            await trio.lowlevel.checkpoint()

    def _wake(self) -> None:
        self._pipe.wake_reader()

    def _raise_unless_open(self) -> None:
        if self._state is _End.CLOSED:
            raise trio.ClosedResourceError("this pipe was closed on our side")
        if self._state is _End.BROKEN:
            raise trio.BrokenResourceError("the peer is gone")

    def end(self, state: _End) -> None:
        if self._state is not _End.CLOSED:
            self._state = state
        self._discard()
        self._pipe.wake_reader()


class _MemoryWriter(PipeWriter):
    __slots__ = ("_in_transit_bytes", "_pipe")

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._in_transit_bytes = 0

    @property
    def backlog_bytes(self) -> int:
        return self.unflushed_bytes + self._in_transit_bytes + self._pipe.unexamined_bytes

    async def _transmit(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)[self._pipe.put_nowait(data) :]
        try:
            while rest:
                self._in_transit_bytes = len(rest)
                await self._pipe.wait_writable()
                if self._closed or self._broken:
                    self._raise_unusable()
                rest = rest[self._pipe.put_nowait(rest) :]
        finally:
            self._in_transit_bytes = 0

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return self._pipe.put_nowait(data)

    async def _transmit_eof(self) -> None:
        self._pipe.put_eof()

    def end(self, state: _End) -> None:
        self._closed = self._closed or state is _End.CLOSED
        self._broken = self._broken or state is _End.BROKEN
        self._chunks.clear()
        self.unflushed_bytes = 0
        self._pipe.wake_writer()


class MemoryDuplexPipe(DuplexPipe):
    """One end of a pair of pipes; see `duplex_pipe_pair`."""

    __slots__ = ("_closed", "_closing", "_incoming", "_outgoing")

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closing = False
        self._closed = False

    @property
    def input(self) -> PipeReader:
        """What the other end sends."""
        return self._incoming.reader

    @property
    def output(self) -> PipeWriter:
        """What the other end will receive."""
        return self._outgoing.writer

    @property
    def peer_gone(self) -> Signal:
        """Set when the other end was closed or either end aborted; a half-close does not set it."""
        return self._outgoing.reader_gone

    async def aclose(self) -> None:
        """Flush and close; what was flushed still reaches the other end.

        If it is cancelled while it has to wait for that, it aborts before it closes.
        """
        if self._closing:
            return
        self._closing = True
        try:
            if self.output.unflushed_bytes:
                await self.output.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # nobody is left to receive it
        except BaseException:  # cancelled: the peer must not take what it has for all of it
            self.abort()
            raise
        finally:
            self._close()

    def close_nowait(self) -> bool:
        """Close, unless something has to be flushed first."""
        if not self._closing and not self.output.unflushed_bytes:
            self._closing = True
            self._close()
        return self._closed

    def _close(self) -> None:
        self._closed = True
        self._outgoing.close_writer()
        self._incoming.close_reader()

    def abort(self) -> None:
        """Break both directions for both ends."""
        if not self._closed:
            self._outgoing.close_writer(broken=True)
            self._incoming.close_reader(broken=True)


def duplex_pipe_pair(
    pause_at_bytes: int = DEFAULT_PAUSE_AT_BYTES,
    resume_at_bytes: int | None = None,
) -> tuple[MemoryDuplexPipe, MemoryDuplexPipe]:
    """Return the two ends of a bounded wire in memory; each direction has the given thresholds."""
    there = Pipe(pause_at_bytes, resume_at_bytes)
    back = Pipe(pause_at_bytes, resume_at_bytes)
    return MemoryDuplexPipe(back, there), MemoryDuplexPipe(there, back)
