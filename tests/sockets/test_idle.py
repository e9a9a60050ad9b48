"""Idle connections over sockets: a slow reader moves bytes that only the kernel sees."""

from collections.abc import Callable

import pytest
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.transport import TransportContext
from kestrel_middleware.idle import Idle
from kestrel_transports._poller import Poller
from kestrel_transports.tcp import TcpTransport
from tests.socket_ends import call, take

# In real time; a machine that is busy makes the reader late, but not by half of this.
_IDLE_SECONDS = 1.0


@pytest.mark.usefixtures("nothing_left_open")
async def test_a_peer_that_reads_slowly_is_not_idle_until_it_stops(
    make_poller: Callable[[TransportContext], Poller],
) -> None:
    connections = list[Connection]()

    async def send(connection: Connection) -> None:
        connections.append(connection)
        await connection.transport.output.send(bytes(64 * 1024 * 1024))

    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "tcp", TcpTransport(make_poller))
    server = Server(registry=registry)
    server.listen("tcp://127.0.0.1:0", send, middleware=[Idle(seconds=_IDLE_SECONDS)])
    async with trio.open_nursery() as nursery:
        [endpoint] = await nursery.start(server.serve)
        with await trio.to_thread.run_sync(call, endpoint) as peer:
            peer.settimeout(5)
            for _ in range(10):
                assert len(await trio.to_thread.run_sync(take, peer, 1024 * 1024)) == 1024 * 1024
                await trio.sleep(_IDLE_SECONDS / 4)
            [connection] = connections
            assert connection.end_reason is None
            started = trio.current_time()
            with trio.fail_after(5):
                await connection.wait_closed()
            assert connection.end_reason is EndReason.IDLE_TIMEOUT
            assert trio.current_time() - started > _IDLE_SECONDS / 2
        await server.drain(1)
