import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from kestrel_core.cli.serving import ServingFailed, serve_until_stopped
from kestrel_core.connection import Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.transport import Listener, Transport, TransportContext, open_transport_context

names = count(1)


class LifespanFailed(Exception):
    """What these lifespans fail with."""


class World:
    """A server on a memory endpoint, signals to send it, and what its lifespan has seen."""

    def __init__(self) -> None:
        self.server = Server()
        self.endpoint = f"memory://cli-{next(names)}"
        self.seen: list[str] = []
        self.notes: list[str] = []
        self.shutdown: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.startup: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.send, self._signals = trio.open_memory_channel[int](10)

    def listen(self, handler: Callable[[Connection], Awaitable[None]]) -> None:
        self.server.listen(self.endpoint, handler)

    async def run(self, drain_seconds: float = 30.0, not_ready_seconds: float = 0.0) -> int:
        return await serve_until_stopped(
            self.server,
            self._lifespan(),
            self._signals,
            drain_seconds=drain_seconds,
            lifespan_failure=LifespanFailed,
            not_ready_seconds=not_ready_seconds,
            endpoint_notes=self.notes,
        )

    async def connect(self, context: TransportContext) -> Connection:
        transport = self.server.registry.transport("memory")
        connection = await transport.connect(Endpoint.parse(self.endpoint), context)
        await trio.testing.wait_all_tasks_blocked()
        return connection

    @asynccontextmanager
    async def _lifespan(self) -> AsyncGenerator[None]:
        await self.startup()
        self.seen.append("started")
        yield
        await self.shutdown()
        self.seen.append("stopped")


async def finishes_when_asked(connection: Connection) -> None:
    await connection.close_requested.wait()


async def never_finishes(connection: Connection) -> None:
    await trio.sleep_forever()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "kestrel.cli"]


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def scenario(
    world: World,
    handler: Callable[[Connection], Awaitable[None]],
    signals: list[tuple[float, int]],
    drain_seconds: float = 30.0,
    not_ready_seconds: float = 0.0,
) -> int:
    """Serve one connection; send each signal after its seconds; return the exit code."""
    world.listen(handler)

    async def client() -> None:
        await trio.testing.wait_all_tasks_blocked()
        async with open_transport_context() as context:
            await world.connect(context)
            for seconds, number in signals:
                await trio.sleep(seconds)
                await world.send.send(number)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        exit_code = await world.run(drain_seconds, not_ready_seconds)
        nursery.cancel_scope.cancel()
    return exit_code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_drains(
    caplog: pytest.LogCaptureFixture, number: signal.Signals, autojump_clock: MockClock
) -> None:
    world = World()
    assert await scenario(world, finishes_when_asked, [(1, number)]) == 0
    assert world.seen == ["started", "stopped"]
    assert told(caplog) == [
        f"listening on {world.endpoint}",
        f"{number.name}: draining for at most 30 s; connections to wait for: 1",
        "stopped; connections cut: 0",
    ]


