"""What went over one connection and when, as the client saw it: the report of a test that failed.

Theory of operation. `Transcript.wrap` puts a layer on the client's pipe that hands on every byte as
it is, and tells the transcript. The transcript keeps the events as they were, one for each piece
that was read or flushed, so that a test can look at the pieces; only `str()` joins small ones. What
is kept is bounded: each event counts with its bytes and with what it takes itself, and the oldest
go first.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, TypeAlias

import attrs
import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.testing.readable_bytes import readable_lines

__all__ = ["Transcript", "TranscriptEvent", "TranscriptEventKind"]

_KEPT_BYTES = 1_048_576

# About what the objects of one event take beside its bytes.
_EVENT_BYTES = 128

# Pieces of the same direction that are joined in the report: a byte a line would be unreadable, and
# so are the few bytes of a chunk's frame. A slow sender's pieces are of interest one by one.
_MOST_JOINED_BYTES = 16
_MOST_JOINED_SECONDS = 0.05

_MOST_REPORT_LINES = 400


class TranscriptEventKind(Enum):
    """What happened, seen from the client."""

    SENT = "sent"
    """Bytes were handed to the pipe below; how soon the server took them it cannot tell."""
    RECEIVED = "received"
    """Bytes were read."""
    SENT_END = "ended the output"
    """The client ended its output: a half-close."""
    RECEIVED_END = "the input ended"
    """The client read the end of the input."""
    BROKEN = "broken off"
    """A read, a write or a flush found the connection broken off, and not by `abort()`."""
    CLOSED = "closed"
    """The client closed the pipe."""
    ABORTED = "aborted"
    """The client aborted the pipe."""
    NOTE = "note"
    """Somebody noted something; see `Transcript.note`."""


@attrs.frozen(kw_only=True)
class TranscriptEvent:
    """One thing that happened on a connection."""

    at_seconds: float
    """When, on trio's clock, since the transcript's start."""
    kind: TranscriptEventKind
    """What happened."""
    data: bytes = b""
    """The bytes, of what was sent or received."""
    text: str = ""
    """The words, of a note."""


# Time, kind, data, text: as a tuple, because bytes pass much more often than events are looked at.
_Entry: TypeAlias = tuple[float, TranscriptEventKind, bytes, str]

_SENT = TranscriptEventKind.SENT
_RECEIVED = TranscriptEventKind.RECEIVED
_RECEIVED_END = TranscriptEventKind.RECEIVED_END
_SENT_END = TranscriptEventKind.SENT_END
_BROKEN = TranscriptEventKind.BROKEN
_CLOSED = TranscriptEventKind.CLOSED
_ABORTED = TranscriptEventKind.ABORTED

_ARROWS = {_SENT: "->", _RECEIVED: "<-"}
_TIME_WIDTH = 11


class Transcript:
    """A record of one connection, called `name`; `str()` is a report that people read.

    Must be made and told of things in a trio run; what it knows may be looked at anywhere.
    `began_at` is what trio's clock showed at its start: now, unless given. It keeps about
    `kept_bytes` of memory, and forgets the oldest beyond that; a piece counts with 128 bytes more
    than it has.

    Raises:
        ValueError: `kept_bytes` is below zero.
    """

    def __init__(
        self, name: str, *, kept_bytes: int = _KEPT_BYTES, began_at: float | None = None
    ) -> None:
        if kept_bytes < 0:
            raise ValueError(f"kept_bytes must be at least 0, not {kept_bytes}")
        self.name: str = name
        """What the report calls the connection."""
        self.kept_bytes: int = kept_bytes
        """About how much is kept."""
        self.began_at: float = trio.current_time() if began_at is None else began_at
        """What trio's clock showed at the time that events count from."""
        self.sent_bytes: int = 0
        """How many bytes were sent, whether or not they are kept."""
        self.received_bytes: int = 0
        """How many bytes were received, whether or not they are kept."""
        self.dropped_bytes: int = 0
        """How many of all these bytes were not kept: the oldest."""
        self.dropped_events: int = 0
        """How many events were not kept: the oldest."""
        self._entries: deque[_Entry] = deque()
        self._held_bytes = 0
        self._ended: TranscriptEventKind | None = None

    @property
    def events(self) -> Sequence[TranscriptEvent]:
        """What happened, as far as it is kept, oldest first: each piece as it was read or flushed."""
        return tuple(
            TranscriptEvent(at_seconds=at - self.began_at, kind=kind, data=data, text=text)
            for at, kind, data, text in self._entries
        )

    def wrap(self, pipe: DuplexPipe) -> LayeredPipe:
        """Return a pipe over `pipe` whose bytes are recorded; closing it closes `pipe`.

        What is done to `pipe` itself, below, is not seen. A second pipe may take the place of the
        first, such as the inside of TLS.
        """
        return _TranscribedPipe(pipe, self)

    def note(self, text: str) -> None:
        """Record that something happened which no byte tells of, such as "refused"."""
        self.record(TranscriptEventKind.NOTE, text=text)

    def __str__(self) -> str:
        r"""Tell everything that is kept, a line an event, text as text, equal for equal traffic.

        `->` went to the server and `<-` came from it. Line ends show as `\r\n`.
        """
        sent, received = _count(self.sent_bytes, "byte"), _count(self.received_bytes, "byte")
        lines = [line for block in _blocks(self._entries) for line in block.lines(self.began_at)]
        left_out = max(0, len(lines) - _MOST_REPORT_LINES)
        report = [f"{self.name}: sent {sent}, received {received}"]
        if self.dropped_events or self.dropped_bytes:
            events = _count(self.dropped_events, "event")
            report.append(f"  ... {events} with {_count(self.dropped_bytes, 'byte')} not kept")
        if left_out:
            report.append(f"  ... {_count(left_out, 'line')} not shown")
        return "\n".join(report + lines[left_out:])

    def record_end(self, kind: TranscriptEventKind) -> None:
        """Record how the pipe ended, unless that follows from what was recorded before."""
        if self._ended is None or (self._ended is _BROKEN and kind is not _BROKEN):
            self._ended = kind
            self.record(kind)

    def record(
        self, kind: TranscriptEventKind, data: bytes | memoryview = b"", text: str = ""
    ) -> None:
        """Record that something happened now; a view is good until this returns."""
        at = trio.current_time()
        held = self._held_bytes + len(data) + len(text) + _EVENT_BYTES
        if held > self.kept_bytes:
            self._make_room(held - self.kept_bytes)
            excess = len(data) + _EVENT_BYTES - self.kept_bytes
            if excess > 0:
                self.dropped_bytes += min(excess, len(data))
                data = data[excess:]
            held = self._held_bytes + len(data) + len(text) + _EVENT_BYTES
            if held > self.kept_bytes:
                self.dropped_events += 1
                return
        self._held_bytes = held
        self._entries.append((at, kind, bytes(data), text))

    def _make_room(self, missing_bytes: int) -> None:
        while missing_bytes > 0 and self._entries:
            _, _, data, text = self._entries.popleft()
            gone = len(data) + len(text) + _EVENT_BYTES
            missing_bytes -= gone
            self._held_bytes -= gone
            self.dropped_bytes += len(data)
            self.dropped_events += 1


