"""Throttled connections: how fast, to the instant, and what ends a wait."""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.signals import Signal
from kestrel_core.testing import check_middleware, check_pipe, open_server
from kestrel_core.timers import Deadline, Timers
from kestrel_middleware.throttle import Bucket, Throttle, ThrottledPipe


@asynccontextmanager
async def running_timers() -> AsyncGenerator[Timers]:
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        yield timers
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def throttled(
    *, reads: float | None = None, writes: float | None = None, burst_bytes: int | None = None
) -> AsyncGenerator[tuple[DuplexPipe, DuplexPipe]]:
    """Give a throttled pipe and the other end of its wire."""
    async with running_timers() as timers:
        near, far = duplex_pipe_pair(1_000_000)
        read, write = (
            None if rate is None else Bucket(rate, burst_bytes, timers.deadline())
            for rate in (reads, writes)
        )
        yield ThrottledPipe(near, read, write), far


async def arrivals(pipe: DuplexPipe) -> list[tuple[float, int]]:
    """Return when how much had come in all, until the end."""
    count, seen = 0, list[tuple[float, int]]()
    async for chunk in pipe.input:
        count += len(chunk)
        seen.append((round(trio.current_time(), 6), count))
    return seen


@pytest.mark.parametrize(
    "throttle",
    [
        Throttle(read_bytes_per_second=100_000, write_bytes_per_second=50_000),
        Throttle(read_bytes_per_second=300_000, burst_bytes=1000),
        Throttle(write_bytes_per_second=300_000, burst_bytes=1000),
    ],
    ids=["both", "read", "write"],
)
async def test_it_keeps_the_contract(throttle: Throttle, autojump_clock: MockClock) -> None:
    await check_middleware(throttle)


@pytest.mark.parametrize("limited", ["reads", "writes", "both"])
async def test_it_is_a_pipe(limited: str, autojump_clock: MockClock) -> None:
    waits = 0

    class CountingBucket(Bucket):
        async def wait(self, wanted_bytes: int) -> None:
            nonlocal waits
            waits += 1
            await super().wait(wanted_bytes)

    async with running_timers() as timers:

        async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
            near, far = duplex_pipe_pair()
            reads, writes = (
                CountingBucket(2_000_000, 100_000, timers.deadline())
                if limited in (direction, "both")
                else None
                for direction in ("reads", "writes")
            )
            return ThrottledPipe(near, reads, writes), far

        await check_pipe(make_pair)
    assert waits > 100


async def test_writing_goes_in_pieces_at_the_rate(autojump_clock: MockClock) -> None:
    async with throttled(writes=1000) as (near, far), trio.open_nursery() as nursery:

        async def write() -> None:
            await near.output.send(bytes(1500))
            assert trio.current_time() == pytest.approx(0.5)
            await near.output.send_eof()

        nursery.start_soon(write)
        assert await arrivals(far) == [
            (0.0, 1000),
            (0.1, 1100),
            (0.2, 1200),
            (0.3, 1300),
            (0.4, 1400),
            (0.5, 1500),
        ]


async def test_reading_goes_in_pieces_at_the_rate(autojump_clock: MockClock) -> None:
    async with throttled(reads=1000, burst_bytes=200) as (near, far):
        await far.output.send(bytes(500))
        await far.output.send_eof()
        assert await arrivals(near) == [(0.0, 200), (0.1, 300), (0.2, 400), (0.3, 500)]


async def test_a_quiet_time_earns_a_burst_and_no_more(autojump_clock: MockClock) -> None:
    async with throttled(writes=1000, burst_bytes=300) as (near, _far):
        await near.output.send(bytes(300))
        assert trio.current_time() == 0
        await trio.sleep(60)
        await near.output.send(bytes(300))
        assert trio.current_time() == 60
        await near.output.send(bytes(50))
        assert trio.current_time() == pytest.approx(60.05)


async def test_bytes_that_trickle_in_are_not_held_up(autojump_clock: MockClock) -> None:
    async with throttled(reads=10) as (near, far):
        for second in range(30):
            await far.output.send(b"123456789")
            assert await near.input.receive() == b"123456789"
            assert trio.current_time() == second
            await trio.sleep(1)


