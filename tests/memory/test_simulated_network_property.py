"""Whatever a wire that loses nothing does to bytes, they arrive, and nothing is left of it."""

from functools import partial

import attrs
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.network import Network, SimulatedTransport, run_simulation
from kestrel_core.testing.network.strategies import networks
from kestrel_core.transport import open_transport_context
from kestrel_transports.memory import MemoryTransport

Parts = list[tuple[float, bytes]]

parts = st.lists(
    st.tuples(st.sampled_from([0.0, 0.001, 5.0]), st.binary(min_size=1, max_size=2000)), max_size=5
)

few = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@attrs.frozen
class Heard:
    """What one end received, and how it ended."""

    data: bytes
    was_reset: bool


async def talk(connection: Connection, said: Parts) -> Heard:
    """Send and receive at once, each to its end, and close."""

    async def send() -> None:
        try:
            for pause_seconds, data in said:
                await trio.sleep(pause_seconds)
                await connection.transport.output.send(data)
            await connection.transport.output.send_eof()
        except trio.BrokenResourceError:
            pass

    data, was_reset = b"", False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            async for chunk in connection.transport.input:
                data += chunk
        except trio.BrokenResourceError:
            was_reset = True
    await connection.aclose()
    return Heard(data, was_reset)


async def converse(up: Parts, down: Parts, patience_seconds: float, network: Network) -> None:
    """Have two talk, and expect each to hear the other, as far as the network lets them."""
    loses = patience_seconds < 1e9
    heard: dict[str, Heard] = {}

    async def run(name: str, connection: Connection, said: Parts) -> None:
        heard[name] = await talk(connection, said)

    tasks_before = trio.lowlevel.current_statistics().tasks_living
    async with open_transport_context() as context:
        transport = SimulatedTransport(MemoryTransport(), network)
        listener = await transport.bind(Endpoint("memory", "name"), context)
        tasks_of_context = trio.lowlevel.current_statistics().tasks_living
        try:
            client = await transport.connect(listener.endpoint, context)
        except ConnectionRefusedError:
            assert network.wire_of(1).refused
        else:
            server = await listener.accept()
            with trio.move_on_after(patience_seconds) as patience:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, "server", server, down)
                    nursery.start_soon(run, "client", client, up)
            for connection in (client, server):
                await connection.aclose()
            for name, said in (("server", up), ("client", down)):
                sent = b"".join(data for _, data in said)
                if loses and name in heard:
                    assert sent.startswith(heard[name].data)
                elif not loses:
                    assert not patience.cancelled_caught
                    assert heard[name] == Heard(sent, was_reset=False)
            if not loses:
                await wait_all_tasks_blocked()
                assert trio.lowlevel.current_statistics().tasks_living == tasks_of_context
        await listener.aclose()
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before


@few
@given(networks(faults=False), parts, parts)
def test_a_wire_that_loses_nothing(network: Network, up: Parts, down: Parts) -> None:
    run_simulation(partial(converse, up, down, 1e9), network)


@few
@given(networks(), parts, parts)
def test_a_wire_with_faults_invents_nothing(network: Network, up: Parts, down: Parts) -> None:
    run_simulation(partial(converse, up, down, 1000.0), network)


@few
@given(st.integers(0, 10_000), parts, parts)
def test_a_seeded_network_without_faults(seed: int, up: Parts, down: Parts) -> None:
    run_simulation(partial(converse, up, down, 1e9), Network.seeded(seed, faults=False))