class _Block:
    """One entry of the report: an event, or small pieces that came in a row."""

    def __init__(self, entry: _Entry) -> None:
        self._at, self._kind, data, self._text = entry
        self._last_at = self._at
        self._pieces = [data]

    def join(self, entry: _Entry) -> bool:
        """Take another event into this block, if it belongs there; tell whether it did."""
        at, kind, data, _ = entry
        if (
            kind is not self._kind
            or kind not in _ARROWS
            or at - self._last_at > _MOST_JOINED_SECONDS
            or max(len(data), len(self._pieces[-1])) > _MOST_JOINED_BYTES
        ):
            return False
        self._last_at = at
        self._pieces.append(data)
        return True

    def lines(self, began_at: float) -> list[str]:
        """Return the block as it stands in the report."""
        content = self._content(began_at)
        first = f"{self._at - began_at:+{_TIME_WIDTH}.3f} s  {_ARROWS.get(self._kind, '--')} "
        indent = " " * len(first)
        return [f"{indent if index else first}{line}" for index, line in enumerate(content)]

    def _content(self, began_at: float) -> list[str]:
        if self._kind is TranscriptEventKind.NOTE:
            return self._text.splitlines() or [""]
        if self._kind not in _ARROWS:
            return [self._kind.value]
        data = b"".join(self._pieces)
        lines = readable_lines(data)
        if len(self._pieces) > 1:
            until = f" until {self._last_at - began_at:+.3f} s" if self._last_at > self._at else ""
            lines.insert(0, f"{len(data)} bytes in {len(self._pieces)} pieces{until}:")
        return lines


