"""A pipe as anyio's byte stream: its contract, and anyio's own consumers on it."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
import trio
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream
from anyio.streams.text import TextReceiveStream, TextStream
from anyio.streams.tls import TLSAttribute, TLSStream
from trio.testing import wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.testing import open_server
from kestrel_core.testing.authority import Authority
from kestrel_core.testing.clients.anyio_stream import PipeByteStream
from kestrel_middleware.tls import Tls

NAMES = anyio.abc.SocketAttribute


async def echo(connection: Connection) -> None:
    """Send everything back, and the end."""
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)
    await connection.transport.output.send_eof()


async def wait_for_the_end(connection: Connection) -> None:
    async for _ in connection.transport.input:
        pass


@asynccontextmanager
async def to_an_echo() -> AsyncGenerator[tuple[PipeByteStream, Connection]]:
    async with open_server(echo) as opened:
        connection = await opened.connect()
        async with PipeByteStream(connection) as stream:
            yield stream, connection
        assert connection.closed
    assert not opened.server.connections


async def test_bytes_go_both_ways_until_the_end() -> None:
    async with to_an_echo() as (stream, _):
        await stream.send(b"hello")
        assert await stream.receive(2) == b"he"
        assert await stream.receive() == b"llo"
        await stream.send_eof()
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_a_pipe_will_do() -> None:
    near, far = (PipeByteStream(pipe) for pipe in duplex_pipe_pair())
    assert isinstance(near, anyio.abc.ByteStream)
    await near.send(b"hello")
    assert await far.receive() == b"hello"
    assert near.extra(NAMES.local_address, None) is None
    await near.aclose()
    with pytest.raises(anyio.EndOfStream):
        await far.receive()
    await far.aclose()


async def test_the_addresses_are_attributes() -> None:
    async with open_server(echo) as opened:
        inet = await opened.connect(address="203.0.113.7:4711", options={"server": "192.0.2.1:80"})
        async with PipeByteStream(inet) as stream:
            assert stream.extra(NAMES.local_address) == ("203.0.113.7", 4711)
            assert stream.extra(NAMES.local_port) == 4711
            assert stream.extra(NAMES.remote_address) == ("192.0.2.1", 80)
            assert stream.extra(NAMES.remote_port) == 80
            with pytest.raises(anyio.TypedAttributeLookupError):
                stream.extra(NAMES.raw_socket)
        named = await opened.connect(address="somebody", options={"server": "/run/a.sock"})
        async with PipeByteStream(named) as stream:
            assert stream.extra(NAMES.local_address) == "somebody"
            assert stream.extra(NAMES.remote_address) == "/run/a.sock"
            assert stream.extra(NAMES.remote_port, 0) == 0


async def test_a_closed_stream_says_so() -> None:
    async with to_an_echo() as (stream, _):
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"a")
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send_eof()


async def test_nothing_can_be_sent_after_the_end() -> None:
    async def stay(connection: Connection) -> None:
        await connection.wait_closed()

    async with open_server(stay) as opened, PipeByteStream(await opened.connect()) as stream:
        await stream.send_eof()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"a")


async def test_a_reset_breaks_it() -> None:
    async def reset(connection: Connection) -> None:
        await connection.transport.input.read()
        connection.transport.abort()

    async with open_server(reset) as opened, PipeByteStream(await opened.connect()) as stream:
        await stream.send(b"a")
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"a")


async def test_one_task_receives_and_one_sends() -> None:
    async with (
        open_server(wait_for_the_end) as opened,
        PipeByteStream(await opened.connect(options={"pause_at_bytes": "10"})) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stream.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError, match="receiving from"):
            await stream.receive()
        nursery.cancel_scope.cancel()


async def test_a_second_sender_is_refused() -> None:
    async def never_read(connection: Connection) -> None:
        await trio.sleep_forever()

    async with (
        open_server(never_read, drain_seconds=0) as opened,
        PipeByteStream(await opened.connect()) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stream.send, bytes(1_000_000))
        await wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError, match="sending to"):
            await stream.send(b"a")
        nursery.cancel_scope.cancel()


async def test_a_cancelled_receive_has_lost_nothing() -> None:
    async with to_an_echo() as (stream, _):
        with anyio.move_on_after(0):
            await stream.receive()
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"


async def test_each_operation_is_a_checkpoint() -> None:
    async with to_an_echo() as (stream, _):
        await stream.send(b"a")
        for operation in (lambda: stream.send(b"b"), stream.receive, stream.send_eof):
            with trio.CancelScope() as scope:
                scope.cancel()
                await operation()
            assert scope.cancelled_caught


# anyio's own consumers --------------------------------------------------------------------------


async def test_buffered_reading() -> None:
    async with to_an_echo() as (stream, _):
        buffered = BufferedByteReceiveStream(stream)
        await stream.send(b"one line\nand 12345")
        assert await buffered.receive_until(b"\n", 100) == b"one line"
        assert await buffered.receive_exactly(4) == b"and "
        assert await buffered.receive_exactly(5) == b"12345"
        await stream.send_eof()
        with pytest.raises(anyio.IncompleteRead):
            await buffered.receive_exactly(1)


async def test_text() -> None:
    async with to_an_echo() as (stream, _):
        text = TextStream(stream)
        await text.send("Grüße")
        received = ""
        while len(received) < 5:
            received += await text.receive()
        assert received == "Grüße"


async def test_text_whose_characters_come_in_pieces() -> None:
    async with to_an_echo() as (stream, _):
        text = TextReceiveStream(stream)
        for byte in "é€".encode():
            await stream.send(bytes([byte]))
            await wait_all_tasks_blocked()
        await stream.send_eof()
        assert "".join([part async for part in text]) == "é€"


async def test_two_stapled_together() -> None:
    async with to_an_echo() as (one, _), to_an_echo() as (other, _):
        stapled = StapledByteStream(one, other)
        await other.send(b"hello")
        assert await stapled.receive() == b"hello"
        await stapled.send(b"bye")
        assert await one.receive() == b"bye"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls(version: ssl.TLSVersion) -> None:
    authority = Authority()
    identity = authority.issue("host.example")
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.minimum_version = context.maximum_version = version
    layer = Tls(certificate=identity.certificate_chain, key=identity.key, alpn=["echo"])
    context.set_alpn_protocols(["echo"])
    message = bytes(range(256)) * 1000
    async with open_server(echo, middleware=[layer]) as opened:
        connection = await opened.connect(options={"server": "192.0.2.1:443"})
        inside = await TLSStream.wrap(
            PipeByteStream(connection), hostname="host.example", ssl_context=context
        )
        assert inside.extra(TLSAttribute.alpn_protocol) == "echo"
        assert inside.extra(NAMES.remote_address) == ("192.0.2.1", 443)
        received = b""
        async with inside, trio.open_nursery() as nursery:
            nursery.start_soon(inside.send, message)
            while len(received) < len(message):
                received += await inside.receive()
        assert received == message
        assert connection.closed
