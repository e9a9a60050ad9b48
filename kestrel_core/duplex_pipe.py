"""A pipe in both directions, and the two bridges between pipes and trio's streams."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.signals import Signal

__all__ = ["DuplexPipe", "PipeStream"]

# As trio's own SocketStream asks for (STARTING_RECEIVE_SIZE in trio/_highlevel_generic.py is 64 KiB).
_RECEIVE_BYTES = 65536


class DuplexPipe(ABC):
    """An `input` to read from and an `output` to write to; one reader task, one writer task.

    No task of its own moves bytes: a read pulls from the layer below and a flush pushes to it, so
    whoever does not read stops the peer by itself.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Take back `close_nowait` where only `aclose` is overridden, which it would go past."""
        super().__init_subclass__()
        if "aclose" in vars(cls) and "close_nowait" not in vars(cls):
            setattr(cls, "close_nowait", DuplexPipe.close_nowait)  # noqa: B010  # for mypy

    @property
    @abstractmethod
    def input(self) -> PipeReader:
        """What the peer sends."""

    @property
    @abstractmethod
    def output(self) -> PipeWriter:
        """What the peer will receive."""

    @abstractmethod
    async def aclose(self) -> None:
        """Flush, end both directions and release the layer below.

        Whatever happens, cancellation included, the pipe is closed afterwards; a flush that fails
        because the peer is gone is not an error here. One that is cancelled has left bytes unsent,
        so the peer sees a reset, if it can, and not an end. Pending reads and flushes of other tasks
        raise `trio.ClosedResourceError`, and so does every later use. A second call does nothing.
        """

    def close_nowait(self) -> bool:
        """Do what `aclose()` does, if that takes no waiting; tell whether the pipe is closed.

        Never is, unless a subclass knows better: a time limit, which every closing has that may
        wait, costs as much as a third of a small request.
        """
        return False

    @abstractmethod
    def abort(self) -> None:
        """End both directions now; unsent bytes are dropped and the peer sees a reset if it can.

        Pending and later reads and flushes raise `trio.BrokenResourceError` until `aclose()`.
        """

    def as_stream(self) -> "PipeStream":
        """Return this pipe as a `trio.abc.HalfCloseableStream`; closing that closes this.

        Use one face at a time. Bytes that were read and not consumed come out of the stream first.
        """
        return PipeStream(self)

    @staticmethod
    def from_stream(
        stream: trio.abc.Stream,
        *,
        reset: Callable[[], None] | None = None,
        gone: Signal | None = None,
    ) -> "DuplexPipe":
        """Return a pipe over any trio stream; closing the pipe closes the stream.

        On a stream that is no `trio.abc.HalfCloseableStream`, `send_eof()` raises
        `trio.ClosedResourceError`. Each pending read and flush holds a cancel scope, which a
        socket's own pipe does not need.

        `reset` breaks what the stream stands on, at once, and is called by `abort()`, once, unless
        the pipe is closed. Without it the peer learns of `abort()` when `aclose()` follows, as no
        stream can be broken without waiting. `gone` is set when the stream turns out to be broken.
        """
        return _StreamPipe(stream, reset, gone)


class PipeStream(trio.abc.HalfCloseableStream):
    """A duplex pipe behind trio's stream interface, with trio's own rules on checkpoints."""

    def __init__(self, pipe: DuplexPipe) -> None:
        self.pipe = pipe
        self._closed = False
        self._sending = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; see `trio.abc.SendStream.send_all`."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            await self.pipe.output.send(bytes(data))
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Return; a pipe cannot foretell, and trio allows an early return."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Send the end of the output; see `trio.abc.HalfCloseableStream.send_eof`."""
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            await self.pipe.output.send_eof()
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what is there, at least a byte; see `trio.abc.ReceiveStream.receive_some`."""
        if max_bytes is not None:
            if not isinstance(max_bytes, int):  # pyright: ignore[reportUnnecessaryIsInstance]  # trio's contract: a float is a TypeError
                raise TypeError(f"max_bytes must be an int, not {max_bytes!r}")
            if max_bytes < 1:
                raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            data = await self.pipe.input.receive(max_bytes)
            if data or not self.pipe.input.read_cancelled:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data

    async def aclose(self) -> None:
        """Close the pipe."""
        self._closed = True
        try:
            await self.pipe.aclose()
        finally:
            await trio.lowlevel.checkpoint()

    def _claim_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is already sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        self._sending = True


class _StreamReader(PipeReader):
    __slots__ = ("_broken", "_closed", "_gone", "_pending", "_stream")

    def __init__(self, stream: trio.abc.Stream, gone: Signal | None) -> None:
        super().__init__()
        self._stream = stream
        self._gone = gone
        self._pending: trio.CancelScope | None = None
        self._closed = False
        self._broken = False

    async def _fetch(self) -> None:
        self._raise_unless_open()
        with trio.CancelScope() as self._pending:
            try:
                self._feed(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))
            except trio.BrokenResourceError:
                self._broken = True
                if self._gone is not None:
                    self._gone.set()
                raise
            finally:
                self._pending = None
        self._raise_unless_open()

    def _wake(self) -> None:
        if self._pending is not None:
            self._pending.cancel()

    def _raise_unless_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this pipe was closed on our side")
        if self._broken:
            raise trio.BrokenResourceError("the peer is gone")

    def end(self, *, broken: bool) -> None:
        """Refuse the pending read and every later one."""
        self._closed = self._closed or not broken
        self._broken = True
        self._discard()
        self._wake()


class _StreamWriter(PipeWriter):
    __slots__ = ("_gone", "_pending", "_stream")

    def __init__(self, stream: trio.abc.Stream, gone: Signal | None) -> None:
        super().__init__()
        self._stream = stream
        self._gone = gone
        self._pending: trio.CancelScope | None = None

    async def _transmit(self, data: bytes | memoryview) -> None:
        await self._pass_on(self._stream.send_all(data))

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return 0  # trio's streams have no way to send without waiting

    async def _transmit_eof(self) -> None:
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            raise trio.ClosedResourceError(f"{type(self._stream).__name__} cannot half-close")
        await self._pass_on(self._stream.send_eof())

    async def _pass_on(self, sending: Awaitable[None]) -> None:
        with trio.CancelScope() as self._pending:
            try:
                await sending
            except trio.BrokenResourceError:
                self._broken = True
                if self._gone is not None:
                    self._gone.set()
                raise
            finally:
                self._pending = None
        if self._closed or self._broken:
            self._raise_unusable()

    def end(self, *, broken: bool) -> None:
        """Refuse the pending flush and every later write."""
        self._closed = self._closed or not broken
        self._broken = True
        self._chunks.clear()
        self.unflushed_bytes = 0
        if self._pending is not None:
            self._pending.cancel()


class _StreamPipe(DuplexPipe):
    __slots__ = ("_closing", "_closing_stream", "_input", "_output", "_reset", "_stream")

    def __init__(
        self, stream: trio.abc.Stream, reset: Callable[[], None] | None, gone: Signal | None
    ) -> None:
        self._stream = stream
        self._reset = reset
        self._input = _StreamReader(stream, gone)
        self._output = _StreamWriter(stream, gone)
        self._closing = False
        self._closing_stream = trio.CancelScope()

    @property
    def input(self) -> PipeReader:
        return self._input

    @property
    def output(self) -> PipeWriter:
        return self._output

    async def aclose(self) -> None:
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
            self._output.end(broken=False)
            self._input.end(broken=False)
            try:
                with self._closing_stream:  # cancelled by `abort`: then it closes without ceremony
                    await self._close_stream()
            finally:
                self._reset = None

    async def _close_stream(self) -> None:
        with suppress(trio.BrokenResourceError):  # TLS says good-bye, and maybe nobody is there
            await self._stream.aclose()

    def abort(self) -> None:
        self._output.end(broken=True)  # first, so that whoever waits finds it broken, not closed
        self._input.end(broken=True)
        reset, self._reset = self._reset, None
        if reset is not None:
            reset()
        self._closing_stream.cancel()
