"""Admission over real sockets: what a flood leaves behind, and what clients get to see of it."""

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.transport import TransportContext
from kestrel_middleware.admission import Answer, ConnectionAdmission, WhenFull
from kestrel_transports._poller import Poller
from kestrel_transports.tcp import TcpTransport
from kestrel_transports.unix import UnixTransport
from tests.socket_ends import HAS_IPV6, call, open_descriptors, settle

FULL = EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED
ADDRESS_FULL = EndReason.MAX_CONNECTIONS_PER_ADDRESS_EXCEEDED

REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Served:
    """A server on some endpoints, and what its clients need."""

    def __init__(self, server: Server, endpoints: list[Endpoint]) -> None:
        self.server = server
        self.endpoints = endpoints
        self.calls = 0

    async def greet(self, connection: Connection) -> None:
        self.calls += 1
        await connection.transport.output.send(b"hello")
        await connection.transport.input.receive()


@asynccontextmanager
async def serving(
    make_poller: Callable[[TransportContext], Poller],
    admission: ConnectionAdmission,
    *texts: str,
) -> AsyncGenerator[Served]:
    """Serve, and see that nothing is left open."""
    before = open_descriptors()
    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "tcp", TcpTransport(make_poller))
    registry.register(PluginKind.TRANSPORT, "unix", UnixTransport(make_poller))
    server = Server(registry=registry)
    served = Served(server, [])
    for text in texts or ("tcp://127.0.0.1:0",):
        server.listen(text, served.greet, middleware=[admission])
    async with trio.open_nursery() as nursery:
        served.endpoints = await nursery.start(server.serve)
        yield served
        with trio.fail_after(5):
            await server.drain(1)
    assert admission.statistics.open == 0
    assert admission.statistics.waiting == 0
    assert open_descriptors() <= before


def received(peer: socket.socket) -> bytes | None:
    """Return what comes until the end, None if that is a reset; called in a thread."""
    data = b""
    try:
        while chunk := peer.recv(65536):
            data += chunk
    except ConnectionResetError:
        return None
    return data


async def ask(endpoint: Endpoint, count: int = 5) -> bytes:
    """Connect, receive `count` bytes, or fewer and the end, and close."""
    data = b""
    with await trio.to_thread.run_sync(call, endpoint) as peer:
        peer.settimeout(5)
        try:
            while len(data) < count:
                chunk = await trio.to_thread.run_sync(peer.recv, count - len(data))
                if not chunk:
                    break
                data += chunk
        except ConnectionResetError:
            pass
    return data


@pytest.mark.parametrize("answer", Answer)
async def test_a_flood_of_refused_connections_leaves_nothing(
    answer: Answer, make_poller: Callable[[TransportContext], Poller]
) -> None:
    admission = ConnectionAdmission(
        max_connections_per_address=1,
        max_connections_per_prefix=1,
        connections_per_second_per_address=1000,
        answer=answer,
    )
    async with serving(make_poller, admission) as served:
        [endpoint] = served.endpoints
        with await trio.to_thread.run_sync(call, endpoint) as first:
            first.settimeout(5)
            assert await trio.to_thread.run_sync(first.recv, 5) == b"hello"
            await settle()
            descriptors = open_descriptors()
            tasks = trio.lowlevel.current_statistics().tasks_living
            for _ in range(20):
                with ExitStack() as flood:
                    for _ in range(25):
                        flood.enter_context(await trio.to_thread.run_sync(call, endpoint))
                    await trio.sleep(0.005)
            await settle()
            assert admission.statistics.refused == {ADDRESS_FULL: 500}
            assert admission.statistics.open == 1
            assert admission.statistics.remembered <= 3
            assert list(served.server.connections) != []
            assert len(served.server.connections) == 1
            assert served.calls == 1
            assert open_descriptors() <= descriptors
            assert trio.lowlevel.current_statistics().tasks_living == tasks
        await trio.sleep(0.05)
        assert await ask(endpoint) == b"hello"


