"""The contract of a transport, as a suite that any implementation can run."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from kestrel_core.connection import Connection, close_within
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.contracts.binding import BINDING_CHECKS
from kestrel_core.testing.contracts.bound_transport import (
    BoundTransport,
    check_bound_pipes,
    hold_bound,
)
from kestrel_core.testing.contracts.expectations import expect, pending, promise_of, raises, settle
from kestrel_core.testing.contracts.pipe import MakePair
from kestrel_core.transport import Transport

__all__ = ["check_transport"]

# As many writes may go unanswered before a socket knows that its peer is gone.
_MOST_WRITES = 10_000


async def check_transport(transport: Transport, endpoint: str, *, check_pipes: bool = True) -> None:
    """Hold `transport` to everything that the docstrings of `kestrel_core.transport` promise.

    It is bound to `endpoint`, such as "tcp://127.0.0.1:0", again and again, and connected to
    where it was bound; each check has a context of its own and leaves nothing bound. The pipes
    of its connections go through `check_pipe`, unless told otherwise. For a multiplexed transport
    there is `check_multiplexed_transport`.

    Raises:
        AssertionError: a promise is not kept; the text begins with it.
    """
    asked = Endpoint.parse(endpoint, [transport.scheme])
    for check in (*BINDING_CHECKS, *_CHECKS):
        await hold_bound(promise_of(check), check, _BoundPipes, transport, asked)
    if check_pipes:
        await check_bound_pipes(_open_pair_maker, _BoundPipes, transport, asked)


class _BoundPipes(BoundTransport):
    """A transport whose connections carry bytes themselves."""

    async def line(self, connection: Connection) -> Connection:
        return connection

    async def line_of_peer(self, connection: Connection) -> Connection:
        return connection

    async def wait_ended(self, connection: Connection) -> None:
        try:
            ended = await connection.transport.input.receive() == b""
        except trio.BrokenResourceError:
            ended = True
        expect(ended, "the input of a connection that ended should end")


@asynccontextmanager
async def _open_pair_maker(bound: _BoundPipes) -> AsyncGenerator[MakePair]:
    made: list[Connection] = []

    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        client = await bound.connect()
        server = await bound.listener.accept()
        made.extend((client, server))
        return client.transport, server.transport

    try:
        yield make_pair
    finally:
        for connection in made:
            await close_within(connection, 1.0)


async def aborts(bound: BoundTransport) -> None:
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


async def closes_connections(bound: BoundTransport) -> None:
    """`Connection.aclose()` sets `closed`; the peer's is set once it could not write."""
    for swapped in (False, True):
        async with bound.pair() as pair:
            near, far = reversed(pair) if swapped else pair
            await near.aclose()
            expect(bool(near.closed), "`closed` should be set by aclose()")
            await _write_until_it_breaks(far)
            expect(bool(far.closed), "`closed` should be set when writing found the peer gone")
            await far.wait_closed()


async def half_close_is_not_closed(bound: BoundTransport) -> None:
    """A peer that merely ended its own side has not closed the connection."""
    async with bound.pair() as (client, server):
        await client.transport.output.send_eof()
        expect(await server.transport.input.read() == b"", "read() should find the end")
        await settle()
        expect(not server.closed, "`closed` should not be set by a half-close")
        await server.transport.output.send(b"word")
        data = await client.transport.input.read_exactly(4)
        expect(data == b"word", f"after a half-close b'word' came back as {data!r}")


_CHECKS = [aborts, closes_connections, half_close_is_not_closed]
