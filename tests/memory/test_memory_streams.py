"""A server over connections of streams: it serves them, refuses what needs bytes, and ends them."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware, needs_bytes
from kestrel_core.protocol import Protocol, Sniff
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.testing import check_no_leaks
from kestrel_core.transport import TransportContext, open_transport_context
from kestrel_transports.memory_streams import MemoryStreamsTransport

NAME = "memory-streams://name"


async def echo(stream: Connection) -> None:
    async for chunk in stream.transport.input:
        await stream.transport.output.send(chunk)
    await stream.aclose()


async def serve_streams(connection: Connection) -> None:
    """Echo on every stream, until the connection ends or is asked to, and streams have ended."""
    assert isinstance(connection, MultiplexedConnection)
    async with trio.open_nursery() as streams:
        with trio.CancelScope() as accepting:
            connection.close_requested.listen(accepting.cancel)
            try:
                while True:
                    streams.start_soon(echo, await connection.accept_stream())
            except trio.EndOfChannel:
                pass


@attrs.define
class Serving:
    server: Server
    context: TransportContext

    async def connect(self) -> MultiplexedConnection:
        (endpoint,) = self.server.endpoints
        connection = await MemoryStreamsTransport().connect(endpoint, self.context)
        assert isinstance(connection, MultiplexedConnection)
        return connection


@asynccontextmanager
async def serving(
    handler: ConnectionHandler,
    *middleware: Middleware,
    limits: Limits | None = None,
) -> AsyncGenerator[Serving]:
    async with check_no_leaks():
        server = Server(limits=limits)
        server.listen(NAME, handler, middleware=middleware)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with open_transport_context() as context:
                yield Serving(server, context)
            await server.drain(1)
        assert not server.connections


async def ask(connection: MultiplexedConnection, question: bytes) -> None:
    stream = await connection.open_stream()
    await stream.transport.output.send(question)
    await stream.transport.output.send_eof()
    assert await stream.transport.input.read_exactly(len(question) + 1) == question
    await stream.aclose()


def test_it_is_installed() -> None:
    registry = Registry()
    assert "memory-streams" in registry.names(PluginKind.TRANSPORT)
    assert isinstance(registry.transport("memory-streams"), MemoryStreamsTransport)


async def test_streams_of_many_clients_are_served() -> None:
    async with serving(serve_streams) as site, trio.open_nursery() as nursery:
        clients = [await site.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            for stream in range(200):  # more than there may be at a time
                nursery.start_soon(ask, client, b"%d of %d" % (stream, number))
        await wait_all_tasks_blocked()
        assert len(site.server.connections) == 3
        for client in clients:
            await client.aclose()


async def test_the_server_may_open_streams_too() -> None:
    async def greet(connection: Connection) -> None:
        assert isinstance(connection, MultiplexedConnection)
        await ask(connection, b"who is there?")

    async with serving(greet) as site:
        client = await site.connect()
        await echo(await client.accept_stream())
        with pytest.raises(trio.EndOfChannel):
            await client.accept_stream()
        await client.aclose()


class ReadsBytes(Layer):
    name = "greedy"

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        raise NotImplementedError


class ReadsNone(Layer):
    name = "modest"
    needs_bytes = False

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)


@needs_bytes
async def greedy_function(connection: Connection, following: ConnectionHandler) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("middleware", [ReadsBytes(), greedy_function])
async def test_a_layer_that_needs_bytes_is_refused(middleware: Middleware) -> None:
    server = Server()
    server.listen(NAME, serve_streams, middleware=[ReadsNone(), middleware])
    with pytest.raises(ConfigurationError, match=r"greedy.*reads the bytes .* carries streams"):
        await server.serve()


async def test_a_layer_that_needs_none_is_not() -> None:
    async with serving(serve_streams, ReadsNone()) as site:
        client = await site.connect()
        await ask(client, b"anybody there?")
        await client.aclose()


class EchoStreams(Protocol):
    name = "echo"
    needs_bytes = False

    def sniff(self, prefix: bytes) -> Sniff:
        return Sniff.NO if prefix else Sniff.MORE

    async def __call__(self, connection: Connection) -> None:
        await serve_streams(connection)


class EchoBytes(EchoStreams):
    needs_bytes = True


async def test_a_protocol_that_needs_bytes_is_refused() -> None:
    server = Server()
    server.listen(NAME, EchoBytes())
    with pytest.raises(ConfigurationError, match=r"^echo reads the bytes of a connection, but"):
        await server.serve()


async def test_a_protocol_of_streams_is_not() -> None:
    async with serving(EchoStreams()) as serving_:
        stream = await (await serving_.connect()).open_stream()
        await stream.transport.output.send(b"hello")
        assert await stream.transport.input.read_exactly(5) == b"hello"


async def test_draining_lets_streams_finish() -> None:
    async with serving(serve_streams) as site, trio.open_nursery() as nursery:
        client = await site.connect()
        stream = await client.open_stream()
        await stream.transport.output.send(b"half")
        assert await stream.transport.input.receive() == b"half"
        nursery.start_soon(site.server.drain, 10)
        await wait_all_tasks_blocked()
        assert not stream.closed
        (served,) = site.server.connections
        await stream.transport.output.send(b" done")
        assert await stream.transport.input.receive() == b" done"
        await stream.aclose()
        await client.wait_closed()
        assert served.end_reason is EndReason.COMPLETED
        await client.aclose()


async def test_draining_asks_streams_to_finish() -> None:
    asked = trio.Event()

    async def sleep_on_streams(connection: Connection) -> None:
        assert isinstance(connection, MultiplexedConnection)
        stream = await connection.accept_stream()
        await stream.close_requested.wait()
        asked.set()
        await stream.aclose()

    async with serving(sleep_on_streams) as site:
        client = await site.connect()
        await client.open_stream()
        await wait_all_tasks_blocked()
        assert not asked.is_set()
        assert await site.server.drain(10) == 0
        assert asked.is_set()
        await client.aclose()


async def test_draining_cuts_streams_that_do_not_finish(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(serve_streams) as site:
        client = await site.connect()
        stream = await client.open_stream()
        await stream.transport.output.send(b"x")
        assert await stream.transport.input.receive() == b"x"
        (served,) = site.server.connections
        assert await site.server.drain(5) == 1
        assert trio.current_time() == 5
        assert served.end_reason is EndReason.APP_SHUTDOWN_TIMEOUT
        with pytest.raises(trio.BrokenResourceError):
            await stream.transport.input.read()
        with pytest.raises(trio.BrokenResourceError):
            await client.open_stream()
        await client.aclose()
    assert "1 connections did not finish in 5 s and were cut" in caplog.text


async def test_aborting_the_server_breaks_streams() -> None:
    async with serving(serve_streams) as site:
        client = await site.connect()
        stream = await client.open_stream()
        await stream.transport.output.send(b"x")
        assert await stream.transport.input.receive() == b"x"
        site.server.abort()
        await client.wait_closed()
        with pytest.raises(trio.BrokenResourceError):
            await stream.transport.input.read()
        await client.aclose()


async def test_a_client_that_aborts_is_no_fault_of_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(serve_streams) as site:
        client = await site.connect()
        stream = await client.open_stream()
        await stream.transport.output.send(b"x")
        assert await stream.transport.input.receive() == b"x"
        (served,) = site.server.connections
        client.abort(EndReason.ABORTED_BY_APP)
        assert served.end_reason is EndReason.CONNECTION_RESET
        await client.aclose()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_fault_of_the_handler_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(connection: Connection) -> None:
        assert isinstance(connection, MultiplexedConnection)
        await connection.accept_stream()
        raise RuntimeError("a fault")

    async with serving(fail) as site:
        client, other = await site.connect(), await site.connect()
        stream = await client.open_stream()
        with pytest.raises(trio.BrokenResourceError):
            await stream.transport.input.read()
        assert client.closed
        assert not other.closed
        await client.aclose()
        await other.aclose()
    assert "RuntimeError: a fault" in caplog.text


async def test_a_full_server_closes_the_next_connection() -> None:
    async with serving(serve_streams, limits=Limits(max_connections=1)) as site:
        client = await site.connect()
        await ask(client, b"one")
        refused = await site.connect()
        await refused.wait_closed()
        with pytest.raises(trio.EndOfChannel):
            await refused.accept_stream()
        await refused.aclose()
        await client.aclose()
