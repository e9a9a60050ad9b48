"""Both ends of one connection over the simulated network, and what arrives when."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.connection import Connection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.network import Network, SimulatedTransport, Wire
from kestrel_core.transport import open_transport_context
from kestrel_transports.memory import MemoryTransport

__all__ = ["RESET", "Ends", "Timed", "connected", "reading"]

RESET = b"<reset>"
"""What `reading` tells of a reset."""

Timed = tuple[float, bytes]
"""When something arrived, to the millisecond, and what."""


@attrs.frozen
class Ends:
    """The two ends of a connection."""

    client: Connection
    server: Connection
    network: Network

    @property
    def texts(self) -> list[str]:
        """What happened after the connection was made, in words."""
        return [event.text for event in self.network.events if event.text != "connected"]


@asynccontextmanager
async def connected(wire: Wire, *, pause_at_bytes: int = 65536) -> AsyncGenerator[Ends]:
    """Connect through `wire`; the block ends with everything closed and no task left.

    Each end of the server's holds `pause_at_bytes`.
    """
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    network = Network.always(wire)
    async with open_transport_context() as context:
        transport = SimulatedTransport(MemoryTransport(), network)
        endpoint = Endpoint.parse(f"memory://name?pause_at_bytes={pause_at_bytes}")
        listener = await transport.bind(endpoint, context)
        client = await transport.connect(endpoint, context)
        server = await listener.accept()
        yield Ends(client, server, network)
        for connection in (client, server):
            connection.abort(EndReason.COMPLETED)
            await close_within(connection, 1)
        await listener.aclose()
        await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before


async def reading(connection: Connection) -> list[Timed]:
    """Read to the end, and tell what came at one time; b"" is the end."""
    arrived: list[Timed] = []
    while not arrived or arrived[-1][1] not in (b"", RESET):
        try:
            data = await connection.transport.input.receive()
        except trio.BrokenResourceError:
            data = RESET
        arrived.append((round(trio.current_time(), 3), data))
    return arrived
