"""Ends connections on which nothing moves, whatever protocol they speak.

Theory of operation. The first byte that moves ends the looking, so that the others cost nothing. A
deadline of the layer's own comes up eight times in the span that is allowed: what has moved since is
taken for the last sign of life, at the time at which it was seen, and the looking begins anew. So the end comes late by an eighth of the span at most, and never
early.

What a slow peer takes from the kernel's buffers moves, too, though nobody here reads or writes: the
bytes that it has not taken have become fewer.
"""

import attrs

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.middleware import ConnectionHandler, Layer, serve_over
from kestrel_core.validators import above_zero_and_finite

__all__ = ["Idle"]

_CHECKS_PER_SPAN = 8


@attrs.frozen(kw_only=True, eq=False)
class Idle(Layer):
    """Aborts a connection on which no byte has moved, either way, for some time.

    What is read or flushed here moves, and what the peer takes of what the kernel still holds. A
    handler that only thinks for longer than that loses its connection. It finds it broken, and not
    ended by the peer: what has come may be a part of what was to come.

    Raises:
        ValueError: a number is out of its range.
    """

    name = "idle"

    seconds: float = attrs.field(default=600.0, validator=above_zero_and_finite)
    """How long nothing may move; the end may come later by an eighth of that. (nginx ends a
    proxied stream after 600 s, `proxy_timeout`.)"""

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Serve `connection` as long as it is not idle."""
        inner = connection.transport
        reader, writer = _IdleReader(inner.input), _IdleWriter(inner.output)
        watch = _Watch(connection, reader, writer, self.seconds)
        try:
            await serve_over(LayeredPipe(inner, reader, writer), connection, following)
        finally:
            watch.close()


class _IdleReader(LayerReader):
    """Looks until something has arrived, which it need not see twice between two checks."""

    __slots__ = ()

    def arrived(self, data: bytes) -> bytes:
        self._looks = False
        return data

    def look_again(self) -> bool:
        """Begin anew; tell whether something had arrived."""
        moved, self._looks = not self._looks, True
        return moved


class _IdleWriter(LayerWriter):
    """Looks until something has left, likewise."""

    __slots__ = ()

    def leaving(self, data: bytes | memoryview) -> None:
        self._looks = False

    def look_again(self) -> bool:
        """Begin anew; tell whether something had left."""
        moved, self._looks = not self._looks, True
        return moved


class _Watch:
    """The time since the last sign of life."""

    __slots__ = (
        "_backlog_bytes",
        "_connection",
        "_deadline",
        "_reader",
        "_seconds",
        "_since",
        "_writer",
    )

    def __init__(
        self, connection: Connection, reader: _IdleReader, writer: _IdleWriter, seconds: float
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._seconds = seconds
        self._backlog_bytes = 0
        self._deadline = connection.context.timers.deadline()
        self._since = self._deadline.now()
        self._deadline.on_expiry = self._check
        self._deadline.set(self._since + seconds / _CHECKS_PER_SPAN)

    def close(self) -> None:
        self._deadline.close()

    def _check(self) -> None:
        now = self._deadline.now()
        backlog_bytes = self._writer.inner.backlog_bytes
        arrived, left = self._reader.look_again(), self._writer.look_again()
        if arrived or left or backlog_bytes < self._backlog_bytes:
            self._since = now
        self._backlog_bytes = backlog_bytes
        idle_at = self._since + self._seconds
        if idle_at <= now:
            self._connection.abort(EndReason.IDLE_TIMEOUT)
        else:
            self._deadline.set(min(idle_at, now + self._seconds / _CHECKS_PER_SPAN))
