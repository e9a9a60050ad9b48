"""The contract of a middleware, as a suite that any implementation can run."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import trio

from kestrel_core.connection import Address, Connection, ConnectionContext, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.testing.contracts.expectations import expect, hold, promise_of, settle

__all__ = ["check_middleware"]

# Cut into pieces of these sizes, so that whatever a middleware looks for comes in parts, too.
_PIECE_BYTES = (1, 2, 3, 10, 100, 1000, 5000)

_VOLUME_BYTES = 100_000

# A handler that is cancelled goes on for this long if it is shielded, and no longer.
_SHIELDED_SECONDS = 3.0


class _Deliberate(Exception):
    """What the handlers here raise."""


async def _nothing(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)


async def check_middleware(
    middleware: Middleware,
    *,
    counterpart: Middleware = _nothing,
    preamble: bytes = b"",
    half_closes: bool = True,
) -> None:
    """Hold `middleware` to what every middleware owes to what follows and to what called it.

    Bytes in are bytes out, in any pieces and in both directions; the half-close passes; what
    follows is called once, its errors and its cancellation come out, and then the connection has
    its old transport again and no task is left.

    `counterpart` is the middleware that a client of this one uses, for one that changes the
    bytes; `preamble` is what such a client sends first, for one that takes something away.

    Raises:
        AssertionError: a promise is not kept; the text begins with it.
    """
    setting = _Setting(middleware, counterpart, preamble)
    checks = [*_CHECKS, *(_HALF_CLOSING_CHECKS if half_closes else ())]
    for check in checks:
        await hold(promise_of(check), partial(check, setting))


@attrs.frozen
class _Setting:
    """The middleware under test and what its clients need."""

    middleware: Middleware
    counterpart: Middleware
    preamble: bytes

    @asynccontextmanager
    async def wire(self) -> AsyncGenerator[tuple[Connection, Connection]]:
        """Make a connected client and server, without anything around them yet."""
        context = ConnectionContext()
        here, there = Address("client"), Address("server")
        near, far = duplex_pipe_pair(4096)
        client = Connection(near, context, local=here, remote=there)
        server = Connection(far, context, local=there, remote=here)
        near.peer_gone.listen(client.closed.set)
        far.peer_gone.listen(server.closed.set)
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            nursery.start_soon(context.timers.run)
            try:
                yield client, server
            finally:
                for connection in (client, server):
                    await close_within(connection, 1.0)
                context.memory_pool.close()
                nursery.cancel_scope.cancel()
        tasks = trio.lowlevel.current_statistics().tasks_living - tasks_before
        expect(tasks == 0, f"{tasks} tasks were left running")

    async def serve(
        self, server: Connection, handler: ConnectionHandler, *, called: bool = True
    ) -> None:
        """Run the middleware around `handler`, and expect it to leave the connection as it was.

        `called` says that the handler must be called, not only that it may.
        """
        before = server.transport
        calls: list[Connection] = []

        async def following(connection: Connection) -> None:
            calls.append(connection)
            await handler(connection)

        try:
            await self.middleware(server, following)
        finally:
            expect(server.transport is before, "`connection.transport` should be restored")
            expect(len(calls) <= 1, f"what follows was called {len(calls)} times")
        expect(bool(calls) or not called, "what follows should be called")
        expect(calls in ([], [server]), "what follows should get the connection itself")

    async def use(self, client: Connection, talk: ConnectionHandler) -> None:
        """Send the preamble and run `talk` inside the counterpart."""
        if self.preamble:
            await client.transport.output.send(self.preamble)
        await self.counterpart(client, talk)

    async def run(self, handler: ConnectionHandler, talk: ConnectionHandler) -> None:
        """Serve one connection with `handler` while the client does `talk`."""
        async with self.wire() as (client, server), trio.open_nursery() as nursery:
            nursery.start_soon(self.use, client, talk)
            await self.serve(server, handler)
            await close_within(server, 1.0)  # as a server does then


async def carries_all_bytes(setting: _Setting) -> None:
    """Bytes in equal bytes out, in any pieces, in both directions at once."""
    dice = random.Random(1)
    data = dice.randbytes(_VOLUME_BYTES)

    async def echo(connection: Connection) -> None:
        start = 0
        while start < len(data):
            chunk = await connection.transport.input.receive(dice.choice(_PIECE_BYTES))
            expect(chunk != b"", f"the handler's input ended after {start} bytes")
            expect(
                chunk == data[start : start + len(chunk)],
                f"from byte {start} on the handler got other bytes than were sent",
            )
            start += len(chunk)
            await connection.transport.output.send(chunk)

    async def talk(connection: Connection) -> None:
        async def send() -> None:
            start = 0
            while start < len(data):
                size = dice.choice(_PIECE_BYTES)
                await connection.transport.output.send(data[start : start + size])
                start += size

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            echoed = await connection.transport.input.read_exactly(len(data))
        expect(echoed == data, "other bytes came back than the handler had sent")

    await setting.run(echo, talk)


async def sends_what_is_left(setting: _Setting) -> None:
    """What the handler wrote and did not flush arrives, once it has returned."""

    async def answer(connection: Connection) -> None:
        await connection.transport.input.read_exactly(2)
        connection.transport.output.write(b"good-bye")

    async def talk(connection: Connection) -> None:
        await connection.transport.output.send(b"hi")
        received = await connection.transport.input.read_exactly(8)
        expect(received == b"good-bye", f"{received!r} arrived of b'good-bye'")

    await setting.run(answer, talk)


async def carries_single_bytes(setting: _Setting) -> None:
    """A peer that sends byte by byte is served like any other."""

    async def answer(connection: Connection) -> None:
        question = await connection.transport.input.read_until(b"?", 100)
        await connection.transport.output.send(question.upper())

    async def talk(connection: Connection) -> None:
        for byte in b"what is this?":
            await connection.transport.output.send(bytes([byte]))
            await settle()
        answered = await connection.transport.input.read_exactly(13)
        expect(answered == b"WHAT IS THIS?", f"the answer was {answered!r}")

    await setting.run(answer, talk)


async def lets_errors_pass(setting: _Setting) -> None:
    """What the handler raises comes out, and the transport is restored."""
    failures: list[Exception] = [_Deliberate("a fault"), trio.BrokenResourceError("a gone peer")]
    for failure in failures:

        async def fail(connection: Connection, failure: Exception = failure) -> None:
            raise failure

        try:
            await setting.run(fail, _speak)
        except Exception as error:
            expect(_contains(error, failure), f"{failure!r} should come out, not {error!r}")
        else:
            raise AssertionError(f"{failure!r} should come out, but nothing did")


async def lets_cancellation_pass(setting: _Setting) -> None:
    """A cancelled handler ends at once, and the transport is restored."""
    awake = returned = False
    with trio.CancelScope() as scope:

        async def sleep(connection: Connection) -> None:
            nonlocal awake
            scope.cancel()
            await trio.sleep(_SHIELDED_SECONDS)
            awake = True

        async with setting.wire() as (client, server), trio.open_nursery() as nursery:
            nursery.start_soon(setting.use, client, _speak)
            await setting.serve(server, sleep)
            returned = True
            nursery.cancel_scope.cancel()
    expect(not awake, "a cancelled handler should not go on")
    expect(not returned, "Cancelled should come out of the middleware")


async def ends_when_the_peer_resets(setting: _Setting) -> None:
    """A peer that resets the connection breaks the handler's read, or ends it."""

    async def reset(connection: Connection) -> None:
        await connection.transport.output.send(b"x")
        await settle()
        connection.abort(EndReason.ABORTED_BY_APP)

    async with setting.wire() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(_unless_broken, partial(setting.use, client, reset))
        await _unless_broken(partial(setting.serve, server, _until_it_ends))


