"""Accepting: many at once, fairly, and through every kind of failure."""

import errno
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import TypeAlias

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from kestrel_core.connection import Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.transport import Listener, TransportContext
from kestrel_transports._listeners import SocketListener, SocketTransport
from kestrel_transports._sockets import SocketPipe, connection_over
from kestrel_transports.tcp import TcpTransport
from tests.socket_ends import (
    HAS_IPV6,
    MakePoller,
    Task,
    call,
    no_more_descriptors,
    reset,
    same_socket,
)

only_tcp = pytest.mark.parametrize("scheme", ["tcp"], indirect=True)
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")

# As many are accepted before others get a turn.
TURN = 64


async def bind(
    transport: SocketTransport, endpoint: Endpoint | str, context: TransportContext
) -> SocketListener:
    if isinstance(endpoint, str):
        endpoint = Endpoint.parse(endpoint)
    listener = await transport.bind(endpoint, context)
    assert isinstance(listener, SocketListener)
    return listener


@pytest.fixture
async def listener(
    transport: SocketTransport, endpoint: Endpoint, context: TransportContext
) -> AsyncGenerator[SocketListener]:
    listener = await bind(transport, endpoint, context)
    yield listener
    await listener.aclose()


@pytest.fixture
async def both_families(
    tcp: TcpTransport, context: TransportContext
) -> AsyncGenerator[SocketListener]:
    """A listener with two sockets, IPv4 and IPv6."""
    listener = await bind(tcp, "tcp://localhost:0", context)
    yield listener
    await listener.aclose()


def call_family(listener: SocketListener, family: socket.AddressFamily) -> socket.socket:
    _, port = listener.endpoint.host_and_port()
    peer = socket.socket(family)
    peer.connect(("127.0.0.1" if family == socket.AF_INET else "::1", port))
    return peer


async def say_hello(peer: socket.socket, connection: Connection) -> None:
    """Show that the two belong together, and close both."""
    peer.send(b"hello")
    assert await connection.transport.input.receive() == b"hello"
    await connection.aclose()
    peer.close()


# Many -------------------------------------------------------------------------------------------


async def test_whoever_waits_already_is_accepted_without_waiting(listener: SocketListener) -> None:
    with ExitStack() as peers:
        for _ in range(TURN):
            peers.enter_context(call(listener.endpoint))
        connections = [await listener.accept()]
        with assert_no_checkpoints():
            connections += [await listener.accept() for _ in range(TURN - 1)]
        for connection in connections:
            await connection.aclose()


async def test_a_long_queue_does_not_keep_others_from_their_turn(listener: SocketListener) -> None:
    with ExitStack() as peers:
        for _ in range(TURN + 1):
            peers.enter_context(call(listener.endpoint))
        connections = [await listener.accept() for _ in range(TURN)]
        with assert_checkpoints():
            connections.append(await listener.accept())
        for connection in connections:
            await connection.aclose()


@needs_ipv6
@pytest.mark.parametrize("lonely", [socket.AF_INET, socket.AF_INET6])
async def test_a_long_queue_in_one_family_does_not_keep_out_the_other(
    both_families: SocketListener, lonely: socket.AddressFamily
) -> None:
    crowded = socket.AF_INET if lonely == socket.AF_INET6 else socket.AF_INET6
    with ExitStack() as peers:
        for _ in range(2 * TURN):
            peers.enter_context(call_family(both_families, crowded))
        peer = peers.enter_context(call_family(both_families, lonely))
        name = peer.getsockname()
        for _ in range(TURN + 1):
            connection = await both_families.accept()
            await connection.aclose()
            assert connection.remote is not None
            if connection.remote.pair == name[:2]:
                break
        else:
            pytest.fail("one family was served alone")


async def test_one_task_accepts_at_a_time(listener: SocketListener) -> None:
    async with trio.open_nursery() as nursery:
        accepting = Task(nursery, listener.accept)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await listener.accept()
        peer = call(listener.endpoint)
    await say_hello(peer, accepting.results[0])


