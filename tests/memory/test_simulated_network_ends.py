"""How connections over the simulated network end, by themselves and by the network's fault."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.network import Direction, Network, SimulatedTransport, Wire
from kestrel_core.transport import open_transport_context
from kestrel_transports.memory import MemoryTransport
from tests.simulated_wire import RESET, Ends, connected, reading

LATE = Wire(up=Direction(latency_seconds=1), down=Direction(latency_seconds=2))


def both(ends: Ends, up: bool) -> tuple[Connection, Connection]:
    """Return the sender and the receiver."""
    return (ends.client, ends.server) if up else (ends.server, ends.client)


async def broken_at(connection: Connection) -> float:
    """Wait until the connection is reset, and tell when."""
    assert (await reading(connection))[-1][1] == RESET
    with pytest.raises(trio.BrokenResourceError):
        await connection.transport.output.send(b"x")
    assert connection.closed
    return trio.current_time()


# Ends of the program's own -----------------------------------------------------------------------


@pytest.mark.parametrize("up", [True, False])
async def test_a_half_close_travels_behind_the_bytes(up: bool, autojump_clock: MockClock) -> None:
    async with connected(LATE) as ends:
        sender, receiver = both(ends, up)
        await sender.transport.output.send(b"last words")
        await sender.transport.output.send_eof()
        delay = 1 if up else 2
        assert await reading(receiver) == [(delay, b"last words"), (delay, b"")]
        assert not sender.closed
        assert not receiver.closed
        await receiver.transport.output.send(b"answer")
        await receiver.aclose()
        assert await reading(sender) == [(3, b"answer"), (3, b"")]
        await wait_all_tasks_blocked()
        assert sender.closed


@pytest.mark.parametrize("up", [True, False])
async def test_a_close_is_an_end_first_and_then_a_reset(
    up: bool, autojump_clock: MockClock
) -> None:
    async with connected(LATE) as ends:
        closer, other = both(ends, up)
        await closer.transport.output.send(b"bye")
        await closer.aclose()
        delay = 1 if up else 2
        assert await reading(other) == [(delay, b"bye"), (delay, b"")]
        assert not other.closed
        await other.transport.output.send(b"did you hear?")
        await other.wait_closed()  # there and back
        assert trio.current_time() == pytest.approx(delay + 3)
        assert await broken_at(other) == trio.current_time()
        assert ends.texts[-1].endswith("reset, as bytes came that nobody receives")


@pytest.mark.parametrize("up", [True, False])
async def test_an_abort_is_a_reset_behind_what_has_departed(
    up: bool, autojump_clock: MockClock
) -> None:
    async with connected(LATE) as ends:
        breaker, other = both(ends, up)
        await breaker.transport.output.send(b"departed")
        await wait_all_tasks_blocked()
        await trio.sleep(0.5)
        breaker.abort(EndReason.ABORTED_BY_APP)
        assert breaker.closed
        delay = 1 if up else 2
        assert await reading(other) == [(delay, b"departed"), (delay + 0.5, RESET)]
        assert other.closed


async def test_an_abort_loses_what_has_not_departed(autojump_clock: MockClock) -> None:
    wire = Wire(up=Direction(bytes_per_second=1, segment_bytes=1))
    async with connected(wire) as ends:
        await ends.client.transport.output.send(b"abcdef")
        await trio.sleep(2.5)
        ends.client.abort(EndReason.ABORTED_BY_APP)
        assert await reading(ends.server) == [(2.5, b"ab"), (3, b"c"), (3, RESET)]


@pytest.mark.parametrize("up", [True, False])
async def test_an_abort_after_a_half_close_arrives_too(up: bool, autojump_clock: MockClock) -> None:
    async with connected(LATE) as ends:
        breaker, other = both(ends, up)
        await breaker.transport.output.send_eof()
        await trio.sleep(10)
        assert other.transport.input.buffered == b""
        breaker.abort(EndReason.ABORTED_BY_APP)
        await other.wait_closed()
        assert trio.current_time() == pytest.approx(11 if up else 12)


@pytest.mark.parametrize("up", [True, False])
async def test_a_reset_goes_past_bytes_that_nobody_takes(
    up: bool, autojump_clock: MockClock
) -> None:
    slow = Direction(latency_seconds=1, window_bytes=1000)
    async with connected(Wire(up=slow, down=slow), pause_at_bytes=1000) as ends:
        breaker, other = both(ends, up)
        with trio.move_on_after(10):
            while True:
                await breaker.transport.output.send(bytes(100))
        breaker.abort(EndReason.ABORTED_BY_APP)
        await other.wait_closed()
        assert trio.current_time() == pytest.approx(11)


async def test_all_ends_when_both_ends_have_ended(autojump_clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with connected(LATE) as ends:
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1 + 5
        for connection in (ends.client, ends.server):
            await connection.transport.output.send_eof()
        await trio.sleep(2.001)
        assert ends.client.closed
        assert ends.server.closed
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1  # the context's timers
        assert sorted(ends.texts) == ["down: end", "up: end"]


async def test_all_ends_when_nobody_is_left(autojump_clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with connected(LATE) as ends:
        for connection in (ends.client, ends.server):
            await connection.transport.output.send(b"on its way")
            connection.abort(EndReason.ABORTED_BY_APP)
        await wait_all_tasks_blocked()
        assert trio.current_time() == 0
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1


async def test_the_end_of_the_context_resets_both_ends(autojump_clock: MockClock) -> None:
    endpoint = Endpoint("memory", "name")
    async with open_transport_context() as server_context:
        listener = await MemoryTransport().bind(endpoint, server_context)
        async with open_transport_context() as context:
            transport = SimulatedTransport(MemoryTransport(), Network.always(LATE))
            client = await transport.connect(endpoint, context)
            server = await listener.accept()
            await client.transport.output.send(b"never arrives")
            await wait_all_tasks_blocked()
        assert server.closed
        assert client.closed
        for connection in (client, server):
            with pytest.raises(trio.BrokenResourceError):
                await connection.transport.input.read()
            await connection.aclose()
        await listener.aclose()
    assert autojump_clock.current_time() == 0


# The network's faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("after_bytes", [1, 7, 100])
async def test_a_reset_comes_when_just_so_many_bytes_have_arrived(
    up: bool, after_bytes: int, autojump_clock: MockClock
) -> None:
    cut = Direction(latency_seconds=1, reset_after_bytes=after_bytes)
    async with connected(Wire(up=cut, down=cut)) as ends, trio.open_nursery() as nursery:
        sender, receiver = both(ends, up)
        data = bytes(range(200))
        broken: list[float] = []

        async def watch() -> None:
            broken.append(await broken_at(sender))

        async def send() -> None:
            await sender.transport.output.send(data[:5])
            await trio.sleep(3)
            if not sender.closed:
                await sender.transport.output.send(data[5:])

        nursery.start_soon(watch)
        nursery.start_soon(send)
        arrived = await reading(receiver)
        assert arrived[-1][1] == RESET
        assert b"".join(part for _, part in arrived[:-1]) == data[:after_bytes]
        assert receiver.closed
        await wait_all_tasks_blocked()
        assert broken == [pytest.approx(1 if after_bytes < 5 else 4, abs=1e-5)]
        assert ends.texts == [f"{'up' if up else 'down'}: reset after {after_bytes} bytes"]


async def test_a_reset_may_come_before_any_byte(autojump_clock: MockClock) -> None:
    wire = Wire(down=Direction(latency_seconds=1, reset_after_bytes=0))
    async with connected(wire) as ends:
        await ends.client.transport.output.send(b"hello")
        assert await reading(ends.server) == [(0, b"hello"), (1, RESET)]
        assert await broken_at(ends.client) == pytest.approx(1)


async def test_no_reset_while_bytes_are_missing(autojump_clock: MockClock) -> None:
    async with connected(Wire(up=Direction(reset_after_bytes=6))) as ends:
        await ends.client.transport.output.send(b"hello")
        await ends.client.transport.output.send_eof()
        assert await reading(ends.server) == [(0, b"hello"), (0, b"")]
        assert not ends.server.closed


async def test_a_reset_may_count_both_directions(autojump_clock: MockClock) -> None:
    late = Direction(latency_seconds=1)
    async with connected(Wire(up=late, down=late, reset_after_bytes=8)) as ends:
        await ends.client.transport.output.send(b"12345")
        assert await ends.server.transport.input.receive() == b"12345"
        await ends.server.transport.output.send(b"67890")
        assert await reading(ends.client) == [(2, b"678"), (2, RESET)]
        assert await reading(ends.server) == [(2, RESET)]
        assert ends.texts == ["reset after 8 bytes"]


@pytest.mark.parametrize("up", [True, False])
async def test_an_early_end_loses_the_rest(up: bool, autojump_clock: MockClock) -> None:
    cut = Direction(latency_seconds=1, eof_after_bytes=3)
    async with connected(Wire(up=cut, down=cut)) as ends:
        sender, receiver = both(ends, up)
        await sender.transport.output.send(b"12345")
        assert await reading(receiver) == [(1, b"123"), (1, b"")]
        for _ in range(100):  # the sender does not know
            await sender.transport.output.send(bytes(10_000))
        assert not sender.closed
        assert not receiver.closed
        await sender.transport.output.send_eof()
        await receiver.transport.output.send(b"6")
        assert await sender.transport.input.receive() == b"6"
        direction = "up" if up else "down"
        assert ends.texts == [f"{direction}: cut off after 3 bytes", f"{direction}: end"]


async def test_an_end_that_comes_first_may_come_at_once(autojump_clock: MockClock) -> None:
    async with connected(Wire(down=Direction(latency_seconds=1, eof_after_bytes=0))) as ends:
        assert await reading(ends.client) == [(1, b"")]
        await ends.client.aclose()
        await ends.server.transport.output.send(b"nobody")
        assert await reading(ends.server) == [(1, b"")]


async def test_refusal(autojump_clock: MockClock) -> None:
    network = Network.of([Wire(refused=True, connect_seconds=3), Wire(connect_seconds=0.5)])
    async with open_transport_context() as context:
        transport = SimulatedTransport(MemoryTransport(), network)
        listener = await transport.bind(Endpoint("memory", "name"), context)
        with pytest.raises(ConnectionRefusedError, match="the simulated network refuses conn"):
            await transport.connect(listener.endpoint, context)
        assert trio.current_time() == 3
        client = await transport.connect(listener.endpoint, context)
        assert trio.current_time() == 3.5
        server = await listener.accept()
        await client.transport.output.send(b"second")
        assert await server.transport.input.receive() == b"second"
        await listener.aclose()
        with pytest.raises(ConnectionRefusedError, match="nobody listens"):
            await transport.connect(listener.endpoint, context)
        texts = [(event.connection, event.text) for event in network.events]
        assert texts == [(1, "refused"), (2, "connected")]
        for connection in (client, server):
            await connection.aclose()
