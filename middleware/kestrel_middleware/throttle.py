"""Bandwidth for each connection, in both directions.

Theory of operation. Each direction has a bucket of bytes, which holds a burst and fills at the
rate. Like the token buckets of admission it is one number, the time at which it will be full. A
reader shows, and a writer hands down, no more than the bucket has; then its task sleeps until a
deadline wakes it. So that a slow rate does not come as single bytes, it sleeps until there is
enough for a piece: a tenth of a second's bytes, or all that is wanted if that is less.

What is not shown yet stays in the reader below, which does not receive meanwhile; so the peer is
slowed down by the window of its own connection. What is not handed down yet is part of
`backlog_bytes`, as what the peer has not taken.

A sleeping task is woken early by whatever ends its wait: `cancel_pending_read`, `abort`, `aclose`,
and the connection's own end (`Connection.closed`), which goes past the layers. It then looks again.
"""

from collections.abc import Awaitable, Generator
from typing import Any

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.middleware import ConnectionHandler, Layer, serve_over
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.timers import Deadline, Timers
from kestrel_core.validators import above_zero_and_finite, at_least_one, or_none

__all__ = ["Throttle"]

_PIECES_PER_SECOND = 10

# What is forgotten to a computation in floating point.
_ROUNDING_BYTES = 1e-6