async def test_accepting_can_be_cancelled_and_goes_on(listener: SocketListener) -> None:
    for _ in range(3):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                Task(nursery, listener.accept)
                await wait_all_tasks_blocked()
                scope.cancel()
        peer = call(listener.endpoint)
        await say_hello(peer, await listener.accept())


# Full -------------------------------------------------------------------------------------------


async def test_without_descriptors_it_says_so_and_tries_again(
    listener: SocketListener, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    peers = [call(listener.endpoint) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        with no_more_descriptors():
            accepting = Task(nursery, listener.accept)
            for attempt in (1, 2, 3):
                await wait_all_tasks_blocked()
                assert len(caplog.records) == attempt
                mock_clock.jump(0.09)
                await wait_all_tasks_blocked()
                assert len(caplog.records) == attempt
                if attempt < 3:
                    mock_clock.jump(0.02)
        mock_clock.jump(0.02)
    assert caplog.messages == 3 * [
        f"{listener.endpoint} cannot accept: Too many open files; trying again every 0.1 s"
    ]
    await say_hello(peers[0], accepting.results[0])
    await say_hello(peers[1], await listener.accept())


async def test_accepting_that_is_cancelled_while_full_has_lost_nobody(
    listener: SocketListener, mock_clock: MockClock
) -> None:
    peer = call(listener.endpoint)
    with no_more_descriptors(), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            Task(nursery, listener.accept)
            await wait_all_tasks_blocked()
            scope.cancel()
    await say_hello(peer, await listener.accept())


async def test_unbinding_while_full_ends_the_pending_accept(
    listener: SocketListener, mock_clock: MockClock
) -> None:
    peer = call(listener.endpoint)
    async with trio.open_nursery() as nursery:
        with no_more_descriptors():
            accepting = Task(nursery, listener.accept)
            await wait_all_tasks_blocked()
        await listener.unbind()
        mock_clock.jump(0.11)
    assert isinstance(accepting.error, trio.ClosedResourceError)
    peer.close()


@needs_ipv6
async def test_who_comes_in_one_family_while_the_other_is_full_is_not_forgotten(
    both_families: SocketListener, mock_clock: MockClock
) -> None:
    first = call_family(both_families, socket.AF_INET6)
    async with trio.open_nursery() as nursery:
        with no_more_descriptors():
            accepting = Task(nursery, both_families.accept)
            await wait_all_tasks_blocked()
        second = call_family(both_families, socket.AF_INET)
        await wait_all_tasks_blocked(0.001)
        # Somebody else takes the connection that there was no room for.
        with same_socket(both_families.filenos[1]) as same:
            same.accept()[0].close()
        mock_clock.jump(0.11)
    await say_hello(second, accepting.results[0])
    first.close()


# Failing ----------------------------------------------------------------------------------------


@only_tcp
async def test_peers_that_reset_while_they_were_queued_harm_nobody(
    listener: SocketListener,
) -> None:
    gone, alive = call(listener.endpoint), call(listener.endpoint)
    reset(gone)
    first, second = await listener.accept(), await listener.accept()
    with pytest.raises(trio.BrokenResourceError):
        await first.transport.input.read()
    assert first.closed
    await first.aclose()
    await say_hello(alive, second)


Failing: TypeAlias = "tuple[FailingSocket, PlainListener]"


class FailingSocket(socket.socket):
    """A listening socket whose next `accept` fails as it is told."""

    failure: OSError | None = None

    def accept(self) -> tuple[socket.socket, object]:
        failure, self.failure = self.failure, None
        if failure is not None:
            super().accept()[0].close()
            raise failure
        return super().accept()


class PlainListener(SocketListener):
    """A listener whose next connections cannot be made for the reasons in `failures`."""

    failures: tuple[OSError, ...] = ()

    def connection(self, accepted: socket.socket, address: object) -> Connection:
        if self.failures:
            failure, *rest = self.failures
            self.failures = tuple(rest)
            raise failure
        pipe = SocketPipe(accepted, self.poller)
        return connection_over(pipe, self.context, local=None, remote=None)


@pytest.fixture
async def failing(make_poller: MakePoller, context: TransportContext) -> AsyncGenerator[Failing]:
    listening = FailingSocket(socket.AF_INET)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    endpoint = Endpoint("tcp", f"127.0.0.1:{listening.getsockname()[1]}")
    listener = PlainListener([listening], endpoint, context, context.shared(make_poller))
    yield listening, listener
    await listener.aclose()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.ENETUNREACH])
