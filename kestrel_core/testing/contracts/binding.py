"""What binding, accepting and connecting promise of every transport, one check for each sentence.

Each check gets a transport that is bound for it alone. Its docstring is the promise.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.features import SocketInfo
from kestrel_core.testing.contracts.bound_transport import BoundTransport, expect_talk
from kestrel_core.testing.contracts.expectations import (
    Pending,
    concurrently,
    expect,
    pending,
    raises,
    settle,
)

__all__ = ["BINDING_CHECKS"]

# More than one wake-up of an accept loop brings, and few enough for any backlog.
_MANY_CLIENTS = 50


async def tells_what_was_bound(bound: BoundTransport) -> None:
    """What was bound can be connected to as it is, and both ends carry bytes."""
    endpoint = bound.listener.endpoint
    expect(endpoint.scheme == bound.transport.scheme, f"the scheme of {endpoint} should be kept")
    async with bound.pair() as (client, server):
        await expect_talk(bound, client, server)


async def makes_sound_connections(bound: BoundTransport) -> None:
    """Both ends know the same two addresses; nothing is signalled yet; the limits are ours."""
    multiplexed = bound.transport.multiplexed
    async with bound.pair() as (client, server):
        expect(
            client.local == server.remote and client.remote == server.local,
            f"the client has {client.local} and {client.remote} as its own and its peer's address,"
            f" so the server should not have {server.local} and {server.remote}",
        )
        expect(client.id != server.id, "ids of connections should differ")
        for connection in (client, server):
            expect(
                isinstance(connection, MultiplexedConnection) == multiplexed,
                f"where `multiplexed` is {multiplexed} there should be no {connection!r}",
            )
            for address in (connection.local, connection.remote):
                expect(
                    address is None or address.host != "",
                    f"an address without a name should be None, not {address!r}",
                )
            expect(connection.limits is bound.context.limits, "`limits` should be the context's")
            expect(not connection.closed, "`closed` should not be set on a new connection")
            expect(not connection.close_requested, "`close_requested` should not be set either")
            expect(connection.end_reason is None, "`end_reason` should be None")
            socket = connection.features.get(SocketInfo)
            expect(socket is None or socket.fileno >= 0, f"what socket is {socket!r}?")


async def queues_before_accepting(bound: BoundTransport) -> None:
    """Connections that are made while nobody accepts are accepted later, with their bytes."""
    clients = [await bound.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        line = await bound.line(client)
        await line.transport.output.send(bytes([number]))
        await line.transport.output.send_eof()
    servers = [await bound.listener.accept() for _ in clients]
    received: list[bytes] = []
    for server in servers:
        line = await bound.line_of_peer(server)
        received.append(await line.transport.input.read_exactly(2))
    expect(sorted(received) == [b"\0", b"\1", b"\2"], f"three clients sent {received!r}")
    for connection in (*clients, *servers):
        await connection.aclose()


async def serves_many_clients(bound: BoundTransport) -> None:
    """Many clients at once get their own bytes back, and each its own end."""

    async def echo(connection: Connection) -> None:
        line = await bound.line_of_peer(connection)
        async for chunk in line.transport.input:
            await line.transport.output.send(chunk)
        await line.transport.output.send_eof()
        await bound.wait_ended(connection)
        await connection.aclose()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(_MANY_CLIENTS):
                nursery.start_soon(echo, await bound.listener.accept())

    async def ask(number: int) -> None:
        client = await bound.connect()
        line = await bound.line(client)
        asked = f"client {number}".encode() * 100
        await line.transport.output.send(asked)
        await line.transport.output.send_eof()
        answer = await line.transport.input.read_exactly(len(asked) + 1)
        expect(answer == asked, f"client {number} got {answer[:20]!r}")
        await client.aclose()

    await concurrently(serve, *(partial(ask, number) for number in range(_MANY_CLIENTS)))


async def cancelled_accept_loses_nobody(bound: BoundTransport) -> None:
    """An `accept()` that was cancelled has lost no connection."""
    with trio.CancelScope() as scope:
        async with pending(bound.listener.accept, "accept() without clients"):
            scope.cancel()
    async with trio.open_nursery() as nursery:
        accepting: Pending[Connection] = Pending("accept()")
        nursery.start_soon(accepting.run, bound.listener.accept)
        await settle()
        client = await bound.connect()
        nursery.cancel_scope.cancel()
    server = accepting.result if accepting.done else await bound.listener.accept()
    await expect_talk(bound, client, server)
    await client.aclose()
    await server.aclose()


async def unbinds(bound: BoundTransport) -> None:
    """`unbind()` ends a pending `accept()` and later ones, and lets live connections go on."""
    async with bound.pair() as (client, server):
        async with pending(bound.listener.accept, "accept() without clients") as accepting:
            await bound.listener.unbind()
        accepting.expect_raised(trio.ClosedResourceError)
        with raises(trio.ClosedResourceError, "accept() after unbind()"):
            await bound.listener.accept()
        with raises(OSError, "connect() after unbind()"):
            await bound.connect()
        await expect_talk(bound, client, server)
        await bound.listener.unbind()
        await bound.listener.aclose()
        await expect_talk(bound, client, server)


async def closes(bound: BoundTransport) -> None:
    """`aclose()` ends a pending `accept()` and later ones; a second call does nothing."""
    async with pending(bound.listener.accept, "accept() without clients") as accepting:
        await bound.listener.aclose()
    accepting.expect_raised(trio.ClosedResourceError)
    with raises(trio.ClosedResourceError, "accept() after aclose()"):
        await bound.listener.accept()
    with raises(OSError, "connect() after aclose()"):
        await bound.connect()
    await bound.listener.aclose()
    await bound.listener.unbind()


async def closes_though_cancelled(bound: BoundTransport) -> None:
    """`aclose()` that is cancelled has closed all the same."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await bound.listener.aclose()
    with raises(trio.ClosedResourceError, "accept() after a cancelled aclose()"):
        await bound.listener.accept()
    with raises(OSError, "connect() after a cancelled aclose()"):
        await bound.connect()


