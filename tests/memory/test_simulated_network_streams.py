"""Multiplexed connections over the simulated network: each stream has conditions of its own."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection, MultiplexedConnection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.network import Direction, Network, SimulatedTransport, Wire
from kestrel_core.transport import open_transport_context
from kestrel_transports.memory_streams import MemoryStreamsTransport
from tests.simulated_wire import RESET, reading


@attrs.frozen
class Ends:
    """The two ends of a connection."""

    client: MultiplexedConnection
    server: MultiplexedConnection
    network: Network


@asynccontextmanager
async def connected(wire: Wire) -> AsyncGenerator[Ends]:
    """Connect through `wire`; the block ends with everything closed and no task left."""
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    network = Network.always(wire)
    async with open_transport_context() as context:
        transport = SimulatedTransport(MemoryStreamsTransport(), network)
        listener = await transport.bind(Endpoint("memory-streams", "name"), context)
        client = await transport.connect(listener.endpoint, context)
        server = await listener.accept()
        assert isinstance(client, MultiplexedConnection)
        assert isinstance(server, MultiplexedConnection)
        yield Ends(client, server, network)
        for connection in (client, server):
            connection.abort(EndReason.COMPLETED)
            await close_within(connection, 1)
        await listener.aclose()
        await trio.sleep(100)
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before


async def say(stream: Connection, data: bytes) -> None:
    await stream.transport.output.send(data)
    await stream.transport.output.send_eof()


async def test_streams_overtake_each_other(autojump_clock: MockClock) -> None:
    slow, fast = Direction(latency_seconds=3), Direction(latency_seconds=1)
    wire = Wire(streams=[Wire(up=slow, down=fast), Wire(up=fast, down=slow)])
    heard: list[tuple[float, bytes]] = []

    async def serve(server: MultiplexedConnection) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(answer, await server.accept_stream())

    async def answer(stream: Connection) -> None:
        data = await stream.transport.input.read_exactly(100)
        heard.append((trio.current_time(), data))
        await say(stream, b"to " + data)

    async with connected(wire) as ends, trio.open_nursery() as nursery:
        nursery.start_soon(serve, ends.server)
        streams = [await ends.client.open_stream() for _ in range(3)]
        for number, stream in enumerate(streams, 1):
            await say(stream, b"%d" % number)
        assert await reading(streams[1]) == [(4, b"to 2"), (4, b"")]
        assert await reading(streams[2]) == [(4, b"to 3"), (4, b"")]  # as the last of the wires
        assert await reading(streams[0]) == [(4, b"to 1"), (4, b"")]
        assert sorted(heard) == [(1, b"2"), (1, b"3"), (3, b"1")]


async def test_streams_that_the_server_opens(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(latency_seconds=1), down=Direction(latency_seconds=2))
    async with connected(wire) as ends:
        opened = await ends.server.open_stream()
        await say(opened, b"news")
        accepted = await ends.client.accept_stream()
        assert await reading(accepted) == [(2, b"news"), (2, b"")]
        await say(accepted, b"thanks")
        assert await reading(opened) == [(3, b"thanks"), (3, b"")]


async def test_a_refused_stream_touches_no_other(autojump_clock: MockClock) -> None:
    wire = Wire(streams=[Wire(refused=True), Wire(), Wire(refused=True), Wire()])
    async with connected(wire) as ends:
        refused = await ends.client.open_stream()
        assert refused.closed
        assert await reading(refused) == [(0, RESET)]
        second = await ends.client.open_stream()
        await say(second, b"hello")
        assert await reading(await ends.server.accept_stream()) == [(0, b"hello"), (0, b"")]
        third, fourth = await ends.server.open_stream(), await ends.server.open_stream()
        await say(fourth, b"hello")
        assert await reading(await ends.client.accept_stream()) == [(0, b"hello"), (0, b"")]
        assert await reading(third) == [(0, RESET)]
        refused_streams = [event.stream for event in ends.network.events if event.text == "refused"]
        assert refused_streams == [1, 3]


async def test_a_reset_may_hit_one_stream(autojump_clock: MockClock) -> None:
    wire = Wire(streams=[Wire(up=Direction(reset_after_bytes=3)), Wire()])
    async with connected(wire) as ends:
        first, second = await ends.client.open_stream(), await ends.client.open_stream()
        far = [await ends.server.accept_stream() for _ in range(2)]
        await first.transport.output.send(b"12345")
        assert await reading(far[0]) == [(0, b"123"), (0, RESET)]
        assert await reading(first) == [(0, RESET)]
        await second.transport.output.send(b"12345")
        assert await far[1].transport.input.receive() == b"12345"
        assert not ends.client.closed
        assert not ends.server.closed


async def test_a_reset_may_hit_them_all(autojump_clock: MockClock) -> None:
    async with connected(Wire(reset_after_bytes=8)) as ends:
        first, second = await ends.client.open_stream(), await ends.client.open_stream()
        far = [await ends.server.accept_stream() for _ in range(2)]
        await first.transport.output.send(b"12345")
        assert await far[0].transport.input.receive() == b"12345"
        await far[1].transport.output.send(b"67890")
        assert await reading(second) == [(0, b"678"), (0, RESET)]
        for stream in (first, *far):
            assert await reading(stream) == [(0, RESET)]
        for connection in (ends.client, ends.server):
            await connection.wait_closed()
            with pytest.raises(trio.EndOfChannel):
                await connection.accept_stream()
        assert str(ends.network.events[-1]).endswith("connection 1: reset after 8 bytes")


async def test_opening_may_take_its_time(autojump_clock: MockClock) -> None:
    wire = Wire(streams=[Wire(connect_seconds=2), Wire()])
    async with connected(wire) as ends:
        await ends.client.open_stream()
        assert trio.current_time() == 2
        await ends.client.open_stream()
        assert trio.current_time() == 2


async def test_closing_the_connection_lets_bytes_arrive(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(latency_seconds=2, bytes_per_second=10, segment_bytes=5))
    async with connected(wire) as ends:
        stream = await ends.client.open_stream()
        far = await ends.server.accept_stream()
        await stream.transport.output.send(b"1234567890")
        await ends.client.aclose()
        assert ends.client.closed
        assert stream.closed
        assert not ends.server.closed
        assert await reading(far) == [(2.5, b"12345"), (3, b"67890"), (3, b"")]
        await ends.server.wait_closed()
        assert trio.current_time() == 3


async def test_aborting_and_closing_take_their_time_to_be_heard_of(
    autojump_clock: MockClock,
) -> None:
    wire = Wire(up=Direction(latency_seconds=1), down=Direction(latency_seconds=2))
    async with connected(wire) as ends:
        ends.client.abort(EndReason.ABORTED_BY_APP)
        await ends.server.wait_closed()
        assert trio.current_time() == 1
    async with connected(wire) as ends:
        began_at = trio.current_time()
        stream = await ends.server.open_stream()
        near = await ends.client.accept_stream()
        await stream.transport.output.send(b"bye")
        await ends.server.aclose()
        assert await near.transport.input.read_exactly(4) == b"bye"
        assert ends.client.closed
        assert trio.current_time() - began_at == 2
        await near.wait_closed()
        with pytest.raises(trio.BrokenResourceError):
            await ends.client.open_stream()


async def test_the_end_of_the_context_resets_both_ends(autojump_clock: MockClock) -> None:
    endpoint = Endpoint("memory-streams", "name")
    async with open_transport_context() as server_context:
        listener = await MemoryStreamsTransport().bind(endpoint, server_context)
        async with open_transport_context() as context:
            network = Network.always(Wire(up=Direction(latency_seconds=1)))
            transport = SimulatedTransport(MemoryStreamsTransport(), network)
            client = await transport.connect(endpoint, context)
            assert isinstance(client, MultiplexedConnection)
            server = await listener.accept()
            stream = await client.open_stream()
            await wait_all_tasks_blocked()
        for connection in (client, server, stream):
            assert connection.closed
            await connection.aclose()
        await listener.aclose()
    assert trio.current_time() == 0