async def test_what_became_of_one_connection_is_not_the_listeners_end(
    failing: Failing, number: int
) -> None:
    listening, listener = failing
    listening.failure = OSError(number, "gone")
    with call(listener.endpoint):
        peer = call(listener.endpoint)
        await say_hello(peer, await listener.accept())


async def test_a_connection_that_cannot_be_made_is_closed_and_skipped(failing: Failing) -> None:
    _, listener = failing
    listener.failures = (OSError(errno.ENOTCONN, "gone"),)
    gone, peer = call(listener.endpoint), call(listener.endpoint)
    await say_hello(peer, await listener.accept())
    assert gone.recv(1) == b""
    gone.close()


async def test_a_connection_that_cannot_be_watched_is_closed_and_the_log_says_so(
    failing: Failing, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    _, listener = failing
    listener.failures = (OSError(errno.ENOSPC, "No space left on device"),)
    gone, peer = call(listener.endpoint), call(listener.endpoint)
    await say_hello(peer, await listener.accept())
    assert gone.recv(1) == b""
    gone.close()
    assert caplog.messages == [
        f"{listener.endpoint} cannot accept: No space left on device; trying again every 0.1 s"
    ]


@only_tcp  # a Unix socket's accept() takes no note of such a shutdown
async def test_any_other_failure_is_raised(listener: SocketListener) -> None:
    with same_socket(listener.filenos[0]) as same:
        same.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match="Invalid argument"):
        await listener.accept()


class RecordingTransport(SocketTransport):
    """A TCP transport that remembers what it bound."""

    scheme = "tcp"

    def __init__(self, poller: MakePoller) -> None:
        super().__init__(poller)
        self.bound: list[Listener] = []
        self._inner = TcpTransport(poller)

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        listener = await self._inner.bind(endpoint, context)
        self.bound.append(listener)
        return listener

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        return await self._inner.connect(endpoint, context)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere accept() goes on")
async def test_any_other_failure_stops_the_server_with_its_cause(
    make_poller: MakePoller, nothing_left_open: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.transport.input.read()

    transport = RecordingTransport(make_poller)
    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "tcp", transport)
    server = Server(registry=registry)
    server.listen("tcp://127.0.0.1:0", handler)
    async with trio.open_nursery() as nursery:
        serving = Task(nursery, server.serve)
        await wait_all_tasks_blocked()
        (listener,) = transport.bound
        assert isinstance(listener, SocketListener)
        with same_socket(listener.filenos[0]) as same:
            same.shutdown(socket.SHUT_RDWR)
    assert isinstance(serving.error, OSError)
    assert serving.error.errno == errno.EINVAL
    assert caplog.messages == [f"accepting on {listener.endpoint} failed: {serving.error}"]


# Ending -----------------------------------------------------------------------------------------


async def test_unbinding_ends_the_pending_accept_and_later_ones(listener: SocketListener) -> None:
    async with trio.open_nursery() as nursery:
        accepting = Task(nursery, listener.accept)
        await wait_all_tasks_blocked()
        await listener.unbind()
        await listener.unbind()
    assert isinstance(accepting.error, trio.ClosedResourceError)
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_unbinding_as_a_task_begins_to_accept_ends_that(
    tcp: TcpTransport, context: TransportContext
) -> None:
    for _ in range(10):  # in whichever order the tasks run
        listener = await bind(tcp, "tcp://localhost:0", context)
        async with trio.open_nursery() as nursery:
            accepting = Task(nursery, listener.accept)
            while listener.waiting is None:
                await trio.lowlevel.checkpoint()
            await listener.unbind()
        assert isinstance(accepting.error, trio.ClosedResourceError)
