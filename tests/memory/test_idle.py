"""Idle connections end in time, whatever they were doing, and others do not."""

import math

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.end_reason import EndReason
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.testing import check_middleware, open_server
from kestrel_core.timers import Deadline, Timers
from kestrel_middleware.idle import Idle


class Handler:
    """Reads to the end, and notes what becomes of that and when."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.received = bytearray()
        self.broken_at: float | None = None

    async def __call__(self, connection: Connection) -> None:
        self.connection = connection
        try:
            async for chunk in connection.transport.input:
                self.received += chunk
        except trio.BrokenResourceError:
            self.broken_at = trio.current_time()
            raise

    @property
    def end_reason(self) -> EndReason | None:
        assert self.connection is not None
        return self.connection.end_reason


async def test_it_keeps_the_contract(autojump_clock: MockClock) -> None:
    await check_middleware(Idle(seconds=100))


async def test_a_silent_connection_is_broken_in_time(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with open_server(handler, middleware=[Idle(seconds=60)]) as opened:
        client = await opened.connect()
        with pytest.raises(trio.BrokenResourceError):
            await client.transport.input.receive()
        assert trio.current_time() == 60
    assert handler.broken_at == 60
    assert handler.end_reason is EndReason.IDLE_TIMEOUT


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("pause_seconds", [0.3, 1.0, 7.0, 30.0, 59.9])
async def test_bytes_either_way_keep_it_open(
    direction: str, pause_seconds: float, autojump_clock: MockClock
) -> None:
    """It ends behind the last byte: never early, and late by an eighth at most."""

    async def send(connection: Connection) -> None:
        for _ in range(20):
            await trio.sleep(pause_seconds)
            await connection.transport.output.send(b"x")

    async def handler(connection: Connection) -> None:
        if direction == "out":
            await send(connection)
        await connection.transport.input.read_exactly(21)

    async with (
        open_server(handler, middleware=[Idle(seconds=60)]) as opened,
        trio.open_nursery() as nursery,
    ):
        client = await opened.connect()
        if direction == "in":
            nursery.start_soon(send, client)
        with pytest.raises(trio.BrokenResourceError):
            await client.transport.input.read_exactly(21)
        assert 60 <= trio.current_time() - 20 * pause_seconds <= 60 * 1.125


async def test_what_is_written_and_not_flushed_does_not_move(autojump_clock: MockClock) -> None:
    async def handler(connection: Connection) -> None:
        while True:
            await trio.sleep(1)
            connection.transport.output.write(b"x")

    async with open_server(handler, middleware=[Idle(seconds=10)]) as opened:
        client = await opened.connect()
        with pytest.raises(trio.BrokenResourceError):
            await client.transport.input.receive()
        assert trio.current_time() == 10


@pytest.mark.parametrize("stops_after_seconds", [25, 200])
async def test_a_peer_that_takes_what_was_sent_moves(
    stops_after_seconds: int, autojump_clock: MockClock
) -> None:
    """The handler is waiting in one flush, or is done, while the peer reads on."""

    async def handler(connection: Connection) -> None:
        await connection.transport.output.send(bytes(1000))
        await connection.transport.input.receive()

    async with open_server(handler, middleware=[Idle(seconds=10)]) as opened:
        client = await opened.connect(options={"pause_at_bytes": "500"})
        for _ in range(stops_after_seconds // 5):
            await trio.sleep(5)
            assert await client.transport.input.receive(5)
        await client.wait_closed()
        assert 10 <= trio.current_time() - stops_after_seconds <= 11.25


async def test_a_peer_that_takes_nothing_does_not_move(autojump_clock: MockClock) -> None:
    async def handler(connection: Connection) -> None:
        await connection.transport.output.send(bytes(1000))

    async with open_server(handler, middleware=[Idle(seconds=10)]) as opened:
        client = await opened.connect(options={"pause_at_bytes": "500"})
        await client.wait_closed()
        assert 10 <= trio.current_time() <= 11.25


async def test_a_connection_is_looked_at_now_and_then(autojump_clock: MockClock) -> None:
    looks = list[float]()

    class RecordingDeadline(Deadline):
        def set(self, expires_at: float) -> None:
            looks.append(expires_at)
            super().set(expires_at)

    class RecordingTimers(Timers):
        def deadline(self) -> Deadline:
            return RecordingDeadline(self)

    near, far = duplex_pipe_pair()
    connection = Connection(near, ConnectionContext(timers=RecordingTimers()))

    async def send() -> None:
        for _ in range(100):
            await far.output.send(b"x")
            await trio.sleep(0.25)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.context.timers.run)
        nursery.start_soon(send)
        with pytest.raises(trio.BrokenResourceError):
            await Idle(seconds=16)(connection, Handler())
        nursery.cancel_scope.cancel()
    assert looks == list(range(2, 44, 2))


async def test_it_ends_with_what_follows(autojump_clock: MockClock) -> None:
    made = list[Deadline]()

    class RecordingTimers(Timers):
        def deadline(self) -> Deadline:
            made.append(super().deadline())
            return made[-1]

    pipe, far = duplex_pipe_pair()
    connection = Connection(pipe, ConnectionContext(timers=RecordingTimers()))
    await far.aclose()
    await Idle(seconds=60)(connection, Handler())
    assert connection.transport is pipe
    assert (made[-1].armed_at, made[-1].on_expiry) == (math.inf, None)


async def test_what_was_not_flushed_is_sent(autojump_clock: MockClock) -> None:
    async def write(connection: Connection) -> None:
        connection.transport.output.write(b"by")
        connection.transport.output.write(b"e")

    async with open_server(write, middleware=[Idle()]) as opened:
        client = await opened.connect()
        assert await client.transport.input.read_exactly(4) == b"bye"


async def test_each_connection_has_its_own_time(autojump_clock: MockClock) -> None:
    async with open_server(Handler(), middleware=[Idle(seconds=10)]) as opened:
        first = await opened.connect()
        await trio.sleep(5)
        second = await opened.connect()
        await first.wait_closed()
        assert trio.current_time() == 10
        await second.wait_closed()
        assert trio.current_time() == 15


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_options_are_checked(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^seconds must be above zero"):
        Idle(seconds=seconds)
