"""Who is let in, who waits and who is refused, and what of it is left afterwards."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Address, Connection, ConnectionContext
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware
from kestrel_core.server import Server
from kestrel_core.testing import OpenServer, check_middleware, open_server
from kestrel_core.transport import Listener, TransportContext, open_transport_context
from kestrel_middleware.admission import (
    AdmissionStatistics,
    Answer,
    ConnectionAdmission,
    WhenFull,
)
from kestrel_transports.memory import MemoryTransport
from tests.http1_site import ServerLog

FULL = EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED
ADDRESS_FULL = EndReason.MAX_CONNECTIONS_PER_ADDRESS_EXCEEDED
TOO_FAST = EndReason.CONNECTION_RATE_EXCEEDED
DENIED = EndReason.ADDRESS_DENIED


class CorrectsAddresses(Layer):
    """Believes the address in the first line."""

    name = "proxy_protocol"

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        line = await connection.transport.input.read_until(b"\n", 100)
        connection.remote = Address(line.decode().strip(), 1)
        await following(connection)


class Place:
    """One of the two places of an admission: around accepting, or inside of what corrects addresses."""

    def __init__(self, *, accepting: bool) -> None:
        self.accepting = accepting

    def middleware(self, admission: ConnectionAdmission) -> list[Middleware]:
        return [admission] if self.accepting else [CorrectsAddresses(), admission]

    async def connect(self, opened: OpenServer, address: str = "192.0.2.1") -> Connection:
        """Connect as a client with that address, and let the server do what it can by now."""
        if self.accepting:
            at = f"[{address}]:1" if ":" in address else f"{address}:1"
            named = ":" in address or address[0].isdigit()
            client = await opened.connect(address=at if named else address)
        else:
            client = await opened.connect()
            await client.transport.output.send(address.encode() + b"\n")
        await wait_all_tasks_blocked()
        return client


@pytest.fixture(params=["accepting", "inside"])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(accepting=request.param == "accepting")


async def greet(connection: Connection) -> None:
    """Say who is there, and stay until the client goes."""
    await connection.transport.output.send(f"{connection.remote}\n".encode())
    await connection.transport.input.receive()


async def is_served(client: Connection) -> bool | None:
    """Tell whether the client is served; None if it is neither that nor refused, by now."""
    with trio.move_on_after(0.001):
        try:
            return await client.transport.input.receive() != b""
        except trio.BrokenResourceError:
            return False
    return None


async def outcomes(place: Place, opened: OpenServer, *addresses: str) -> list[bool | None]:
    """Connect from one address after the other, and tell who is served."""
    return [await is_served(await place.connect(opened, address)) for address in addresses]


@asynccontextmanager
async def serving(
    place: Place, admission: ConnectionAdmission, handler: ConnectionHandler = greet
) -> AsyncGenerator[OpenServer]:
    async with open_server(handler, middleware=place.middleware(admission)) as opened:
        yield opened
    assert admission.statistics.open == 0
    assert admission.statistics.waiting == 0


# The contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        ConnectionAdmission,
        lambda: ConnectionAdmission(
            max_connections=1,
            max_connections_per_address=1,
            max_connections_per_prefix=1,
            when_full=WhenFull.WAIT,
        ),
    ],
    ids=["no limit", "one"],
)
async def test_it_keeps_the_contract(
    make: Callable[[], ConnectionAdmission], autojump_clock: MockClock
) -> None:
    admission = make()
    await check_middleware(admission)
    assert admission.statistics.open == 0
    assert admission.statistics.refused == {}


# Caps -------------------------------------------------------------------------------------------


async def test_beyond_the_cap_is_refused_until_somebody_leaves(
    place: Place, autojump_clock: MockClock
) -> None:
    admission = ConnectionAdmission(max_connections=2)
    async with serving(place, admission) as opened:
        first, second, third = [await place.connect(opened) for _ in range(3)]
        assert [await is_served(each) for each in (first, second, third)] == [True, True, False]
        assert admission.statistics == AdmissionStatistics(
            open=2, accepted=2, refused={FULL: 1}, waiting=0, remembered=0
        )
        await second.aclose()
        await wait_all_tasks_blocked()
        assert admission.statistics.open == 1
        assert await outcomes(place, opened, "192.0.2.1", "192.0.2.1") == [True, False]
    assert admission.statistics.accepted == 3


async def test_a_reset_makes_room_at_once(place: Place, autojump_clock: MockClock) -> None:
    async def think(connection: Connection) -> None:
        await connection.transport.output.send(b"yes")
        await trio.sleep(10)

    admission = ConnectionAdmission(max_connections=1)
    async with serving(place, admission, think) as opened:
        client = await place.connect(opened)
        assert await is_served(client)
        client.abort(EndReason.ABORTED_BY_APP)
        assert await outcomes(place, opened, "192.0.2.1") == [True]


async def test_each_address_has_its_cap(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(max_connections_per_address=1)
    async with serving(place, admission) as opened:
        assert await outcomes(
            place, opened, "192.0.2.1", "192.0.2.2", "192.0.2.1", "::ffff:192.0.2.2"
        ) == [True, True, False, False]
        assert admission.statistics.refused == {ADDRESS_FULL: 2}
        assert admission.statistics.remembered == 2
    assert admission.statistics.remembered == 0


@pytest.mark.parametrize(
    ("bits", "expected"), [(64, [True, False, True]), (128, [True, True, True])]
)
async def test_a_64_is_one_address_of_ipv6(
    bits: int, expected: list[bool], place: Place, autojump_clock: MockClock
) -> None:
    admission = ConnectionAdmission(max_connections_per_address=1, ipv6_address_bits=bits)
    async with serving(place, admission) as opened:
        addresses = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
        assert await outcomes(place, opened, *addresses) == expected


async def test_each_prefix_has_its_cap(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(max_connections_per_prefix=2)
    async with serving(place, admission) as opened:
        ipv4 = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.3.1")
        assert await outcomes(place, opened, *ipv4) == [True, True, False, True]
        ipv6 = ("2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:1::1")
        assert await outcomes(place, opened, *ipv6) == [True, True, False, True]
        assert admission.statistics.refused == {ADDRESS_FULL: 2}
    assert admission.statistics.remembered == 0


async def test_the_prefixes_can_be_chosen(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(
        max_connections_per_prefix=1, ipv4_prefix_bits=16, ipv6_prefix_bits=32
    )
    async with serving(place, admission) as opened:
        ipv4 = ("198.18.0.1", "198.18.255.1", "198.19.0.1")
        assert await outcomes(place, opened, *ipv4) == [True, False, True]
        ipv6 = ("2001:db8::1", "2001:db8:ffff::1", "2001:db9::1")
        assert await outcomes(place, opened, *ipv6) == [True, False, True]


async def test_those_without_an_address_are_one(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(max_connections_per_address=1)
    async with serving(place, admission) as opened:
        addresses = ("some-socket", "another", "192.0.2.1")
        assert await outcomes(place, opened, *addresses) == [True, False, True]


# Rates ------------------------------------------------------------------------------------------


async def test_an_address_may_come_so_often(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(connections_per_second_per_address=0.5, burst_per_address=2)
    async with serving(place, admission) as opened:
        same = ["192.0.2.1"] * 3
        assert await outcomes(place, opened, *same, "192.0.2.2") == [True, True, False, True]
        assert admission.statistics.refused == {TOO_FAST: 1}
        await trio.sleep(1.9)
        assert await outcomes(place, opened, *same) == [False] * 3
        await trio.sleep(0.1)
        assert await outcomes(place, opened, *same) == [True, False, False]
        await trio.sleep(100)
        assert await outcomes(place, opened, *same) == [True, True, False]


async def test_all_may_come_so_often(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(connections_per_second=2)
    async with serving(place, admission) as opened:
        addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        assert await outcomes(place, opened, *addresses) == [True, True, False]
        await trio.sleep(0.5)
        assert await outcomes(place, opened, *addresses) == [True, False, False]
    assert admission.statistics.refused == {TOO_FAST: 3}


async def test_a_quiet_address_is_forgotten(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(connections_per_second_per_address=1)
    async with serving(place, admission) as opened:
        for number in range(100):
            client = await place.connect(opened, f"192.0.2.{number}")
            await client.aclose()
            await trio.sleep(0.1)
            assert admission.statistics.remembered <= 12


# Lists ------------------------------------------------------------------------------------------


async def test_deny_wins_over_allow(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(allow=["192.0.2.0/24", "2001:db8::/32"], deny="192.0.2.7")
    async with serving(place, admission) as opened:
        addresses = ("192.0.2.6", "192.0.2.7", "198.51.100.1", "2001:db8::1", "a-socket")
        assert await outcomes(place, opened, *addresses) == [True, False, False, True, False]
        assert admission.statistics.refused == {DENIED: 3}


async def test_without_allow_all_may_come_but_some(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(deny=["192.0.2.0/24", "unix"])
    async with serving(place, admission) as opened:
        addresses = ("192.0.2.6", "198.51.100.1", "a-socket")
        assert await outcomes(place, opened, *addresses) == [False, True, False]


# Answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", Answer)
async def test_the_answer_is_what_was_asked_for(
    answer: Answer, place: Place, autojump_clock: MockClock
) -> None:
    admission = ConnectionAdmission(deny="*", answer=answer)
    async with serving(place, admission) as opened:
        client = await place.connect(opened)
        if answer is Answer.RESET:
            with pytest.raises(trio.BrokenResourceError):
                await client.transport.input.receive()
            return
        answered = b"".join([chunk async for chunk in client.transport.input])
        if answer is Answer.CLOSE:
            assert answered == b""
        else:
            head, _, body = answered.partition(b"\r\n\r\n")
            status, *fields = head.split(b"\r\n")
            assert status == b"HTTP/1.1 503 Service Unavailable"
            assert sorted(fields) == [b"connection: close", b"content-length: 0"]
            assert body == b""


async def test_an_answer_that_does_not_go_at_once_does_not_go(autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(deny="*", answer=Answer.HTTP_503)
    async with open_server(
        greet, middleware=[admission], endpoint="memory://narrow?pause_at_bytes=10"
    ) as opened:
        for _ in range(2):
            client = await opened.connect()
            with pytest.raises(trio.BrokenResourceError):
                await client.transport.input.read_exactly(100)
        assert trio.current_time() == 0


# Waiting ----------------------------------------------------------------------------------------


async def test_waiting_clients_are_served_one_after_the_other(
    place: Place, autojump_clock: MockClock
) -> None:
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    async with serving(place, admission) as opened:
        clients = [await place.connect(opened) for _ in range(4)]
        for position, client in enumerate(clients):
            assert [await is_served(each) for each in clients[position:]] == [
                True,
                *([None] * (3 - position)),
            ]
            assert admission.statistics.open == 1
            await client.aclose()
    assert admission.statistics.accepted == 4
    assert admission.statistics.refused == {}


async def test_while_it_waits_nothing_is_accepted(autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    async with open_server(
        greet, middleware=[admission], endpoint="memory://queue?backlog=2"
    ) as opened:
        first, _second, _third = [await opened.connect() for _ in range(3)]
        await wait_all_tasks_blocked()
        assert len(opened.server.connections) == 1
        assert admission.statistics.waiting == 0
        with trio.move_on_after(1) as queueing:  # the queue is full, as two are not accepted
            await opened.connect()
        assert queueing.cancelled_caught
        await first.aclose()
        await opened.connect()


async def test_a_rate_can_be_waited_for(place: Place, autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(connections_per_second=2, burst=1, when_full=WhenFull.WAIT)
    served = list[tuple[str, float]]()

    async def handler(connection: Connection) -> None:
        assert connection.remote is not None
        served.append((connection.remote.host, trio.current_time()))

    addresses = [f"192.0.2.{number}" for number in range(6)]
    async with serving(place, admission, handler) as opened:
        for address in addresses:
            await place.connect(opened, address)
        await trio.sleep(5)
    assert [address for address, _ in served] == addresses
    assert [at for _, at in served] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5], abs=1e-4)
    assert admission.statistics.refused == {}


async def test_who_may_not_come_in_does_not_wait_for_room(autojump_clock: MockClock) -> None:
    place = Place(accepting=False)
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT, deny="192.0.2.7")
    async with serving(place, admission) as opened:
        addresses = ("192.0.2.1", "192.0.2.7", "192.0.2.2")
        assert await outcomes(place, opened, *addresses) == [True, False, None]


async def test_after_waiting_an_address_is_judged_again(autojump_clock: MockClock) -> None:
    place = Place(accepting=False)
    admission = ConnectionAdmission(
        max_connections=2, max_connections_per_address=1, when_full=WhenFull.WAIT
    )
    async with serving(place, admission) as opened:
        one, two = [await place.connect(opened, f"192.0.2.{number}") for number in (1, 2)]
        late, too_late = [await place.connect(opened, "192.0.2.3") for _ in range(2)]
        await wait_all_tasks_blocked()
        assert admission.statistics.waiting == 2
        await one.aclose()
        await two.aclose()
        assert [await is_served(each) for each in (late, too_late)] == [True, False]


async def test_who_goes_while_waiting_takes_no_room(
    place: Place, log: ServerLog, autojump_clock: MockClock
) -> None:
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    async with serving(place, admission) as opened:
        first, second, third = [await place.connect(opened) for _ in range(3)]
        await wait_all_tasks_blocked()
        second.abort(EndReason.ABORTED_BY_APP)
        await wait_all_tasks_blocked()
        assert await is_served(first)
        await first.aclose()
        assert await is_served(third)
        assert admission.statistics.open == 1
        if not place.accepting:
            assert log.ends == [EndReason.CONNECTION_RESET, EndReason.COMPLETED]


@pytest.mark.parametrize("end", ["drain", "abort", "cancel", "unbind"])
async def test_the_server_ends_while_clients_wait(
    end: str, place: Place, autojump_clock: MockClock
) -> None:
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    server = Server()
    server.listen("memory://ending", greet, middleware=place.middleware(admission))
    async with trio.open_nursery() as nursery, open_transport_context() as context:
        (bound,) = await nursery.start(server.serve)
        opened = OpenServer(server, bound, context)
        clients = [await place.connect(opened) for _ in range(3)]
        assert [await is_served(each) for each in clients] == [True, None, None]
        started = trio.current_time()
        if end == "drain":
            await server.drain(1)
        elif end == "abort":
            server.abort()
        elif end == "cancel":
            nursery.cancel_scope.cancel()
        else:
            await server.unbind(bound, 1)
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            assert trio.current_time() - started <= 1
            for client in clients:
                assert not await is_served(client)
                assert client.transport.input.at_eof or client.closed
                await client.aclose()
        assert (admission.statistics.open, admission.statistics.waiting) == (0, 0)
        server.abort()


class OneMoreListener(Listener):
    """Accepts what a test queues; the admission's other side, where nothing is hidden."""

    def __init__(self, context: TransportContext) -> None:
        self.context = context
        self.send, self.receive = trio.open_memory_channel[Connection](100)
        self.accepted = 0
        self.closed = False

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("memory", "one-more")

    def connect(self, remote: Address | None = None) -> tuple[Connection, DuplexPipe]:
        near, far = duplex_pipe_pair()
        connection = Connection(near, self.context, remote=remote)
        near.peer_gone.listen(connection.closed.set)
        self.send.send_nowait(connection)
        return connection, far

    async def accept(self) -> Connection:
        try:
            connection = await self.receive.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("unbound") from None
        self.accepted += 1
        return connection

    async def unbind(self) -> None:
        self.send.close()

    async def aclose(self) -> None:
        self.closed = True
        await self.unbind()


