"""The kernel sends files over sockets, TCP and Unix: as a writer does it, and as a server does."""

import errno
import os
import random
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.limits import Limits
from kestrel_core.testing import OpenServer, open_server
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, HttpApplication, HttpExchange, ResponseError
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, watch_log
from tests.raw_client import GET, request
from tests.socket_ends import PLENTY, Task, Wire, call, open_descriptors, reset, settle, take

CONTENT = random.Random(3).randbytes(3_000_001)

only_tcp = pytest.mark.parametrize("scheme", ["tcp"], indirect=True)


class Kernel:
    """`os.sendfile`, which is watched, and may be told to fail; nothing else may read files.

    `failures` are errors by how many bytes may have been sent before.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.calls = 0
        self.failures: dict[int, int] = {}
        self.preads = 0
        self._sendfile: Callable[[int, int, int, int], int] = os.sendfile
        self._preadv: Callable[..., int] = os.preadv

    def sendfile(self, to: int, file: int, offset: int, count: int) -> int:
        self.calls += 1
        for at, number in self.failures.items():
            if self.sent == at:
                raise OSError(number, os.strerror(number))
            if self.sent < at:
                count = min(count, at - self.sent)
        sent = self._sendfile(to, file, offset, count)
        self.sent += sent
        return sent

    def preadv(self, *arguments: object) -> int:
        self.preads += 1
        return self._preadv(*arguments)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(os, "sendfile", kernel.sendfile)
    monkeypatch.setattr(os, "preadv", kernel.preadv)
    return kernel


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def file(path: Path) -> Generator[int]:
    file = os.open(path, os.O_RDWR)
    yield file
    os.close(file)


@pytest.fixture
def sparse(tmp_path: Path) -> Generator[int]:
    """Give a file of more zeros than the buffers of a socket pair hold."""
    file = os.open(tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    os.truncate(file, PLENTY)
    yield file
    os.close(file)


# A writer ---------------------------------------------------------------------------------------


async def test_a_file_arrives_as_it_is(wire: Wire, file: int, kernel: Kernel) -> None:
    async with trio.open_nursery() as nursery:
        sending = Task(nursery, lambda: wire.output.send_file(file, 0, len(CONTENT)))
        assert await trio.to_thread.run_sync(take, wire.peer, len(CONTENT)) == CONTENT
    assert sending.results == [len(CONTENT)]
    assert kernel.sent == len(CONTENT)
    assert kernel.preads == 0


@pytest.mark.parametrize(("offset", "count"), [(0, 1), (1, 10), (2_000_000, 1), (3_000_000, 1)])
async def test_a_piece_of_a_file(wire: Wire, file: int, offset: int, count: int) -> None:
    os.lseek(file, 5, os.SEEK_SET)
    assert await wire.output.send_file(file, offset, count) == count
    assert take(wire.peer, count) == CONTENT[offset : offset + count]
    assert os.lseek(file, 0, os.SEEK_CUR) == 5


async def test_a_file_that_ends_before_is_sent_as_far_as_it_goes(wire: Wire, file: int) -> None:
    assert await wire.output.send_file(file, len(CONTENT) - 10, 100) == 10
    assert await wire.output.send_file(file, len(CONTENT), 100) == 0
    assert await wire.output.send_file(file, len(CONTENT) + 9, 100) == 0
    assert await wire.output.send_file(file, 0, 0) == 0
    await wire.output.send_eof()
    assert take(wire.peer, 100) == CONTENT[-10:]


async def test_what_was_written_before_comes_before(wire: Wire, file: int) -> None:
    wire.output.write(b"be")
    wire.output.write(b"fore")
    await wire.output.send_file(file, 0, 5)
    await wire.output.send(b"after")
    assert take(wire.peer, 16) == b"before" + CONTENT[:5] + b"after"


async def test_more_than_the_buffers_hold_comes_before_too(wire: Wire, file: int) -> None:
    wire.output.write(bytes(PLENTY))
    async with trio.open_nursery() as nursery:
        sending = Task(nursery, lambda: wire.output.send_file(file, 0, len(CONTENT)))
        await settle()
        assert not sending.done
        received = await trio.to_thread.run_sync(take, wire.peer, PLENTY + len(CONTENT))
    assert received == bytes(PLENTY) + CONTENT


async def test_a_write_beside_it_waits_for_the_next_flush(wire: Wire, sparse: int) -> None:
    async with trio.open_nursery() as nursery:
        sending = Task(nursery, lambda: wire.output.send_file(sparse, 0, PLENTY))
        await settle()
        assert not sending.done
        wire.output.write(b"after")
        wire.output.flush_nowait()
        assert wire.output.unflushed_bytes == 5
        received = await trio.to_thread.run_sync(take, wire.peer, PLENTY)
        assert not any(received)
    assert sending.results == [PLENTY]
    await wire.output.flush()
    assert take(wire.peer, 5) == b"after"


async def test_two_tasks_do_not_send_at_once(wire: Wire, sparse: int) -> None:
    output = wire.output
    async with trio.open_nursery() as nursery:
        Task(nursery, lambda: output.send_file(sparse, 0, PLENTY))
        await settle()
        for operation in (lambda: output.send_file(sparse, 0, 1), output.flush, output.send_eof):
            with pytest.raises(trio.BusyResourceError):
                await operation()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        Task(nursery, lambda: output.send(bytes(PLENTY)))
        await settle()
        with pytest.raises(trio.BusyResourceError):
            await output.send_file(sparse, 0, 1)
        nursery.cancel_scope.cancel()


async def test_waking_the_reader_does_not_disturb_it(wire: Wire, sparse: int) -> None:
    async with trio.open_nursery() as nursery:
        sending = Task(nursery, lambda: wire.output.send_file(sparse, 0, PLENTY))
        for _ in range(3):
            reading = Task(nursery, wire.input.receive)
            await settle()
            wire.input.cancel_pending_read()
            await settle()
            assert reading.results == [b""]
            assert not sending.done
        await trio.to_thread.run_sync(take, wire.peer, PLENTY)
    assert sending.results == [PLENTY]


async def test_what_the_peer_has_not_taken_is_told(wire: Wire, sparse: int) -> None:
    output = wire.output
    assert output.backlog_bytes == 0
    await output.send(b"x" * 1000)
    assert output.backlog_bytes >= 1000 or wire.peer.family != socket.AF_UNIX
    take(wire.peer, 1000)
    await settle()
    assert output.backlog_bytes == 0

    output.write(b"x" * 10)
    assert output.backlog_bytes == output.unflushed_bytes == 10
    async with trio.open_nursery() as nursery:
        Task(nursery, lambda: output.send_file(sparse, 0, PLENTY))
        await settle()
        backlog_bytes = [output.backlog_bytes]
        assert backlog_bytes[0] > PLENTY / 2
        for _ in range(8):
            await trio.to_thread.run_sync(take, wire.peer, PLENTY // 8)
            await settle()
            backlog_bytes.append(output.backlog_bytes)
    assert backlog_bytes == sorted(backlog_bytes, reverse=True)
    take(wire.peer, 10)
    await settle()
    assert output.backlog_bytes == 0


async def test_the_same_of_bytes_that_wait(wire: Wire) -> None:
    async with trio.open_nursery() as nursery:
        Task(nursery, lambda: wire.output.send(bytes(PLENTY)))
        await settle()
        assert wire.output.unflushed_bytes == 0
        assert wire.output.backlog_bytes > PLENTY / 2
        await trio.to_thread.run_sync(take, wire.peer, PLENTY)
    await settle()
    assert wire.output.backlog_bytes == 0


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_there_is_no_backlog_after_the_end(wire: Wire, end: str, sparse: int) -> None:
    async with trio.open_nursery() as nursery:
        sending = Task(nursery, lambda: wire.output.send_file(sparse, 0, PLENTY))
        await settle()
        if end == "close":
            await wire.pipe.aclose()
        else:
            wire.pipe.abort()
        assert wire.output.backlog_bytes == 0
    assert isinstance(
        sending.error, trio.ClosedResourceError if end == "close" else trio.BrokenResourceError
    )
    assert wire.output.backlog_bytes == 0


async def test_after_the_end_no_file_is_sent(wire: Wire, file: int) -> None:
    await wire.output.send_eof()
    with pytest.raises(trio.ClosedResourceError, match="the end of this pipe was already sent"):
        await wire.output.send_file(file, 0, 5)
    wire.pipe.abort()
    with pytest.raises(trio.BrokenResourceError):
        await wire.output.send_file(file, 0, 5)
    await wire.pipe.aclose()
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        await wire.output.send_file(file, 0, 5)


async def test_a_closed_pipe_sends_no_file(wire: Wire, file: int) -> None:
    await wire.pipe.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await wire.output.send_file(file, 0, 5)


async def test_a_peer_that_has_ended_its_side_still_gets_it(wire: Wire, file: int) -> None:
    wire.peer.shutdown(socket.SHUT_WR)
    assert await wire.input.receive() == b""
    await wire.output.send_file(file, 0, 5)
    assert take(wire.peer, 5) == CONTENT[:5]


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_peer_that_leaves_breaks_it(wire: Wire, sparse: int, waiting: bool) -> None:
    async with trio.open_nursery() as nursery:
        sending: Task[int] | None = None
        if waiting:
            sending = Task(nursery, lambda: wire.output.send_file(sparse, 0, PLENTY))
            await settle()
        if wire.peer.family == socket.AF_UNIX:
            wire.peer.close()
        else:
            reset(wire.peer)
        await settle()
        if sending is None:
            sending = Task(nursery, lambda: wire.output.send_file(sparse, 0, PLENTY))
    assert isinstance(sending.error, trio.BrokenResourceError)
    assert isinstance(sending.error.__cause__, OSError) or waiting
    assert wire.connection.closed
    with pytest.raises(trio.BrokenResourceError):
        wire.output.write(b"x")


@pytest.mark.parametrize(
    "number",
    [
        *[errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNABORTED],
        *[errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN],
    ],
    ids=errno.errorcode.__getitem__,
)
@pytest.mark.parametrize("at", [0, 1000])
@only_tcp
async def test_what_the_system_says_of_the_peer_breaks_it(
    wire: Wire, file: int, kernel: Kernel, number: int, at: int
) -> None:
    kernel.failures[at] = number
    with pytest.raises(trio.BrokenResourceError) as caught:
        await wire.output.send_file(file, 0, 5000)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number
    assert wire.connection.closed


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.ENOSYS, errno.ENOMEM])
@only_tcp
async def test_what_the_system_says_of_the_file_does_not(
    wire: Wire, file: int, kernel: Kernel, number: int
) -> None:
    """What was sent before is told; who asks for the rest is told why it cannot be."""
    kernel.failures[1000] = number
    assert await wire.output.send_file(file, 0, 5000) == 1000
    with pytest.raises(OSError, match=os.strerror(number)):
        await wire.output.send_file(file, 1000, 4000)
    assert wire.output.backlog_bytes <= 1000
    await wire.output.send(b"after")
    assert take(wire.peer, 1005) == CONTENT[:1000] + b"after"
    assert not wire.connection.closed


async def test_what_is_no_regular_file_is_told_so_and_harms_nothing(
    wire: Wire, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    closed = os.dup(folder)
    os.close(closed)
    try:
        for odd in (reading, writing, folder, closed, -1):
            with pytest.raises(OSError, match=r"\[Errno"):
                await wire.output.send_file(odd, 0, 5)
    finally:
        for descriptor in (reading, writing, folder):
            os.close(descriptor)
    await wire.output.send(b"fine")
    assert take(wire.peer, 4) == b"fine"


async def test_a_cancelled_one_leaves_a_pipe_to_be_closed(wire: Wire, sparse: int) -> None:
    with trio.move_on_after(0.01) as scope:
        await wire.output.send_file(sparse, 0, PLENTY)
    assert scope.cancelled_caught
    await wire.pipe.aclose()
    received = await trio.to_thread.run_sync(take, wire.peer, PLENTY)
    assert 0 < len(received) < PLENTY


@only_tcp
async def test_a_fast_peer_leaves_others_their_turn(
    wire: Wire, sparse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    turns = 0

    def sendfile(to: int, file: int, offset: int, count: int) -> int:
        counts.append(count)
        return count

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(os, "sendfile", sendfile)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await wire.output.send_file(sparse, 0, 100_000_000)
        nursery.cancel_scope.cancel()
    assert sum(counts) == 100_000_000
    assert max(counts) <= 1024 * 1024
    assert turns >= len(counts) - 2


# A server ---------------------------------------------------------------------------------------


@attrs.frozen
class Site:
    """A server on sockets, and what it logs."""

    opened: OpenServer
    log: ServerLog

    def call(self, *, receive_buffer_bytes: int | None = None) -> socket.socket:
        """Connect a plain socket, which waits for nothing for long."""
        peer = call(self.opened.endpoint)
        if receive_buffer_bytes is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        peer.settimeout(10)
        return peer

    async def ended(self) -> None:
        """Wait until a connection has ended."""
        while not self.log.ends:  # noqa: ASYNC110  # the log has no event for it
            await trio.sleep(0.001)

    async def ask(self, sent: bytes = request(b"connection: close")) -> bytes:
        """Return all that is answered to `sent` until the server ends the connection."""
        with self.call() as peer:
            peer.sendall(sent)
            return await trio.to_thread.run_sync(receive_all, peer)


def receive_all(peer: socket.socket) -> bytes:
    parts: list[bytes] = []
    while part := peer.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@asynccontextmanager
async def serving(
    endpoint: Endpoint,
    app: AsgiApp | None = None,
    *,
    native: HttpApplication | None = None,
    limits: Limits | None = None,
) -> AsyncGenerator[Site]:
    """Serve; nothing may be left open, and nothing in the log that nobody took."""
    before = open_descriptors()
    handler = Http1(native or AsgiApplication(app or send_nothing))
    with watch_log() as log, trio.fail_after(20):
        async with open_server(handler, endpoint=str(endpoint), limits=limits) as opened:
            yield Site(opened, log)
    assert open_descriptors() <= before


async def send_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nobody asks for this")


class Sending:
    """Sends the file at `path`, and remembers how that ended."""

    def __init__(self, path: Path, *headers: tuple[bytes, bytes]) -> None:
        self.path = path
        self.headers = list(headers)
        self.error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        try:
            await send({"type": "http.response.pathsend", "path": str(self.path)})
        except BaseException as error:
            self.error = error
            raise


def body_of(response: bytes) -> bytes:
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\nconnection: close") or b"\r\nconnection: close\r\n" in head
    return body


async def test_fifty_megabytes_are_the_kernels_business(
    endpoint: Endpoint, tmp_path: Path, kernel: Kernel
) -> None:
    content = random.Random(50).randbytes(50_000_007)
    path = tmp_path / "large"
    write(path, content)
    async with serving(endpoint, Sending(path)) as site:
        response = await site.ask()
        assert body_of(response) == content
        assert b"\r\ncontent-length: 50000007\r\n" in response
    assert kernel.sent == len(content)
    assert kernel.preads == 0
    assert site.log.ends == [EndReason.COMPLETED]


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_no_block_is_rented_for_what_the_kernel_sends(endpoint: Endpoint, file: int) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write_file(file, 0, len(CONTENT))
        await exchange.finish()
        assert exchange.connection.memory_pool.statistics.rents == 0

    async with serving(endpoint, native=handler) as site:
        response = await site.ask()
    assert response.endswith(b"\r\n2dc6c1\r\n" + CONTENT + b"\r\n0\r\n\r\n")


async def test_what_follows_a_file_on_the_connection(endpoint: Endpoint, path: Path) -> None:
    async with serving(endpoint, Sending(path)) as site:
        response = await site.ask(GET * 3 + request(b"connection: close"))
    responses = response.split(b"HTTP/1.1 200 OK\r\n")
    assert responses[0] == b""
    assert [each.partition(b"\r\n\r\n")[2] for each in responses[1:]] == [CONTENT] * 4


async def test_pieces_of_files_between_others(
    endpoint: Endpoint, path: Path, kernel: Kernel
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"<", "more_body": True})
        with open(path, "rb") as file:  # noqa: ASYNC230  # the page cache has it
            file.read(10)
            for count in (100_000, 0, 1):
                await send(
                    {
                        "type": "http.response.zerocopysend",
                        "file": file,
                        "count": count,
                        "more_body": True,
                    }
                )
            await send({"type": "http.response.body", "body": b"|", "more_body": True})
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 2_999_999})

    async with serving(endpoint, app) as site:
        response = await site.ask(request(first=b"GET / HTTP/1.0"))
    assert body_of(response) == b"<" + CONTENT[10:100_011] + b"|" + CONTENT[-2:]
    assert kernel.sent == 100_003


@pytest.mark.parametrize("at", [0, 1, 1024 * 1024, 2_000_000])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@only_tcp
async def test_what_the_kernel_will_not_send_is_read(
    endpoint: Endpoint, file: int, kernel: Kernel, number: int, at: int
) -> None:
    kernel.failures[at] = number

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [(b"content-length", b"%d" % len(CONTENT))])
        await exchange.write_file(file, 0, len(CONTENT))
        await exchange.finish()
        statistics = exchange.connection.memory_pool.statistics
        assert statistics.rented == 0
        assert statistics.rents > 0

    async with serving(endpoint, native=handler) as site:
        assert body_of(await site.ask()) == CONTENT
    assert kernel.sent == at
    assert kernel.preads > 0


@pytest.mark.parametrize("at", [0, 1, 1024 * 1024, 2_000_000])
@only_tcp
async def test_a_file_that_cannot_be_read_is_the_applications_error(
    endpoint: Endpoint, path: Path, kernel: Kernel, at: int
) -> None:
    """It is told what the system said; what of the file was sent is not taken for all of it."""
    kernel.failures[at] = errno.EIO
    app = Sending(path)
    async with serving(endpoint, app) as site:
        with pytest.raises(ConnectionResetError):
            await site.ask()
        await site.ended()
        site.log.take_error(OSError)
        assert site.log.ends == [EndReason.ERROR_AFTER_STARTING_RESPONSE]
    assert isinstance(app.error, OSError)
    assert app.error.errno == errno.EIO
    assert kernel.preads == 0


async def test_a_file_that_is_cut_while_it_is_sent(endpoint: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    make_sparse(path, PLENTY)
    app = Sending(path)
    async with serving(endpoint, app) as site:
        with site.call() as peer:
            peer.sendall(GET)
            await settle()
            make_sparse(path, PLENTY // 2)
            received = b""
            try:
                received = await trio.to_thread.run_sync(receive_all, peer)
            except ConnectionResetError:
                assert endpoint.scheme == "tcp"
            else:
                assert endpoint.scheme == "unix"  # which has no reset
            assert len(received) < PLENTY
        await site.ended()
        text = site.log.take_error(ResponseError)
        assert text == "the application failed on GET /"
    assert isinstance(app.error, ResponseError)
    assert str(app.error).endswith(f"bytes from 0 on, not {PLENTY}")
    assert site.log.ends == [EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH]


def make_sparse(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize("taken", [0, 1_000_000])
async def test_a_client_that_leaves_in_the_middle(
    endpoint: Endpoint, tmp_path: Path, taken: int
) -> None:
    path = tmp_path / "sparse"
    make_sparse(path, PLENTY)
    app = Sending(path)
    async with serving(endpoint, app) as site:
        peer = site.call()
        peer.sendall(GET)
        await trio.to_thread.run_sync(take, peer, taken)
        await settle()
        if endpoint.scheme == "tcp":
            reset(peer)
        else:
            peer.close()
        await site.ended()
    assert isinstance(app.error, ClientDisconnected)
    assert site.log.ends == [EndReason.CONNECTION_RESET]


async def test_a_client_that_reads_nothing_is_cut(endpoint: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    make_sparse(path, PLENTY)
    app = Sending(path)
    # What the client's side of the kernel takes counts as taken: megabytes, at this rate no time.
    limits = Limits(response_grace_seconds=0.1, min_response_bytes_per_second=1e9)
    async with serving(endpoint, app, limits=limits) as site:
        with site.call() as peer:
            peer.sendall(GET)
            with trio.fail_after(5):
                await site.ended()
            assert peer.fileno() >= 0
    assert isinstance(app.error, ClientDisconnected)
    assert site.log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_a_client_that_reads_steadily_is_not_cut(endpoint: Endpoint, tmp_path: Path) -> None:
    """However full the buffers are, what it takes counts."""
    path = tmp_path / "sparse"
    size = 12_000_000
    make_sparse(path, size)
    limits = Limits(response_grace_seconds=0.3, min_response_bytes_per_second=1e6)
    async with serving(endpoint, Sending(path), limits=limits) as site:
        with site.call(receive_buffer_bytes=65536) as peer:
            peer.sendall(request(b"connection: close"))
            received = 0
            while received < size:
                part = await trio.to_thread.run_sync(take, peer, 200_000)
                assert part, "it was cut"
                received += len(part)
                await trio.sleep(0.03)
        await site.ended()
    assert site.log.ends == [EndReason.COMPLETED]


async def test_an_application_that_gives_up_in_the_middle(endpoint: Endpoint, sparse: int) -> None:
    late: list[Exception] = []

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [(b"content-length", b"%d" % PLENTY)])
        with trio.move_on_after(0.05) as scope:
            await exchange.write_file(sparse, 0, PLENTY)
        assert scope.cancelled_caught
        assert exchange.response_finished
        for go_on in (partial(exchange.write_file, sparse, 0, 1), exchange.finish):
            try:
                await go_on()
            except ClientDisconnected as error:
                late.append(error)

    async with serving(endpoint, native=handler) as site:
        with site.call() as peer:
            peer.sendall(GET)
            await site.ended()
            try:
                assert len(await trio.to_thread.run_sync(receive_all, peer)) < PLENTY
            except ConnectionResetError:
                assert endpoint.scheme == "tcp"
    assert len(late) == 2
    assert site.log.ends == [EndReason.ABORTED_BY_APP]


async def test_draining_ends_behind_the_file(endpoint: Endpoint, path: Path) -> None:
    async with serving(endpoint, Sending(path)) as site:
        with site.call() as peer:
            peer.sendall(GET)
            assert await trio.to_thread.run_sync(take, peer, 1) == b"H"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.opened.server.drain, 5)
                response = b"H" + await trio.to_thread.run_sync(receive_all, peer)
    assert response.endswith(b"\r\n\r\n" + CONTENT)
    assert site.log.ends == [EndReason.SHUTDOWN]