@pytest.mark.parametrize("early", [True, False], ids=["request first", "answer first"])
async def test_a_503_reaches_its_client(
    early: bool, make_poller: Callable[[TransportContext], Poller]
) -> None:
    """With an orderly end, where the request was there; and in any case before a reset."""
    admission = ConnectionAdmission(deny="127.0.0.0/8", answer=Answer.HTTP_503)
    async with serving(make_poller, admission) as served:
        with call(served.endpoints[0]) as peer:  # which blocks the server meanwhile
            peer.settimeout(5)
            if early:
                peer.sendall(REQUEST)
                answered = await trio.to_thread.run_sync(received, peer)
                assert answered is not None
            else:
                await trio.sleep(0.05)
                peer.sendall(REQUEST)
                await trio.sleep(0.05)
                answered = await trio.to_thread.run_sync(peer.recv, 65536)
            assert answered.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert answered.endswith(b"\r\n\r\n")


async def test_other_answers_are_a_reset_and_an_end(
    make_poller: Callable[[TransportContext], Poller],
) -> None:
    for answer, expected in ((Answer.RESET, None), (Answer.CLOSE, b"")):
        admission = ConnectionAdmission(deny="127.0.0.0/8", answer=answer)
        async with serving(make_poller, admission) as served:
            with await trio.to_thread.run_sync(call, served.endpoints[0]) as peer:
                peer.settimeout(5)
                assert await trio.to_thread.run_sync(received, peer) == expected


async def test_waiting_clients_are_served_later(
    make_poller: Callable[[TransportContext], Poller],
) -> None:
    admission = ConnectionAdmission(max_connections=2, when_full=WhenFull.WAIT)
    most = 0
    async with serving(make_poller, admission) as served:

        async def one() -> None:
            nonlocal most
            answers.append(await ask(served.endpoints[0]))
            most = max(most, len(served.server.connections))

        answers = list[bytes]()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert answers == [b"hello"] * 50
        assert most <= 2
        assert admission.statistics.refused == {}


async def test_draining_while_clients_wait(
    make_poller: Callable[[TransportContext], Poller],
) -> None:
    """On one endpoint they wait in the kernel's queue, on the other one of them was accepted."""
    admission = ConnectionAdmission(max_connections=1, when_full=WhenFull.WAIT)
    endpoints = ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
    async with serving(make_poller, admission, *endpoints) as served:
        with ExitStack() as peers:
            waiting = list[socket.socket]()
            for endpoint in served.endpoints * 2:
                peer = peers.enter_context(await trio.to_thread.run_sync(call, endpoint))
                peer.settimeout(5)
                waiting.append(peer)
                await settle()
            assert await trio.to_thread.run_sync(waiting.pop(0).recv, 5) == b"hello"
            await settle()
            assert (admission.statistics.open, admission.statistics.waiting) == (1, 1)
            with trio.fail_after(5):
                assert await served.server.drain(0.1) == 1
            assert (admission.statistics.open, admission.statistics.waiting) == (0, 0)
            for peer in waiting:
                assert not await trio.to_thread.run_sync(received, peer)


async def test_endpoints_of_all_kinds_share_one_admission(
    folder: str, make_poller: Callable[[TransportContext], Poller]
) -> None:
    admission = ConnectionAdmission(max_connections_per_address=1, max_connections=4)
    texts = ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0", f"unix://{folder}/a", f"unix://{folder}/b"]
    async with serving(make_poller, admission, *texts) as served:
        with ExitStack() as peers:
            seen = list[bytes | None]()
            for endpoint in served.endpoints:
                peer = peers.enter_context(await trio.to_thread.run_sync(call, endpoint))
                peer.settimeout(5)
                try:
                    seen.append(await trio.to_thread.run_sync(peer.recv, 5))
                except ConnectionResetError:
                    seen.append(None)
        # A Unix socket has no reset; its peer sees the end.
        assert seen == [b"hello", None, b"hello", b""]
        assert admission.statistics.refused == {ADDRESS_FULL: 2}


@pytest.mark.skipif(not HAS_IPV6, reason="this system has no IPv6")
async def test_an_ipv4_client_of_an_ipv6_socket_has_its_own_address(
    make_poller: Callable[[TransportContext], Poller],
) -> None:
    admission = ConnectionAdmission(allow="127.0.0.1", max_connections_per_prefix=1)
    async with serving(make_poller, admission, "tcp://*:0") as served:
        _, port = served.endpoints[0].host_and_port()
        assert await ask(Endpoint.parse(f"tcp://127.0.0.1:{port}")) == b"hello"
        assert await ask(Endpoint.parse(f"tcp://[::1]:{port}")) == b""
    assert admission.statistics.refused == {EndReason.ADDRESS_DENIED: 1}
