"""The server over transports that do what the in-memory one never does."""

import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError
from kestrel_core.limits import Limits
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler, needs_bytes
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.transport import Listener, Transport, TransportContext
from tests.both_ways_only import BothWaysOnly


class FakeListener(Listener):
    """Accepts what a test delivers; unbinding takes a while."""

    def __init__(self, endpoint: Endpoint, context: TransportContext) -> None:
        self._endpoint = endpoint
        self.context = context
        self.deliveries: deque[Connection | Exception] = deque()
        self.delivered = trio.lowlevel.ParkingLot()
        self.unbound = False
        self.closed = False

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def deliver(self, delivery: Connection | Exception) -> None:
        """Have `accept` return or raise this."""
        self.deliveries.append(delivery)
        self.delivered.unpark_all()

    def connect(self, pipe: DuplexPipe) -> Connection:
        """Deliver a connection over `pipe`."""
        connection = Connection(pipe, self.context)
        self.deliver(connection)
        return connection

    async def accept(self) -> Connection:
        await trio.lowlevel.checkpoint()
        while not self.deliveries:
            if self.unbound:
                raise trio.ClosedResourceError
            await self.delivered.park()
        delivery = self.deliveries.popleft()
        if isinstance(delivery, Exception):
            raise delivery
        return delivery

    async def unbind(self) -> None:
        self.unbound = True
        self.delivered.unpark_all()
        await trio.sleep(1)

    async def aclose(self) -> None:
        self.unbound = self.closed = True
        self.delivered.unpark_all()
        await trio.lowlevel.checkpoint()


class FakeTransport(Transport):
    """Keeps its listeners where a test finds them; binding can be held up."""

    scheme = "fake"

    def __init__(self) -> None:
        self.listeners: list[FakeListener] = []
        self.may_bind = trio.Event()
        self.may_bind.set()

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        await self.may_bind.wait()
        self.listeners.append(FakeListener(endpoint, context))
        return self.listeners[-1]

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        raise NotImplementedError


class FakeMultiplexedTransport(FakeTransport):
    """Says that its connections carry streams."""

    multiplexed = True


class FakeMultiplexedConnection(MultiplexedConnection):
    """Has no streams."""

    async def accept_stream(self) -> Connection:
        raise trio.EndOfChannel

    async def open_stream(self) -> Connection:
        raise NotImplementedError


def a_server(transport: Transport, **limits: int) -> Server:
    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "fake", transport)
    return Server(registry=registry, limits=Limits(**limits))


@asynccontextmanager
async def serving(server: Server) -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        yield
        await server.drain(0)
    assert list(server.connections) == []
    assert server.endpoints == []


async def sleep(connection: Connection) -> None:
    await trio.sleep_forever()


async def read(connection: Connection) -> None:
    async for _ in connection.transport.input:
        pass


