"""Plain sockets as peers of ours, and what else tests of socket transports need."""

import os
import resource
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.features import SocketInfo
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.transport import Listener, TransportContext
from kestrel_transports._listeners import SocketTransport
from kestrel_transports._poller import Poller, TrioPoller

ResultT = TypeVar("ResultT")

MakePoller = Callable[[TransportContext], Poller]

# More than the buffers of a socket pair hold.
PLENTY = 32 * 1024 * 1024

HAS_IPV6 = socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")


def trio_poller(_context: TransportContext) -> Poller:
    """Make the poller of systems without epoll."""
    return TrioPoller()


@attrs.frozen
class Wire:
    """A connection that we accepted, and its peer: a plain, blocking socket."""

    connection: Connection
    peer: socket.socket

    @property
    def pipe(self) -> DuplexPipe:
        return self.connection.transport

    @property
    def input(self) -> PipeReader:
        return self.connection.transport.input

    @property
    def output(self) -> PipeWriter:
        return self.connection.transport.output


def call(endpoint: Endpoint) -> socket.socket:
    """Connect a plain socket to `endpoint`."""
    if endpoint.scheme == "unix":
        name = endpoint.address
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(f"\0{name[1:]}" if name.startswith("@") else name)
        return peer
    host, port = endpoint.host_and_port()
    return socket.create_connection((host, port))


def reset(peer: socket.socket) -> None:
    """Close a TCP socket so that the other end gets a reset instead of an end."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def take(peer: socket.socket, count: int) -> bytes:
    """Receive `count` bytes, or as many as there are before the end."""
    received = bytearray()
    while len(received) < count:
        chunk = peer.recv(min(count - len(received), 1 << 20))
        if not chunk:
            break
        received += chunk
    return bytes(received)


def option(connection: Connection, level: int, name: int) -> int:
    """Return an option of the socket under `connection`."""
    with same_socket(connection.features[SocketInfo].fileno) as same:
        return same.getsockopt(level, name)


class Bind:
    """Binds, and unbinds what it has bound."""

    def __init__(self, transport: SocketTransport, context: TransportContext) -> None:
        self.transport = transport
        self.context = context

    @asynccontextmanager
    async def __call__(self, text: str) -> AsyncGenerator[Listener]:
        listener = await self.transport.bind(Endpoint.parse(text), self.context)
        try:
            yield listener
        finally:
            await listener.aclose()

    @asynccontextmanager
    async def pair(
        self, listener: Listener, endpoint: str | None = None
    ) -> AsyncGenerator[tuple[Connection, Connection]]:
        """Connect to the listener, and accept."""
        where = Endpoint.parse(endpoint) if endpoint else listener.endpoint
        client = await self.transport.connect(where, self.context)
        server = await listener.accept()
        try:
            yield client, server
        finally:
            await client.aclose()
            await server.aclose()


@contextmanager
def same_socket(fileno: int) -> Generator[socket.socket]:
    """Give another handle of a socket that is somebody else's."""
    with socket.socket(fileno=os.dup(fileno)) as same:
        yield same


def open_descriptors() -> set[str]:
    """Return what this process has open, where the system tells."""
    if sys.platform != "linux":
        return set()
    descriptors = set[str]()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            descriptors.add(f"{name} is {os.readlink(f'/proc/self/fd/{name}')}")
    return descriptors


class Task(Generic[ResultT]):
    """An operation in a task of its own, and what came of it."""

    def __init__(self, nursery: trio.Nursery, operation: Callable[[], Awaitable[ResultT]]) -> None:
        self.results: list[ResultT] = []
        self.error: Exception | None = None
        nursery.start_soon(self._run, operation)

    @property
    def done(self) -> bool:
        return bool(self.results) or self.error is not None

    async def _run(self, operation: Callable[[], Awaitable[ResultT]]) -> None:
        try:
            self.results.append(await operation())
        except Exception as error:
            self.error = error


@contextmanager
def no_more_descriptors() -> Generator[None]:
    """Let this process open nothing more while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def as_nobody() -> Generator[None]:
    """Run the block without root's rights."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65533)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def leave_behind(path: Path) -> None:
    """Do what a server does that crashes: leave its socket's file."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()


async def settle() -> None:
    """Let the kernel deliver, and every task see what there is."""
    await wait_all_tasks_blocked(0.001)


async def read_all(wire: Wire, count: int) -> bytes:
    """Read until `count` bytes are held, and consume them."""
    data = await wire.input.read()
    while len(data) < count and not wire.input.at_eof:
        wire.input.advance(0, len(data))
        data = await wire.input.read()
    wire.input.advance(len(data))
    return data


@asynccontextmanager
async def both_ends(
    transport: SocketTransport, endpoint: Endpoint, context: TransportContext
) -> AsyncGenerator[tuple[Connection, Connection]]:
    """Give the client's and the server's connection, both ours."""
    listener = await transport.bind(endpoint, context)
    client = await transport.connect(listener.endpoint, context)
    server = await listener.accept()
    await listener.aclose()
    try:
        yield client, server
    finally:
        for connection in (client, server):
            connection.transport.abort()
            await connection.aclose()