def _blocks(entries: Iterable[_Entry]) -> Iterator[_Block]:
    block: _Block | None = None
    for entry in entries:
        if block is not None:
            if block.join(entry):
                continue
            yield block
        block = _Block(entry)
    if block is not None:
        yield block


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class _TranscribedReader(LayerReader):
    __slots__ = ("_transcript",)

    def __init__(self, inner: PipeReader, transcript: Transcript) -> None:
        super().__init__(inner)
        self._transcript = transcript

    def arrived(self, data: bytes) -> bytes:
        self._transcript.received_bytes += len(data)
        self._transcript.record(_RECEIVED if data else _RECEIVED_END, data)
        return data

    # The three ways to fetch: for a reader, for a layer above, and without waiting.

    async def read(self) -> bytes:
        try:
            return await super().read()
        except trio.BrokenResourceError:
            self._transcript.record_end(_BROKEN)
            raise

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield from super().__await__()
        except trio.BrokenResourceError:
            self._transcript.record_end(_BROKEN)
            raise

    def _fetch_nowait(self) -> None:
        try:
            super()._fetch_nowait()
        except trio.BrokenResourceError:
            self._transcript.record_end(_BROKEN)
            raise


class _TranscribedWriter(LayerWriter):
    __slots__ = ("_transcript",)

    def __init__(self, inner: PipeWriter, transcript: Transcript) -> None:
        super().__init__(inner)
        self._transcript = transcript

    def leaving(self, data: bytes | memoryview) -> None:
        self._transcript.sent_bytes += len(data)
        self._transcript.record(_SENT, data)

    async def _transmit(self, data: bytes | memoryview) -> None:
        try:
            await super()._transmit(data)
        except trio.BrokenResourceError:
            self._transcript.record_end(_BROKEN)
            raise

    async def _transmit_eof(self) -> None:
        try:
            await super()._transmit_eof()
        except trio.BrokenResourceError:
            self._transcript.record_end(_BROKEN)
            raise
        self._transcript.record(_SENT_END)

    def _raise_unusable(self) -> None:
        if self._broken and not self._closed:
            self._transcript.record_end(_BROKEN)
        super()._raise_unusable()


class _TranscribedPipe(LayeredPipe):
    """The bytes of `inner`, recorded."""

    __slots__ = ("_transcript",)

    def __init__(self, inner: DuplexPipe, transcript: Transcript) -> None:
        super().__init__(
            inner,
            _TranscribedReader(inner.input, transcript),
            _TranscribedWriter(inner.output, transcript),
        )
        self._transcript = transcript

    async def aclose(self) -> None:
        """Flush, and close the pipe below."""
        try:
            await super().aclose()
        finally:
            self._transcript.record_end(_CLOSED)

    def abort(self) -> None:
        """Abort the pipe below."""
        self._transcript.record_end(_ABORTED)  # first: a read that it breaks off is no news
        super().abort()
