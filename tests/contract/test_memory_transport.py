"""The in-memory transport keeps the contract and its own promises; faulty ones do not."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from kestrel_core.connection import Address, Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.testing import check_transport
from kestrel_core.transport import Listener, Transport, TransportContext, open_transport_context
from kestrel_transports.memory import MemoryTransport


@pytest.mark.parametrize(
    "endpoint",
    ["memory://name", "memory://a/b c%3F?backlog=100&pause_at_bytes=4096&client=10.0.0.1:1"],
)
async def test_it_keeps_every_promise(endpoint: str, autojump_clock: MockClock) -> None:
    await check_transport(MemoryTransport(), endpoint)


@asynccontextmanager
async def bound(text: str) -> AsyncGenerator[tuple[Listener, TransportContext]]:
    async with open_transport_context() as context:
        listener = await MemoryTransport().bind(Endpoint.parse(text), context)
        yield listener, context
        await listener.aclose()


async def connected(
    listener: Listener, context: TransportContext, text: str
) -> tuple[Connection, Connection]:
    client = await MemoryTransport().connect(Endpoint.parse(text), context)
    return client, await listener.accept()


async def test_the_ends_are_called_after_the_endpoint() -> None:
    async with bound("memory://name") as (listener, context):
        client, server = await connected(listener, context, "memory://name")
        assert server.local == client.remote == Address("name")
        assert server.remote == client.local == Address("name-client")


async def test_either_side_may_choose_addresses_and_connecting_comes_first() -> None:
    async with bound("memory://name?client=10.0.0.1:1&server=[::1]:443") as (listener, context):
        client, server = await connected(listener, context, "memory://name")
        assert server.local == client.remote == Address("::1", 443)
        assert server.remote == client.local == Address("10.0.0.1", 1)
        client, server = await connected(listener, context, "memory://name?client=203.0.113.7:4711")
        assert server.local == client.remote == Address("::1", 443)
        assert server.remote == client.local == Address("203.0.113.7", 4711)
        text = "memory://name?client=someone&server=somebody"
        client, server = await connected(listener, context, text)
        assert server.remote == Address("someone")
        assert server.local == client.remote == Address("somebody")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("backlog=0", "backlog must be at least 1"),
        ("backlog=many", "backlog=many is not a number"),
        ("pause_at_bytes=0", "pause_at_bytes must be at least 1"),
        ("client=10.0.0.1:x", "client=10.0.0.1:x: the port 'x'"),
        ("server=:80", "server=:80: the host is missing"),
        ("colour=red", "memory has no option 'colour'; its options: backlog, client"),
    ],
)
async def test_options_that_make_no_sense(options: str, fault: str) -> None:
    endpoint = Endpoint.parse(f"memory://name?{options}")
    async with open_transport_context() as context:
        failures: list[EndpointError] = []
        for operation in (MemoryTransport().bind, MemoryTransport().connect):
            try:
                await operation(endpoint, context)
            except EndpointError as failure:
                failures.append(failure)
    assert len(failures) == 2
    assert all(fault in str(failure) for failure in failures)
    assert all(f"memory://name?{options}" in str(failure) for failure in failures)


async def test_a_busy_name_says_so() -> None:
    async with bound("memory://name") as (_, context):
        with pytest.raises(BindError, match="the name 'name' is already bound"):
            await MemoryTransport().bind(Endpoint.parse("memory://name?backlog=3"), context)


def test_names_belong_to_one_run_of_trio() -> None:
    async def bind_and_leave() -> None:
        async with open_transport_context() as context:
            await MemoryTransport().bind(Endpoint.parse("memory://name"), context)

    trio.run(bind_and_leave)
    trio.run(bind_and_leave)


async def test_nobody_listens() -> None:
    async with open_transport_context() as context:
        endpoint = Endpoint.parse("memory://nobody")
        with pytest.raises(ConnectionRefusedError, match="nobody listens on the name 'nobody'"):
            await MemoryTransport().connect(endpoint, context)


class Connecting:
    """A connect in a task of its own."""

    def __init__(self, nursery: trio.Nursery, context: TransportContext, text: str) -> None:
        self.connection: Connection | None = None
        self.refused = False
        nursery.start_soon(self._run, context, Endpoint.parse(text))

    async def _run(self, context: TransportContext, endpoint: Endpoint) -> None:
        try:
            self.connection = await MemoryTransport().connect(endpoint, context)
        except ConnectionRefusedError:
            self.refused = True


async def test_who_connects_waits_while_the_queue_is_full() -> None:
    async with (
        bound("memory://name?backlog=2") as (listener, context),
        trio.open_nursery() as nursery,
    ):
        clients = [Connecting(nursery, context, "memory://name") for _ in range(5)]
        await wait_all_tasks_blocked()
        assert sum(client.connection is not None for client in clients) == 2
        for expected in (3, 4, 5, 5, 5):
            await listener.accept()
            await wait_all_tasks_blocked()
            assert sum(client.connection is not None for client in clients) == expected


async def test_who_waits_is_refused_when_the_listener_goes_away() -> None:
    async with (
        bound("memory://name?backlog=1") as (listener, context),
        trio.open_nursery() as nursery,
    ):
        clients = [Connecting(nursery, context, "memory://name") for _ in range(3)]
        await wait_all_tasks_blocked()
        await listener.unbind()
        await wait_all_tasks_blocked()
        assert [client.refused for client in clients].count(True) == 2
        (queued,) = [client.connection for client in clients if client.connection is not None]
        assert queued.closed
        with pytest.raises(trio.BrokenResourceError):
            await queued.transport.input.read()


async def test_a_cancelled_connect_takes_no_place_in_the_queue() -> None:
    async with bound("memory://name?backlog=1") as (listener, context):
        first = await MemoryTransport().connect(listener.endpoint, context)
        with trio.move_on_after(0) as scope:
            await MemoryTransport().connect(listener.endpoint, context)
        assert scope.cancelled_caught
        server = await listener.accept()
        await first.transport.output.send(b"x")
        assert await server.transport.input.receive() == b"x"
        with trio.move_on_after(0) as scope:
            await listener.accept()
        assert scope.cancelled_caught


async def test_everything_is_a_checkpoint() -> None:
    endpoint = Endpoint.parse("memory://name")
    async with open_transport_context() as context:
        with assert_checkpoints():
            listener = await MemoryTransport().bind(endpoint, context)
        with assert_checkpoints():
            await MemoryTransport().connect(endpoint, context)
        with assert_checkpoints():
            await listener.accept()
        with assert_checkpoints():
            await listener.unbind()


async def test_a_wire_holds_as_much_as_was_asked_for() -> None:
    async with bound("memory://name?pause_at_bytes=10") as (listener, context):
        for text, most in (("memory://name", 10), ("memory://name?pause_at_bytes=20", 20)):
            for connection in await connected(listener, context, text):
                connection.transport.output.write(bytes(100))
                connection.transport.output.flush_nowait()
                assert connection.transport.output.unflushed_bytes == 100 - most


async def test_closed_is_set_at_once_when_the_peer_is_gone() -> None:
    async with bound("memory://name") as (listener, context):
        client, server = await connected(listener, context, "memory://name")
        await client.transport.output.send_eof()
        assert not server.closed
        await client.aclose()
        assert server.closed
        client, server = await connected(listener, context, "memory://name")
        server.abort(EndReason.OTHER_ERROR)
        assert client.closed


# The faults -------------------------------------------------------------------------------------


class WrappingListener(Listener):
    """Does what another listener does; the faulty ones below derive from it."""

    def __init__(self, inner: Listener) -> None:
        self.inner = inner

    @property
    def endpoint(self) -> Endpoint:
        return self.inner.endpoint

    async def accept(self) -> Connection:
        return await self.inner.accept()

    async def unbind(self) -> None:
        await self.inner.unbind()

    async def aclose(self) -> None:
        await self.inner.aclose()


class WrappingTransport(Transport):
    """Does what the in-memory transport does; the faulty ones below derive from it."""

    scheme = "memory"
    listener_class: type[WrappingListener] = WrappingListener

    def __init__(self) -> None:
        self.inner = MemoryTransport()

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        return self.listener_class(await self.inner.bind(endpoint, context))

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        return await self.inner.connect(endpoint, context)


class TellsAnotherEndpoint(WrappingListener):
    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("memory", "elsewhere")


class SleepsWhenUnbound(WrappingListener):
    async def accept(self) -> Connection:
        try:
            return await super().accept()
        except trio.ClosedResourceError:
            await trio.sleep_forever()


class RaisesSomethingElse(WrappingListener):
    async def accept(self) -> Connection:
        try:
            return await super().accept()
        except trio.ClosedResourceError:
            raise OSError("bad file descriptor") from None


class UnbindsEverything(WrappingListener):
    def __init__(self, inner: Listener) -> None:
        super().__init__(inner)
        self.accepted: list[Connection] = []

    async def accept(self) -> Connection:
        self.accepted.append(await super().accept())
        return self.accepted[-1]

    async def unbind(self) -> None:
        await super().unbind()
        for connection in self.accepted:
            connection.abort(EndReason.SHUTDOWN)


class UnbindsNothing(WrappingListener):
    async def unbind(self) -> None:
        await trio.lowlevel.checkpoint()


class ClosesOnlyWhenNotCancelled(WrappingListener):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        await super().aclose()


class LosesWhoArrivesAtACancellation(WrappingListener):
    async def accept(self) -> Connection:
        connection = await super().accept()
        await trio.lowlevel.checkpoint()
        return connection


class AcceptsDeadConnections(WrappingListener):
    async def accept(self) -> Connection:
        connection = await super().accept()
        connection.closed.set()
        return connection


class SwapsAddresses(WrappingListener):
    async def accept(self) -> Connection:
        connection = await super().accept()
        connection.local, connection.remote = connection.remote, connection.local
        return connection


class HasEndedAlready(WrappingListener):
    async def accept(self) -> Connection:
        connection = await super().accept()
        connection.record_end(EndReason.COMPLETED)
        return connection


class TakesAnyOption(WrappingTransport):
    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        return await super().bind(Endpoint(endpoint.scheme, endpoint.address), context)

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        return await super().connect(Endpoint(endpoint.scheme, endpoint.address), context)


class BindsTwice(WrappingTransport):
    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        try:
            return await super().bind(endpoint, context)
        except BindError:
            return await super().bind(Endpoint("memory", "another"), context)


class RaisesAnotherError(WrappingTransport):
    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        try:
            return await super().bind(endpoint, context)
        except BindError:
            raise RuntimeError("no") from None


class ConnectsToNobody(WrappingTransport):
    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        try:
            return await super().connect(endpoint, context)
        except OSError:
            near, _ = duplex_pipe_pair()
            return Connection(near, context)


class MixesUpClients(WrappingTransport):
    def __init__(self) -> None:
        super().__init__()
        self.last: Connection | None = None

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        connection = await super().connect(endpoint, context)
        if self.last is not None:
            connection.transport, self.last.transport = self.last.transport, connection.transport
        self.last = connection
        return connection


class HasWiresThatCannotFill(WrappingTransport):
    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        options = {"pause_at_bytes": "1000000000"} | dict(endpoint.options)
        return await super().bind(Endpoint("memory", endpoint.address, options), context)


def with_listener(faulty: type[WrappingListener]) -> type[WrappingTransport]:
    class WithListener(WrappingTransport):
        listener_class = faulty

    return WithListener


@pytest.mark.parametrize(
    ("transport_class", "told"),
    [
        *(
            pytest.param(with_listener(faulty), told, id=faulty.__name__)
            for faulty, told in (
                (TellsAnotherEndpoint, "What was bound can be connected to as it is"),
                (SleepsWhenUnbound, "it hangs"),
                (RaisesSomethingElse, "should raise ClosedResourceError"),
                (UnbindsEverything, "lets live connections go on"),
                (UnbindsNothing, "`unbind\\(\\)`"),
                (ClosesOnlyWhenNotCancelled, "cancelled"),
                (LosesWhoArrivesAtACancellation, "has lost no connection"),
                (AcceptsDeadConnections, "`closed` should not be set"),
                (SwapsAddresses, "Both ends know the same two addresses"),
                (HasEndedAlready, "`end_reason` should be None"),
            )
        ),
        *(
            pytest.param(faulty, told, id=faulty.__name__)
            for faulty, told in (
                (TakesAnyOption, "An option that it does not know"),
                (BindsTwice, "bind\\(\\) of a bound endpoint should raise BindError"),
                (RaisesAnotherError, "should raise BindError, not RuntimeError"),
                (ConnectsToNobody, "should raise OSError"),
                (MixesUpClients, "their own bytes|with their bytes|it hangs"),
                (HasWiresThatCannotFill, "flush\\(\\) should wait"),
            )
        ),
    ],
)
async def test_a_fault_is_found_and_named(
    transport_class: type[WrappingTransport], told: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(AssertionError, match=told):
        await check_transport(transport_class(), "memory://name")


async def test_the_wrapper_itself_has_no_fault(autojump_clock: MockClock) -> None:
    await check_transport(WrappingTransport(), "memory://name")
