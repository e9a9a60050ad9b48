"""The simulated network keeps what transports promise, as far as a network can."""

import pytest
from trio.testing import MockClock

from kestrel_core.testing import check_transport
from kestrel_core.testing.contracts.multiplexed_transport import check_multiplexed_transport
from kestrel_core.testing.network import Direction, Network, SimulatedTransport, Wire
from kestrel_transports.memory import MemoryTransport
from kestrel_transports.memory_streams import MemoryStreamsTransport

# A check is given up after ten seconds, and one of trio's own takes more than a thousand turns.
LATE = Direction(latency_seconds=0.002, jitter_seconds=0.001)
CUT = Direction(segment_bytes=(1, 20_000))
NARROW = Direction(window_bytes=4096)

conditions = pytest.mark.parametrize(
    "conditions",
    [Direction(), NARROW, CUT, LATE],
    ids=["perfect", "narrow", "cut", "late"],
)


@conditions
async def test_it_keeps_every_promise(conditions: Direction, autojump_clock: MockClock) -> None:
    network = Network.always(Wire(up=conditions, down=conditions))
    await check_transport(SimulatedTransport(MemoryTransport(), network), "memory://name")
    assert network.connections_begun > 100


@conditions
async def test_with_streams_too(conditions: Direction, autojump_clock: MockClock) -> None:
    network = Network.always(Wire(up=conditions, down=conditions))
    transport = SimulatedTransport(MemoryStreamsTransport(), network)
    assert transport.multiplexed
    await check_multiplexed_transport(transport, "memory-streams://name")
    assert network.connections_begun > 20
