"""Socket transports over both pollers, and a check that tests close what they open."""

import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from kestrel_core.endpoint import Endpoint
from kestrel_core.transport import TransportContext, open_transport_context
from kestrel_transports._listeners import SocketTransport
from kestrel_transports._poller import Poller
from kestrel_transports.tcp import TcpTransport
from kestrel_transports.unix import UnixTransport
from tests.socket_ends import MakePoller, Wire, call, open_descriptors, trio_poller


@pytest.fixture
def nothing_left_open() -> Generator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() <= before


@pytest.fixture(params=["epoll", "trio"])
def make_poller(request: pytest.FixtureRequest) -> MakePoller:
    """Make the one poller and then the other: what goes for sockets goes with both."""
    if request.param == "trio":
        return trio_poller
    if sys.platform != "linux":
        pytest.skip("this system has no epoll")
    return Poller.of


@pytest.fixture
async def context(
    make_poller: MakePoller, nothing_left_open: None
) -> AsyncGenerator[TransportContext]:
    async with open_transport_context() as context:
        yield context
        assert context.shared(make_poller).watched == 0


@pytest.fixture
def folder() -> Generator[str]:
    """Make a folder whose path leaves room for names: a Unix socket's has a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="kestrel-", dir="/tmp") as path:
        yield path


@pytest.fixture
def path(folder: str) -> Path:
    """Name a socket in that folder."""
    return Path(folder, "app.sock")


@pytest.fixture
def tcp(make_poller: MakePoller) -> TcpTransport:
    return TcpTransport(make_poller)


@pytest.fixture
def unix(make_poller: MakePoller) -> UnixTransport:
    return UnixTransport(make_poller)


@pytest.fixture(params=["tcp", "unix"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def endpoint(scheme: str, folder: str) -> Endpoint:
    """What to bind."""
    text = "tcp://127.0.0.1:0" if scheme == "tcp" else f"unix://{folder}/socket"
    return Endpoint.parse(text)


@pytest.fixture
def transport(scheme: str, make_poller: MakePoller) -> SocketTransport:
    kind = TcpTransport if scheme == "tcp" else UnixTransport
    return kind(make_poller)


@pytest.fixture
async def wire(
    transport: SocketTransport, endpoint: Endpoint, context: TransportContext
) -> AsyncGenerator[Wire]:
    listener = await transport.bind(endpoint, context)
    peer = call(listener.endpoint)
    connection = await listener.accept()
    await listener.aclose()
    try:
        yield Wire(connection, peer)
    finally:
        connection.transport.abort()
        await connection.aclose()
        peer.close()
