"""The server over the in-memory transport, with raw handlers."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.server import Server
from kestrel_core.transport import TransportContext, open_transport_context

Connect = Callable[[Endpoint | str], Awaitable[Connection]]


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def sleep(connection: Connection) -> None:
    await trio.sleep_forever()


async def finish_when_asked(connection: Connection) -> None:
    await connection.close_requested.wait()


@asynccontextmanager
async def clients() -> AsyncGenerator[Connect]:
    """Yield what connects, and close what it connected."""
    connections: list[Connection] = []

    async def connect(endpoint: Endpoint | str) -> Connection:
        if isinstance(endpoint, str):
            endpoint = Endpoint.parse(endpoint)
        transport = Server().registry.transport(endpoint.scheme)
        connections.append(await transport.connect(endpoint, context))
        return connections[-1]

    context: TransportContext
    async with open_transport_context() as context:
        yield connect
        for connection in connections:
            await connection.aclose()


@asynccontextmanager
async def serving(server: Server, *, drain_seconds: float = 0) -> AsyncGenerator[list[Endpoint]]:
    """Serve for the length of the block, and see that nothing is left open."""
    async with trio.open_nursery() as nursery:
        endpoints: list[Endpoint] = await nursery.start(server.serve)
        yield endpoints
        await server.drain(drain_seconds)
    expect_nothing_left(server, endpoints)


def expect_nothing_left(server: Server, endpoints: list[Endpoint]) -> None:
    assert list(server.connections) == []
    assert server.endpoints == []


async def expect_refused(connect: Connect, endpoint: Endpoint | str) -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect(endpoint)


async def expect_echo(connection: Connection) -> None:
    await connection.transport.output.send(b"hello")
    assert await connection.transport.input.read_exactly(5) == b"hello"


async def expect_reset(connection: Connection) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await connection.transport.input.read()


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return what was logged at `level` or above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# Serving ----------------------------------------------------------------------------------------


async def test_starting_returns_what_was_bound(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.listen("memory://one", echo)
    server.listen(Endpoint.parse("memory://two?backlog=3"), echo)
    assert server.endpoints == []
    async with serving(server) as endpoints, clients() as connect:
        assert [str(endpoint) for endpoint in endpoints] == [
            "memory://one",
            "memory://two?backlog=3",
        ]
        assert server.endpoints == endpoints
        for endpoint in endpoints:
            await expect_echo(await connect(endpoint))
    assert logged(caplog) == []


async def test_a_server_without_endpoints_waits_for_some() -> None:
    server = Server()
    async with serving(server) as endpoints, clients() as connect:
        assert endpoints == []
        await expect_echo(await connect(await server.bind("memory://late", echo)))


async def test_connections_are_a_live_view_in_the_order_of_arrival() -> None:
    server = Server()
    server.listen("memory://name", echo)
    view = server.connections
    async with serving(server), clients() as connect:
        assert len(view) == 0
        first = await connect("memory://name?client=first")
        second = await connect("memory://name?client=second")
        await expect_echo(second)
        assert [str(connection.remote) for connection in view] == ["first", "second"]
        await first.aclose()
        await wait_all_tasks_blocked()
        assert [str(connection.remote) for connection in view] == ["second"]
        assert view is not server.connections
        assert list(view) == list(server.connections)


async def test_ids_differ_and_are_thirteen_characters() -> None:
    server = Server()
    server.listen("memory://name", sleep)
    async with serving(server), clients() as connect:
        for _ in range(10):
            await connect("memory://name")
        await wait_all_tasks_blocked()
        ids = {connection.id for connection in server.connections}
        assert len(ids) == 10
        assert {len(each) for each in ids} == {13}


async def test_a_handler_that_returns_ends_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "kestrel.connection")
    ended: list[Connection] = []

    async def greet(connection: Connection) -> None:
        ended.append(connection)
        connection.transport.output.write(b"hello")  # closing flushes it

    server = Server()
    server.listen("memory://name", greet)
    async with serving(server), clients() as connect:
        client = await connect("memory://name?client=203.0.113.7:4711")
        assert await client.transport.input.read_exactly(6) == b"hello"
        await wait_all_tasks_blocked()
        assert client.closed
        (connection,) = ended
        assert connection.end_reason is EndReason.COMPLETED
        assert connection.closed
    (record,) = (record for record in caplog.records if record.name == "kestrel.connection")
    assert (
        record.getMessage() == f"connection {connection.id} from 203.0.113.7:4711 ended: completed"
    )
    assert record.__dict__["connection_id"] == connection.id
    assert record.__dict__["end_reason"] is EndReason.COMPLETED


async def test_a_peer_that_does_not_read_is_waited_for_so_long(autojump_clock: MockClock) -> None:
    async def say_much(connection: Connection) -> None:
        connection.transport.output.write(bytes(1_000_000))

    server = Server(limits=Limits(linger_seconds=3))
    server.listen("memory://name", say_much)
    async with serving(server), clients() as connect:
        client = await connect("memory://name")
        await wait_all_tasks_blocked()
        start = trio.current_time()
        assert len(server.connections) == 1
        await client.closed.wait()
        assert trio.current_time() - start == 3
        assert len(server.connections) == 0


async def test_deadlines_run_under_the_server(autojump_clock: MockClock) -> None:
    async def impatient(connection: Connection) -> None:
        connection.deadline.on_expiry = connection.transport.input.cancel_pending_read
        connection.deadline.set(trio.current_time() + 130)
        await connection.transport.input.read()
        assert connection.transport.input.read_cancelled
        connection.record_end(EndReason.KEEP_ALIVE_TIMEOUT)

    server = Server()
    server.listen("memory://name", impatient)
    async with serving(server), clients() as connect:
        start = trio.current_time()
        client = await connect("memory://name")
        assert await client.transport.input.read() == b""
        assert trio.current_time() - start == 130


async def test_limits_reach_the_connections() -> None:
    limits = Limits(max_request_header_count=3)
    server = Server(limits=limits)
    server.listen("memory://name", sleep)
    async with serving(server), clients() as connect:
        await connect("memory://name")
        await wait_all_tasks_blocked()
        (connection,) = server.connections
        assert connection.limits is limits


async def test_middleware_stands_around_the_handler_in_the_given_order() -> None:
    calls: list[str] = []

    def named(name: str) -> Callable[[Connection, ConnectionHandler], Awaitable[None]]:
        async def middleware(connection: Connection, following: ConnectionHandler) -> None:
            calls.append(f"{name} in")
            await following(connection)
            calls.append(f"{name} out")

        return middleware

    async def handler(connection: Connection) -> None:
        calls.append("handler")

    server = Server()
    server.listen("memory://one", handler, middleware=[named("outer"), named("inner")])
    async with serving(server), clients() as connect:
        await (await connect("memory://one")).wait_closed()
        assert calls == ["outer in", "inner in", "handler", "inner out", "outer out"]
        calls.clear()
        await server.bind("memory://two", handler, middleware=[named("other")])
        await (await connect("memory://two")).wait_closed()
        assert calls == ["other in", "handler", "other out"]


async def test_what_middleware_leaves_in_place_does_not_hinder_closing() -> None:
    async def careless(connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)
        connection.transport.abort()

    server = Server()
    server.listen("memory://name", echo, middleware=[careless])
    async with serving(server), clients() as connect:
        client = await connect("memory://name")
        await client.transport.output.send_eof()
        await client.wait_closed()


async def test_two_servers_share_a_program() -> None:
    first, second = Server(), Server()
    first.listen("memory://first", echo)
    second.listen("memory://second", echo)
    async with clients() as connect, serving(second):
        async with serving(first):
            await expect_echo(await connect("memory://first"))
            client = await connect("memory://second")
        await expect_echo(client)
        await expect_refused(connect, "memory://first")


# A full server ----------------------------------------------------------------------------------


async def test_one_too_many_is_closed_without_a_byte(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "kestrel.connection")
    server = Server(limits=Limits(max_connections=2))
    server.listen("memory://one", echo)
    server.listen("memory://two", echo)
    async with serving(server), clients() as connect:
        first, second = await connect("memory://one"), await connect("memory://two")
        await expect_echo(first)
        await expect_echo(second)
        for name in ("one", "two"):
            third = await connect(f"memory://{name}?client=third")
            await expect_reset(third)
            assert third.closed
        assert len(server.connections) == 2
        await first.aclose()
        await wait_all_tasks_blocked()
        await expect_echo(await connect("memory://one"))
    refused = [message for message in logged(caplog, logging.DEBUG) if "third" in message]
    assert len(refused) == 2
    assert all(m.endswith("ended: max_concurrent_connections_exceeded") for m in refused)
    assert logged(caplog) == []


# Faults -----------------------------------------------------------------------------------------


async def test_a_handler_that_raises_is_logged_once_and_hurts_no_neighbour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed: list[Connection] = []

    async def fail_on_demand(connection: Connection) -> None:
        async for chunk in connection.transport.input:
            if chunk == b"fail":
                failed.append(connection)
                raise ZeroDivisionError("on demand")
            await connection.transport.output.send(chunk)

    server = Server()
    server.listen("memory://name", fail_on_demand)
    async with serving(server), clients() as connect:
        neighbour, client = await connect("memory://name"), await connect("memory://name")
        await client.transport.output.send(b"fail")
        await expect_reset(client)
        await expect_echo(neighbour)
        await expect_echo(await connect("memory://name"))
        assert failed[0].end_reason is EndReason.OTHER_ERROR
    (record,) = caplog.records
    assert record.name == "kestrel.connection"
    assert record.levelno == logging.ERROR
    assert failed[0].id in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_a_handler_that_raises_before_it_is_awaited_is_no_different(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(connection: Connection) -> Awaitable[None]:
        raise ZeroDivisionError("at once")

    server = Server()
    server.listen("memory://name", fail)
    async with serving(server), clients() as connect:
        await expect_reset(await connect("memory://name"))
        await expect_reset(await connect("memory://name"))
    assert len(caplog.records) == 2


async def test_a_group_of_faults_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(connection: Connection) -> None:
        raise ExceptionGroup("two", [ZeroDivisionError("one"), trio.BrokenResourceError("other")])

    server = Server()
    server.listen("memory://name", fail)
    async with serving(server), clients() as connect:
        await expect_reset(await connect("memory://name"))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ExceptionGroup)


async def test_a_fault_during_cancellation_is_logged_and_the_cancellation_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError("on the way out")

    async def handler(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    server = Server()
    server.listen("memory://name", handler)
    async with serving(server), clients() as connect:
        client = await connect("memory://name")
        await wait_all_tasks_blocked()
        server.abort()
        await expect_reset(client)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR


class Stop(BaseException):
    """What is no error of a handler, as KeyboardInterrupt is none."""


@pytest.mark.parametrize("grouped", [False, True])
async def test_what_is_no_error_ends_the_server(
    caplog: pytest.LogCaptureFixture, grouped: bool
) -> None:
    async def handler(connection: Connection) -> None:
        if grouped:
            raise BaseExceptionGroup("both", [Stop(), ZeroDivisionError("logged")])
        raise Stop

    server = Server()
    server.listen("memory://name", handler)
    stopped: list[BaseExceptionGroup[Stop]] = []

    async def serve(task_status: trio.TaskStatus[list[Endpoint]]) -> None:
        try:
            await server.serve(task_status=task_status)
        except* Stop as group:
            stopped.append(group)

    async with clients() as connect, trio.open_nursery() as nursery:
        await nursery.start(serve)
        await connect("memory://name")
    assert len(stopped) == 1
    expect_nothing_left(server, [])
    assert len(caplog.records) == int(grouped)


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_peer_that_is_gone_is_nobodys_fault(
    caplog: pytest.LogCaptureFixture, grouped: bool
) -> None:
    ended: list[Connection] = []

    async def read(connection: Connection) -> None:
        ended.append(connection)
        if not grouped:
            await connection.transport.input.read()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.transport.input.read)

    server = Server()
    server.listen("memory://name", read)
    async with serving(server), clients() as connect:
        client = await connect("memory://name")
        await wait_all_tasks_blocked()
        client.abort(EndReason.COMPLETED)
        await wait_all_tasks_blocked()
        assert ended[0].end_reason is EndReason.CONNECTION_RESET
    assert logged(caplog) == []


# Draining, aborting, cancelling -----------------------------------------------------------------


async def test_draining_lets_everything_finish(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def finish_slowly(connection: Connection) -> None:
        await connection.close_requested.wait()
        await trio.sleep(4)
        await connection.transport.output.send(b"bye")

    server = Server()
    server.listen("memory://slow", finish_slowly)
    server.listen("memory://fast", finish_when_asked)
    async with clients() as connect, trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        slow, fast = await connect("memory://slow"), await connect("memory://fast")
        await wait_all_tasks_blocked()
        start = trio.current_time()
        assert await server.drain(5) == 0
        assert trio.current_time() - start == 4
        assert await slow.transport.input.read_exactly(3) == b"bye"
        assert await fast.transport.input.read() == b""
        await expect_refused(connect, "memory://slow")
    expect_nothing_left(server, [])
    assert logged(caplog) == []


async def test_draining_cuts_what_does_not_finish_and_counts_it(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    ended: list[Connection] = []

    async def go_on(connection: Connection) -> None:
        ended.append(connection)
        await trio.sleep_forever()

    server = Server()
    server.listen("memory://never", go_on)
    server.listen("memory://fast", finish_when_asked)
    async with clients() as connect, trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        never = [await connect("memory://never") for _ in range(3)]
        await connect("memory://fast")
        await wait_all_tasks_blocked()
        start = trio.current_time()
        assert await server.drain(5) == 3
        expect_nothing_left(server, [])
        assert trio.current_time() - start == 5
        for client in never:
            await expect_reset(client)
        assert {connection.end_reason for connection in ended} == {EndReason.APP_SHUTDOWN_TIMEOUT}
    assert logged(caplog) == ["3 connections did not finish in 5 s and were cut"]


async def test_draining_does_not_hang_on_a_peer_that_does_not_read(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def say_much(connection: Connection) -> None:
        await connection.transport.output.send(bytes(1_000_000))

    async def leave_much(connection: Connection) -> None:
        connection.transport.output.write(bytes(1_000_000))

    server = Server(limits=Limits(linger_seconds=1000))
    server.listen("memory://say", say_much)
    server.listen("memory://leave", leave_much)
    async with clients() as connect, trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        for name in ("say", "leave"):
            await connect(f"memory://{name}")
        await wait_all_tasks_blocked()
        start = trio.current_time()
        assert await server.drain(5) == 2
        assert trio.current_time() - start == 5
    assert logged(caplog) == ["2 connections did not finish in 5 s and were cut"]


async def test_deadlines_run_during_a_drain(autojump_clock: MockClock) -> None:
    async def impatient(connection: Connection) -> None:
        connection.deadline.on_expiry = connection.transport.input.cancel_pending_read
        connection.deadline.set(trio.current_time() + 3)
        await connection.transport.input.read()

    server = Server()
    server.listen("memory://name", impatient)
    async with clients() as connect, trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        await connect("memory://name")
        await wait_all_tasks_blocked()
        assert await server.drain(5) == 0
    assert trio.current_time() < 5


async def test_several_may_drain_each_as_long_as_it_asked(autojump_clock: MockClock) -> None:
    server = Server()
    server.listen("memory://name", sleep)
    results: list[tuple[float, int, float]] = []

    async def drain(seconds: float) -> None:
        start = trio.current_time()
        results.append((seconds, await server.drain(seconds), trio.current_time() - start))

    async with clients() as connect, trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        await connect("memory://name")
        await wait_all_tasks_blocked()
        nursery.start_soon(drain, 60)
        await wait_all_tasks_blocked()
        nursery.start_soon(drain, 2)
    assert sorted(results) == [(2, 1, 2), (60, 0, 2)]


async def test_draining_what_does_not_serve_does_nothing() -> None:
    server = Server()
    assert await server.drain(5) == 0
    server.listen("memory://name", echo)
    async with serving(server):
        pass
    assert await server.drain(5) == 0
    server.abort()


async def test_aborting_ends_everything_at_once(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[Connection] = []

    async def go_on(connection: Connection) -> None:
        ended.append(connection)
        try:
            await trio.sleep_forever()
        finally:
            assert connection.closed

    server = Server()
    server.listen("memory://name", go_on)
    async with clients() as connect:
        async with trio.open_nursery() as nursery:
            endpoints: list[Endpoint] = await nursery.start(server.serve)
            client = await connect("memory://name")
            await wait_all_tasks_blocked()
            server.abort()
        await expect_reset(client)
        expect_nothing_left(server, endpoints)
        assert ended[0].end_reason is EndReason.APP_SHUTDOWN_TIMEOUT
        await expect_refused(connect, "memory://name")
    assert logged(caplog) == []


async def test_cancelling_is_aborting(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.listen("memory://name", sleep)
    async with clients() as connect:
        async with trio.open_nursery() as nursery:
            endpoints: list[Endpoint] = await nursery.start(server.serve)
            client = await connect("memory://name")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await expect_reset(client)
        expect_nothing_left(server, endpoints)
        await expect_refused(connect, "memory://name")
        with pytest.raises(RuntimeError, match="the server is not serving"):
            await server.bind("memory://name", echo)
        assert await server.drain(5) == 0
    assert logged(caplog) == []


async def test_cancelling_does_not_wait_for_a_peer_that_does_not_read(
    autojump_clock: MockClock,
) -> None:
    async def stubborn(connection: Connection) -> None:
        connection.record_end(EndReason.ABORTED_BY_APP)
        connection.transport.output.write(bytes(1_000_000))
        await trio.sleep_forever()

    server = Server(limits=Limits(linger_seconds=1000))
    server.listen("memory://name", stubborn)
    async with clients() as connect:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            await connect("memory://name")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert trio.current_time() == 0


# Endpoints that come and go ---------------------------------------------------------------------


async def test_an_endpoint_may_be_unbound_and_its_connections_drained(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    server = Server()
    server.listen("memory://one", finish_when_asked)
    server.listen("memory://two", echo)
    server.listen("memory://three", sleep)
    async with serving(server) as (one, two, three), clients() as connect:
        first, second = await connect(one), await connect(two)
        await wait_all_tasks_blocked()
        assert await server.unbind(one, 5) == 0
        assert await first.transport.input.read() == b""
        assert server.endpoints == [two, three]
        await expect_refused(connect, one)
        await expect_echo(second)
        third = await connect(three)
        await wait_all_tasks_blocked()
        assert await server.unbind(three, 5) == 1
        await expect_reset(third)
        await expect_echo(second)
        with pytest.raises(LookupError, match="memory://one is not bound"):
            await server.unbind(one, 5)
        assert await server.bind("memory://one", echo) == one
        await expect_echo(await connect(one))
        await second.aclose()
    assert logged(caplog)[0] == "1 connections did not finish in 5 s and were cut"


async def test_nothing_is_bound_before_and_after_serving() -> None:
    server = Server()
    with pytest.raises(RuntimeError, match="the server is not serving"):
        await server.bind("memory://name", echo)
    async with serving(server):
        pass
    with pytest.raises(RuntimeError, match="the server is not serving"):
        await server.bind("memory://name", echo)


async def test_nothing_is_bound_while_draining(autojump_clock: MockClock) -> None:
    server = Server()
    server.listen("memory://name", sleep)
    async with clients() as connect, trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        await connect("memory://name")
        await wait_all_tasks_blocked()
        nursery.start_soon(server.drain, 5)
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="the server is not serving"):
            await server.bind("memory://late", echo)


async def test_a_failure_to_bind_one_more_hurts_nobody() -> None:
    server = Server()
    server.listen("memory://name", echo)
    async with serving(server) as endpoints, clients() as connect:
        with pytest.raises(BindError):
            await server.bind("memory://name", echo)
        with pytest.raises(EndpointError):
            await server.bind("memory://other?colour=red", echo)
        assert server.endpoints == endpoints
        await expect_echo(await connect("memory://name"))


# What cannot be served --------------------------------------------------------------------------


async def test_a_server_serves_once() -> None:
    server = Server()
    server.listen("memory://name", echo)
    async with serving(server):
        with pytest.raises(RuntimeError, match="a server serves once; make another"):
            await server.serve()
    with pytest.raises(RuntimeError, match="a server serves once; make another"):
        await server.serve()


def test_an_unknown_scheme_is_found_when_listening() -> None:
    with pytest.raises(EndpointError, match=r"scheme 'carrier\+pigeon'; known schemes: .*memory"):
        Server().listen("carrier+pigeon://loft", echo)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [("memory://busy", BindError), ("memory://name?colour=red", EndpointError)],
)
async def test_a_failure_to_bind_undoes_the_rest_and_comes_out_as_it_is(
    wrong: str, kind: type[Exception]
) -> None:
    busy = Server()
    busy.listen("memory://busy", echo)
    server = Server()
    server.listen("memory://first", echo)
    server.listen(wrong, echo)
    server.listen("memory://last", echo)
    async with serving(busy), clients() as connect:
        with pytest.raises(kind):
            await server.serve()
        expect_nothing_left(server, [])
        await expect_refused(connect, "memory://first")
        await expect_refused(connect, "memory://last")
        await expect_echo(await connect("memory://busy"))