async def resets_who_was_not_accepted(bound: BoundTransport) -> None:
    """`unbind()` ends connections that nobody has accepted; their clients do not wait for ever."""
    client = await bound.connect()
    await bound.listener.unbind()
    await bound.wait_ended(client)
    await client.aclose()


async def refuses_a_second_bind(bound: BoundTransport) -> None:
    """Binding what is bound raises BindError, and leaves the first listener alone."""
    with raises(BindError, "bind() of a bound endpoint"):
        await bound.transport.bind(bound.listener.endpoint, bound.context)
    async with bound.pair() as (client, server):
        await expect_talk(bound, client, server)


async def frees_what_was_bound(bound: BoundTransport) -> None:
    """What was bound can be bound again after `aclose()`, even while connections live."""
    async with bound.pair() as (client, server):
        await bound.listener.aclose()
        again = await bound.transport.bind(bound.listener.endpoint, bound.context)
        try:
            other = type(bound)(bound.transport, again, bound.context)
            async with other.pair() as (other_client, other_server):
                await expect_talk(bound, other_client, other_server)
            await expect_talk(bound, client, server)
        finally:
            await again.aclose()


async def refuses_unknown_options(bound: BoundTransport) -> None:
    """An option that it does not know is an EndpointError for `bind()` and for `connect()`."""
    endpoint = bound.listener.endpoint
    wrong = Endpoint(endpoint.scheme, endpoint.address, {"no-such-option": "1"})
    with raises(EndpointError, f"bind() of {wrong}"):
        await bound.transport.bind(wrong, bound.context)
    with raises(EndpointError, f"connect() to {wrong}"):
        await bound.connect(wrong)


BINDING_CHECKS: Sequence[Callable[[BoundTransport], Awaitable[None]]] = [
    tells_what_was_bound,
    makes_sound_connections,
    queues_before_accepting,
    serves_many_clients,
    cancelled_accept_loses_nobody,
    unbinds,
    closes,
    closes_though_cancelled,
    resets_who_was_not_accepted,
    refuses_a_second_bind,
    frees_what_was_bound,
    refuses_unknown_options,
]
