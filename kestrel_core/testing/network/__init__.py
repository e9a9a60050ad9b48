"""A simulated network between clients and a server, in virtual time, replayed exactly from a seed.

`SimulatedTransport(inner, network)` connects as any transport does, but what its clients send and
receive goes over a wire that may be slow, cut bytes into pieces, stall, or break; the server stands
on `inner` and needs nothing. A `Wire` is a value that says what one connection goes through, a
`Direction` each way of it, and a `Network` which wire each connection gets. All of it is exact under
trio's autojump clock, where a stall of an hour takes no time:

    network = Network.always(Wire(up=Direction(latency_seconds=0.1, segment_bytes=1)))
    transport = SimulatedTransport(MemoryTransport(), network)
    connection = await transport.connect(endpoint, context)
    ...
    assert network.events[-1].text == "up: end"

`Network.seeded(seed)` decides all that by itself, for campaigns; `run_simulation` puts trio's
scheduling order under the same seed, and has a failure tell how to replay it. What the sizes and
delays within a wire's bounds are drawn from depends on the network's seed and the connection's
number alone, so that a connection more or less changes no other one's.

`kestrel_core.testing.network.strategies` has hypothesis strategies for all three; it needs
hypothesis, and is not imported here for that reason.

What is simulated is what a program sees of TCP or of a multiplexed transport: a stream of bytes that
keeps its order and its end. Lost packets are not, as they show only in delays; nor is the network's
own memory of a connection, such as retransmissions, or how slowly it starts.
"""

from kestrel_core.testing.network.conditions import Direction as Direction
from kestrel_core.testing.network.conditions import Stall as Stall
from kestrel_core.testing.network.conditions import Wire as Wire
from kestrel_core.testing.network.network import Network as Network
from kestrel_core.testing.network.network import NetworkEvent as NetworkEvent
from kestrel_core.testing.network.scheduling import seeded_scheduler as seeded_scheduler
from kestrel_core.testing.network.simulation import run_simulation as run_simulation
from kestrel_core.testing.network.transport import SimulatedTransport as SimulatedTransport