async def test_a_held_connection_ends_with_its_listener(autojump_clock: MockClock) -> None:
    """Two listeners have one place; the second has accepted already when that is taken."""
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    async with open_transport_context() as context, trio.open_nursery() as nursery:
        inner = [OneMoreListener(context) for _ in range(2)]
        outer = [admission.wrap(listener) for listener in inner]
        accepted, ended = list[Connection](), list[str]()

        async def accept(listener: Listener) -> None:
            try:
                accepted.append(await listener.accept())
            except trio.ClosedResourceError:
                ended.append("closed")

        for listener in outer:
            nursery.start_soon(accept, listener)
        await wait_all_tasks_blocked()
        first, _ = inner[0].connect()
        await wait_all_tasks_blocked()
        held, held_peer = inner[1].connect()
        await wait_all_tasks_blocked()
        assert accepted == [first]
        assert inner[1].accepted == 1
        assert (admission.statistics.open, admission.statistics.waiting) == (1, 1)

        await outer[1].unbind()
        await wait_all_tasks_blocked()
        assert ended == ["closed"]
        assert held.end_reason is EndReason.SHUTDOWN
        assert held.closed
        with pytest.raises(trio.BrokenResourceError):
            await held_peer.input.receive()
        assert admission.statistics.waiting == 0
        await outer[1].aclose()
        assert inner[1].closed
        await first.aclose()
        assert admission.statistics.open == 0


