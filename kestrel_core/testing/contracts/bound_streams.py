"""A bound transport whose connections carry streams, as the suite of multiplexed ones needs it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.testing.contracts.bound_transport import BoundTransport
from kestrel_core.testing.contracts.expectations import expect, raises
from kestrel_core.testing.contracts.pipe import MakePair

__all__ = ["GREETING", "BoundStreams", "expect_word", "open_stream_maker"]

GREETING = b"\xff"
"""The first byte of every stream: a peer need not hear of one before something is sent on it."""


class BoundStreams(BoundTransport):
    """A bound multiplexed transport; what carries bytes over a connection is a new stream of it."""

    async def line(self, connection: Connection) -> Connection:
        """Open a stream and greet."""
        stream = await _multiplexed(connection).open_stream()
        await stream.transport.output.send(GREETING)
        return stream

    async def line_of_peer(self, connection: Connection) -> Connection:
        """Accept a stream and take its greeting."""
        stream = await _multiplexed(connection).accept_stream()
        greeting = await stream.transport.input.read_exactly(len(GREETING))
        expect(
            greeting == GREETING, f"a stream began with {greeting!r}, which is not what was sent"
        )
        return stream

    async def wait_ended(self, connection: Connection) -> None:
        """Wait until no stream can come any more."""
        with raises(trio.EndOfChannel, "accept_stream() of a connection that ended"):
            await _multiplexed(connection).accept_stream()

    @asynccontextmanager
    async def ends(
        self, *, swapped: bool
    ) -> AsyncGenerator[tuple[MultiplexedConnection, MultiplexedConnection]]:
        """Connect and accept; the block gets the client's end first, or last if `swapped`."""
        async with self.pair() as (client, server):
            near, far = (server, client) if swapped else (client, server)
            yield _multiplexed(near), _multiplexed(far)

    async def stream(self, near: Connection, far: Connection) -> tuple[Connection, Connection]:
        """Open a stream at `near` and accept it at `far`, where nobody else accepts."""
        opened = await self.line(near)
        return opened, await self.line_of_peer(far)


@asynccontextmanager
async def open_stream_maker(bound: BoundStreams, *, swapped: bool) -> AsyncGenerator[MakePair]:
    """Connect, and give what makes streams of that connection, the opener's pipe first.

    The server opens the streams if `swapped`, else the client.
    """
    async with bound.ends(swapped=swapped) as (near, far):

        async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
            opened, accepted = await bound.stream(near, far)
            return opened.transport, accepted.transport

        yield make_pair


async def expect_word(near: Connection, far: Connection, when: str) -> None:
    """Expect that a word goes from `near` to `far`; `when` is a part of the sentence if not."""
    await near.transport.output.send(b"word")
    data = await far.transport.input.read_exactly(4)
    expect(data == b"word", f"{when} of b'word' there arrived {data!r}")


def _multiplexed(connection: Connection) -> MultiplexedConnection:
    if not isinstance(connection, MultiplexedConnection):
        raise AssertionError(f"{connection!r} should be a MultiplexedConnection")
    return connection
