"""A sender that does not stop until the pipe makes it, for the checks of back-pressure."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.testing.expectations import Pending, expect, pending

__all__ = ["Flood", "flood", "pattern"]

# What is sent at a time, and what no pipe may swallow while nobody reads (a socket on the loopback
# interface holds some 6 MiB where Linux has its usual buffer sizes).
_CHUNK_BYTES = 16384
_MOST_BYTES = 64 * 1024 * 1024

# A prime length, so that a lost or doubled power of two shows.
_PATTERN = bytes(range(251)) * (_CHUNK_BYTES // 251 + 2)


def pattern(start: int, count: int) -> bytes:
    """Return `count` bytes of the endless pattern, from its `start`-th; at most a chunk."""
    start %= 251
    return _PATTERN[start : start + count]


class Flood:
    """A task that sends the pattern until it is told to stop, or fails; see `flood`."""

    def __init__(self, pipe: DuplexPipe) -> None:
        self._pipe = pipe
        self.flushed_bytes = 0
        """How much went out in flushes that have returned."""
        self.stopping = False
        """Set it, and no flush follows the pending one."""

    async def run(self) -> None:
        """Send until told to stop."""
        while not self.stopping:
            expect(
                self.flushed_bytes < _MOST_BYTES,
                f"flush() should wait, but {_MOST_BYTES} bytes went out and nobody read them",
            )
            await self._pipe.output.send(pattern(self.flushed_bytes, _CHUNK_BYTES))
            self.flushed_bytes += _CHUNK_BYTES
            await trio.lowlevel.checkpoint()

    async def receive_until_it_stops(self, far: DuplexPipe) -> bytes:
        """Receive at `far` what was sent, up to the end of the pending flush; return the rest."""
        self.stopping = True
        received = 0
        while True:
            data = await far.input.receive()
            expected = b"".join(
                pattern(received + start, min(_CHUNK_BYTES, len(data) - start))
                for start in range(0, len(data), _CHUNK_BYTES)
            )
            ...