async def ends_when_nobody_speaks(setting: _Setting) -> None:
    """A peer that leaves without a word is no error; the middleware returns."""
    async with setting.wire() as (client, server):
        await client.aclose()
        await _unless_broken(partial(setting.serve, server, _until_it_ends, called=False))


_CHECKS = [
    carries_all_bytes,
    carries_single_bytes,
    sends_what_is_left,
    lets_errors_pass,
    lets_cancellation_pass,
    ends_when_the_peer_resets,
    ends_when_nobody_speaks,
]


async def lets_half_closes_pass(setting: _Setting) -> None:
    """The end of the client's output reaches the handler, which can still answer, and its end."""
    answer_ended = trio.Event()

    async def answer(connection: Connection) -> None:
        chunks = [chunk async for chunk in connection.transport.input]
        await connection.transport.output.send(b"".join(chunks).upper())
        await connection.transport.output.send_eof()
        await answer_ended.wait()

    async def talk(connection: Connection) -> None:
        await connection.transport.output.send(b"all of it")
        await connection.transport.output.send_eof()
        answered = await connection.transport.input.read_exactly(10)
        expect(answered == b"ALL OF IT", f"the answer was {answered!r}")
        answer_ended.set()

    await setting.run(answer, talk)


_HALF_CLOSING_CHECKS = [lets_half_closes_pass]


async def _unless_broken(operation: Callable[[], Awaitable[None]]) -> None:
    """Await `operation`, and forgive it that the peer is gone."""
    try:
        await operation()
    except* trio.BrokenResourceError:
        pass


async def _speak(connection: Connection) -> None:
    """Say something that a middleware may want to see, and wait for the end."""
    with suppress(trio.BrokenResourceError):
        await connection.transport.output.send(b"hello, middleware\r\n")
        await _until_it_ends(connection)


async def _until_it_ends(connection: Connection) -> None:
    try:
        while await connection.transport.input.receive():
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def _contains(error: BaseException, wanted: BaseException) -> bool:
    match error:
        case BaseExceptionGroup(exceptions=parts):
            return any(_contains(part, wanted) for part in parts)
        case _:
            return error is wanted
