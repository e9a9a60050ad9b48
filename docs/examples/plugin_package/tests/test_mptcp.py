import errno
import os
import resource
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
import trio

from kestrel_core import (
    BindError,
    Connection,
    Endpoint,
    EndpointError,
    Listener,
    PluginKind,
    Registry,
    SocketInfo,
    TransportContext,
    open_transport_context,
)
from kestrel_core.testing import check_transport, open_server
from kestrel_plugin_example.mptcp import IPPROTO_MPTCP, MptcpTransport, Multipath

ANY_PORT = "mptcp://127.0.0.1:0"


def has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


needs_mptcp = pytest.mark.skipif(not has_mptcp(), reason="this system has no Multipath TCP")


@pytest.fixture
async def context() -> AsyncGenerator[TransportContext]:
    async with open_transport_context() as context:
        yield context


@pytest.fixture
async def listener(context: TransportContext) -> AsyncGenerator[Listener]:
    listener = await MptcpTransport().bind(Endpoint.parse(ANY_PORT), context)
    yield listener
    await listener.aclose()


@needs_mptcp
async def test_the_contract() -> None:
    await check_transport(MptcpTransport(), ANY_PORT)


@needs_mptcp
@pytest.mark.parametrize(
    "endpoint", ["mptcp://[::1]:0?backlog=100", "mptcp://localhost:0", "mptcp://*:0"]
)
async def test_other_addresses(endpoint: str) -> None:
    await check_transport(MptcpTransport(), endpoint, check_pipes=False)


@needs_mptcp
async def test_both_ends_know_that_they_speak_mptcp(
    listener: Listener, context: TransportContext
) -> None:
    client = await MptcpTransport().connect(listener.endpoint, context)
    server = await listener.accept()
    for connection in (client, server):
        assert connection.features[Multipath] == Multipath(paths=1)
        assert connection.features[SocketInfo].fileno >= 0
        await connection.aclose()
        assert Multipath not in connection.features
        assert SocketInfo not in connection.features


@needs_mptcp
async def test_a_client_without_mptcp_is_served_over_tcp(listener: Listener) -> None:
    stream = await trio.open_tcp_stream(*listener.endpoint.host_and_port())
    server = await listener.accept()
    await stream.send_all(b"plain")
    assert await server.transport.input.receive() == b"plain"
    assert Multipath not in server.features
    await server.aclose()
    await stream.aclose()


@needs_mptcp
@pytest.mark.parametrize("piece_bytes", [1, 100_000_000])
async def test_a_peer_that_goes_on_sending_after_the_end_is_reset(
    piece_bytes: int, listener: Listener, context: TransportContext
) -> None:
    client = await MptcpTransport().connect(listener.endpoint, context)

    async def go_on_sending() -> None:
        while True:
            await client.transport.output.send(bytes(piece_bytes))
            await trio.testing.wait_all_tasks_blocked(0.01)

    await (await listener.accept()).aclose()
    assert await client.transport.input.receive() == b""
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
        await go_on_sending()
    assert client.closed
    await client.aclose()


@needs_mptcp
async def test_no_descriptors_left(
    listener: Listener, context: TransportContext, caplog: pytest.LogCaptureFixture
) -> None:
    client = await MptcpTransport().connect(listener.endpoint, context)
    accepted: list[Connection] = []

    async def accept() -> None:
        accepted.append(await listener.accept())

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    async with trio.open_nursery() as nursery:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not accepted
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "cannot accept: Too many open files" in caplog.text
    for connection in (client, *accepted):
        await connection.aclose()


@needs_mptcp
async def test_clients_that_are_gone_before_they_are_accepted(
    listener: Listener, context: TransportContext
) -> None:
    for protocol in (0, IPPROTO_MPTCP):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as peer:
            peer.connect(listener.endpoint.host_and_port())
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client = await MptcpTransport().connect(listener.endpoint, context)
    await client.transport.output.send(b"here")
    received = b""
    while not received:
        server = await listener.accept()
        with suppress(trio.BrokenResourceError):
            received = await server.transport.input.receive()
        await server.aclose()
    assert received == b"here"
    await client.aclose()


async def test_the_registry_is_all_that_a_server_needs() -> None:
    if not has_mptcp():
        pytest.skip("this system has no Multipath TCP")

    async def shout(connection: Connection) -> None:
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk.upper())

    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "mptcp", MptcpTransport())
    async with open_server(shout, endpoint=ANY_PORT, registry=registry) as opened:
        client = await opened.connect()
        await client.transport.output.send(b"hello")
        assert await client.transport.input.receive() == b"HELLO"


class Without(trio.abc.SocketFactory):
    """A system whose kernel refuses to make a socket."""

    def __init__(self, refusal: int) -> None:
        self.refusal = refusal

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> trio.socket.SocketType:  # noqa: A002
        raise OSError(self.refusal, os.strerror(self.refusal))


@pytest.mark.parametrize("refusal", [errno.EPROTONOSUPPORT, errno.ENOPROTOOPT])
async def test_a_system_without_mptcp(refusal: int, context: TransportContext) -> None:
    trio.socket.set_custom_socket_factory(Without(refusal))
    endpoint = Endpoint.parse("mptcp://127.0.0.1:8000")
    sentence = "this system has no Multipath TCP"
    with pytest.raises(BindError, match=f"cannot bind {endpoint}: {sentence}"):
        await MptcpTransport().bind(endpoint, context)
    with pytest.raises(OSError, match=sentence):
        await MptcpTransport().connect(endpoint, context)


@pytest.mark.parametrize(
    "wrong",
    [
        "mptcp://nowhere",
        "mptcp://a..b:0",
        "mptcp://127.0.0.1:0?backlog=many",
        "mptcp://127.0.0.1:0?nodelay=1",
    ],
)
async def test_endpoints_that_make_no_sense(wrong: str, context: TransportContext) -> None:
    with pytest.raises(EndpointError):
        await MptcpTransport().bind(Endpoint.parse(wrong), context)


async def test_a_name_that_nobody_has(context: TransportContext) -> None:
    with pytest.raises(BindError, match=r"cannot bind mptcp://no-such-host\.invalid:1"):
        await MptcpTransport().bind(Endpoint.parse("mptcp://no-such-host.invalid:1"), context)
