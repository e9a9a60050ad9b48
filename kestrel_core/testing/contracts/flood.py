"""A sender that does not stop until the pipe makes it, for the checks of back-pressure."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.testing.contracts.expectations import Pending, expect, pending, settle

__all__ = ["Flood", "fill", "flooded"]

# What is sent at a time, and what no pipe may swallow while nobody reads (a socket on the loopback
# interface holds some 6 MiB where Linux has its usual buffer sizes).
_CHUNK_BYTES = 16384
_MOST_BYTES = 64 * 1024 * 1024

# Its length is a prime number, so that a lost or doubled block shows.
_PERIOD = bytes(range(251))


class Flood:
    """A task that sends an endless pattern into `pipe` until it is told to stop, or fails."""

    def __init__(self, pipe: DuplexPipe) -> None:
        self._pipe = pipe
        self._stopping = False
        self._written_bytes = 0
        self.flushes: int = 0
        """How many flushes have returned."""

    async def run(self) -> None:
        """Send until told to stop."""
        while not self._stopping:
            expect(
                self._written_bytes < _MOST_BYTES,
                f"flush() should wait, but {_MOST_BYTES} bytes went out and nobody read them",
            )
            chunk = _pattern(self._written_bytes, _CHUNK_BYTES)
            self._written_bytes += _CHUNK_BYTES
            await self._pipe.output.send(chunk)
            self.flushes += 1
            await trio.lowlevel.checkpoint()

    async def stop_and_receive(self, far: DuplexPipe) -> None:
        """Let no flush follow the pending one, and expect at `far` all that was written."""
        self._stopping = True
        received_bytes = 0
        while received_bytes < self._written_bytes:
            data = await far.input.receive(self._written_bytes - received_bytes)
            expect(data != b"", f"the input ended after {received_bytes} bytes of a flood")
            expect(
                data == _pattern(received_bytes, len(data)),
                f"from byte {received_bytes} on other bytes arrived than were sent",
            )
            received_bytes += len(data)


@asynccontextmanager
async def flooded(pipe: DuplexPipe) -> AsyncGenerator[tuple[Flood, Pending[None]]]:
    """Send into `pipe` until a flush has to wait, run the block, and wait for the flood's end."""
    flood = Flood(pipe)
    async with pending(flood.run, "flush() while nobody reads") as running:
        yield flood, running


async def fill(pipe: DuplexPipe) -> None:
    """Write until there is something that no flush can send while nobody reads."""
    output = pipe.output
    written_bytes = 0
    while not output.unflushed_bytes and written_bytes < _MOST_BYTES:
        output.write(bytes(_CHUNK_BYTES))
        output.flush_nowait()
        written_bytes += _CHUNK_BYTES
        before = 0
        while output.unflushed_bytes != before:  # a pipe with a task of its own makes room later
            before = output.unflushed_bytes
            await settle()
            output.flush_nowait()
    if output.unflushed_bytes == written_bytes:  # nothing goes without waiting: wait, and be cut
        with trio.CancelScope() as scope:
            async with flooded(pipe):
                scope.cancel()
        output.write(bytes(100))


def _pattern(start: int, count: int) -> bytes:
    """Return `count` bytes of the pattern, from its `start`-th."""
    first = start % len(_PERIOD)
    return (_PERIOD * (count // len(_PERIOD) + 2))[first : first + count]
