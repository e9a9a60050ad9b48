"""Any transport, with the simulated network between its clients and the server."""

import trio

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.network.carrier import Carrier
from kestrel_core.testing.network.multiplexed import SimulatedMultiplexedConnection
from kestrel_core.testing.network.network import Network
from kestrel_core.transport import Listener, Transport, TransportContext

__all__ = ["SimulatedTransport"]


class SimulatedTransport(Transport):
    """Connects as `inner` does, through `network`; binds as `inner` does, through nothing.

    A server that listens on `inner` needs nothing, and sees what a bad network makes of its
    clients. Connections live in the nursery of the context that they are made with: when that is
    cancelled they are reset, whatever is still on its way.
    """

    def __init__(self, inner: Transport, network: Network) -> None:
        # Class variables of any other transport, but this one is what its inner one is.
        vars(self).update(scheme=inner.scheme, multiplexed=inner.multiplexed)
        self.inner: Transport = inner
        """The transport below."""
        self.network: Network = network
        """What is between its two ends."""

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Bind as the inner transport does."""
        return await self.inner.bind(endpoint, context)

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect as the inner transport does, if the network lets it.

        Raises:
            ConnectionRefusedError: it does not. And what the inner transport raises.
        """
        network = self.network
        number = network.begin()
        wire = network.wire_of(number)
        await trio.sleep(wire.connect_seconds)
        if wire.refused:
            network.note(number, None, "refused")
            raise ConnectionRefusedError(
                f"{endpoint}: the simulated network refuses connection {number}"
            )
        inner = await self.inner.connect(endpoint, context)
        network.note(number, None, "connected")
        if isinstance(inner, MultiplexedConnection):
            streams = SimulatedMultiplexedConnection(inner, wire, network, number, context.nursery)
            context.nursery.start_soon(streams.run, name=f"simulated connection {number}")
            return streams
        carrier = Carrier(inner, wire, network, number)
        context.nursery.start_soon(carrier.run, name=f"simulated connection {number}")
        return carrier.near
