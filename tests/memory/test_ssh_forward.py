"""Forwarding a connection as it is: bytes, ends, resets, and servers that are not there."""

import logging
import random
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, EndpointError, PluginError
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.testing import OpenServer, open_server
from kestrel_core.transport import Listener, Transport, TransportContext
from kestrel_middleware.detect import Detect
from kestrel_protocols.forward import Forward
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from kestrel_protocols.ssh import SshForward
from tests.both_ways_only import BothWaysOnly
from tests.http1_site import ServerLog
from tests.raw_client import GET, RawClient

VERSION = b"SSH-2.0-test_1.0 with a comment\r\n"


@pytest.fixture
def log() -> Generator[ServerLog]:
    log, logger = ServerLog(), logging.getLogger("kestrel")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)
    logger.setLevel(logging.NOTSET)


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)
    await connection.transport.output.send(b"<end>")


@attrs.frozen
class Chain:
    """A server that forwards, and the one that it forwards to."""

    front: OpenServer
    back: OpenServer

    async def connect(self) -> RawClient:
        return RawClient(await self.front.connect())

    async def all_ended(self) -> None:
        with trio.fail_after(10):
            while self.front.server.connections or self.back.server.connections:  # noqa: ASYNC110
                await trio.sleep(0.01)


@asynccontextmanager
async def chain(
    handler: ConnectionHandler = echo, *, endpoint: str = "memory://back", pause_at_bytes: int = 100
) -> AsyncGenerator[Chain]:
    """Serve `handler` behind a server that forwards to it."""
    async with (
        open_server(handler, endpoint=f"{endpoint}?pause_at_bytes={pause_at_bytes}") as back,
        open_server(
            Forward(endpoint), endpoint=f"memory://front?pause_at_bytes={pause_at_bytes}"
        ) as front,
    ):
        yield Chain(front, back)
        await Chain(front, back).all_ended()


async def test_bytes_and_both_ends_pass(log: ServerLog, autojump_clock: MockClock) -> None:
    data = random.Random(1).randbytes(50_000)
    async with chain() as servers:
        client = await servers.connect()
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                received.append(await client.receive_rest())

            await client.send(data)
            await client.send_eof()
        assert received == [data + b"<end>"]
        await client.aclose()
    assert log.ends == [EndReason.COMPLETED] * 2


async def test_the_server_may_end_first(log: ServerLog, autojump_clock: MockClock) -> None:
    told: list[bytes] = []

    async def hang_up(connection: Connection) -> None:
        await connection.transport.output.send(b"bye")
        await connection.transport.output.send_eof()
        told.extend([chunk async for chunk in connection.transport.input])

    async with chain(hang_up) as servers:
        client = await servers.connect()
        assert await client.receive_rest() == b"bye"
        await client.send(b"so long")
        await client.send_eof()
        await servers.all_ended()
        await client.aclose()
    assert told == [b"so long"]


