"""A pipe over a pipe: what every middleware that sees bytes builds on.

Theory of operation. A `LayeredPipe` joins a `LayerReader` and a `LayerWriter` over the two ends of
the pipe below, `inner`. It has no task: a read of the layer fetches from below and hands what came
to `arrived`, which returns what the layer's own reader shows; a flush hands what was written to the
layer below. The layer's buffer takes over what the one below held, so nothing is held twice.

To be nearly free, a layer calls the lower reader's `_fetch` and the lower writer's `_transmit`
directly, and not `read` and `flush`, which would cost as much again as the layer itself. While a
layer stands on a pipe nobody else uses that pipe, so their guards against two users are not missed.

A layer whose bytes leave as they came returns from `_transmit_nowait` what the layer below took, so
nothing is ever left in between. One that changes them, as TLS does, leaves what the layer below did
not take with that layer, and counts a byte of its own as not taken, so that somebody flushes again.
"""

from collections.abc import Awaitable, Generator
from contextlib import suppress
from typing import Any

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter

__all__ = ["LayerReader", "LayerWriter", "LayeredPipe"]


class LayerReader(PipeReader):
    """Reads through to `inner`; a subclass looks at what arrives, or changes it, in `arrived`.

    A subclass that holds something back to be shown sets `_holds`, and shows it in `_release`. One
    that need not look at everything clears `_looks` for as long.
    """

    __slots__ = ("_holds", "_is_over_plain", "_is_plain", "_looks", "inner")

    read_cancelled: bool

    def __init__(self, inner: PipeReader) -> None:
        super().__init__()
        self.inner: PipeReader = inner
        """The reader below, which nobody else reads from now on."""
        self._holds = False
        self._looks = type(self).arrived is not LayerReader.arrived
        # What is not overridden is done in place, on the hot path.
        self._is_plain = type(self)._take_over is LayerReader._take_over
        self._is_over_plain = type(inner).advance is PipeReader.advance

    def arrived(self, data: bytes) -> bytes:
        """Return what the layer shows for `data`, which came from below; b"" shows nothing yet.

        Called with b"" at the end of the input below, where what it returns is the last there is.
        What it raises comes out of `read()`, and is asked for again by the next one.
        """
        return data

    async def read(self) -> bytes:
        """See `PipeReader`; written out, so that a layer adds no coroutine to those that wait."""
        if self._reading:
            raise trio.BusyResourceError("another task is already reading from this pipe")
        self.read_cancelled = False
        if self._cancel_pending:
            self._cancel_pending = False
            self.read_cancelled = True
        elif len(self._buffer) == self._examined and not self._at_eof:
            self._reading = True
            try:
                inner = self.inner
                while len(self._buffer) == self._examined and not self._at_eof:
                    if self._holds or inner._buffer or inner._at_eof:
                        await self._fetch()
                    else:
                        await inner._fetch()
                        data = inner._buffer
                        if data and self._is_plain and not self._buffer:
                            # As `_take_over` does: the hot path.
                            if self._is_over_plain:
                                inner._buffer = b""
                                inner._examined = 0
                            else:
                                inner.advance(len(data))
                            self._buffer = self.arrived(data) if self._looks else data
                        else:
                            self._take_over()
                    if self._cancel_pending:
                        self._cancel_pending = False
                        self.read_cancelled = True
                        break
            finally:
                self._reading = False
        return self._buffer

    def _fetch(self) -> Awaitable[None]:
        inner = self.inner
        if self._holds or inner._buffer or inner._at_eof:
            self._take_over()
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105  # the caller awaits it
        return self

    def __await__(self) -> Generator[Any, Any, None]:
        """Fetch from below, for a layer above: a coroutine less than an async function would take."""
        yield from self.inner._fetch().__await__()
        self._take_over()

    def _fetch_nowait(self) -> None:
        inner = self.inner
        if not (self._holds or inner._buffer or inner._at_eof):
            inner._fetch_nowait()
        self._take_over()

    def _take_over(self) -> None:
        """Show what is held back; or else what the reader below holds; or else, its end."""
        inner = self.inner
        data = inner._buffer
        if self._holds:
            self._buffer += self._release()
        elif data:
            inner.advance(len(data))
            shown = self.arrived(data)
            self._buffer = self._buffer + shown if self._buffer else shown
        elif inner._at_eof:
            self._buffer += self.arrived(b"")
            self._at_eof = True

    def _release(self) -> bytes:
        """Return what was held back, and clear `_holds`; may raise, as `arrived` may."""
        self._holds = False
        return b""

    def _wake(self) -> None:
        self.inner._wake()

    def end(self) -> None:
        """Show nothing more: the pipe was closed or broken, which the reader below tells."""
        self._discard()


