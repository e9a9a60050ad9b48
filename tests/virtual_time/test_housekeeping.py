"""What the server does for itself in times that nobody can set, and how it takes being late."""

import threading

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.memory import MemoryPool
from kestrel_core.testing import open_server, serve
from kestrel_core.timers import Timers
from kestrel_protocols.http import HttpExchange
from tests.http1_site import hello
from tests.raw_client import post
from tests.virtual_time.ending import Ending, connect, ending
from tests.virtual_time.proofs import proves


@proves("kestrel_core.memory._EVICTION_SECONDS")
async def test_the_memory_pool_shrinks_every_ten_seconds(autojump_clock: MockClock) -> None:
    """Ten blocks at a time, once nobody has asked for any in ten seconds."""
    pools: list[MemoryPool] = []

    def make_pool(timers: Timers) -> MemoryPool:
        pools.append(MemoryPool(timers, block_bytes=4096))
        return pools[0]

    async def rent(connection: Connection) -> None:
        for block in [connection.memory_pool.rent() for _ in range(25)]:
            connection.memory_pool.give_back(block)
        await connection.transport.input.read()

    pooled: dict[float, int] = {}
    async with open_server(rent, memory_pool=make_pool) as server:
        await server.connect()
        for at in (9.999, 10, 19.999, 20, 29.999, 30, 39.999, 40):
            await trio.sleep_until(at)
            await wait_all_tasks_blocked()
            pooled[at] = pools[0].statistics.pooled
    assert pooled == {
        9.999: 25, 10: 25, 19.999: 25, 20: 15, 29.999: 15, 30: 5, 39.999: 5, 40: 0
    }  # fmt: skip


@proves("kestrel_core.heap._TRIM_SECONDS")
async def test_the_heap_is_trimmed_ten_seconds_after_a_burst(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Event()

    def trim(_pad: int) -> None:
        trimmed.set()

    monkeypatch.setattr("kestrel_core.server._malloc_trim", trim)

    async def wait(connection: Connection) -> None:
        await connection.transport.input.read()

    async with open_server(wait) as server:
        clients = [await server.connect() for _ in range(256)]
        await trio.sleep(100)
        for client in clients[:128]:
            await client.aclose()
        await trio.sleep(9.999)
        assert not trimmed.is_set()
        await trio.sleep(0.001)
        assert await trio.to_thread.run_sync(trimmed.wait, 10)


# A process that was stopped or busy, or has a debugger attached ---------------------------------


@proves("kestrel_core.timers._STARVED_SECONDS")
@pytest.mark.parametrize(("jumped", "ends_at"), [(130, 130), (130.999, 130.999), (140, 150)])
async def test_what_came_due_while_the_server_was_stopped_gets_its_time_again(
    jumped: float, ends_at: float, mock_clock: MockClock
) -> None:
    """To jump by hand, past a deadline, is the same as having been stopped."""
    async with serve(hello) as server:
        client = await connect(server)
        await wait_all_tasks_blocked()
        mock_clock.jump(jumped)
        mock_clock.autojump_threshold = 0
        assert await ending(server, client) == Ending(
            at=ends_at, reason=EndReason.KEEP_ALIVE_TIMEOUT
        )


@proves("kestrel_protocols.http.patience._STARVED_SECONDS")
@pytest.mark.parametrize(("jumped", "status"), [(5.5, 408), (20, 200)])
async def test_what_a_client_sent_while_the_server_was_stopped_is_not_late(
    jumped: float, status: int, mock_clock: MockClock
) -> None:
    async def receive_all(exchange: HttpExchange) -> None:
        while await exchange.receive():
            pass
        await exchange.respond(200, [], b"")

    async with serve(receive_all, interface="native") as server:
        client = await connect(server)
        await client.send(post(b"x" * 10)[:-10])
        await wait_all_tasks_blocked()
        mock_clock.jump(jumped)
        await client.send_in_one(b"x" * 9)
        mock_clock.autojump_threshold = 0
        await trio.sleep(1)
        await client.send(b"x")
        assert (await client.receive()).status == status


@proves("kestrel_core.timers._DEBUGGER_SECONDS")
async def test_nothing_expires_while_a_debugger_is_attached(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(hello) as server:
        client = await connect(server)
        with monkeypatch.context() as patch:
            patch.setattr("kestrel_core.timers._debugger_attached", lambda: True)
            await trio.sleep(1000.5)
            assert server.metrics().open_connections == 1
        assert await ending(server, client) == Ending(at=1001, reason=EndReason.KEEP_ALIVE_TIMEOUT)
