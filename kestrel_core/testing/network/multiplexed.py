"""A multiplexed connection on the simulated network: each stream has conditions of its own.

So streams overtake each other, which is all the reordering there is where the bytes of one stream
keep their order.

Theory of operation. Each stream has a `Carrier`. The connection itself has `run`, which waits until
either end is gone, and takes that to the other one:

    the client closes      each stream's bytes and end arrive, then the inner connection is closed
    the client aborts      the inner connection is aborted, a latency later
    the server is gone     `closed` is set, a latency later; each stream is closed when its bytes
                           and its end have arrived
    the cut is reached     both ends and all streams are aborted

Bytes that a receiver does not take do not hold up the end of a connection: they are lost with it.
"""

from contextlib import AsyncExitStack

import trio

from kestrel_core.byteless_pipe import BytelessPipe
from kestrel_core.connection import Connection, MultiplexedConnection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.features import Features
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.signals import Signal
from kestrel_core.testing.network.carrier import Carrier, FeaturesBehind
from kestrel_core.testing.network.conditions import Wire
from kestrel_core.testing.network.link import Cut
from kestrel_core.testing.network.network import Network

__all__ = ["SimulatedMultiplexedConnection"]

# Closing waits for nobody once the streams are over.
_CLOSE_SECONDS = 1.0


class SimulatedMultiplexedConnection(MultiplexedConnection):
    """The client's end of `inner`, whose streams are carried in `nursery`, where `run` runs, too."""

    __slots__ = (
        "_aborted",
        "_carriers",
        "_cut",
        "_inner",
        "_left",
        "_network",
        "_number",
        "_nursery",
        "_streams",
        "_wire",
    )

    features: Features

    def __init__(
        self,
        inner: MultiplexedConnection,
        wire: Wire,
        network: Network,
        number: int,
        nursery: trio.Nursery,
    ) -> None:
        super().__init__(BytelessPipe(), inner.context, local=inner.local, remote=inner.remote)
        self.features = Features(FeaturesBehind(inner))
        self._inner = inner
        self._wire = wire
        self._network = network
        self._number = number
        self._nursery = nursery
        self._streams = 0
        self._carriers: dict[Carrier, None] = {}
        self._left = Signal()  # closed or aborted on our side
        self._aborted = False
        self._cut: Cut | None = None
        if wire.reset_after_bytes is not None:
            self._cut = Cut(wire.reset_after_bytes, self._reset)
        self.close_requested.listen(self._request_of_streams)

    async def open_stream(self) -> Connection:
        """Open a stream as the inner connection does; the stream's wire says how long it takes."""
        number, wire = self._next_stream()
        await trio.sleep(wire.connect_seconds)
        if self.closed:
            raise trio.BrokenResourceError("the connection is gone")
        if not wire.refused:
            return self._carry(await self._inner.open_stream(), number, wire)
        self._network.note(self._number, number, "refused")
        near, far = duplex_pipe_pair()
        stream = Connection(near, self.context, local=self.local, remote=self.remote)
        stream.closed.set()
        far.abort()
        return stream

    async def accept_stream(self) -> Connection:
        """Accept a stream as the inner connection does."""
        while True:
            inner = await self._accept()
            number, wire = self._next_stream()
            if not wire.refused:
                return self._carry(inner, number, wire)
            self._network.note(self._number, number, "refused")
            inner.abort(EndReason.CONNECTION_RESET)
            await close_within(inner, _CLOSE_SECONDS)

    def abort(self, reason: EndReason) -> None:
        """Abort our end and its streams now; the server learns of it when that arrives."""
        if not self._left:
            self._aborted = True
            for carrier in list(self._carriers):
                carrier.near.abort(reason)
            self._left.set()
        super().abort(reason)

    async def aclose(self) -> None:
        """Close our end and its streams; what they have sent still arrives."""
        async with AsyncExitStack() as closing:  # which calls all of these, whatever happens
            closing.push_async_callback(super().aclose)
            closing.callback(self._left.set)
            for carrier in list(self._carriers):
                closing.push_async_callback(carrier.near.aclose)

    async def run(self) -> None:
        """Wait until the connection is over, and close the inner one."""
        gone = trio.Event()
        for end in (self._left, self._inner.closed):
            end.listen(gone.set)
        try:
            await gone.wait()
            if not self._left:
                await trio.sleep(self._wire.down.latency_seconds)
                self.closed.set()
                for carrier in list(self._carriers):
                    await carrier.wait_received()
                    carrier.finish()
            elif self._aborted:
                await trio.sleep(self._wire.up.latency_seconds)
                self._inner.abort(EndReason.CONNECTION_RESET)
            else:
                for carrier in list(self._carriers):
                    await carrier.wait_sent()
                    carrier.finish()
        except trio.Cancelled:
            self._inner.abort(EndReason.CONNECTION_RESET)
            self.abort(EndReason.CONNECTION_RESET)
            raise
        finally:
            await close_within(self._inner, _CLOSE_SECONDS)

    async def _accept(self) -> Connection:
        with trio.CancelScope() as scope:
            self._left.listen(scope.cancel)
            try:
                return await self._inner.accept_stream()
            finally:
                self._left.unlisten(scope.cancel)
        raise trio.EndOfChannel("the connection was closed on our side")

    def _next_stream(self) -> tuple[int, Wire]:
        self._streams += 1
        return self._streams, self._wire.stream_wire(self._streams)

    def _carry(self, inner: Connection, number: int, wire: Wire) -> Connection:
        carrier = Carrier(inner, wire, self._network, self._number, number, shared_cut=self._cut)
        self._carriers[carrier] = None
        self._nursery.start_soon(
            self._run, carrier, name=f"simulated connection {self._number}, stream {number}"
        )
        if self.close_requested:
            carrier.near.request_close()
        return carrier.near

    def _request_of_streams(self) -> None:
        for carrier in list(self._carriers):
            carrier.near.request_close()

    async def _run(self, carrier: Carrier) -> None:
        try:
            await carrier.run()
        finally:
            del self._carriers[carrier]

    def _reset(self) -> None:
        """Break everything at both ends, as the cut says."""
        after_bytes = self._wire.reset_after_bytes
        self._network.note(self._number, None, f"reset after {after_bytes} bytes")
        for carrier in list(self._carriers):
            carrier.reset()
        self._inner.abort(EndReason.CONNECTION_RESET)
        self.abort(EndReason.CONNECTION_RESET)
