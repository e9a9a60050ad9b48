"""Minimum data rates where kernels hold megabytes, in real time and so with a short grace."""

import socket
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.limits import Limits
from kestrel_core.testing import OpenServer, open_server
from kestrel_protocols.http import ClientDisconnected, HttpExchange
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, watch_log
from tests.raw_client import GET, post

pytestmark = pytest.mark.usefixtures("nothing_left_open")

GRACE_SECONDS = 0.4

# Much more than the buffers of a connection hold.
BODY_BYTES = 30_000_000

LENGTH = [(b"content-length", b"%d" % BODY_BYTES)]

Answer = Callable[[HttpExchange], Awaitable[None]]


@pytest.fixture
def log() -> Generator[ServerLog]:
    with watch_log() as log:
        yield log


@pytest.fixture(scope="module")
def file() -> Generator[int]:
    with tempfile.TemporaryFile() as file:
        file.truncate(BODY_BYTES)
        yield file.fileno()


@pytest.fixture(params=["written", "a file"])
def answer(request: pytest.FixtureRequest, file: int) -> Answer:
    async def write(exchange: HttpExchange) -> None:
        for _ in range(BODY_BYTES // 50_000):
            await exchange.write(b"x" * 50_000)

    async def write_file(exchange: HttpExchange) -> None:
        await exchange.write_file(file, 0, BODY_BYTES)

    return write if request.param == "written" else write_file


class Handler:
    """Answers with a big body, and notes how that ended."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.error: ClientDisconnected | None = None

    async def __call__(self, exchange: HttpExchange) -> None:
        try:
            await exchange.start(200, LENGTH)
            await self.answer(exchange)
            await exchange.finish()
        except ClientDisconnected as error:
            self.error = error
            raise


@asynccontextmanager
async def serving(
    handler: Handler, endpoint: Endpoint, rate: float
) -> AsyncGenerator[tuple[OpenServer, trio.socket.SocketType]]:
    """Serve, and give a client whose own buffer is small, so that it is not what is measured."""
    limits = Limits(min_response_bytes_per_second=rate, response_grace_seconds=GRACE_SECONDS)
    async with open_server(Http1(handler), endpoint=str(endpoint), limits=limits) as opened:
        family = socket.AF_UNIX if endpoint.scheme == "unix" else socket.AF_INET
        address: str | tuple[str, int] = (
            opened.endpoint.address
            if endpoint.scheme == "unix"
            else opened.endpoint.host_and_port()
        )
        with trio.socket.socket(family, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            await client.connect(address)
            await client.send(GET)
            yield opened, client


async def ended(opened: OpenServer) -> None:
    with trio.fail_after(20):
        while opened.server.connections:  # noqa: ASYNC110  # the server has no event for it
            await trio.sleep(0.01)


async def test_a_client_that_stops_reading(
    answer: Answer, endpoint: Endpoint, log: ServerLog
) -> None:
    """However much the kernel has taken from us by then."""
    handler = Handler(answer)
    async with serving(handler, endpoint, rate=1e9) as (opened, client):
        await client.recv(10_000)
        start = trio.current_time()
        await ended(opened)
        assert GRACE_SECONDS * 0.9 <= trio.current_time() - start <= GRACE_SECONDS + 5
        received = 0
        with suppress(ConnectionResetError):  # a Unix socket has no reset
            while piece := await client.recv(1 << 20):
                received += len(piece)
        assert received < BODY_BYTES / 2
    assert isinstance(handler.error, ClientDisconnected)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_what_the_kernel_holds_is_not_taken(answer: Answer, log: ServerLog) -> None:
    """Megabytes of it, each of which would earn twenty seconds."""
    backlogs: list[int] = []
    handler = Handler(answer)
    endpoint = Endpoint.parse("tcp://127.0.0.1:0")
    async with serving(handler, endpoint, rate=50_000) as (opened, _client):
        start = trio.current_time()
        while not log.ends:
            backlogs.extend(
                connection.transport.output.backlog_bytes
                for connection in opened.server.connections
            )
            await trio.sleep(0.01)
        assert trio.current_time() - start < GRACE_SECONDS + 5
    assert max(backlogs) > 1_000_000
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_a_client_that_reads_slowly_but_steadily(
    answer: Answer, endpoint: Endpoint, log: ServerLog
) -> None:
    """About a megabyte a second, which is five times what is asked for."""
    handler = Handler(answer)
    async with serving(handler, endpoint, rate=200_000) as (opened, client):
        end = trio.current_time() + 4 * GRACE_SECONDS
        while trio.current_time() < end:
            assert await client.recv(10_000)
            await trio.sleep(0.01)
        assert len(opened.server.connections) == 1
    assert handler.error is not None  # it left
    assert log.ends == [EndReason.CONNECTION_RESET]


async def count_body(exchange: HttpExchange) -> None:
    count = 0
    while piece := await exchange.receive():
        count += len(piece)
    await exchange.respond(200, [], b"%d" % count)


@asynccontextmanager
async def uploading(rate: float) -> AsyncGenerator[tuple[OpenServer, socket.socket]]:
    """Serve, and give a client that has sent a part of its request's body."""
    limits = Limits(
        min_request_body_bytes_per_second=rate, request_body_grace_seconds=GRACE_SECONDS
    )
    async with open_server(
        Http1(count_body), endpoint="tcp://127.0.0.1:0", limits=limits
    ) as opened:
        with socket.create_connection(opened.endpoint.host_and_port()) as client:
            client.sendall(post(b"x" * 100_000)[:-90_000])
            await trio.sleep(0.05)
            yield opened, client


def receive_all(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


async def test_a_body_that_stops(log: ServerLog) -> None:
    async with uploading(rate=1e9) as (opened, client):
        start = trio.current_time()
        received = await trio.to_thread.run_sync(receive_all, client)
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert GRACE_SECONDS * 0.8 <= trio.current_time() - start <= GRACE_SECONDS + 5
        client.close()
        await ended(opened)
    assert log.ends == [EndReason.MIN_REQUEST_BODY_DATA_RATE]


async def test_a_body_that_comes_slowly_but_steadily(log: ServerLog) -> None:
    async with uploading(rate=100_000) as (_, client):
        for _ in range(90):
            client.sendall(b"x" * 1000)
            await trio.sleep(0.01)
        received = await trio.to_thread.run_sync(client.recv, 65536)
        assert received.endswith(b"\r\n\r\n100000")


async def test_a_blocked_event_loop_is_not_the_clients_fault(log: ServerLog) -> None:
    """The rest came in time, but somebody kept the server from looking."""

    def send_rest(client: socket.socket) -> None:
        time.sleep(GRACE_SECONDS + 0.4)
        client.sendall(b"x" * 90_000)

    async with uploading(rate=1e9) as (_, client):
        thread = threading.Thread(target=send_rest, args=[client])
        thread.start()
        time.sleep(GRACE_SECONDS + 1.2)  # noqa: ASYNC251  # this is the point
        thread.join()
        received = await trio.to_thread.run_sync(client.recv, 65536)
        assert received.endswith(b"\r\n\r\n100000")