@attrs.frozen(kw_only=True, eq=False)
class Throttle(Layer):
    """Gives each connection so many bytes a second, and no more.

    Inside of TLS it counts plaintext, outside what is on the wire, without the headers of packets.

    Raises:
        ValueError: a number is out of its range, or there is no rate.
    """

    name = "throttle"

    read_bytes_per_second: float | None = attrs.field(
        default=None, validator=or_none(above_zero_and_finite)
    )
    """How fast the peer may send; None is as fast as it likes."""

    write_bytes_per_second: float | None = attrs.field(
        default=None, validator=or_none(above_zero_and_finite)
    )
    """How fast the peer is sent to; None is as fast as it takes it."""

    burst_bytes: int | None = attrs.field(default=None, validator=or_none(at_least_one))
    """How much may go at once after a quiet time, in each direction; a second's bytes, unless
    given."""

    def __attrs_post_init__(self) -> None:
        if self.read_bytes_per_second is None and self.write_bytes_per_second is None:
            raise ValueError(
                "a throttle without read_bytes_per_second or write_bytes_per_second limits nothing"
            )

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Serve `connection` at the given rates."""
        timers = connection.context.timers
        pipe = ThrottledPipe(
            connection.transport,
            self._bucket(self.read_bytes_per_second, timers),
            self._bucket(self.write_bytes_per_second, timers),
        )
        connection.closed.listen(pipe.wake)
        try:
            await serve_over(pipe, connection, following)
        finally:
            connection.closed.unlisten(pipe.wake)
            pipe.release()

    def _bucket(self, bytes_per_second: float | None, timers: Timers) -> "Bucket | None":
        if bytes_per_second is None:
            return None
        return Bucket(bytes_per_second, self.burst_bytes, timers.deadline())


class Bucket:
    """The bytes that may go in one direction, and the task that waits for more of them, if any."""

    __slots__ = (
        "_bytes_per_second",
        "_deadline",
        "_full_at",
        "_most_bytes",
        "_task",
        "piece_bytes",
    )

    def __init__(
        self, bytes_per_second: float, burst_bytes: int | None, deadline: Deadline
    ) -> None:
        self._bytes_per_second = bytes_per_second
        self._most_bytes = burst_bytes or max(1, int(bytes_per_second))
        self.piece_bytes: int = max(
            1, min(self._most_bytes, int(bytes_per_second / _PIECES_PER_SECOND))
        )
        """What is waited for, where more is wanted."""
        self._deadline = deadline
        self._full_at = deadline.now()
        self._task: trio.lowlevel.Task | None = None
        deadline.on_expiry = self.wake

    def take(self, wanted_bytes: int) -> int:
        """Take up to that many bytes; none, if there is not enough for a piece."""
        now = self._deadline.now()
        full_at = self._full_at
        if full_at < now:
            self._full_at = full_at = now
        rate = self._bytes_per_second
        if full_at + (wanted_bytes - self._most_bytes) / rate <= now:  # the hot path: it has all
            self._full_at = full_at + wanted_bytes / rate
            return wanted_bytes
        if self._ready_at(wanted_bytes) > now:
            return 0
        there = self._most_bytes - (full_at - now) * rate
        taken = min(wanted_bytes, max(int(there), self.piece_bytes))
        self._full_at = full_at + taken / rate
        return taken

    def give_back(self, count: int) -> None:
        """Put back what was taken and not used."""
        self._full_at -= count / self._bytes_per_second

    async def wait(self, wanted_bytes: int) -> None:
        """Wait until so much, or a piece of it, can be taken, or until `wake`."""
        self._task = trio.lowlevel.current_task()
        self._deadline.set(self._ready_at(wanted_bytes))

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    @property
    def has_waiter(self) -> bool:
        """Whether a task waits."""
        return self._task is not None

    def wake(self) -> None:
        """Wake the task that waits, if one does."""
        task, self._task = self._task, None
        if task is not None:
            self._deadline.clear()
            trio.lowlevel.reschedule(task)

    def close(self) -> None:
        """Wake nobody any more."""
        self._deadline.close()

    def _ready_at(self, wanted_bytes: int) -> float:
        needed_bytes = min(wanted_bytes, self.piece_bytes)
        missing_bytes = needed_bytes - self._most_bytes - _ROUNDING_BYTES
        return self._full_at + missing_bytes / self._bytes_per_second


class ThrottledPipe(LayeredPipe):
    """A pipe that lets through what its buckets have; None of one is no limit.

    It owns the buckets: `release` closes them, after which it is not to be used.
    """

    __slots__ = ("_buckets",)

    def __init__(self, inner: DuplexPipe, reads: Bucket | None, writes: Bucket | None) -> None:
        reader = LayerReader(inner.input) if reads is None else _Reader(inner.input, reads)
        writer = LayerWriter(inner.output) if writes is None else _Writer(inner.output, writes)
        self._buckets = [bucket for bucket in (reads, writes) if bucket is not None]
        super().__init__(inner, reader, writer)

    def wake(self) -> None:
        """Let the tasks that wait for bytes look again; when the pipe below has ended, say."""
        for bucket in self._buckets:
            bucket.wake()

    def release(self) -> None:
        """Close the buckets."""
        for bucket in self._buckets:
            bucket.close()


class _Reader(LayerReader):
    __slots__ = ("_bucket",)

    def __init__(self, inner: PipeReader, bucket: Bucket) -> None:
        super().__init__(inner)
        self._bucket = bucket

    def _fetch(self) -> Awaitable[None]:
        if self.inner._buffer or self.inner._at_eof:
            return self._fetch_held()
        return self

    def __await__(self) -> Generator[Any, Any, None]:
        yield from self.inner._fetch().__await__()
        self._take_over()

    async def _fetch_held(self) -> None:
        shown_bytes = len(self._buffer)
        self._take_over()
        if len(self._buffer) > shown_bytes or self._at_eof:
            await trio.lowlevel.checkpoint()
        else:
            await self._bucket.wait(len(self.inner._buffer))
            self._take_over()

    def _take_over(self) -> None:
        inner = self.inner
        data = inner._buffer
        if data:
            taken = self._bucket.take(len(data))
            if taken:
                inner.advance(taken)
                self._feed(data[:taken])
        elif inner._at_eof:
            self._at_eof = True

    def _wake(self) -> None:
        if self._bucket.has_waiter:
            self._bucket.wake()
        else:
            self.inner._wake()

    def end(self) -> None:
        super().end()
        self._bucket.wake()


class _Writer(LayerWriter):
    __slots__ = ("_bucket", "_in_transit_bytes")

    def __init__(self, inner: PipeWriter, bucket: Bucket) -> None:
        super().__init__(inner)
        self._bucket = bucket
        self._in_transit_bytes = 0

    @property
    def backlog_bytes(self) -> int:
        return self.unflushed_bytes + self._in_transit_bytes + self.inner.backlog_bytes

    @property
    def backlog_step_bytes(self) -> int:
        return max(self.inner.backlog_step_bytes, self._bucket.piece_bytes)

    async def _transmit(self, data: bytes | memoryview) -> None:
        inner, bucket = self.inner, self._bucket
        rest = memoryview(data)
        try:
            while rest:
                self._in_transit_bytes = len(rest)
                if inner._closed or inner._broken:
                    self._closed, self._broken = inner._closed, True
                if self._closed or self._broken:
                    self._raise_unusable()
                taken = bucket.take(len(rest))
                if taken:
                    piece, rest = rest[:taken], rest[taken:]
                    self._in_transit_bytes = len(rest)
                    await super()._transmit(piece)
                else:
                    await bucket.wait(len(rest))
        finally:
            self._in_transit_bytes = 0

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        taken = self._bucket.take(len(data))
        if not taken:
            return 0
        sent = super()._transmit_nowait(data if taken == len(data) else memoryview(data)[:taken])
        if self._broken:
            return len(data)
        if sent < taken:
            self._bucket.give_back(taken - sent)
        return sent

    def end(self, *, closed: bool) -> None:
        super().end(closed=closed)
        self._bucket.wake()
