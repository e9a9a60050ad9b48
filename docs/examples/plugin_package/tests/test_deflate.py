import zlib
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from kestrel_core import (
    ConfigurationError,
    Connection,
    DuplexPipe,
    EndReason,
    Layer,
    Middleware,
    Server,
    duplex_pipe_pair,
)
from kestrel_core.testing import OpenServer, check_middleware, check_pipe, open_server
from kestrel_plugin_example.deflate import Deflate, DeflatePipe

Talk = Callable[[Connection], Awaitable[None]]


@pytest.mark.parametrize(("server", "client"), [(65536, 65536), (10, 30)])
async def test_the_contract(server: int, client: int, autojump_clock: MockClock) -> None:
    await check_middleware(
        Deflate(max_inflated_bytes=server),
        counterpart=Deflate(level=9, max_inflated_bytes=client),
    )


async def test_the_contract_of_its_pipe(autojump_clock: MockClock) -> None:
    def deflated(inner: DuplexPipe) -> DuplexPipe:
        return DeflatePipe(inner, 1, 10_000, lambda _reason: inner.abort())

    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        near, far = duplex_pipe_pair(1000)
        return deflated(near), deflated(far)

    await check_pipe(make_pair, volume_bytes=50_000)


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def ask(opened: OpenServer, talk: Talk) -> Connection:
    """Do `talk` as a client that has the same middleware."""
    client = await opened.connect()
    await Deflate()(client, talk)
    return client


async def test_each_flush_arrives(autojump_clock: MockClock) -> None:
    async def talk(connection: Connection) -> None:
        for word in (b"one", b"two", b"three"):
            await connection.transport.output.send(word)
            assert await connection.transport.input.receive() == word

    async with open_server(echo, middleware=[Deflate()]) as opened:
        await ask(opened, talk)


async def test_what_is_on_the_wire_is_small(autojump_clock: MockClock) -> None:
    async def say(connection: Connection) -> None:
        await connection.transport.output.send(b"all work and no play " * 10_000)

    async with open_server(say, middleware=[Deflate()]) as opened:
        wire = await opened.connect()
        received = b"".join([chunk async for chunk in wire.transport.input])
    assert len(received) < 2_000
    assert zlib.decompress(received) == b"all work and no play " * 10_000


async def test_little_is_inflated_at_once(autojump_clock: MockClock) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    assert len(bomb) < 50_000
    shown: list[int] = []

    async def count(connection: Connection) -> None:
        shown.extend([len(chunk) async for chunk in connection.transport.input])

    async with open_server(count, middleware=[Deflate(max_inflated_bytes=10_000)]) as opened:
        wire = await opened.connect()
        await wire.transport.output.send(bomb)
        await wire.transport.output.send_eof()
        assert await wire.transport.input.receive() != b""  # the empty stream of the answer
    assert sum(shown) == 50_000_000
    assert max(shown) <= 10_000


async def test_a_reader_that_takes_nothing_holds_little(autojump_clock: MockClock) -> None:
    held: list[int] = []

    async def hold(connection: Connection) -> None:
        held.append(len(await connection.transport.input.read()))
        await trio.sleep(10)
        held.append(len(connection.transport.input.buffered))

    async with open_server(hold, middleware=[Deflate(max_inflated_bytes=10_000)]) as opened:
        wire = await opened.connect()
        await wire.transport.output.send(zlib.compress(bytes(5_000_000)))
        await wire.closed.wait()
    assert held == [10_000, 10_000]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", EndReason.INVALID_INPUT),
        (zlib.compress(b"hello")[:-4] + b"sum!", EndReason.INVALID_INPUT),
        (zlib.compress(b"hello") + b"more", EndReason.INVALID_INPUT),
        (zlib.compress(b"hello")[:-1], EndReason.UNEXPECTED_END_OF_INPUT),
        (zlib.compress(b"hello"), EndReason.COMPLETED),
        (b"", EndReason.COMPLETED),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 1000])
async def test_what_is_no_whole_stream(
    sent: bytes, reason: EndReason, piece_bytes: int, autojump_clock: MockClock
) -> None:
    async with open_server(echo, middleware=[Deflate()]) as opened:
        wire = await opened.connect()
        try:
            for start in range(0, len(sent), piece_bytes):
                await wire.transport.output.send(sent[start : start + piece_bytes])
            await wire.transport.output.send_eof()
        except trio.BrokenResourceError:
            assert reason is EndReason.INVALID_INPUT
        await wire.closed.wait()
        [served] = opened.connections
        assert served.end_reason is reason
        assert not opened.failures


class Tls(Layer):
    """Stands for the real one, which needs a certificate."""

    name = "tls"

    async def __call__(self, connection: Connection, following: Talk) -> None:
        await following(connection)


@pytest.mark.parametrize(
    ("order", "is_right"), [([Tls(), Deflate()], True), ([Deflate(), Tls()], False)]
)
async def test_its_place_is_inside_of_tls(order: list[Middleware], is_right: bool) -> None:
    server = Server()
    server.listen("memory://deflate", echo, middleware=order)
    async with trio.open_nursery() as nursery:
        if is_right:
            await nursery.start(server.serve)
            await server.drain(0)
        else:
            with pytest.raises(ConfigurationError, match="put it behind tls"):
                await server.serve()


@pytest.mark.parametrize("level", [0, 10])
def test_a_level_that_there_is_not(level: int) -> None:
    with pytest.raises(ValueError, match="'level' must be"):
        Deflate(level=level)
