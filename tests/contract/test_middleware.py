"""Sound middleware passes the contract suite, and none with a fault does."""

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.pipe_reader import SeparatorNotFound
from kestrel_core.testing import check_middleware


class XorStream(trio.abc.HalfCloseableStream):
    """Changes every byte on its way."""

    def __init__(self, inner: trio.abc.HalfCloseableStream, key: int = 0x55) -> None:
        self.inner = inner
        self.table = bytes(byte ^ key for byte in range(256))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(bytes(data).translate(self.table))

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.inner.receive_some(max_bytes)).translate(self.table)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


async def pass_through(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)


async def xor(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    connection.transport = DuplexPipe.from_stream(XorStream(inner.as_stream()))
    try:
        await following(connection)
        await connection.transport.output.flush()
    finally:
        connection.transport = inner


async def take_header(connection: Connection, following: ConnectionHandler) -> None:
    try:
        await connection.transport.input.read_until(b"\r\n", 100)
    except SeparatorNotFound:
        return
    await following(connection)


async def test_passing_through_keeps_every_promise(autojump_clock: MockClock) -> None:
    await check_middleware(pass_through)


async def test_changing_bytes_keeps_them_with_a_counterpart(autojump_clock: MockClock) -> None:
    await check_middleware(xor, counterpart=xor)


async def test_taking_a_preamble_keeps_them_after_it(autojump_clock: MockClock) -> None:
    await check_middleware(take_header, preamble=b"PROXY UNKNOWN\r\n")


async def test_a_middleware_that_cannot_half_close(autojump_clock: MockClock) -> None:
    class OneStream(XorStream):
        async def send_eof(self) -> None:
            raise trio.ClosedResourceError("this stream cannot half-close")

    async def cannot(connection: Connection, following: ConnectionHandler) -> None:
        inner = connection.transport
        connection.transport = DuplexPipe.from_stream(OneStream(inner.as_stream()))
        try:
            await following(connection)
            await connection.transport.output.flush()
        finally:
            connection.transport = inner

    await check_middleware(cannot, counterpart=cannot, half_closes=False)
    with pytest.raises(AssertionError, match="The end of the client's output"):
        await check_middleware(cannot, counterpart=cannot)


# The faults -------------------------------------------------------------------------------------


async def does_not_restore(connection: Connection, following: ConnectionHandler) -> None:
    connection.transport = DuplexPipe.from_stream(connection.transport.as_stream())
    await following(connection)


async def restores_only_what_returned(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    connection.transport = DuplexPipe.from_stream(inner.as_stream())
    await following(connection)
    await connection.transport.output.flush()
    connection.transport = inner


async def swallows_errors(connection: Connection, following: ConnectionHandler) -> None:
    try:
        await following(connection)
    except Exception:
        return


async def tells_another_error(connection: Connection, following: ConnectionHandler) -> None:
    try:
        await following(connection)
    except Exception:
        raise RuntimeError("something went wrong") from None


async def shields(connection: Connection, following: ConnectionHandler) -> None:
    with trio.CancelScope(shield=True):
        await following(connection)


async def swallows_cancellation(connection: Connection, following: ConnectionHandler) -> None:
    try:
        await following(connection)
    except trio.Cancelled:
        return


async def calls_twice(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)
    await following(connection)


async def does_not_call(connection: Connection, following: ConnectionHandler) -> None:
    while await connection.transport.input.receive():
        pass


async def calls_with_another(connection: Connection, following: ConnectionHandler) -> None:
    other = Connection(connection.transport, ConnectionContext())
    await following(other)


async def changes_bytes(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    connection.transport = DuplexPipe.from_stream(XorStream(inner.as_stream(), key=1))
    try:
        await following(connection)
    finally:
        connection.transport = inner


async def takes_the_first_byte(connection: Connection, following: ConnectionHandler) -> None:
    await connection.transport.input.receive(1)
    await following(connection)


async def does_not_half_close(connection: Connection, following: ConnectionHandler) -> None:
    class Deaf(XorStream):
        async def send_eof(self) -> None:
            await trio.lowlevel.checkpoint()

    inner = connection.transport
    connection.transport = DuplexPipe.from_stream(Deaf(inner.as_stream(), key=0))
    try:
        await following(connection)
        await connection.transport.output.flush()
    finally:
        connection.transport = inner


async def forgets_what_is_left(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    connection.transport = DuplexPipe.from_stream(inner.as_stream())
    try:
        await following(connection)
    finally:
        connection.transport = inner


async def sleeps_at_the_end(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)
    await trio.sleep_forever()


async def raises_when_nobody_speaks(connection: Connection, following: ConnectionHandler) -> None:
    if not await connection.transport.input.read():
        raise EOFError
    await following(connection)


async def leaves_a_task(connection: Connection, following: ConnectionHandler) -> None:
    trio.lowlevel.spawn_system_task(trio.sleep, 1)
    await following(connection)


async def expects_more_in_one_piece(connection: Connection, following: ConnectionHandler) -> None:
    if len(await connection.transport.input.read()) < 5:
        return
    await following(connection)


@pytest.mark.parametrize(
    ("middleware", "told"),
    [
        pytest.param(middleware, told, id=middleware.__name__)
        for middleware, told in (
            (does_not_restore, "`connection.transport` should be restored"),
            (restores_only_what_returned, "`connection.transport` should be restored"),
            (swallows_errors, "should come out, but nothing did"),
            (tells_another_error, "should come out, not"),
            (shields, "a cancelled handler should not go on"),
            (swallows_cancellation, "Cancelled should come out of the middleware"),
            (calls_twice, "what follows was called 2 times"),
            (does_not_call, "what follows should be called|it hangs"),
            (calls_with_another, "what follows should get the connection itself"),
            (changes_bytes, "the handler got other bytes than were sent"),
            (takes_the_first_byte, "Bytes in equal bytes out"),
            (does_not_half_close, "The end of the client's output"),
            (forgets_what_is_left, "b'' arrived of b'good-bye'"),
            (sleeps_at_the_end, "it hangs"),
            (raises_when_nobody_speaks, "A peer that leaves without a word"),
            (leaves_a_task, "1 tasks were left running"),
            (expects_more_in_one_piece, "what follows should be called|it hangs"),
        )
    ],
)
async def test_a_fault_is_found_and_named(
    middleware: Middleware, told: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(AssertionError, match=told):
        await check_middleware(middleware)
