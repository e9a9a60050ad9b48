"""What the connections of one program share, and who ends it."""

import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError
from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.server import Server
from kestrel_core.timers import Timers
from kestrel_core.transport import open_transport_context
from kestrel_transports.memory import MemoryTransport

# The context itself -----------------------------------------------------------------------------


async def test_what_is_not_given_is_made() -> None:
    context = ConnectionContext()
    assert context.limits == Limits()
    assert context.upgraded_connections == 0
    with context.memory_pool.rent() as block:
        assert len(block.view) == 64 * 1024
    context.memory_pool.close()
    other = ConnectionContext()
    assert other.timers is not context.timers
    assert other.memory_pool is not context.memory_pool


async def test_what_is_given_is_kept() -> None:
    limits, timers = Limits(max_connections=3), Timers()
    pool = MemoryPool(timers)
    context = ConnectionContext(limits, timers, pool)
    assert context.limits is limits
    assert context.timers is timers
    assert context.memory_pool is pool


async def test_the_pool_that_is_made_goes_by_the_timers(autojump_clock: MockClock) -> None:
    """Blocks that nobody needs are gone after a while."""
    async with open_transport_context() as context:
        pool = context.memory_pool
        pool.give_back(pool.rent())
        assert pool.statistics.pooled == 1
        await trio.sleep(30)
        assert pool.statistics.pooled == 0


async def test_a_connection_has_what_its_context_has() -> None:
    context = ConnectionContext(Limits(keep_alive_seconds=7))
    near, far = duplex_pipe_pair()
    one, other = Connection(near, context), Connection(far, context)
    for connection in (one, other):
        assert connection.context is context
        assert connection.limits is context.limits
        assert connection.memory_pool is context.memory_pool
    one.deadline.set(5)
    assert other.deadline.expires_at == math.inf
    for connection in (one, other):
        await connection.aclose()


async def test_upgrades_are_counted() -> None:
    context = ConnectionContext()
    for number in range(1, 1000):
        assert context.claim_upgrade()
        assert context.upgraded_connections == number
    context.release_upgrade()
    assert context.upgraded_connections == 998


async def test_there_may_be_so_many_upgrades() -> None:
    context = ConnectionContext(Limits(max_upgraded_connections=2))
    assert [context.claim_upgrade() for _ in range(4)] == [True, True, False, False]
    assert context.upgraded_connections == 2
    context.release_upgrade()
    assert [context.claim_upgrade() for _ in range(2)] == [True, False]


async def test_there_may_be_none() -> None:
    context = ConnectionContext(Limits(max_upgraded_connections=0))
    assert not context.claim_upgrade()
    assert context.upgraded_connections == 0


# A client program's -----------------------------------------------------------------------------


def is_closed(pool: MemoryPool) -> bool:
    try:
        pool.give_back(pool.rent())
    except ValueError:
        return True
    return False


async def test_a_clients_pool_is_closed_at_the_end() -> None:
    async with open_transport_context() as context:
        pool = context.memory_pool
        kept = pool.rent()
        pool.give_back(pool.rent())
        assert not is_closed(pool)
    assert is_closed(pool)
    assert pool.statistics.pooled == 0
    pool.give_back(kept)
    assert pool.statistics.rented == 0


async def test_a_clients_pool_is_closed_when_the_block_raises() -> None:
    pools: list[MemoryPool] = []

    async def fail() -> None:
        async with open_transport_context() as context:
            pools.append(context.memory_pool)
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await fail()
    assert caught.group_contains(ZeroDivisionError)
    assert is_closed(pools[0])


async def test_a_clients_pool_is_closed_when_it_is_cancelled() -> None:
    pools: list[MemoryPool] = []
    with trio.CancelScope() as scope:
        async with open_transport_context() as context:
            pools.append(context.memory_pool)
            scope.cancel()
            await trio.sleep_forever()
    assert is_closed(pools[0])


# A server's -------------------------------------------------------------------------------------


class Factory:
    """Makes pools, and keeps them with what it was given."""

    def __init__(self) -> None:
        self.pools: list[MemoryPool] = []
        self.timers: list[Timers] = []

    def __call__(self, timers: Timers) -> MemoryPool:
        self.timers.append(timers)
        self.pools.append(MemoryPool(timers, block_bytes=4096))
        return self.pools[-1]


async def hold(connection: Connection) -> None:
    """Rent a block for as long as the client stays."""
    with connection.memory_pool.rent() as block:
        assert len(block.view) == 4096
        await connection.transport.input.read()


