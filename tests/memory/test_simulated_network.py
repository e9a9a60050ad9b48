"""What a wire does to bytes on their way, exact in virtual time."""

import math
from itertools import pairwise

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.testing.network import Direction, Stall, Wire
from tests.simulated_wire import Ends, Timed, connected, reading


async def send(connection: Connection, *parts: tuple[float, bytes]) -> None:
    """Send each part at its time, and then the end."""
    for at_seconds, data in parts:
        await trio.sleep_until(at_seconds)
        await connection.transport.output.send(data)
    await connection.transport.output.send_eof()


async def arrivals(
    conditions: Direction, *parts: tuple[float, bytes], pause_at_bytes: int = 65536
) -> list[Timed]:
    """Return what arrives when at the server, and expect the same of the other direction."""
    wire = Wire(up=conditions, down=conditions)
    arrived: dict[str, list[Timed]] = {}

    async with connected(wire, pause_at_bytes=pause_at_bytes) as ends:
        start = trio.current_time()
        assert start == 0

        async def receive(name: str, connection: Connection) -> None:
            arrived[name] = await reading(connection)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, "up", ends.server)
            nursery.start_soon(receive, "down", ends.client)
            nursery.start_soon(send, ends.client, *parts)
            nursery.start_soon(send, ends.server, *parts)
    if not (conditions.jitter_seconds or conditions.segment_bytes):
        assert arrived["up"] == arrived["down"]
    return arrived["up"]


async def test_a_perfect_wire_takes_no_time(autojump_clock: MockClock) -> None:
    assert await arrivals(Direction(), (0, b"a"), (2, b"b")) == [(0, b"a"), (2, b"b"), (2, b"")]
    assert autojump_clock.current_time() == 2


async def test_latency(autojump_clock: MockClock) -> None:
    arrived = await arrivals(Direction(latency_seconds=0.25), (0, b"a"), (0.125, b"b"), (3, b"c"))
    assert arrived == [(0.25, b"a"), (0.375, b"b"), (3.25, b"c"), (3.25, b"")]


async def test_each_direction_has_its_own(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(latency_seconds=1), down=Direction(latency_seconds=0.5))
    async with connected(wire) as ends:
        await ends.client.transport.output.send(b"ask")
        assert await ends.server.transport.input.receive() == b"ask"
        assert trio.current_time() == 1
        await ends.server.transport.output.send(b"answer")
        assert await ends.client.transport.input.receive() == b"answer"
        assert trio.current_time() == 1.5


async def test_jitter_keeps_within_its_bounds(autojump_clock: MockClock) -> None:
    parts = [(number * 10.0, bytes([number])) for number in range(50)]
    arrived = await arrivals(Direction(latency_seconds=1, jitter_seconds=2), *parts)
    assert [data for _, data in arrived] == [*(data for _, data in parts), b""]
    delays = [at - sent for (at, _), (sent, _) in zip(arrived, parts, strict=False)]
    assert len(set(delays)) > 40
    assert 1 <= min(delays) < 1.3
    assert 2.7 < max(delays) <= 3


async def test_jitter_keeps_bytes_in_their_order(autojump_clock: MockClock) -> None:
    parts = [(number / 10, bytes([number])) for number in range(50)]
    arrived = await arrivals(Direction(jitter_seconds=2), *parts)
    assert b"".join(data for _, data in arrived) == bytes(range(50))
    assert len(arrived) < 50  # some have caught up with their predecessors


async def test_bandwidth(autojump_clock: MockClock) -> None:
    slow = Direction(bytes_per_second=1000, segment_bytes=500, latency_seconds=1)
    arrived = await arrivals(slow, (0, bytes(1250)), (9, b"x"))
    assert [(at, len(data)) for at, data in arrived] == [
        (1.5, 500),
        (2, 500),
        (2.25, 250),
        (10.001, 1),
        (10.001, 0),
    ]


async def test_with_bandwidth_segments_are_those_of_ethernet(autojump_clock: MockClock) -> None:
    arrived = await arrivals(Direction(bytes_per_second=1460), (0, bytes(4000)))
    assert [(at, len(data)) for at, data in arrived] == [
        (1, 1460),
        (2, 1460),
        (2.74, 1080),
        (2.74, 0),
    ]


async def test_byte_by_byte(autojump_clock: MockClock) -> None:
    data = bytes(range(256))
    arrived = await arrivals(Direction(segment_bytes=1), (0, data))
    assert arrived == [*[(0, bytes([byte])) for byte in data], (0, b"")]
    assert 0.000254 < autojump_clock.current_time() < 0.000256


async def test_segments_of_random_sizes(autojump_clock: MockClock) -> None:
    data = bytes(range(251)) * 40
    arrived = await arrivals(Direction(segment_bytes=(10, 20)), (0, data))
    sizes = [len(segment) for _, segment in arrived[:-1]]
    assert set(sizes[:-1]) == set(range(10, 21))
    assert 1 <= sizes[-1] <= 20
    assert b"".join(segment for _, segment in arrived) == data


async def test_coalescing(autojump_clock: MockClock) -> None:
    slow = Direction(coalesce_seconds=0.5, latency_seconds=1)
    arrived = await arrivals(slow, (0, b"a"), (0.25, b"b"), (0.4, b"c"), (0.6, b"d"), (4, b"e"))
    assert arrived == [(1.5, b"abc"), (2.1, b"d"), (5.5, b"e"), (5.5, b"")]


