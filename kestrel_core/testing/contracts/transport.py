"""The contract of a transport, as a suite that any implementation can run."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from kestrel_core.connection import Connection, close_within
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.features import SocketInfo
from kestrel_core.testing.contracts.expectations import (
    Pending,
    concurrently,
    expect,
    hold,
    pending,
    raises,
    settle,
)
from kestrel_core.testing.contracts.pipe import check_pipe
from kestrel_core.transport import Listener, Transport, TransportContext, open_transport_context

__all__ = ["check_transport"]

# More than one wake-up of an accept loop brings, and few enough for any backlog.
_MANY_CLIENTS = 50

# As many writes may go unanswered before a socket knows that its peer is gone.
_MOST_WRITES = 10_000


async def check_transport(transport: Transport, endpoint: str, *, check_pipes: bool = True) -> None:
    """Hold `transport` to everything that the docstrings of `kestrel_core.transport` promise.

    It is bound to `endpoint`, such as "tcp://127.0.0.1:0", again and again, and connected to
    where it was bound; each check has a context of its own and leaves nothing bound. The pipes
    of its connections go through `check_pipe`, unless told otherwise. Not for multiplexed
    transports, whose connections carry no bytes of their own.

    Raises:
        AssertionError: a promise is not kept; the text begins with it.
    """
    asked = Endpoint.parse(endpoint, [transport.scheme])
    for check in _CHECKS:
        promise = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
        await hold(promise, partial(_in_context, check, transport, asked))
    if check_pipes:
        failures: list[AssertionError] = []
        await _in_context(partial(_check_pipes, failures), transport, asked)
        for failure in failures:
            raise failure


@attrs.frozen
class _Bound:
    """A listener, and what it takes to connect to it."""

    transport: Transport
    listener: Listener
    context: TransportContext

    async def connect(self, endpoint: Endpoint | None = None) -> Connection:
        """Connect to where the listener is, or was."""
        return await self.transport.connect(endpoint or self.listener.endpoint, self.context)

    @asynccontextmanager
    async def pair(self) -> AsyncGenerator[tuple[Connection, Connection]]:
        """Connect and accept; the block gets the client's and the server's connection."""
        client = await self.connect()
        server = await self.listener.accept()
        try:
            yield client, server
        finally:
            for connection in (client, server):
                connection.abort(EndReason.COMPLETED)
                await close_within(connection, 1.0)


async def _in_context(
    check: Callable[[_Bound], Awaitable[None]], transport: Transport, asked: Endpoint
) -> None:
    async with open_transport_context() as context:
        listener = await transport.bind(asked, context)
        try:
            await check(_Bound(transport, listener, context))
        finally:
            await listener.aclose()


async def _check_pipes(failures: list[AssertionError], bound: _Bound) -> None:
    """Check the pipes, and keep what they fail from the context's nursery, which would wrap it."""
    try:
        await check_pipe(partial(_connected_pipes, bound))
    except AssertionError as failure:
        failures.append(failure)


async def _connected_pipes(bound: _Bound) -> tuple[DuplexPipe, DuplexPipe]:
    client = await bound.connect()
    return client.transport, (await bound.listener.accept()).transport


async def _expect_talk(client: Connection, server: Connection) -> None:
    for sender, receiver in ((client, server), (server, client)):
        await sender.transport.output.send(b"word")
        data = await receiver.transport.input.read_exactly(4)
        expect(data == b"word", f"of b'word' there arrived {data!r}")


async def tells_what_was_bound(bound: _Bound) -> None:
    """What was bound can be connected to as it is, and both ends carry bytes."""
    endpoint = bound.listener.endpoint
    expect(endpoint.scheme == bound.transport.scheme, f"the scheme of {endpoint} should be kept")
    async with bound.pair() as (client, server):
        await _expect_talk(client, server)


async def makes_sound_connections(bound: _Bound) -> None:
    """Both ends know the same two addresses; nothing is signalled yet; the limits are ours."""
    async with bound.pair() as (client, server):
        expect(
            client.local == server.remote and client.remote == server.local,
            f"the client has {client.local} and {client.remote} as its own and its peer's address,"
            f" so the server should not have {server.local} and {server.remote}",
        )
        expect(client.id != server.id, "ids of connections should differ")
        for connection in (client, server):
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


async def queues_before_accepting(bound: _Bound) -> None:
    """Connections that are made while nobody accepts are accepted later, with their bytes."""
    clients = [await bound.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        await client.transport.output.send(bytes([number]))
        await client.transport.output.send_eof()
    servers = [await bound.listener.accept() for _ in clients]
    received = [await server.transport.input.read_exactly(2) for server in servers]
    expect(sorted(received) == [b"\0", b"\1", b"\2"], f"three clients sent {received!r}")
    for connection in (*clients, *servers):
        await connection.aclose()


async def serves_many_clients(bound: _Bound) -> None:
    """Many clients at once get their own bytes back, and each its own end."""

    async def echo(connection: Connection) -> None:
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk)
        await connection.aclose()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(_MANY_CLIENTS):
                nursery.start_soon(echo, await bound.listener.accept())

    async def ask(number: int) -> None:
        client = await bound.connect()
        asked = f"client {number}".encode() * 100
        await client.transport.output.send(asked)
        await client.transport.output.send_eof()
        answer = await client.transport.input.read_exactly(len(asked) + 1)
        expect(answer == asked, f"client {number} got {answer[:20]!r}")
        await client.aclose()

    await concurrently(serve, *(partial(ask, number) for number in range(_MANY_CLIENTS)))