async def test_accepting_that_fails_for_good_stops_the_server_with_the_cause(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    transport = FakeTransport()
    server = a_server(transport)
    server.listen("fake://one", sleep)
    server.listen("fake://two", sleep)
    cause = OSError("the network is gone")
    ended: list[BaseException] = []

    async def serve(task_status: trio.TaskStatus[list[Endpoint]]) -> None:
        try:
            await server.serve(task_status=task_status)
        except OSError as error:
            ended.append(error)

    near, far = duplex_pipe_pair()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        transport.listeners[1].connect(near)
        await wait_all_tasks_blocked()
        transport.listeners[0].deliver(cause)
    assert ended == [cause]
    with pytest.raises(trio.BrokenResourceError):
        await far.input.read()
    assert all(listener.closed for listener in transport.listeners)
    (record,) = caplog.records
    assert record.name == "kestrel.server"
    assert record.getMessage() == "accepting on fake://one failed: the network is gone"


async def test_all_of_many_endpoints_are_drained_though_unbinding_takes_a_while(
    autojump_clock: MockClock,
) -> None:
    transport = FakeTransport()
    server = a_server(transport)
    for number in range(5):
        server.listen(f"fake://{number}", read)
    wires = [duplex_pipe_pair() for _ in range(5)]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        for listener, (near, far) in zip(transport.listeners, wires, strict=True):
            listener.connect(near)
            await far.output.send_eof()
        await wait_all_tasks_blocked()
        with trio.fail_after(60):
            assert await server.drain(10) == 0
    assert all(listener.unbound and listener.closed for listener in transport.listeners)


async def test_what_is_bound_too_late_is_closed(autojump_clock: MockClock) -> None:
    transport = FakeTransport()
    server = a_server(transport)
    failures: list[RuntimeError] = []

    async def bind() -> None:
        try:
            await server.bind("fake://late", read)
        except RuntimeError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        transport.may_bind = trio.Event()
        nursery.start_soon(bind)
        await wait_all_tasks_blocked()
        assert await server.drain(0) == 0
        transport.may_bind.set()
    assert "no longer serving" in str(failures[0])
    assert transport.listeners[0].closed


async def test_a_drain_during_the_start_ends_it(autojump_clock: MockClock) -> None:
    transport = FakeTransport()
    server = a_server(transport)
    server.listen("fake://one", read)
    server.listen("fake://two", read)
    transport.may_bind = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        await wait_all_tasks_blocked()
        assert await server.drain(0) == 0
        transport.may_bind.set()
    assert server.endpoints == []
    assert all(listener.closed for listener in transport.listeners)


async def test_an_abort_before_the_start_ends_it(autojump_clock: MockClock) -> None:
    transport = FakeTransport()
    server = a_server(transport)
    server.listen("fake://one", read)
    server.abort()
    await server.serve()
    assert transport.listeners == []


async def test_a_transport_with_a_fault_is_not_taken_for_a_drain(
    autojump_clock: MockClock,
) -> None:
    class Faulty(FakeTransport):
        async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
            raise RuntimeError("a fault")

    server = a_server(Faulty())
    server.listen("fake://one", read)
    with pytest.raises(ExceptionGroup) as caught:
        await server.serve()
    assert caught.group_contains(RuntimeError, match="a fault")


async def test_a_pipe_that_cannot_be_closed_hurts_nobody_else(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    class Unclosable(BothWaysOnly):
        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError("it will not close")

    transport = FakeTransport()
    server = a_server(transport)
    server.listen("fake://name", read)
    async with serving(server):
        near, far = memory_stream_pair()
        failing = transport.listeners[0].connect(DuplexPipe.from_stream(Unclosable(near)))
        neighbour = transport.listeners[0].connect(duplex_pipe_pair()[0])
        await far.send_eof()
        await failing.closed.wait()
        await wait_all_tasks_blocked()
        assert list(server.connections) == [neighbour]
        assert failing.end_reason is EndReason.COMPLETED
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.getMessage() == f"connection {failing.id}: its transport cannot be closed"


async def test_who_is_refused_is_really_closed(autojump_clock: MockClock) -> None:
    transport = FakeTransport()
    server = a_server(transport, max_connections=1)
    server.listen("fake://name", read)
    async with serving(server):
        transport.listeners[0].connect(duplex_pipe_pair()[0])
        near, far = memory_stream_pair()
        refused = transport.listeners[0].connect(DuplexPipe.from_stream(near))
        assert await far.receive_some() == b""
        assert refused.closed
        assert refused.end_reason is EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED
        assert len(server.connections) == 1


async def reads_bytes(connection: Connection, following: ConnectionHandler) -> None:
    await connection.transport.input.read()
    await following(connection)


async def looks_on(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)


async def test_what_needs_bytes_is_refused_where_connections_carry_streams(
    autojump_clock: MockClock,
) -> None:
    transport = FakeMultiplexedTransport()
    server = a_server(transport)
    server.listen("fake://name", sleep, middleware=[looks_on, needs_bytes(reads_bytes)])
    with pytest.raises(ConfigurationError, match=r"reads_bytes.*reads the bytes.*fake://name"):
        await server.serve()
    assert transport.listeners == []


async def test_other_middleware_is_welcome_there(autojump_clock: MockClock) -> None:
    transport = FakeMultiplexedTransport()
    server = a_server(transport)
    seen: list[Connection] = []

    async def handler(connection: Connection) -> None:
        assert isinstance(connection, MultiplexedConnection)
        with pytest.raises(trio.EndOfChannel):
            await connection.accept_stream()
        seen.append(connection)

    server.listen("fake://name", handler, middleware=[looks_on])
    async with serving(server):
        context = transport.listeners[0].context
        connection = FakeMultiplexedConnection(duplex_pipe_pair()[0], context)
        transport.listeners[0].deliver(connection)
        await connection.closed.wait()
        with pytest.raises(ConfigurationError):
            await server.bind("fake://other", handler, middleware=[needs_bytes(reads_bytes)])
    assert seen == [connection]


async def test_what_needs_bytes_is_welcome_where_there_are_some(autojump_clock: MockClock) -> None:
    transport = FakeTransport()
    server = a_server(transport)
    server.listen("fake://name", read, middleware=[needs_bytes(reads_bytes)])
    async with serving(server):
        near, far = duplex_pipe_pair()
        connection = transport.listeners[0].connect(near)
        await far.output.send(b"x")
        await far.output.send_eof()
        await connection.closed.wait()
        assert connection.end_reason is EndReason.COMPLETED