async def test_a_held_connection_survives_a_cancelled_accept(autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    async with open_transport_context() as context, trio.open_nursery() as nursery:
        inner = [OneMoreListener(context) for _ in range(2)]
        outer = [admission.wrap(listener) for listener in inner]
        accepting = trio.CancelScope()

        async def accept() -> None:
            with accepting:
                await outer[1].accept()

        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        first, _ = inner[0].connect()
        assert await outer[0].accept() is first
        held, _ = inner[1].connect()
        await wait_all_tasks_blocked()
        assert admission.statistics.waiting == 1
        accepting.cancel()
        await wait_all_tasks_blocked()
        assert admission.statistics.waiting == 0
        await first.aclose()
        assert await outer[1].accept() is held
        await held.aclose()


async def test_a_held_connection_that_resets_makes_way(autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    async with open_transport_context() as context, trio.open_nursery() as nursery:
        inner = [OneMoreListener(context) for _ in range(2)]
        outer = [admission.wrap(listener) for listener in inner]
        accepted = list[Connection]()

        async def accept() -> None:
            accepted.append(await outer[1].accept())

        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        first, _ = inner[0].connect()
        assert await outer[0].accept() is first
        held, held_peer = inner[1].connect()
        await wait_all_tasks_blocked()
        held_peer.abort()
        await wait_all_tasks_blocked()
        assert held.end_reason is EndReason.CONNECTION_RESET
        assert admission.statistics.waiting == 0
        after, _ = inner[1].connect()
        await first.aclose()
        await wait_all_tasks_blocked()
        assert accepted == [after]
        await after.aclose()


async def test_a_flood_leaves_others_their_turn(autojump_clock: MockClock) -> None:
    """Even where accepting never waits."""
    turns = 0

    class Flood(OneMoreListener):
        async def accept(self) -> Connection:
            self.accepted += 1
            if self.accepted > 1000:
                raise trio.ClosedResourceError
            return Connection(duplex_pipe_pair()[0], self.context)

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    admission = ConnectionAdmission(deny="*")
    async with open_transport_context() as context, trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        with pytest.raises(trio.ClosedResourceError):
            await admission.wrap(Flood(context)).accept()
        nursery.cancel_scope.cancel()
    assert turns >= 10
    assert admission.statistics.refused == {DENIED: 1000}


async def test_a_transport_that_cannot_close_ends_nobody_else(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    class CannotClose(Connection):
        __slots__ = ()

        async def aclose(self) -> None:
            raise ZeroDivisionError

    admission = ConnectionAdmission(deny="192.0.2.7")
    async with open_transport_context() as context:
        inner = OneMoreListener(context)
        bad = CannotClose(duplex_pipe_pair()[0], context, remote=Address("192.0.2.7"))
        inner.send.send_nowait(bad)
        good, _ = inner.connect()
        assert await admission.wrap(inner).accept() is good
    warning, error = log.records
    assert (warning.levelname, error.levelname) == ("WARNING", "ERROR")
    assert error.getMessage() == f"connection {bad.id}: its transport cannot be closed"
    log.records.clear()
    assert log.ends == [DENIED]


# Sharing ----------------------------------------------------------------------------------------


async def test_endpoints_share_what_they_are_given(autojump_clock: MockClock) -> None:
    shared = ConnectionAdmission(max_connections=2)
    own = ConnectionAdmission(max_connections=2)
    server = Server()
    for name, admission in (("a", shared), ("b", shared), ("c", own)):
        server.listen(f"memory://{name}", greet, middleware=[admission])
    async with trio.open_nursery() as nursery, open_transport_context() as context:
        bound = await nursery.start(server.serve)
        clients = list[Connection]()
        for endpoint in (bound[0], bound[1], bound[0], bound[1], bound[2]):
            clients.append(await MemoryTransport().connect(endpoint, context))
            await wait_all_tasks_blocked()
        assert [await is_served(each) for each in clients] == [True, True, False, False, True]
        for client in clients:
            client.abort(EndReason.ABORTED_BY_APP)
            await client.aclose()
        await server.drain(1)
    assert shared.statistics.refused == {FULL: 2}
    assert (shared.statistics.open, own.statistics.open) == (0, 0)


async def test_a_place_on_one_endpoint_is_waited_for_on_another(autojump_clock: MockClock) -> None:
    shared = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    server = Server()
    for name in ("a", "b"):
        server.listen(f"memory://{name}", greet, middleware=[shared])
    async with trio.open_nursery() as nursery, open_transport_context() as context:
        bound = await nursery.start(server.serve)
        clients = [
            await MemoryTransport().connect(bound[number % 2], context) for number in range(6)
        ]
        served = 0
        while clients:
            [first] = [each for each in clients if await is_served(each)]
            await first.aclose()
            clients.remove(first)
            served += 1
        await server.drain(1)
    assert served == shared.statistics.accepted == 6


async def test_several_admissions_each_have_a_say(autojump_clock: MockClock) -> None:
    outer = ConnectionAdmission(deny="192.0.2.1")
    inner = ConnectionAdmission(max_connections_per_address=1)
    place = Place(accepting=True)
    async with open_server(greet, middleware=[outer, inner]) as opened:
        addresses = ("192.0.2.1", "192.0.2.2", "192.0.2.2")
        assert await outcomes(place, opened, *addresses) == [False, True, False]
        assert (outer.statistics.open, inner.statistics.open) == (1, 1)
    assert (outer.statistics.open, inner.statistics.open) == (0, 0)
    assert (outer.statistics.refused, inner.statistics.refused) == ({DENIED: 1}, {ADDRESS_FULL: 1})


# Logging ----------------------------------------------------------------------------------------


async def test_each_end_is_logged_once_and_warnings_are_rare(
    place: Place, log: ServerLog, autojump_clock: MockClock
) -> None:
    admission = ConnectionAdmission(deny="192.0.2.7", max_connections_per_address=1)
    async with serving(place, admission) as opened:
        served = await place.connect(opened, "192.0.2.1")
        assert await is_served(served)
        await outcomes(place, opened, *["192.0.2.7"] * 5, *["192.0.2.1"] * 3)
        assert log.ends == [DENIED] * 5 + [ADDRESS_FULL] * 3
        first = log.take()
        assert (first.name, first.levelno) == ("kestrel.admission", logging.WARNING)
        assert (
            first.getMessage() == "refused 1 connections: 1 address_denied (told each 10 s at most)"
        )
        await trio.sleep(9)
        assert log.records == []
        await trio.sleep(1.5)
        assert log.take().getMessage() == (
            "refused 7 connections: 4 address_denied, 3 max_connections_per_address_exceeded"
            " (told each 10 s at most)"
        )
        await trio.sleep(100)
        assert log.records == []
        await outcomes(place, opened, "192.0.2.7")
        assert log.take().getMessage().startswith("refused 1 connections: 1 address_denied")


async def test_refusals_are_told_on_the_next_server_too(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    place = Place(accepting=True)
    admission = ConnectionAdmission(deny="*")
    async with serving(place, admission) as opened:
        await outcomes(place, opened, "192.0.2.1", "192.0.2.1")
        assert log.take().levelno == logging.WARNING
    await trio.sleep(60)
    async with serving(place, admission) as opened:
        await outcomes(place, opened, "192.0.2.1")
        assert log.take().getMessage().startswith("refused 2 connections: 2 address_denied")
        await outcomes(place, opened, "192.0.2.1")
        await trio.sleep(11)
        assert log.take().getMessage().startswith("refused 1 connections: 1 address_denied")


# Its place --------------------------------------------------------------------------------------


class Tap(Layer):
    name = "wiretap"

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)


async def plain(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)


async def test_it_stands_outside_or_behind_what_corrects_addresses(
    autojump_clock: MockClock,
) -> None:
    one, two = ConnectionAdmission(), ConnectionAdmission()
    good: list[list[Middleware]] = [
        [one],
        [one, two, Tap()],
        [CorrectsAddresses(), one],
        [one, CorrectsAddresses(), two, plain],
    ]
    for middleware in good:
        async with open_server(greet, middleware=middleware):
            pass
    bad: list[tuple[list[Middleware], str]] = [
        ([Tap(), one], "admission stands inside wiretap"),
        ([CorrectsAddresses(), Tap(), one], "admission stands inside wiretap"),
        ([plain, one], "admission stands inside <function plain"),
        ([one, CorrectsAddresses(), one], "the same admission stands twice"),
    ]
    for middleware, told in bad:
        with pytest.raises(ConfigurationError, match=told):
            async with open_server(greet, middleware=middleware):
                pass


async def test_draining_does_not_let_those_in_who_wait(autojump_clock: MockClock) -> None:
    place = Place(accepting=False)
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    calls = list[ConnectionContext]()

    async def polite(connection: Connection) -> None:
        calls.append(connection.context)
        await connection.close_requested.wait()

    async with serving(place, admission, polite) as opened:
        for _ in range(3):
            await place.connect(opened)
        await wait_all_tasks_blocked()
        assert await opened.server.drain(1) == 0
        assert trio.current_time() == 0
    assert len(calls) == 1