async def cancelled_accept_loses_nobody(bound: _Bound) -> None:
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
    await _expect_talk(client, server)
    await client.aclose()
    await server.aclose()


async def unbinds(bound: _Bound) -> None:
    """`unbind()` ends a pending `accept()` and later ones, and lets live connections go on."""
    async with bound.pair() as (client, server):
        async with pending(bound.listener.accept, "accept() without clients") as accepting:
            await bound.listener.unbind()
        accepting.expect_raised(trio.ClosedResourceError)
        with raises(trio.ClosedResourceError, "accept() after unbind()"):
            await bound.listener.accept()
        with raises(OSError, "connect() after unbind()"):
            await bound.connect()
        await _expect_talk(client, server)
        await bound.listener.unbind()
        await bound.listener.aclose()
        await _expect_talk(client, server)


async def closes(bound: _Bound) -> None:
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


async def closes_though_cancelled(bound: _Bound) -> None:
    """`aclose()` that is cancelled has closed all the same."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await bound.listener.aclose()
    with raises(trio.ClosedResourceError, "accept() after a cancelled aclose()"):
        await bound.listener.accept()
    with raises(OSError, "connect() after a cancelled aclose()"):
        await bound.connect()


async def resets_who_was_not_accepted(bound: _Bound) -> None:
    """`unbind()` ends connections that nobody has accepted; their clients do not wait for ever."""
    client = await bound.connect()
    await bound.listener.unbind()
    try:
        ended = await client.transport.input.receive() == b""
    except trio.BrokenResourceError:
        ended = True
    expect(ended, "a connection that was never accepted should end")
    await client.aclose()


async def refuses_a_second_bind(bound: _Bound) -> None:
    """Binding what is bound raises BindError, and leaves the first listener alone."""
    with raises(BindError, "bind() of a bound endpoint"):
        await bound.transport.bind(bound.listener.endpoint, bound.context)
    async with bound.pair() as (client, server):
        await _expect_talk(client, server)


async def frees_what_was_bound(bound: _Bound) -> None:
    """What was bound can be bound again after `aclose()`, even while connections live."""
    async with bound.pair() as (client, server):
        await bound.listener.aclose()
        again = await bound.transport.bind(bound.listener.endpoint, bound.context)
        try:
            other = _Bound(bound.transport, again, bound.context)
            async with other.pair() as (other_client, other_server):
                await _expect_talk(other_client, other_server)
            await _expect_talk(client, server)
        finally:
            await again.aclose()


async def refuses_unknown_options(bound: _Bound) -> None:
    """An option that it does not know is an EndpointError for `bind()` and for `connect()`."""
    endpoint = bound.listener.endpoint
    wrong = Endpoint(endpoint.scheme, endpoint.address, {"no-such-option": "1"})
    with raises(EndpointError, f"bind() of {wrong}"):
        await bound.transport.bind(wrong, bound.context)
    with raises(EndpointError, f"connect() to {wrong}"):
        await bound.connect(wrong)


async def aborts(bound: _Bound) -> None:
    """`Connection.abort()` breaks our end at once and the peer's soon; both say `closed`."""
    for swapped in (False, True):
        async with bound.pair() as pair:
            near, far = reversed(pair) if swapped else pair
            async with pending(far.transport.input.read, "the peer's read()") as reading:
                near.abort(EndReason.ABORTED_BY_APP)
                near.abort(EndReason.OTHER_ERROR)
            if not (reading.done and far.transport.input.at_eof):  # not every system can reset
                reading.expect_raised(trio.BrokenResourceError)
            expect(
                near.end_reason is EndReason.ABORTED_BY_APP,
                f"the first reason should win, not {near.end_reason}",
            )
            expect(bool(near.closed), "`closed` should be set by abort()")
            with raises(trio.BrokenResourceError, "read() after abort()"):
                await near.transport.input.read()
            await _write_until_it_breaks(far)
            expect(bool(far.closed), "the peer's `closed` should be set once it found out")


async def _write_until_it_breaks(connection: Connection) -> None:
    for _ in range(_MOST_WRITES):
        try:
            await connection.transport.output.send(bytes(1000))
        except trio.BrokenResourceError:
            break
        await trio.lowlevel.checkpoint()


async def closes_connections(bound: _Bound) -> None:
    """`Connection.aclose()` sets `closed`; the peer's is set once it could not write."""
    for swapped in (False, True):
        async with bound.pair() as pair:
            near, far = reversed(pair) if swapped else pair
            await near.aclose()
            expect(bool(near.closed), "`closed` should be set by aclose()")
            await _write_until_it_breaks(far)
            expect(bool(far.closed), "`closed` should be set when writing found the peer gone")
            await far.wait_closed()


async def half_close_is_not_closed(bound: _Bound) -> None:
    """A peer that merely ended its own side has not closed the connection."""
    async with bound.pair() as (client, server):
        await client.transport.output.send_eof()
        expect(await server.transport.input.read() == b"", "read() should find the end")
        await settle()
        expect(not server.closed, "`closed` should not be set by a half-close")
        await server.transport.output.send(b"word")
        data = await client.transport.input.read_exactly(4)
        expect(data == b"word", f"after a half-close b'word' came back as {data!r}")


_CHECKS = [
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
    aborts,
    closes_connections,
    half_close_is_not_closed,
]