class LayerWriter(PipeWriter):
    """Writes through to `inner`; a subclass sees in `leaving` what leaves, while `_looks` is set."""

    __slots__ = ("_is_plain", "_looks", "inner")

    unflushed_bytes: int

    def __init__(self, inner: PipeWriter) -> None:
        super().__init__()
        self.inner: PipeWriter = inner
        """The writer below, which nobody else writes to from now on."""
        self._looks = type(self).leaving is not LayerWriter.leaving
        self._is_plain = type(self)._transmit_nowait is LayerWriter._transmit_nowait

    @property
    def backlog_bytes(self) -> int:
        """How many written bytes the peer has not taken yet, as far as the layer below can tell."""
        return self.unflushed_bytes + self.inner.backlog_bytes

    @property
    def backlog_step_bytes(self) -> int:
        """In how large steps `backlog_bytes` may fall; those of the layer below."""
        return self.inner.backlog_step_bytes

    def write(self, data: bytes | memoryview) -> None:
        """See `PipeWriter`; a layer below that is known to be gone shows here already."""
        inner = self.inner
        if inner._broken or inner._closed:
            self._closed, self._broken = self._closed or inner._closed, True
        if self._closed or self._broken or self._eof_sent:
            self._raise_unusable()
        if data:
            self._chunks.append(data)
            self.unflushed_bytes += len(data)

    def flush_nowait(self) -> None:
        """See `PipeWriter`; written out, as `LayerReader.read` is."""
        inner, chunks = self.inner, self._chunks
        if (
            self._is_plain
            and chunks
            and not inner.unflushed_bytes
            and not (self._flushing or self._closed or self._broken)
            and not (inner._closed or inner._broken)
        ):
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            sent = inner._transmit_nowait(data)
            if sent == len(data) and not inner._broken:
                self.unflushed_bytes = 0
                if self._looks:
                    self.leaving(data)
            else:
                self._note_partly_sent(data, sent)
        else:
            super().flush_nowait()

    def _note_partly_sent(self, data: bytes | memoryview, sent: int) -> None:
        """Keep what the layer below has not taken; or nothing, if it broke."""
        if self.inner._broken:
            self._broken = True
            self.unflushed_bytes = 0
            return
        if sent and self._looks:
            self.leaving(memoryview(data)[:sent])
        self._chunks.append(memoryview(data)[sent:])
        self.unflushed_bytes = len(data) - sent

    def leaving(self, data: bytes | memoryview) -> None:
        """Hear of bytes as the layer below is given them; a view is good until this returns."""

    async def _transmit(self, data: bytes | memoryview) -> None:
        inner = self.inner
        try:
            if inner.unflushed_bytes or inner._closed or inner._broken:
                await inner.flush()
            if self._looks:
                self.leaving(data)
            await inner._transmit(data)
        except trio.BrokenResourceError:
            self._broken = True
            raise

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        inner = self.inner
        if inner.unflushed_bytes:
            inner.flush_nowait()
            if inner.unflushed_bytes:
                return 0
        if inner._closed or inner._broken:
            self._closed, self._broken = inner._closed, True
            return len(data)
        sent = inner._transmit_nowait(data)
        if inner._broken:
            self._broken = True
        elif sent and self._looks:
            self.leaving(data if sent == len(data) else memoryview(data)[:sent])
        return sent

    async def _transmit_eof(self) -> None:
        await self.inner.send_eof()

    def end(self, *, closed: bool) -> None:
        """Refuse every later write: the pipe was closed, or else it broke."""
        self._closed = self._closed or closed
        self._broken = True
        self._chunks.clear()
        self.unflushed_bytes = 0


class LayeredPipe(DuplexPipe):
    """A pipe whose bytes go through `inner`, the pipe below; closing it closes that.

    `reader` and `writer` stand on that pipe's two ends.
    """

    __slots__ = ("_closing", "_reader", "_writer", "inner")

    def __init__(self, inner: DuplexPipe, reader: LayerReader, writer: LayerWriter) -> None:
        self.inner: DuplexPipe = inner
        """The pipe below, which nobody else uses from now on."""
        self._reader = reader
        self._writer = writer
        self._closing = False

    @property
    def input(self) -> PipeReader:
        """What the peer sends, as this layer shows it."""
        return self._reader

    @property
    def output(self) -> PipeWriter:
        """What the peer will receive, as this layer takes it."""
        return self._writer

    async def aclose(self) -> None:
        """Flush, and close the pipe below."""
        if self._closing:
            return
        self._closing = True
        try:
            await self.finish()
        except BaseException:  # cancelled: the peer must not take what it has for all of it
            self.inner.abort()
            raise
        finally:
            self._writer.end(closed=True)
            self._reader.end()
            await self.inner.aclose()

    def finish_nowait(self) -> bool:
        """Tell whether there is nothing left for `finish()` to do; one that is overridden tells."""
        return type(self).finish is LayeredPipe.finish and not self._writer.unflushed_bytes

    async def finish(self) -> None:
        """Send what is left to be sent, before the pipe below is closed or used by itself again.

        That nobody is left to receive it is no error here.
        """
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            if self._writer.unflushed_bytes:
                await self._writer.flush()

    def abort(self) -> None:
        """Abort the pipe below."""
        self.inner.abort()
        self._writer.end(closed=False)
        self._reader.end()