async def test_draining_ends_at_its_deadline(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world = World()
    started_at = trio.current_time()
    assert await scenario(world, never_finishes, [(0, signal.SIGTERM)], drain_seconds=5) == 0
    assert trio.current_time() - started_at == pytest.approx(5, abs=0.5)
    assert world.seen == ["started", "stopped"]
    assert told(caplog)[1:] == [
        "SIGTERM: draining for at most 5 s; connections to wait for: 1",
        "stopped; connections cut: 1",
    ]


async def test_before_draining_it_may_serve_on_without_being_ready(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world = World()
    saw: list[tuple[float, str]] = []

    async def handler(connection: Connection) -> None:
        saw.append((trio.current_time() - started_at, "accepted"))
        await connection.context.draining.wait()
        saw.append((trio.current_time() - started_at, "not ready"))
        await connection.close_requested.wait()
        saw.append((trio.current_time() - started_at, "draining"))

    async def latecomer() -> None:
        await trio.sleep(4)
        async with open_transport_context() as context:
            await world.connect(context)
            await trio.sleep_forever()

    started_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(latecomer)
        signals = [(1.0, signal.SIGTERM)]
        assert await scenario(world, handler, [*signals], not_ready_seconds=10) == 0
        nursery.cancel_scope.cancel()
    assert [(round(at), what) for at, what in saw] == [
        (0, "accepted"),
        (1, "not ready"),
        (4, "accepted"),
        (4, "not ready"),
        (11, "draining"),
        (11, "draining"),
    ]
    assert told(caplog)[1:] == [
        "SIGTERM: not ready, for 10 s; then draining for at most 30 s; connections to wait for: 1",
        "stopped; connections cut: 0",
    ]


async def test_a_second_signal_does_not_wait_for_anybody_to_notice(
    autojump_clock: MockClock,
) -> None:
    world = World()
    started_at = trio.current_time()
    signals = [(1.0, signal.SIGTERM), (1.0, signal.SIGINT)]
    code = await scenario(world, never_finishes, [*signals], not_ready_seconds=100)
    assert code == 128 + signal.SIGINT
    assert trio.current_time() - started_at == pytest.approx(2, abs=0.5)
    assert world.seen == ["started", "stopped"]


async def test_the_log_says_what_is_special_about_an_endpoint(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world = World()
    world.notes = ["", "TLS"]
    world.server.listen(f"{world.endpoint}-plain", never_finishes)
    assert await scenario(world, finishes_when_asked, [(1, signal.SIGTERM)]) == 0
    assert told(caplog)[:2] == [
        f"listening on {world.endpoint}-plain",
        f"listening on {world.endpoint} (TLS)",
    ]


async def test_a_second_signal_cuts_and_the_lifespan_still_ends(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world = World()
    signals = [(0.0, signal.SIGTERM), (1.0, signal.SIGINT)]
    assert await scenario(world, never_finishes, [*signals]) == 128 + signal.SIGINT
    assert world.seen == ["started", "stopped"]
    assert told(caplog)[1:] == [
        "SIGTERM: draining for at most 30 s; connections to wait for: 1",
        "SIGINT again: not waiting for connections",
        "stopped; connections cut: 1",
    ]


async def test_a_third_signal_ends_a_lifespan_that_hangs(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world = World()
    world.shutdown = trio.sleep_forever
    signals = [(1.0, signal.SIGTERM)] * 3
    assert await scenario(world, never_finishes, [*signals]) == 128 + signal.SIGTERM
    assert world.seen == ["started"]
    assert told(caplog)[-1] == "SIGTERM again: not waiting for the application's shutdown"


async def test_a_second_signal_is_enough_when_only_the_lifespan_is_left(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.shutdown = trio.sleep_forever
    signals = [(1.0, signal.SIGTERM)] * 2
    assert await scenario(world, finishes_when_asked, [*signals]) == 128 + signal.SIGTERM
    assert world.seen == ["started"]


async def test_a_signal_ends_a_start_up_that_hangs(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world = World()
    world.startup = trio.sleep_forever
    world.send.send_nowait(signal.SIGINT)
    assert await world.run() == 0
    assert told(caplog) == ["SIGINT: start-up given up"]


async def test_an_endpoint_that_is_taken(autojump_clock: MockClock) -> None:
    world = World()
    world.listen(never_finishes)
    world.listen(never_finishes)
    with pytest.raises(ServingFailed, match="already bound") as caught:
        await world.run()
    assert caught.value.exit_code == 3
    assert world.seen == ["started", "stopped"]


async def test_an_endpoint_that_its_transport_does_not_understand(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.server.listen("memory://x?colour=red", never_finishes)
    with pytest.raises(ServingFailed, match="no option 'colour'") as caught:
        await world.run()
    assert caught.value.exit_code == 2


async def test_a_lifespan_that_cannot_start(autojump_clock: MockClock) -> None:
    world = World()
    world.listen(never_finishes)

    async def startup() -> None:
        raise LifespanFailed("no database")

    world.startup = startup
    with pytest.raises(ServingFailed) as caught:
        await world.run()
    assert caught.value.exit_code == 3
    assert str(caught.value) == "the application could not start: no database"
    assert caught.value.user_traceback == ""


async def test_a_lifespan_that_sends_a_traceback(autojump_clock: MockClock) -> None:
    world = World()
    world.listen(never_finishes)

    async def startup() -> None:
        raise LifespanFailed("Traceback (most recent call last):\n  File 1\nKeyError: 'x'\n")

    world.startup = startup
    with pytest.raises(ServingFailed) as caught:
        await world.run()
    assert str(caught.value) == "the application could not start: KeyError: 'x'"
    assert caught.value.user_traceback == (
        "Traceback (most recent call last):\n  File 1\nKeyError: 'x'\n"
    )


async def test_a_lifespan_that_cannot_stop(autojump_clock: MockClock) -> None:
    world = World()

    async def shutdown() -> None:
        raise LifespanFailed("the shutdown failed") from KeyError("x")

    world.shutdown = shutdown
    with pytest.raises(ExceptionGroup) as caught:  # of this test's own nursery
        await scenario(world, finishes_when_asked, [(0, signal.SIGTERM)])
    [failure] = caught.value.exceptions
    assert isinstance(failure, ServingFailed)
    assert failure.exit_code == 1
    assert str(failure) == "the application could not stop: the shutdown failed: KeyError: 'x'"
    assert failure.user_traceback == "KeyError: 'x'\n"


async def test_of_two_failures_the_first_is_told_and_the_other_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    world = World()
    world.listen(never_finishes)
    world.listen(never_finishes)

    async def shutdown() -> None:
        raise LifespanFailed("no way out")

    world.shutdown = shutdown
    with pytest.raises(ServingFailed, match="already bound"):
        await world.run()
    assert told(caplog) == ["the application could not start: no way out"]


class BrokenListener(Listener):
    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("broken", "x")

    async def accept(self) -> Connection:
        await trio.sleep(1)
        raise OSError("the network is down")

    async def unbind(self) -> None: ...

    async def aclose(self) -> None: ...


class BrokenTransport(Transport):
    scheme = "broken"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        return BrokenListener()

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        raise NotImplementedError


async def test_a_server_that_stops_by_itself(autojump_clock: MockClock) -> None:
    world = World()
    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "broken", BrokenTransport())
    world.server = Server(registry=registry)
    world.server.listen("broken://x", never_finishes)
    with pytest.raises(ServingFailed) as caught:
        await world.run()
    assert str(caught.value) == "the server stopped: the network is down"
    assert caught.value.exit_code == 1
    assert world.seen == ["started", "stopped"]
