"""The reading end of a pipe: look at everything, take what you want, wait for more than you saw."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable

import trio

__all__ = ["PipeReader", "SeparatorNotFound"]


class SeparatorNotFound(Exception):
    """`read_until` saw its limit, or the end of the input, before the separator."""


class PipeReader(ABC):
    """Bytes that arrive, held until they are consumed.

    `read()` shows everything that is held; `advance()` says how much of it was consumed and how
    much was examined; the next `read()` waits until there is something that was not examined.
    Looking ahead is nothing special: read, and advance nothing.

    One task reads at a time; a second raises `trio.BusyResourceError`. A cancelled read has lost
    nothing. A subclass brings `_fetch`, which takes bytes from the layer below, and `_wake`; it
    calls `_discard` when our side closes or the pipe breaks.
    """

    __slots__ = (
        "_at_eof",
        "_buffer",
        "_cancel_pending",
        "_discarded",
        "_examined",
        "_reading",
        "read_cancelled",
    )

    def __init__(self) -> None:
        self._buffer = b""
        self._examined = 0
        self._at_eof = False
        self._reading = False
        self._cancel_pending = False
        self._discarded = False
        self.read_cancelled: bool = False
        """Whether the last `read()` returned because of `cancel_pending_read()`."""

    @property
    def at_eof(self) -> bool:
        """Whether the input has ended; what the last `read()` returned is then all there is."""
        return self._at_eof

    @property
    def buffered(self) -> bytes:
        """What has arrived and is not consumed, without waiting or asking the layer below."""
        return self._buffer

    async def read(self) -> bytes:
        """Wait until there is more than was examined, and return everything unconsumed.

        At the end of the input it returns what is left, which may be empty, and `at_eof` is true.
        It checkpoints whenever it has to fetch; when something unexamined is at hand it returns at
        once. A forced checkpoint would cost a fifth of a small request; every fetch yields, so a
        peer that keeps sending cannot starve its neighbours.

        Raises:
            trio.BusyResourceError: another task is reading.
            trio.ClosedResourceError: this pipe was closed on our side.
            trio.BrokenResourceError: the peer, or the layer below, is gone.
        """
        if self._reading:
            raise trio.BusyResourceError("another task is already reading from this pipe")
        self.read_cancelled = False
        if self._cancel_pending:
            self._cancel_pending = False
            self.read_cancelled = True
        elif len(self._buffer) == self._examined and not self._at_eof:
            self._reading = True
            try:
                while len(self._buffer) == self._examined and not self._at_eof:
                    await self._fetch()
                    if self._cancel_pending:
                        self._cancel_pending = False
                        self.read_cancelled = True
                        break
            finally:
                self._reading = False
        return self._buffer

    def look(self) -> None:
        """Take what has arrived already into `buffered`, and notice the end, without waiting.

        For whoever must not miss what is there even in a cancelled scope, where `read()` would
        raise. It never yields, so a loop around it has to. It does nothing while a task reads, and
        not every layer can tell without waiting.

        Raises:
            trio.BrokenResourceError: the peer is gone.
        """
        if not (self._reading or self._at_eof):
            self._fetch_nowait()

    def advance(self, consumed: int, examined: int | None = None) -> None:
        """Drop the first `consumed` bytes, and call the first `examined` of what was shown seen.

        Both count from the start of what the last `read()` returned. `examined` is `consumed`
        unless it is given, so that what was not consumed is shown again at once. When the pipe was
        closed or broken since, there is nothing left to drop and this does nothing.

        Raises:
            ValueError: the numbers do not fit what was shown.
        """
        if examined is None:
            if consumed == len(self._buffer):
                self._buffer = b""
                self._examined = 0
                return
            examined = consumed
        if not 0 <= consumed <= examined <= len(self._buffer):
            if self._discarded:
                return
            raise ValueError(
                f"advance({consumed}, {examined}) does not fit the {len(self._buffer)} bytes held"
            )
        if consumed:
            self._buffer = self._buffer[consumed:]
        self._examined = examined - consumed

    def cancel_pending_read(self) -> None:
        """Make the pending `read()`, or else the next one, return at once with what there is.

        That one call, and no other, finds `read_cancelled` true; nothing is raised.
        """
        self._cancel_pending = True
        if self._reading:
            self._wake()

    async def receive(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and consume them: all that are at hand, or `max_bytes` of them.

        Returns b"" at the end of the input alone, or when `cancel_pending_read()` woke it (see
        `read_cancelled`). Raises as `read()` does.

        Raises:
            ValueError: `max_bytes` is below one.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if self._reading:
            raise trio.BusyResourceError("another task is already reading from this pipe")
        self.read_cancelled = False
        data = self._buffer or await self.read()
        if max_bytes is not None and len(data) > max_bytes:
            data = data[:max_bytes]
        self.advance(len(data))
        return data

    async def read_exactly(self, count: int) -> bytes:
        """Wait for `count` bytes and consume exactly those.

        If the input ends, or the read is cancelled by `cancel_pending_read()`, before that, what
        arrived is consumed and returned, shorter than `count`. If the task is cancelled the bytes
        gathered so far are lost. Raises as `read()` does.
        """
        parts: list[bytes] = []
        while count > 0:
            part = await self.receive(count)
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    async def read_until(self, separator: bytes, limit: int) -> bytes:
        """Wait for `separator` within the first `limit` bytes; consume and return up to and with it.

        Raises as `read()` does, and:

        Raises:
            SeparatorNotFound: it is not in the first `limit` bytes, or the input ended without it,
                or `cancel_pending_read()` was called; nothing was consumed.
        """
        searched = 0
        self._examined = 0
        while True:
            data = await self.read()
            end = data.find(separator, max(0, searched - len(separator) + 1), limit)
            if end >= 0:
                end += len(separator)
                self.advance(end)
                return data[:end]
            if self._at_eof or self.read_cancelled or len(data) >= limit:
                self.advance(0)
                raise SeparatorNotFound(f"no {separator!r} in the first {limit} bytes")
            searched = len(data)
            self.advance(0, searched)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the input in chunks as they arrive, until its end."""
        return _Chunks(self)

    def _feed(self, chunk: bytes) -> None:
        """Append `chunk` to what is held, or, if it is empty, note the end of the input."""
        if not chunk:
            self._at_eof = True
        elif self._buffer:
            self._buffer += chunk
        else:
            self._buffer = chunk

    def _discard(self) -> None:
        """Drop what is held, for a pipe that was closed or broken: `read()` only fetches now.

        The subclass's `_fetch` raises from here on.
        """
        self._buffer = b""
        self._examined = 0
        self._at_eof = False
        self._discarded = True

    def _fetch_nowait(self) -> None:  # noqa: B027  # not every layer can
        """Take bytes from the layer below and `_feed` them, if that needs no waiting."""

    @abstractmethod
    def _fetch(self) -> Awaitable[None]:
        """Wait for bytes from the layer below and `_feed` them; checkpoint.

        It may return without having fed anything, and is then called again. If it is cancelled,
        what it took from below has been fed. It raises what `read()` raises.
        """

    @abstractmethod
    def _wake(self) -> None:
        """Make the pending `_fetch` return soon, without raising and without losing bytes."""


class _Chunks(AsyncIterator[bytes]):
    """An iteration that may be left at any point; a generator would have to be closed, then."""

    __slots__ = ("_reader",)

    def __init__(self, reader: PipeReader) -> None:
        self._reader = reader

    async def __anext__(self) -> bytes:
        chunk = await self._reader.receive()
        if not chunk:
            raise StopAsyncIteration
        return chunk
