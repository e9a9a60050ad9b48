"""A transport that is bound somewhere, as the contract suites of transports need it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs

from kestrel_core.connection import Connection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.contracts.expectations import expect, hold
from kestrel_core.testing.contracts.pipe import MakePair, check_pipe
from kestrel_core.transport import Listener, Transport, TransportContext, open_transport_context

__all__ = ["BoundTransport", "check_bound_pipes", "expect_talk", "hold_bound"]


@attrs.frozen
class BoundTransport(ABC):
    """A listener, and what it takes to connect to it.

    A subclass tells how bytes are exchanged over a connection, which is what plain and multiplexed
    ones differ in.
    """

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

    @abstractmethod
    async def line(self, connection: Connection) -> Connection:
        """Return what carries bytes over `connection`, for the side that speaks first."""

    @abstractmethod
    async def line_of_peer(self, connection: Connection) -> Connection:
        """Return what carries bytes over `connection`, for the side that is spoken to first."""

    @abstractmethod
    async def wait_ended(self, connection: Connection) -> None:
        """Wait until `connection`, over which nobody speaks, is found to have ended."""


BoundT = TypeVar("BoundT", bound=BoundTransport)


async def hold_bound(
    promise: str,
    check: Callable[[BoundT], Awaitable[None]],
    bound_class: type[BoundT],
    transport: Transport,
    asked: Endpoint,
) -> None:
    """Run `check` on a new listener, and hold it to `promise`."""
    await hold(promise, partial(_on_bound, check, bound_class, transport, asked))


async def _on_bound(
    operation: Callable[[BoundT], Awaitable[None]],
    bound_class: type[BoundT],
    transport: Transport,
    asked: Endpoint,
) -> None:
    """Run `operation` on a new listener in a context of its own."""
    async with open_transport_context() as context:
        listener = await transport.bind(asked, context)
        try:
            await operation(bound_class(transport, listener, context))
        finally:
            await listener.aclose()


async def check_bound_pipes(
    open_pair_maker: Callable[[BoundT], AbstractAsyncContextManager[MakePair]],
    bound_class: type[BoundT],
    transport: Transport,
    asked: Endpoint,
) -> None:
    """Run `check_pipe` on the pipes that are made over one listener."""
    failures: list[AssertionError] = []  # kept from the context's nursery, which would wrap them

    async def check(bound: BoundT) -> None:
        async with open_pair_maker(bound) as make_pair:
            try:
                await check_pipe(make_pair)
            except AssertionError as failure:
                failures.append(failure)

    await _on_bound(check, bound_class, transport, asked)
    for failure in failures:
        raise failure


async def expect_talk(bound: BoundTransport, client: Connection, server: Connection) -> None:
    """Expect that a word goes from `client` to `server`, and another one back."""
    near = await bound.line(client)
    await near.transport.output.send(b"word")
    far = await bound.line_of_peer(server)
    await _expect_word(far)
    await far.transport.output.send(b"word")
    await _expect_word(near)


async def _expect_word(connection: Connection) -> None:
    data = await connection.transport.input.read_exactly(4)
    expect(data == b"word", f"of b'word' there arrived {data!r}")