@pytest.mark.parametrize("rate", [3, 7.7, 1e3 / 3, 1e8])
async def test_the_average_is_the_rate(rate: float, autojump_clock: MockClock) -> None:
    count = int(rate * 5)
    burst_bytes = max(1, int(rate / 10))
    async with (
        throttled(writes=rate, burst_bytes=burst_bytes) as (near, far),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(arrivals, far)
        left = count
        while left:
            size = min(left, 1 << 20)
            await near.output.send(bytes(size))
            left -= size
        await near.output.send_eof()
    assert trio.current_time() == pytest.approx((count - burst_bytes) / rate, rel=1e-3)


async def test_directions_do_not_share(autojump_clock: MockClock) -> None:
    async with throttled(reads=1000, writes=1000) as (near, far):
        await far.output.send(bytes(1000))
        await near.output.send(bytes(1000))
        assert len(await near.input.receive()) == 1000
        assert trio.current_time() == 0


async def test_connections_do_not_share(autojump_clock: MockClock) -> None:
    async def send(connection: Connection) -> None:
        await connection.transport.output.send(bytes(2000))

    throttle = Throttle(write_bytes_per_second=1000)
    async with open_server(send, middleware=[throttle]) as opened, trio.open_nursery() as nursery:
        for _ in range(5):
            client = await opened.connect()
            nursery.start_soon(client.transport.input.read_exactly, 2000)
    assert trio.current_time() == pytest.approx(1)


async def test_without_waiting_only_what_may_go_goes(autojump_clock: MockClock) -> None:
    async with throttled(writes=1000, reads=1000) as (near, far):
        near.output.write(bytes(1200))
        near.output.flush_nowait()
        assert near.output.unflushed_bytes == 200
        near.output.flush_nowait()
        await trio.sleep(0.05)  # not enough for a piece
        near.output.flush_nowait()
        assert near.output.unflushed_bytes == 200
        await trio.sleep(0.1)
        near.output.flush_nowait()
        assert near.output.unflushed_bytes == 50

        await far.output.send(bytes(1200))
        near.input.look()
        near.input.look()
        assert len(near.input.buffered) == 1000
        await trio.sleep(0.1)
        near.input.look()
        assert len(near.input.buffered) == 1100


async def test_without_waiting_a_gone_peer_takes_everything(autojump_clock: MockClock) -> None:
    async with throttled(writes=1000) as (near, far):
        near.output.write(bytes(1200))
        far.abort()
        near.output.flush_nowait()
        assert near.output.unflushed_bytes == 0
        with pytest.raises(trio.BrokenResourceError):
            near.output.write(b"x")


async def test_an_end_that_was_seen_before_comes_behind_what_was(
    autojump_clock: MockClock,
) -> None:
    async with running_timers() as timers:
        near, far = duplex_pipe_pair()
        await far.output.send(bytes(300))
        await far.output.send_eof()
        while not near.input.at_eof:
            near.input.look()
        pipe = ThrottledPipe(near, Bucket(1000, 100, timers.deadline()), None)
        assert await arrivals(pipe) == [(0.0, 100), (0.1, 200), (0.2, 300)]


async def test_what_the_pipe_below_does_not_take_costs_nothing(autojump_clock: MockClock) -> None:
    async with running_timers() as timers:
        near, far = duplex_pipe_pair(100)
        pipe = ThrottledPipe(near, None, Bucket(1000, None, timers.deadline()))
        pipe.output.write(bytes(1000))
        pipe.output.flush_nowait()
        assert pipe.output.unflushed_bytes == 900
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.output.flush)
            await far.input.read_exactly(1000)
        assert trio.current_time() == 0


async def test_the_backlog_has_all_that_the_peer_has_not_taken(autojump_clock: MockClock) -> None:
    async with throttled(writes=1000) as (near, far), trio.open_nursery() as nursery:
        output = near.output
        output.write(bytes(3000))
        assert output.backlog_bytes == 3000
        nursery.start_soon(output.flush)
        await wait_all_tasks_blocked()
        assert (output.unflushed_bytes, output.backlog_bytes) == (0, 3000)
        await far.input.read_exactly(1000)
        assert output.backlog_bytes == 2000
        await trio.sleep(0.55)
        assert output.backlog_bytes == 2000
        assert len(await far.input.receive()) == 500
        assert output.backlog_bytes == 1500
        await far.input.read_exactly(1500)
        assert output.backlog_bytes == 0
        assert trio.current_time() == pytest.approx(2)
        nursery.start_soon(output.send, bytes(50))
        await wait_all_tasks_blocked()
        assert (output.unflushed_bytes, output.backlog_bytes) == (0, 50)


async def test_a_step_of_the_backlog_is_a_piece_at_least(autojump_clock: MockClock) -> None:
    async with throttled(writes=10_000) as (near, _far):
        assert near.output.backlog_step_bytes == 1000


async def test_a_waiting_read_can_be_cancelled_without_loss(autojump_clock: MockClock) -> None:
    async with throttled(reads=100) as (near, far), trio.open_nursery() as nursery:
        await far.output.send(bytes(100) + b"the rest")
        await near.input.read_exactly(100)

        async def cancel() -> None:
            await trio.sleep(0.01)
            near.input.cancel_pending_read()

        nursery.start_soon(cancel)
        assert await near.input.read() == b""
        assert near.input.read_cancelled
        assert trio.current_time() == 0.01
        with trio.move_on_after(0.01) as scope:
            await near.input.read()
        assert scope.cancelled_caught
        assert await near.input.read_exactly(8) == b"the rest"
        assert trio.current_time() == pytest.approx(0.1, abs=0.021)


async def test_a_read_with_more_at_hand_checkpoints(autojump_clock: MockClock) -> None:
    async with throttled(reads=1000, burst_bytes=10) as (near, far):
        await far.output.send(bytes(20))
        with assert_checkpoints():
            await near.input.receive()
        await trio.sleep(1)
        with assert_checkpoints():
            await near.input.receive()