async def test_a_servers_connections_share_the_pool_that_was_asked_for() -> None:
    factory = Factory()
    server = Server(memory_pool=factory)
    server.listen("memory://first", hold)
    server.listen("memory://second", hold)
    assert factory.pools == []
    async with trio.open_nursery() as nursery:
        endpoints = await nursery.start(server.serve)
        async with open_transport_context() as context:
            clients = [await MemoryTransport().connect(each, context) for each in endpoints]
            await wait_all_tasks_blocked()
            assert {connection.memory_pool for connection in server.connections} == {
                factory.pools[0]
            }
            assert {id(each.context.timers) for each in server.connections} == {
                id(factory.timers[0])
            }
            assert factory.pools[0].statistics.rented == 2
            assert context.memory_pool is not factory.pools[0]
            for client in clients:
                await client.aclose()
        assert not is_closed(factory.pools[0])
        await server.drain(1)
    assert len(factory.pools) == 1
    assert factory.pools[0].statistics.rented == 0
    assert is_closed(factory.pools[0])


async def test_a_servers_pool_evicts_while_it_serves(autojump_clock: MockClock) -> None:
    """Its timers are those that the server runs."""
    factory = Factory()
    server = Server(memory_pool=factory)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        (pool,) = factory.pools
        pool.give_back(pool.rent())
        await trio.sleep(30)
        assert pool.statistics.pooled == 0
        assert pool.statistics.evicted == 1
        await server.drain(1)


async def test_a_pool_of_its_own_unless_asked() -> None:
    server = Server()
    server.listen("memory://own", hold_64_kib)
    async with trio.open_nursery() as nursery:
        (endpoint,) = await nursery.start(server.serve)
        async with open_transport_context() as context:
            client = await MemoryTransport().connect(endpoint, context)
            await wait_all_tasks_blocked()
            (connection,) = server.connections
            pool = connection.memory_pool
            assert type(pool) is MemoryPool
            await client.aclose()
        await server.drain(1)
    assert is_closed(pool)


async def hold_64_kib(connection: Connection) -> None:
    with connection.memory_pool.rent() as block:
        assert len(block.view) == 64 * 1024
        await connection.transport.input.read()


async def test_the_pool_is_closed_when_binding_fails() -> None:
    factory = Factory()
    async with open_transport_context() as context:
        taken = await MemoryTransport().bind(Endpoint.parse("memory://taken"), context)
        server = Server(memory_pool=factory)
        server.listen("memory://free", hold)
        server.listen("memory://taken", hold)
        with pytest.raises(BindError):
            await server.serve()
        await taken.aclose()
    assert [is_closed(pool) for pool in factory.pools] == [True]


async def test_the_pool_is_closed_when_the_server_is_cancelled() -> None:
    """After the last connection has given back what it had rented."""
    await _serve_and_end(lambda server, nursery: nursery.cancel_scope.cancel())


async def test_the_pool_is_closed_when_the_server_is_aborted() -> None:
    await _serve_and_end(lambda server, nursery: server.abort())


async def _serve_and_end(end: Callable[[Server, trio.Nursery], None]) -> None:
    factory = Factory()
    server = Server(memory_pool=factory)
    server.listen("memory://busy", hold)
    async with open_transport_context() as context:
        async with trio.open_nursery() as nursery:
            (endpoint,) = await nursery.start(server.serve)
            client = await MemoryTransport().connect(endpoint, context)
            await wait_all_tasks_blocked()
            (pool,) = factory.pools
            assert pool.statistics.rented == 1
            end(server, nursery)
        assert pool.statistics.rented == 0
        assert is_closed(pool)
        await client.aclose()


async def test_a_server_that_never_served_has_no_pool() -> None:
    factory = Factory()
    server = Server(memory_pool=factory)
    server.listen("memory://unused", hold)
    assert await server.drain(1) == 0
    server.abort()
    assert factory.pools == []


async def test_a_server_serves_once_and_makes_one_pool() -> None:
    factory = Factory()
    server = Server(memory_pool=factory)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        with pytest.raises(RuntimeError, match="a server serves once"):
            await server.serve()
        await server.drain(1)
        with pytest.raises(RuntimeError, match="a server serves once"):
            await server.serve()
    assert len(factory.pools) == 1


async def test_a_factory_that_fails() -> None:
    """Its error comes out as it is, as that of binding does, and nothing is left running."""

    def fail(timers: Timers) -> MemoryPool:
        raise ZeroDivisionError

    server = Server(memory_pool=fail)
    server.listen("memory://never", hold)
    with pytest.raises(ZeroDivisionError):
        await server.serve()
    assert server.endpoints == []
