from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Address, Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.testing import OpenServer, open_server


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def sleep(connection: Connection) -> None:
    await trio.sleep_forever()


async def expect_echo(connection: Connection) -> None:
    await connection.transport.output.send(b"hello")
    assert await connection.transport.input.read_exactly(5) == b"hello"


async def test_it_serves_while_the_block_runs() -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with open_server(echo) as opened:
        assert opened.endpoint.scheme == "memory"
        assert opened.server.endpoints == [opened.endpoint]
        await expect_echo(await opened.connect())
        await expect_echo(await opened.connect())
        assert len(opened.server.connections) == 2
    assert opened.server.endpoints == []
    assert list(opened.server.connections) == []
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_servers_do_not_get_in_each_others_way() -> None:
    async with open_server(echo) as first, open_server(sleep) as second:
        assert first.endpoint != second.endpoint
        await expect_echo(await first.connect())


async def test_a_client_may_have_any_address() -> None:
    async with open_server(echo, endpoint="memory://name?server=192.0.2.1:80") as opened:
        client = await opened.connect(address="203.0.113.7:4711")
        await expect_echo(client)
        (connection,) = opened.server.connections
        assert connection.remote == client.local == Address("203.0.113.7", 4711)
        assert connection.local == client.remote == Address("192.0.2.1", 80)


async def test_what_the_server_gets_is_passed_on() -> None:
    calls: list[str] = []

    async def middleware(connection: Connection, following: ConnectionHandler) -> None:
        calls.append("middleware")
        await following(connection)

    limits = Limits(max_connections=1)
    async with open_server(echo, middleware=[middleware], limits=limits) as opened:
        await expect_echo(await opened.connect())
        with pytest.raises(trio.BrokenResourceError):
            await (await opened.connect()).transport.input.read()
    assert calls == ["middleware"]


async def test_the_lifespan_is_outermost() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        events.append("startup")
        yield
        events.append("shutdown")

    async def handler(connection: Connection) -> None:
        events.append("begin")
        try:
            await echo(connection)
        finally:
            events.append("end")

    async with open_server(handler, lifespan=lifespan()) as opened:
        await expect_echo(await opened.connect())
    assert events == ["startup", "begin", "end", "shutdown"]


async def test_connections_that_nobody_closed_end_with_the_block(
    autojump_clock: MockClock,
) -> None:
    async with open_server(echo) as opened:
        client = await opened.connect()
        await expect_echo(client)
    assert client.closed
    assert client.end_reason is EndReason.ABORTED_BY_APP
    assert trio.current_time() == 0


async def test_handlers_have_time_to_finish_and_no_more(autojump_clock: MockClock) -> None:
    finished: list[float] = []

    async def finish_slowly(connection: Connection) -> None:
        await connection.close_requested.wait()
        await trio.sleep(2)
        finished.append(trio.current_time())
        await trio.sleep(100)

    async with open_server(finish_slowly, drain_seconds=5) as opened:
        await opened.connect()
        await wait_all_tasks_blocked()
    assert finished == [2]
    assert trio.current_time() == 5


async def test_an_exception_of_the_block_comes_out_as_it_is_and_at_once(
    autojump_clock: MockClock,
) -> None:
    opened: OpenServer | None = None
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block is what is tested
        async with open_server(sleep) as opened:
            await opened.connect()
            raise ZeroDivisionError
    assert opened is not None
    assert opened.server.endpoints == []
    assert trio.current_time() == 0


async def test_a_block_may_be_cancelled(autojump_clock: MockClock) -> None:
    with trio.move_on_after(3) as scope:
        async with open_server(sleep) as opened:
            await opened.connect()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 3


async def test_what_cannot_be_bound_is_told_as_it_is() -> None:
    with pytest.raises(EndpointError):
        async with open_server(echo, endpoint="memory://name?colour=red"):
            raise AssertionError("this cannot be served")
    async with open_server(echo, endpoint="memory://name"):
        with pytest.raises(BindError):
            async with open_server(echo, endpoint="memory://name"):
                raise AssertionError("this cannot be served")