async def test_stalls(autojump_clock: MockClock) -> None:
    stalls = [Stall(after_bytes=4, seconds=20), Stall(after_bytes=2, seconds=1)]
    stalling = Direction(stalls=stalls, latency_seconds=0.5)
    arrived = await arrivals(stalling, (0, b"abcdef"), (30, b"g"))
    assert arrived == [(0.5, b"ab"), (1.5, b"cd"), (21.5, b"ef"), (30.5, b"g"), (30.5, b"")]


async def test_a_stall_may_come_first_and_hold_up_the_end(autojump_clock: MockClock) -> None:
    stalling = Direction(stalls=[Stall(after_bytes=0, seconds=3), Stall(after_bytes=1, seconds=4)])
    assert await arrivals(stalling, (1, b"a")) == [(3, b"a"), (7, b"")]


async def test_a_stall_is_over_when_its_time_is_over(autojump_clock: MockClock) -> None:
    stalling = Direction(stalls=[Stall(after_bytes=1, seconds=5)])
    assert await arrivals(stalling, (0, b"a"), (6, b"b")) == [(0, b"a"), (6, b"b"), (6, b"")]


async def test_an_endless_stall_tells_nobody(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(stalls=[Stall(after_bytes=2, seconds=math.inf)]))
    async with connected(wire) as ends:
        await ends.client.transport.output.send(b"abc")
        assert await ends.server.transport.input.receive() == b"ab"
        await ends.client.aclose()
        with trio.move_on_after(1_000_000) as patience:
            await ends.server.transport.input.receive()
        assert patience.cancelled_caught
        assert not ends.server.closed
        await ends.server.aclose()
        await wait_all_tasks_blocked()
        assert ends.texts == ["up: stalled for ever after 2 bytes"]


# Back-pressure ----------------------------------------------------------------------------------


async def fill(connection: Connection) -> int:
    """Write until a flush has waited for an hour; tell how many bytes that flush has not sent."""
    written_bytes = 0
    with trio.move_on_after(3600):
        while True:
            await connection.transport.output.send(bytes(10))
            written_bytes += 10
    return written_bytes


async def test_a_receiver_that_does_not_read_stops_the_sender(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(latency_seconds=1, window_bytes=1000, segment_bytes=10))
    async with connected(wire, pause_at_bytes=300) as ends:
        # A window waits to depart, another one is on its way, and the server holds what it holds;
        # a flush that has waited goes on when half of what waited has departed.
        assert 500 + 1000 + 300 <= await fill(ends.client) <= 1000 + 1000 + 300


async def test_the_client_holds_a_window_too(autojump_clock: MockClock) -> None:
    wire = Wire(down=Direction(latency_seconds=1, window_bytes=1000, segment_bytes=10))
    async with connected(wire, pause_at_bytes=300) as ends:
        assert 150 + 1000 + 1000 <= await fill(ends.server) <= 300 + 1000 + 1000


async def test_a_window_bounds_what_is_on_its_way(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(latency_seconds=1, window_bytes=100))
    async with connected(wire) as ends, trio.open_nursery() as nursery:
        nursery.start_soon(send, ends.client, (0, bytes(250)))
        arrived = await reading(ends.server)
        # A window each second, whatever there is to send.
        assert [(at, len(data)) for at, data in arrived] == [(1, 100), (2, 100), (3, 50), (3, 0)]


async def test_a_reader_that_reads_again_gets_everything(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(latency_seconds=1, window_bytes=1000, segment_bytes=(1, 50)))
    data = bytes(range(250)) * 40
    async with connected(wire, pause_at_bytes=300) as ends, trio.open_nursery() as nursery:
        nursery.start_soon(send, ends.client, (0, data))
        await trio.sleep(3600)
        assert await ends.server.transport.input.read_exactly(len(data) + 1) == data


async def test_distinct_segments_are_a_microsecond_apart(autojump_clock: MockClock) -> None:
    times: list[float] = []
    async with connected(Wire(up=Direction(segment_bytes=1))) as ends:
        await ends.client.transport.output.send(bytes(20))
        for _ in range(20):
            assert await ends.server.transport.input.receive() == b"\0"
            times.append(trio.current_time())
    assert all(later - sooner == pytest.approx(1e-6) for sooner, later in pairwise(times))


async def test_addresses_and_features_are_those_of_the_inner_connection() -> None:
    @attrs.frozen
    class Known:
        """Something that somebody knows."""

    async with connected(Wire()) as ends:
        assert ends.client.local == ends.server.remote
        assert ends.client.remote == ends.server.local
        assert ends.client.features.get(Known) is None
        assert Known not in ends.client.features
        ends.client.features.publish(Known())
        assert ends.client.features[Known] == Known()


async def test_events_are_told_when_they_happen(autojump_clock: MockClock) -> None:
    wire = Wire(
        up=Direction(latency_seconds=0.5, stalls=[Stall(after_bytes=1, seconds=2)]),
        connect_seconds=1,
    )
    heard: list[str] = []

    async def talk(ends: Ends) -> None:
        ends.network.on_event = lambda event: heard.append(str(event))
        await ends.client.transport.output.send(b"ab")
        await ends.client.transport.output.send_eof()
        await reading(ends.server)
        await wait_all_tasks_blocked()

    async with connected(wire) as ends:
        await talk(ends)
        assert heard == [
            "1.000000 s, connection 1: up: stalled for 2 s after 1 bytes",
            "3.500000 s, connection 1: up: end",
        ]
        assert [str(event) for event in ends.network.events[-2:]] == heard
        assert str(ends.network.events[0]) == "1.000000 s, connection 1: connected"
        assert ends.network.report().splitlines() == [
            f"replay with Network.always({wire!r}, seed=0)",
            f"connection 1 has {wire!r}",
            *map(str, ends.network.events),
        ]