@pytest.mark.parametrize("direction", ["read", "flush"])
@pytest.mark.parametrize("how", ["pipe abort", "pipe aclose", "connection abort", "peer abort"])
async def test_an_end_wakes_who_waits_for_bytes(
    direction: str, how: str, autojump_clock: MockClock
) -> None:
    raised = list[type[Exception]]()
    ended_at = list[float]()

    async def handler(connection: Connection) -> None:
        pipe = connection.transport
        await trio.sleep(1)

        async def wait() -> None:
            try:
                if direction == "read":
                    while True:
                        await pipe.input.receive()
                else:
                    await pipe.output.send(bytes(50))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raised.append(type(error))
                ended_at.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.5)
            if how == "pipe abort":
                pipe.abort()
            elif how == "pipe aclose":
                await pipe.aclose()
            elif how == "connection abort":
                connection.abort(EndReason.ABORTED_BY_APP)
            else:
                client.abort(EndReason.ABORTED_BY_APP)

    throttle = Throttle(read_bytes_per_second=1, write_bytes_per_second=1)
    async with open_server(handler, middleware=[throttle]) as opened:
        client = await opened.connect()
        await client.transport.output.send(bytes(50))
        with trio.move_on_after(10):
            await trio.sleep(5)
    closed = how == "pipe aclose"
    assert raised == [trio.ClosedResourceError if closed else trio.BrokenResourceError]
    assert ended_at == [1.5]


async def test_the_end_comes_behind_all_bytes(autojump_clock: MockClock) -> None:
    async def handler(connection: Connection) -> None:
        data = b"".join([chunk async for chunk in connection.transport.input])
        ended_at.append(trio.current_time())
        await connection.transport.output.send(data)
        await connection.transport.output.send_eof()

    ended_at = list[float]()
    throttle = Throttle(read_bytes_per_second=100, write_bytes_per_second=100)
    async with open_server(handler, middleware=[throttle]) as opened:
        client = await opened.connect()
        await client.transport.output.send(bytes(300))
        await client.transport.output.send_eof()
        assert await arrivals(client.transport) == [
            (2.0, 100),
            *((round(2 + tenth / 10, 6), 100 + 10 * tenth) for tenth in range(1, 21)),
        ]
    assert ended_at == [pytest.approx(2)]


async def test_what_was_not_flushed_is_sent_for_a_while(autojump_clock: MockClock) -> None:
    async def write(connection: Connection) -> None:
        connection.transport.output.write(bytes(1000))

    throttle = Throttle(write_bytes_per_second=100)
    limits = Limits(linger_seconds=3.05)
    async with open_server(write, middleware=[throttle], limits=limits) as opened:
        client = await opened.connect()
        assert await client.transport.input.read_exactly(400) == bytes(400)
        assert trio.current_time() == pytest.approx(3)
        with pytest.raises(trio.BrokenResourceError):  # which no client takes for the end
            await client.transport.input.read()
        assert trio.current_time() == pytest.approx(3.05)


async def test_draining_cuts_what_would_take_too_long(autojump_clock: MockClock) -> None:
    async def send(connection: Connection) -> None:
        await connection.transport.output.send(bytes(1_000_000))

    throttle = Throttle(write_bytes_per_second=1)
    async with open_server(send, middleware=[throttle]) as opened:
        await opened.connect()
        await wait_all_tasks_blocked()
        assert await opened.server.drain(2) == 1
        assert trio.current_time() == 2


async def test_nothing_is_left_behind(autojump_clock: MockClock) -> None:
    made = list[Deadline]()
    listening = 0

    class RecordingTimers(Timers):
        def deadline(self) -> Deadline:
            made.append(super().deadline())
            return made[-1]

    class CountingSignal(Signal):
        def listen(self, listener: Callable[[], None]) -> None:
            nonlocal listening
            listening += 1
            super().listen(listener)

        def unlisten(self, listener: Callable[[], None]) -> None:
            nonlocal listening
            listening -= 1
            super().unlisten(listener)

    async def wait(connection: Connection) -> None:
        await connection.transport.output.send(bytes(100))

    throttle = Throttle(read_bytes_per_second=1, write_bytes_per_second=1)
    pipe = duplex_pipe_pair()[0]
    connection = Connection(pipe, ConnectionContext(timers=RecordingTimers()))
    connection.closed = CountingSignal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(throttle, connection, wait)
        await wait_all_tasks_blocked()
        assert made[-1].expires_at == pytest.approx(1, abs=1e-5)
        nursery.cancel_scope.cancel()
    assert [deadline.armed_at for deadline in made[-2:]] == [math.inf] * 2
    assert [deadline.on_expiry for deadline in made[-2:]] == [None] * 2
    assert connection.transport is pipe
    assert listening == 0


@pytest.mark.parametrize("name", ["read_bytes_per_second", "write_bytes_per_second", "burst_bytes"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be "):
        Throttle(**{name: 0})


@pytest.mark.parametrize("options", [{}, {"burst_bytes": 1}])
def test_it_needs_a_rate(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"^a throttle without .+ limits nothing$"):
        Throttle(**options)
