"""One connection on the simulated network, or one stream: the client's end, and what carries it.

Theory of operation. The client gets `near`, a connection on one end of a pair of memory pipes. A
`Carrier` runs two `Link`s, up and down, between the pair's other end and `inner`, the real
connection to the server. It is over

* when both directions have ended: both connections are closed;
* when a reset has arrived anywhere: both are aborted, as then each end is gone or is being reset;
* when both ends are gone: nobody is left to notice anything, even if bytes are still on their way;
* when the nursery that runs it is cancelled: both are aborted.

Each of these cancels the links' tasks, in that order of precedence; then `run` closes what is left.
"""

import random
from collections.abc import Callable
from functools import partial

import trio

from kestrel_core.connection import Connection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.features import Features, FeatureSource, SocketInfo
from kestrel_core.memory_pipe import MemoryDuplexPipe, Pipe
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.signals import Signal
from kestrel_core.testing.network.conditions import Direction, Wire
from kestrel_core.testing.network.link import Cut, Link
from kestrel_core.testing.network.network import Network

__all__ = ["Carrier", "FeaturesBehind"]

# Closing waits for what the receiver does not take, but by then it has ended.
_CLOSE_SECONDS = 1.0

# How often whoever waits for the last bytes looks whether the receiver takes them.
_LOOK_SECONDS = 1.0


class FeaturesBehind(FeatureSource):
    """What is known of the connection behind the simulated one, but not its socket.

    Whoever used that would go past the simulation.
    """

    def __init__(self, inner: Connection) -> None:
        self._inner = inner

    def find_feature(self, kind: type[object]) -> object | None:
        """See `FeatureSource`."""
        return None if kind is SocketInfo else self._inner.features.get(kind)


class Carrier:
    """Carries `inner` to its client under the conditions of `wire`; see the head of this file.

    `network` hears of events, under the names `number` and `stream`. `shared_cut` may end more
    than this connection.
    """

    def __init__(
        self,
        inner: Connection,
        wire: Wire,
        network: Network,
        number: int,
        stream: int | None = None,
        *,
        shared_cut: Cut | None = None,
    ) -> None:
        there, back = Pipe(wire.up.window_bytes), Pipe(wire.down.window_bytes)
        pipe = MemoryDuplexPipe(back, there)
        self.near: Connection = Connection(
            pipe, inner.context, local=inner.local, remote=inner.remote
        )
        """The client's end."""
        self.near.features = Features(FeaturesBehind(inner))
        pipe.peer_gone.listen(self.near.closed.set)
        self._far = MemoryDuplexPipe(there, back)
        self._inner = inner
        self._note: Callable[[str], None] = partial(network.note, number, stream)
        self._scope = trio.CancelScope()
        self._sent = trio.Event()  # the server has all that it will ever get, and the end
        self._received = trio.Event()  # the client has
        self._has_finished = False
        self._shared_cuts = [] if shared_cut is None else [shared_cut]
        if wire.reset_after_bytes is not None:
            self._shared_cuts.append(self._cut(wire.reset_after_bytes, ""))
        self._up = self._link(
            "up: ",
            wire.up,
            network.dice(number, stream, "up"),
            source=self._far.input,
            source_gone=self._far.peer_gone,
            sink=inner.transport.output,
            on_end=partial(self._note_end, self._sent),
        )
        self._down = self._link(
            "down: ",
            wire.down,
            network.dice(number, stream, "down"),
            source=inner.transport.input,
            source_gone=inner.closed,
            sink=self._far.output,
            on_end=partial(self._note_end, self._received),
        )
        self._up.opposite, self._down.opposite = self._down, self._up

    async def run(self) -> None:
        """Carry bytes until the connection is over, and close what is left of it."""
        for gone in (self._far.peer_gone, self._inner.closed):
            gone.listen(self._stop_if_both_are_gone)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for link in (self._up, self._down):
                        nursery.start_soon(link.depart)
                        nursery.start_soon(link.arrive)
        finally:
            for gone in (self._far.peer_gone, self._inner.closed):
                gone.unlisten(self._stop_if_both_are_gone)
            if not self._has_finished:
                self.reset()
            self._sent.set()
            self._received.set()
            await close_within(self._inner, _CLOSE_SECONDS)
            await self._far.aclose()

    async def wait_sent(self) -> None:
        """Wait until the server has all that the client sent, or has no room for it."""
        await self._wait_arrived(self._up, self._sent)

    async def wait_received(self) -> None:
        """Wait until the client has all that the server sent, or has no room for it."""
        await self._wait_arrived(self._down, self._received)

    async def _wait_arrived(self, link: Link, arrived: trio.Event) -> None:
        while not (arrived.is_set() or link.waits_for_room):
            with trio.move_on_after(_LOOK_SECONDS):
                await arrived.wait()

    def finish(self) -> None:
        """Close the connection at both ends, and end `run`; what has arrived can still be read."""
        self._has_finished = True
        self._scope.cancel()

    def reset(self) -> None:
        """Break the connection at both ends, and end `run`."""
        self._inner.abort(EndReason.CONNECTION_RESET)
        self._far.abort()
        self._scope.cancel()

    def _link(
        self,
        name: str,
        conditions: Direction,
        dice: random.Random,
        *,
        source: PipeReader,
        source_gone: Signal,
        sink: PipeWriter,
        on_end: Callable[[], None],
    ) -> Link:
        cuts = [*self._shared_cuts]
        if conditions.reset_after_bytes is not None:
            cuts.append(self._cut(conditions.reset_after_bytes, name))
        return Link(
            conditions,
            dice,
            source=source,
            source_gone=source_gone,
            sink=sink,
            cuts=cuts,
            note=lambda text: self._note(name + text),
            on_end=on_end,
            on_reset=self.reset,
        )

    def _cut(self, after_bytes: int, name: str) -> Cut:
        def reset() -> None:
            self._note(f"{name}reset after {after_bytes} bytes")
            self.reset()

        return Cut(after_bytes, reset)

    def _note_end(self, arrived: trio.Event) -> None:
        arrived.set()
        if self._sent.is_set() and self._received.is_set():
            self.finish()

    def _stop_if_both_are_gone(self) -> None:
        if self._far.peer_gone and self._inner.closed:
            self._scope.cancel()