async def test_who_does_not_read_stops_who_writes(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    async def sleep(connection: Connection) -> None:
        await trio.sleep(60)
        await echo(connection)

    async with chain(sleep) as servers:
        client = await servers.connect()
        with trio.move_on_after(30) as patience:
            await client.send(b"x" * 10_000)
        assert patience.cancelled_caught
        client.reset()
        await client.aclose()
        await trio.sleep(60)


async def test_a_reset_by_the_client_passes(log: ServerLog, autojump_clock: MockClock) -> None:
    async with chain() as servers:
        client = await servers.connect()
        await client.send(b"x")
        assert await client.receive_some() == b"x"
        client.reset()
        await client.aclose()
    assert log.ends == [EndReason.CONNECTION_RESET] * 2


async def test_a_reset_by_the_server_passes(log: ServerLog, autojump_clock: MockClock) -> None:
    async def reset(connection: Connection) -> None:
        await connection.transport.input.receive()
        connection.abort(EndReason.ABORTED_BY_APP)

    async with chain(reset) as servers:
        client = await servers.connect()
        await client.send(b"x")
        assert await client.is_reset()
        await client.aclose()
    assert set(log.ends) == {EndReason.ABORTED_BY_APP, EndReason.CONNECTION_RESET}


async def test_what_the_server_said_before_it_went_arrives(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    async def refuse(connection: Connection) -> None:
        await connection.transport.output.send(b"too many of you\r\n" * 10)

    async with chain(refuse) as servers:
        client = await servers.connect()
        await client.send(b"x" * 50)  # which nobody reads
        assert await client.receive_rest() == b"too many of you\r\n" * 10
        await client.aclose()


async def test_a_forwarding_that_is_cancelled_looks_like_no_end(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    async def cancel(connection: Connection, following: ConnectionHandler) -> None:
        with trio.move_on_after(5):
            await following(connection)

    async def read(connection: Connection) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await connection.transport.input.read()

    async with (
        open_server(read, endpoint="memory://back"),
        open_server(Forward("memory://back"), middleware=[cancel]) as front,
    ):
        client = RawClient(await front.connect())
        assert await client.receive_rest() == b""
        await client.aclose()
    assert log.ends == [EndReason.COMPLETED] * 2


async def test_a_drain_cuts_what_is_under_way(log: ServerLog, autojump_clock: MockClock) -> None:
    async with chain() as servers:
        client = await servers.connect()
        await client.send(b"x")
        assert await client.receive_some() == b"x"
        started = trio.current_time()
        assert await servers.front.server.drain(10) == 1
        assert trio.current_time() - started == 10
        assert await client.is_reset()
        await servers.all_ended()
    assert set(log.ends) == {EndReason.APP_SHUTDOWN_TIMEOUT, EndReason.CONNECTION_RESET}


# Servers that are not there ---------------------------------------------------------------------


async def test_nobody_is_there(log: ServerLog, autojump_clock: MockClock) -> None:
    async with open_server(Forward("memory://nowhere")) as front:
        client = RawClient(await front.connect())
        assert await client.is_reset()
        await client.aclose()
    assert log.ends == [EndReason.FORWARD_TARGET_UNREACHABLE]
    record = log.take()
    assert record.levelno == logging.WARNING
    assert "cannot be forwarded to memory://nowhere: " in record.getMessage()
    assert "nobody listens on the name" in record.getMessage()


class NeverAnswers(Transport):
    scheme = "never"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        raise AssertionError

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        await trio.sleep_forever()
        raise AssertionError


async def test_nobody_answers(log: ServerLog, autojump_clock: MockClock) -> None:
    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "never", NeverAnswers)
    forward = Forward("never://anywhere", connect_seconds=5, registry=registry)
    async with open_server(forward) as front:
        client = RawClient(await front.connect())
        started = trio.current_time()
        assert await client.is_reset()
        assert trio.current_time() - started == 5
        await client.aclose()
    assert log.take().getMessage().endswith("to never://anywhere: no answer in 5 s")


async def test_a_connection_of_no_server() -> None:
    connection = Connection(duplex_pipe_pair()[0], ConnectionContext())
    with pytest.raises(ConfigurationError, match="a TransportContext does, as a server has it"):
        await Forward("memory://back")(connection)


def test_mistakes() -> None:
    with pytest.raises(EndpointError):
        Forward("127.0.0.1:22")
    with pytest.raises(PluginError, match="no transport called 'gopher'"):
        Forward("gopher://127.0.0.1:70")
    with pytest.raises(ValueError, match="connect_seconds must be above zero"):
        Forward("tcp://127.0.0.1:22", connect_seconds=0)


# Under middleware, and found by detection -------------------------------------------------------


async def test_where_an_end_cannot_be_told_alone_all_ends(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    async def hang_up(connection: Connection) -> None:
        await connection.transport.output.send(b"bye")
        await connection.transport.output.send_eof()
        async for _ in connection.transport.input:
            pass

    async def no_half_close(connection: Connection, following: ConnectionHandler) -> None:
        inner = connection.transport
        connection.transport = DuplexPipe.from_stream(BothWaysOnly(inner.as_stream()))
        try:
            await following(connection)
        finally:
            connection.transport = inner

    async with (
        open_server(hang_up, endpoint="memory://back"),
        open_server(Forward("memory://back"), middleware=[no_half_close]) as front,
    ):
        client = RawClient(await front.connect())
        assert await client.receive_rest() == b"bye"
        await client.aclose()
    assert log.ends == [EndReason.COMPLETED] * 2


async def hello(exchange: HttpExchange) -> None:
    await exchange.respond(200, [], b"hello")


@pytest.mark.parametrize("byte_by_byte", [False, True])
async def test_ssh_beside_http(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    ssh = SshForward("memory://sshd")
    async with (
        open_server(echo, endpoint="memory://sshd"),
        open_server(Detect([ssh, Http1(hello)], silent=ssh, seconds=3)) as front,
    ):
        client = RawClient(await front.connect(), byte_by_byte=byte_by_byte)
        await client.send(VERSION)
        await client.send_eof()
        assert await client.receive_rest() == VERSION + b"<end>"
        browser = RawClient(await front.connect(), byte_by_byte=byte_by_byte)
        assert (await browser.ask(GET)).body == b"hello"
        shy = RawClient(await front.connect())
        await trio.sleep(4)
        await shy.send(b"now")
        assert await shy.receive_some() == b"now"
        for each in (client, browser, shy):
            await each.aclose()
