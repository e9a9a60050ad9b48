"""TLS keeps what pipes and middleware promise: over memory, over sockets, and over itself."""

import ssl
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.testing import check_middleware, check_pipe
from kestrel_core.testing.contracts.pipe import MakePair
from kestrel_core.transport import Transport, open_transport_context
from kestrel_middleware.tls import TlsClient
from kestrel_transports.tcp import TcpTransport
from kestrel_transports.unix import UnixTransport
from tests.socket_ends import open_descriptors
from tests.tls_site import SERVER_NAME, authority, shaken_pair, tls

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("pause_at_bytes", "version"), [(65536, TLS_1_2), (65536, TLS_1_3), (700, TLS_1_3)]
)
async def test_over_memory(
    pause_at_bytes: int, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        return await shaken_pair(*duplex_pipe_pair(pause_at_bytes), version)

    await check_pipe(make_pair, volume_bytes=100_000)


async def test_over_itself(autojump_clock: MockClock) -> None:
    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        return await shaken_pair(*await shaken_pair(*duplex_pipe_pair()))

    await check_pipe(make_pair, volume_bytes=100_000)


def over(pipe: DuplexPipe) -> DuplexPipe:
    """Return a layer on `pipe` that changes nothing."""
    return LayeredPipe(pipe, LayerReader(pipe.input), LayerWriter(pipe.output))


async def test_between_other_layers(autojump_clock: MockClock) -> None:
    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        near, far = duplex_pipe_pair()
        one, other = await shaken_pair(over(near), over(far))
        return over(one), over(other)

    await check_pipe(make_pair, volume_bytes=100_000)


@asynccontextmanager
async def pairs_over(transport: Transport, endpoint: str) -> AsyncGenerator[MakePair]:
    """Make pairs over sockets, and expect that they are gone afterwards."""
    before = open_descriptors()
    made: list[Connection] = []
    async with open_transport_context() as context:
        listener = await transport.bind(Endpoint.parse(endpoint), context)

        async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
            near = await transport.connect(listener.endpoint, context)
            far = await listener.accept()
            made.extend((near, far))
            return await shaken_pair(near.transport, far.transport)

        yield make_pair
        await listener.aclose()
        for connection in made:
            connection.deadline.close()
    assert open_descriptors() <= before


async def test_over_tcp() -> None:
    async with pairs_over(TcpTransport(), "tcp://127.0.0.1:0") as make_pair:
        await check_pipe(make_pair, volume_bytes=300_000)


async def test_over_unix_sockets() -> None:
    with tempfile.TemporaryDirectory(prefix="kestrel-", dir="/tmp") as folder:
        async with pairs_over(UnixTransport(), f"unix://{folder}/tls") as make_pair:
            await check_pipe(make_pair, volume_bytes=300_000)


async def test_as_middleware(autojump_clock: MockClock) -> None:
    client = TlsClient(server_name=SERVER_NAME, authorities=authority().cert_pem.bytes())
    await check_middleware(tls(), counterpart=client)
