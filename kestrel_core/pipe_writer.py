"""The writing end of a pipe: append now, send when it pays, wait only when the peer must."""

import io
from abc import ABC, abstractmethod
from typing import ClassVar

import trio

__all__ = ["PipeWriter"]


class PipeWriter(ABC):
    """Bytes on their way out, gathered until they are flushed.

    One task flushes at a time; a second raises `trio.BusyResourceError`. `write()` may be called
    while another task flushes; those bytes wait for the next flush.

    A subclass brings `_transmit`, `_transmit_nowait` and `_transmit_eof`, which pass bytes to the
    layer below, and sets `_closed` or `_broken` when that is no longer possible. One that can have
    the kernel send files says so by `sends_files` and brings `_transmit_file`.
    """

    sends_files: ClassVar[bool] = False
    """Whether `send_file` may be called."""

    __slots__ = ("_broken", "_chunks", "_closed", "_eof_sent", "_flushing", "unflushed_bytes")

    def __init__(self) -> None:
        self._chunks: list[bytes | memoryview] = []
        self._flushing = False
        self._eof_sent = False
        self._closed = False
        self._broken = False
        self.unflushed_bytes: int = 0
        """How many written bytes no flush has taken yet. Read only."""

    @property
    def backlog_bytes(self) -> int:
        """How many written bytes the peer has not taken yet, as far as this layer can tell."""
        return self.unflushed_bytes

    @property
    def backlog_step_bytes(self) -> int:
        """In how large steps `backlog_bytes` may fall while the peer takes byte after byte."""
        return 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; never waits and never sends. A view must not change until it is flushed.

        Raises:
            trio.ClosedResourceError: this pipe was closed, or its end was sent, on our side.
            trio.BrokenResourceError: the peer is gone.
        """
        if self._closed or self._broken or self._eof_sent:
            self._raise_unusable()
        if data:
            self._chunks.append(data)
            self.unflushed_bytes += len(data)

    async def flush(self) -> None:
        """Send what was written, and wait while the peer, or the layer below, will not take it.

        It checkpoints only when it has to wait, which departs from trio's rule on purpose: a
        forced checkpoint would cost a fifth of a small request, and a task that writes without
        waiting has read first. If it is cancelled, there is no telling how much was sent; the pipe
        is fit only to be closed.

        Raises:
            trio.BusyResourceError: another task is flushing.
            trio.ClosedResourceError: this pipe was closed on our side.
            trio.BrokenResourceError: the peer is gone.
        """
        if self._flushing:
            raise trio.BusyResourceError("another task is already flushing this pipe")
        if self._closed or self._broken:
            self._raise_unusable()
        if self._chunks:
            self._flushing = True
            try:
                await self._transmit(self._take())
            finally:
                self._flushing = False

    def flush_nowait(self) -> None:
        """Send as much as can go without waiting; the rest, maybe all of it, stays unflushed.

        For whoever is about to wait for something else and would not leave bytes lying. It does
        nothing while another task flushes, or when the pipe is closed or broken: the next `write`
        or `flush` says so.
        """
        chunks = self._chunks
        if chunks and not (self._flushing or self._closed or self._broken):
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            sent = self._transmit_nowait(data)
            if sent == len(data):
                self.unflushed_bytes = 0
            else:
                chunks.append(memoryview(data)[sent:])
                self.unflushed_bytes = len(data) - sent

    async def send(self, data: bytes | memoryview) -> None:
        """Write `data` and flush; raises as they do."""
        self.write(data)
        await self.flush()

    async def send_file(self, file: int, offset: int, count: int) -> int:
        """Flush, then have the kernel send `count` bytes of a regular file, from `offset`.

        Returns how many bytes there were: fewer if the file ends before, or cannot be read on; then
        asking for the rest tells which. `file` is its descriptor, whose own position neither matters
        nor changes. Reading a file that is not in the page cache blocks the thread. Cancellation and
        errors are those of `flush()`, and:

        Raises:
            OSError: the file cannot be read, or not by the kernel; none of it was sent.
            io.UnsupportedOperation: `sends_files` is false.
        """
        await self.flush()
        if self._eof_sent:
            self._raise_unusable()
        self._flushing = True
        try:
            return await self._transmit_file(file, offset, count)
        finally:
            self._flushing = False

    async def send_eof(self) -> None:
        """Flush, then tell the peer that nothing more will come; reading goes on.

        A second call does nothing. Raises as `flush()` does.
        """
        if self._eof_sent and not self._closed:
            return
        await self.flush()
        if self._eof_sent:
            return
        self._flushing = True
        try:
            await self._transmit_eof()
        finally:
            self._flushing = False
        self._eof_sent = True

    def _take(self) -> bytes | memoryview:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.unflushed_bytes = 0
        return data

    def _raise_unusable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this pipe was closed on our side")
        if self._broken:
            raise trio.BrokenResourceError("the peer is gone")
        raise trio.ClosedResourceError("the end of this pipe was already sent")

    @abstractmethod
    async def _transmit(self, data: bytes | memoryview) -> None:
        """Pass all of `data`, which is not empty, to the layer below; wait while it is full.

        A view is only good until this returns: what is kept for later is copied.
        """

    async def _transmit_file(self, file: int, offset: int, count: int) -> int:
        """Do what `send_file` says, with nothing left to flush."""
        raise io.UnsupportedOperation(f"{type(self).__name__} cannot send files")

    @abstractmethod
    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        """Pass on what of `data` can go without waiting; return how many bytes went.

        What goes and is kept for later is copied, as by `_transmit`. It raises nothing: a broken
        layer below sets `_broken` and takes everything.
        """

    @abstractmethod
    async def _transmit_eof(self) -> None:
        """Tell the layer below that nothing more will come."""
