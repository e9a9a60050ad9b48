"""Files as parts of responses, where no kernel sends them and where one would."""

import errno
import io
import os
import random
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import h11
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.testing import DiagnosticMemoryPool, open_server
from kestrel_protocols.http import ClientDisconnected, HttpApplication, HttpExchange, ResponseError
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, Site
from tests.raw_client import GET, RawClient, UnexpectedEnd, request

CONTENT = random.Random(4).randbytes(300_001)

BLOCK_BYTES = 4096  # small, so that files may be

NARROW = "memory://narrow?pause_at_bytes=1000"


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


@attrs.frozen
class Serving:
    """Serves `handler` with a pool that tells, when the block ends, who misused its blocks."""

    byte_by_byte: bool

    @asynccontextmanager
    async def __call__(
        self,
        handler: HttpApplication,
        *,
        limits: Limits | None = None,
        middleware: Sequence[Middleware] = (),
        endpoint: str = "memory://files",
    ) -> AsyncGenerator[Site]:
        async with open_server(
            Http1(handler),
            limits=limits,
            middleware=middleware,
            endpoint=endpoint,
            memory_pool=partial(DiagnosticMemoryPool, block_bytes=BLOCK_BYTES),
        ) as opened:
            yield Site(opened, self.byte_by_byte)
        assert not opened.server.connections


@pytest.fixture(params=["at once", "byte by byte"])
def serving(request: pytest.FixtureRequest) -> Serving:
    return Serving(request.param == "byte by byte")


def sending(file: int, *headers: tuple[bytes, bytes], status: int = 200) -> HttpApplication:
    """Return what responds with the whole file to everything."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(status, headers)
        await exchange.write_file(file, 0, os.fstat(file).st_size)
        await exchange.finish()

    return handler


def length(value: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % value)


CODED = (b"transfer-encoding", b"chunked")
LENGTH = length(len(CONTENT))
GET10 = request(first=b"GET / HTTP/1.0")
GET10_KEEP = request(b"connection: keep-alive", first=b"GET / HTTP/1.0")
HEAD = request(first=b"HEAD / HTTP/1.1")


# What the client gets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "own", "framing", "keeps"),
    [
        (GET, [LENGTH], b"content-length", True),
        (GET, [], b"transfer-encoding", True),
        (GET, [CODED], b"transfer-encoding", True),
        (GET10, [LENGTH], b"content-length", False),
        (GET10_KEEP, [LENGTH], b"content-length", True),
        (GET10, [], None, False),
        (GET10_KEEP, [CODED], None, False),
    ],
)
@pytest.mark.parametrize("endpoint", ["memory://wide", NARROW], ids=["wide", "narrow"])
async def test_framing(
    sent: bytes,
    own: list[tuple[bytes, bytes]],
    framing: bytes | None,
    keeps: bool,
    endpoint: str,
    file: int,
    serving: Serving,
    log: ServerLog,
) -> None:
    async with serving(sending(file, *own), endpoint=endpoint) as site:
        client = await site.connect()
        for _ in range(2 if keeps else 1):
            response = await client.ask(sent)
            assert response.body == CONTENT
            names = {name for name, _ in response.headers}
            assert names & {b"content-length", b"transfer-encoding"} == ({framing} - {None})
            assert response.keeps_alive == keeps
        if not keeps:
            assert await client.receive_rest() == b""


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 65536])
@pytest.mark.parametrize("own", [True, False], ids=["length", "chunked"])
async def test_sizes(size: int, own: bool, file: int, serving: Serving, log: ServerLog) -> None:
    os.truncate(file, size)
    async with serving(sending(file, *([length(size)] if own else []))) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == CONTENT[:size]


@pytest.mark.parametrize("own", [[], [LENGTH], [CODED]], ids=["nothing", "length", "chunked"])
async def test_head_gets_none_of_it(
    own: list[tuple[bytes, bytes]], file: int, serving: Serving, log: ServerLog
) -> None:
    async with serving(sending(file, *own)) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(HEAD, to_head=True)
            assert response.all(b"content-length") == [value for _, value in own if own == [LENGTH]]
        assert await client.received_by_now() == b""


async def test_pieces_between_others(file: int, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        os.lseek(file, 17, os.SEEK_SET)
        await exchange.start(200, [])
        await exchange.write_file(file, 100, 5)
        await exchange.write(b"|")
        await exchange.write_file(file, 0, 0)
        await exchange.write(b"")
        await exchange.write_file(file, 100_000, 20_000)
        await exchange.write_file(file, len(CONTENT) - 1, 1)
        await exchange.write(b"|")
        assert exchange.response_body_bytes == 20_008
        await exchange.finish()
        assert os.lseek(file, 0, os.SEEK_CUR) == 17

    async with serving(handler) as site:
        client = await site.connect()
        expected = b"|".join([CONTENT[100:105], CONTENT[100_000:120_000] + CONTENT[-1:], b""])
        for _ in range(2):
            assert (await client.ask(GET)).body == expected


async def test_a_pipeline_of_files(file: int, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        number = int(exchange.path[1:])
        if number % 2:
            await exchange.respond(200, [], exchange.path.encode())
            return
        await exchange.start(200, [])
        await exchange.write_file(file, number, 10_000)
        await exchange.finish()

    async with serving(handler, endpoint=NARROW) as site:
        client = await site.connect()
        async with trio.open_nursery() as nursery:
            heads = [request(first=b"GET /%d HTTP/1.1" % number) for number in range(10)]
            nursery.start_soon(client.send, b"".join(heads))
            for number in range(10):
                expected = b"/%d" % number if number % 2 else CONTENT[number : number + 10_000]
                assert (await client.receive()).body == expected


async def test_a_piece_leaves_at_once(file: int, serving: Serving, log: ServerLog) -> None:
    go_on = trio.Event()

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write_file(file, 0, 5)
        await go_on.wait()
        await exchange.finish()

    async with serving(handler) as site:
        client = await site.connect()
        await client.send(GET)
        assert (await client.received_by_now()).endswith(b"\r\n\r\n5\r\n" + CONTENT[:5] + b"\r\n")
        go_on.set()
        assert await client.received_by_now() == b"0\r\n\r\n"


# Any sequence of pieces, read by another implementation.


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes | tuple[int, int]]:
    """Return bytes, and offsets and counts of what is taken from the file."""
    some = st.binary(max_size=20) | st.integers(0, 9000).map(lambda size: b"x" * size)
    part = st.tuples(st.integers(0, len(CONTENT) - 10_000), st.integers(0, 10_000))
    return draw(st.lists(some | part, max_size=6))


@given(
    pieces=pieces(),
    announced=st.booleans(),
    coded=st.booleans(),
    http11=st.booleans(),
    trailers=st.lists(
        st.tuples(st.just(b"x-sum"), st.binary(max_size=5).map(bytes.hex)), max_size=2
    ),
    room=st.sampled_from([1, 100, 65536]),
    by_kernel=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_it_is_made_of_another_implementation_reads_the_same(
    pieces: list[bytes | tuple[int, int]],
    announced: bool,
    coded: bool,
    http11: bool,
    trailers: list[tuple[bytes, str]],
    room: int,
    by_kernel: bool,
) -> None:
    file = os.memfd_create("content")
    os.write(file, CONTENT)
    parts = [
        piece if isinstance(piece, bytes) else CONTENT[piece[0] : piece[0] + piece[1]]
        for piece in pieces
    ]
    body = b"".join(parts)
    fields = [(name, value.encode()) for name, value in trailers]

    async def handler(exchange: HttpExchange) -> None:
        own = [length(len(body))] if announced else [CODED] if coded else []
        await exchange.start(200, own)
        for piece in pieces:
            if isinstance(piece, bytes):
                await exchange.write(piece)
            else:
                await exchange.write_file(file, *piece)
        await exchange.finish(fields)

    async def ask() -> tuple[bytes, list[tuple[bytes, bytes]]]:
        client = h11.Connection(h11.CLIENT)
        headers = [("host", "a"), ("te", "trailers"), ("connection", "close, te")]
        sent = client.send(h11.Request(method="GET", target="/", headers=headers)) or b""
        sent += client.send(h11.EndOfMessage()) or b""
        if not http11:
            sent = sent.replace(b"HTTP/1.1", b"HTTP/1.0")
        async with Serving(byte_by_byte=False)(
            handler,
            endpoint=f"memory://h11?pause_at_bytes={room}",
            middleware=[Kernel()] if by_kernel else [],
        ) as site:
            raw = await site.connect()
            await raw.send(sent)
            client.receive_data(await raw.receive_rest())
            client.receive_data(b"")
        data: list[bytes] = []
        while True:
            event = client.next_event()
            if isinstance(event, h11.Data):
                data.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(data), list(event.headers)

    try:
        received, received_trailers = trio.run(ask)
    finally:
        os.close(file)
    assert received == body
    assert received_trailers == (fields if http11 and not announced else [])


# What is not to be sent -------------------------------------------------------------------------


async def test_the_right_order(file: int, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        write = partial(exchange.write_file, file, 0, 5)
        with pytest.raises(ResponseError, match=r"comes after start\(\)"):
            await write()
        await exchange.start(200, [])
        await write()
        await exchange.finish()
        with pytest.raises(ResponseError, match=r"before finish\(\)"):
            await write()

    async with serving(handler) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == CONTENT[:5]


@pytest.mark.parametrize(
    ("status", "headers", "offset", "count", "text"),
    [
        (200, [length(4)], 0, 5, "longer than the 4 bytes"),
        (204, [], 0, 5, "204 has no body"),
        (304, [LENGTH], 0, 5, "304 has no body"),
        (200, [], 0, -1, "cannot send -1 bytes"),
        (200, [length(5)], 0, -1, "cannot send -1 bytes"),
        (200, [], -1, 5, "from -1 on"),
    ],
)
async def test_what_cannot_be_sent_costs_nothing(
    status: int,
    headers: list[tuple[bytes, bytes]],
    offset: int,
    count: int,
    text: str,
    file: int,
    serving: Serving,
    log: ServerLog,
) -> None:
    """Nothing of the response has left, so that the client can be told."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(status, headers)
        with pytest.raises(ResponseError, match=text):
            await exchange.write_file(file, offset, count)
        raise ZeroDivisionError

    async with serving(handler) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(GET)
            assert (response.status, response.body) == (500, b"Internal Server Error")
            log.take_error(ZeroDivisionError)


@pytest.mark.parametrize("wrong", [(0, -1), (-1, 1), (0, -10_000)])
async def test_wrong_numbers_in_the_middle_do_not_reach_the_wire(
    wrong: tuple[int, int], file: int, serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write(b"good")
        with pytest.raises(ResponseError, match="cannot send"):
            await exchange.write_file(file, *wrong)
        await exchange.write_file(file, 0, 5)
        assert exchange.response_body_bytes == 9
        await exchange.finish()

    async with serving(handler) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"good" + CONTENT[:5]


async def test_too_much_in_the_middle(file: int, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [length(10)])
        await exchange.write_file(file, 0, 6)
        await exchange.write_file(file, 6, 5)

    async with serving(handler) as site:
        client = await site.connect()
        await client.send(GET)
        assert await client.is_reset()
        await site.all_ended()
    log.take_error(ResponseError)
    assert log.ends == [EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH]


async def test_too_little_at_the_end(file: int, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [length(10)])
        await exchange.write_file(file, 0, 6)
        await exchange.finish()

    async with serving(handler) as site:
        client = await site.connect()
        await client.send(GET)
        assert await client.is_reset()
        await site.all_ended()
    log.take_error(ResponseError)
    assert log.ends == [EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH]


@pytest.mark.parametrize("own", [[length(len(CONTENT) + 1)], [CODED]], ids=["length", "chunked"])
@pytest.mark.parametrize("sent", [GET, GET10], ids=["1.1", "1.0"])
async def test_a_file_that_is_shorter(
    own: list[tuple[bytes, bytes]], sent: bytes, file: int, serving: Serving, log: ServerLog
) -> None:
    """What the client has got must not look like all of it."""
    errors: list[ResponseError] = []

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, own)
        try:
            await exchange.write_file(file, 0, len(CONTENT) + 1)
        except ResponseError as error:
            errors.append(error)
            assert exchange.response_finished
            raise

    async with serving(handler, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(sent)
        with pytest.raises(UnexpectedEnd):
            await client.receive()
        await site.all_ended()
    assert str(errors.pop()) == "the file has 300001 bytes from 0 on, not 300002"
    assert log.take_error(ResponseError) == "the application failed on GET /"
    assert log.ends == [EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH]


async def test_a_file_that_is_cut_while_it_is_sent(
    file: int, serving: Serving, log: ServerLog
) -> None:
    async with serving(sending(file, LENGTH), endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        os.truncate(file, 100_000)
        with pytest.raises(UnexpectedEnd):
            await client.receive()
        await site.all_ended()
    log.take_error(ResponseError)
    assert log.ends == [EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH]


async def test_what_cannot_be_read(path: Path, serving: Serving, log: ServerLog) -> None:
    """It is the application's error; the client sees that what it has is not all of it."""
    reading, writing = os.pipe()
    folder = os.open(path.parent, os.O_RDONLY)
    write_only = os.open(path, os.O_WRONLY)
    try:
        for odd in (reading, folder, write_only, -1):

            async def handler(exchange: HttpExchange, odd: int = odd) -> None:
                await exchange.start(200, [])
                with pytest.raises(OSError, match=r"\[Errno") as caught:
                    await exchange.write_file(odd, 0, 5)
                assert exchange.response_finished
                raise caught.value

            async with serving(handler) as site:
                client = await site.connect()
                await client.send(GET)
                assert await client.is_reset()
                await site.all_ended()
            record = log.take()
            assert record.exc_info is not None
            assert isinstance(record.exc_info[1], OSError)
    finally:
        for descriptor in (reading, writing, folder, write_only):
            os.close(descriptor)
    assert log.ends == [EndReason.ERROR_AFTER_STARTING_RESPONSE] * 4


# Clients and applications that do not go along --------------------------------------------------


@pytest.mark.parametrize("leave", ["reset", "aclose"])
async def test_a_client_that_leaves(
    leave: str, file: int, serving: Serving, log: ServerLog
) -> None:
    errors: list[Exception] = []

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [LENGTH])
        try:
            await exchange.write_file(file, 0, len(CONTENT))
        except ClientDisconnected as error:
            errors.append(error)
            raise

    async with serving(handler, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        await wait_all_tasks_blocked()
        assert site.connection.memory_pool.statistics.rented == 1
        if leave == "reset":
            client.reset()
        else:
            await client.aclose()
        await site.all_ended()
    assert len(errors) == 1
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_client_that_reads_nothing(
    file: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(sending(file, LENGTH), endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        began = trio.current_time()
        await wait_all_tasks_blocked()
        pool = site.connection.memory_pool
        assert pool.statistics.rented == 1
        await site.all_ended()
        assert trio.current_time() - began == pytest.approx(5, abs=0.2)
        assert pool.statistics.rented == 0
        assert await client.is_reset()
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_a_client_that_reads_slowly(
    file: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    limits = Limits(min_response_bytes_per_second=200)
    async with serving(sending(file), endpoint=NARROW, limits=limits) as site:
        client = await site.connect()
        await client.send(request(b"connection: close"))
        received = 0
        while piece := await client.connection.transport.input.receive(1000):
            received += len(piece)
            await trio.sleep(4)
            if site.server.connections:
                assert site.connection.memory_pool.statistics.rented <= 1
        assert received > len(CONTENT)
        assert trio.current_time() > 1000
    assert log.ends == [EndReason.COMPLETED]


async def test_an_application_that_gives_up(
    file: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Nobody knows how much of it has left, so nothing that follows could be understood."""
    late: list[Exception] = []

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        with trio.move_on_after(4) as scope:
            await exchange.write_file(file, 0, len(CONTENT))
        assert scope.cancelled_caught
        for go_on in (
            partial(exchange.write_file, file, 0, 1),
            partial(exchange.write, b"x"),
            exchange.finish,
        ):
            try:
                await go_on()
            except ClientDisconnected as error:
                late.append(error)

    async with serving(handler, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(4.5)
        assert await client.is_reset()
        await site.all_ended()
    assert len(late) == 3
    assert log.ends == [EndReason.ABORTED_BY_APP]


async def test_a_request_whose_time_is_up(
    file: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    limits = Limits(max_request_seconds=3)
    async with serving(sending(file), endpoint=NARROW, limits=limits) as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(3.5)
        assert await client.is_reset()
        await site.all_ended()
    assert "was cancelled 3 s after" in log.take().getMessage()
    assert log.ends == [EndReason.MAX_REQUEST_TIME_EXCEEDED]


# What a diagnostic pool's blocks are full of when nobody has rented them.
POISON = b"\xdd" * 100


async def all_until_reset(client: RawClient) -> bytes:
    """Return what there was before the connection was reset."""
    received = b""
    try:
        while piece := await client.receive_some():
            received += piece
    except trio.BrokenResourceError:
        return received
    raise AssertionError("the server has ended its side in good order")


@pytest.mark.parametrize("own", [[length(2 * len(CONTENT))], []], ids=["length", "chunked"])
async def test_two_tasks_at_once(
    own: list[tuple[bytes, bytes]], file: int, serving: Serving, log: ServerLog
) -> None:
    """The second is told so, and the response is lost, but not in somebody else's bytes."""
    errors: list[Exception] = []

    async def handler(exchange: HttpExchange) -> None:
        async def send() -> None:
            try:
                await exchange.write_file(file, 0, len(CONTENT))
            except (trio.BusyResourceError, ClientDisconnected) as error:
                errors.append(error)

        await exchange.start(200, own)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(send)

    async with serving(handler, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        received = await all_until_reset(client)
        assert POISON not in received
        assert own == [] or CONTENT.startswith(received)
        await site.all_ended()
    assert [type(error) for error in errors] == [trio.BusyResourceError]
    assert log.ends == [EndReason.ABORTED_BY_APP]


# Where a kernel would send it -------------------------------------------------------------------


class Kernel:
    """A middleware whose pipe sends files as kernels do, or as they would not.

    `refusals` are errors by how many bytes of files may have been sent before.
    """

    def __init__(self) -> None:
        self.refusals: dict[int, int] = {}
        self.asked: list[tuple[int, int]] = []
        self.sent = 0

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Let the connection's output send files."""
        inner = connection.transport
        connection.transport = _KernelPipe(inner, self)
        try:
            await following(connection)
        finally:
            connection.transport = inner


class _KernelPipe(DuplexPipe):
    def __init__(self, inner: DuplexPipe, kernel: Kernel) -> None:
        self._inner = inner
        self._output = _KernelWriter(inner.output, kernel)

    @property
    def input(self) -> PipeReader:
        return self._inner.input

    @property
    def output(self) -> PipeWriter:
        return self._output

    async def aclose(self) -> None:
        await self._inner.aclose()

    def abort(self) -> None:
        self._inner.abort()


class _KernelWriter(PipeWriter):
    sends_files = True

    def __init__(self, inner: PipeWriter, kernel: Kernel) -> None:
        super().__init__()
        self._inner = inner
        self._kernel = kernel
        self._rest = 0

    @property
    def backlog_bytes(self) -> int:
        return self.unflushed_bytes + self._rest + self._inner.backlog_bytes

    async def _transmit(self, data: bytes | memoryview) -> None:
        await self._inner.send(data)

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return 0

    async def _transmit_file(self, file: int, offset: int, count: int) -> int:
        kernel = self._kernel
        kernel.asked.append((offset, count))
        sent = 0
        try:
            while sent < count:
                self._rest = count - sent
                most = min(count - sent, 500)
                for at, number in kernel.refusals.items():
                    if kernel.sent == at:
                        if sent:
                            return sent
                        raise OSError(number, os.strerror(number))
                    if kernel.sent < at:
                        most = min(most, at - kernel.sent)
                piece = os.pread(file, most, offset + sent)
                if not piece:
                    break
                await self._inner.send(piece)
                sent += len(piece)
                kernel.sent += len(piece)
        finally:
            self._rest = 0
        return sent

    async def _transmit_eof(self) -> None:
        await self._inner.send_eof()


MEBIBYTE = 1024 * 1024


@pytest.fixture
def large(path: Path) -> Generator[int]:
    """Give a file of two and a half mebibytes."""
    file = os.open(path, os.O_RDWR)
    for number in range(5):
        os.pwrite(file, random.Random(number).randbytes(MEBIBYTE // 2), number * MEBIBYTE // 2)
    yield file
    os.close(file)


def content_of(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


async def test_the_kernel_sends_a_mebibyte_at_a_time(
    large: int, serving: Serving, log: ServerLog
) -> None:
    kernel = Kernel()
    async with serving(sending(large), middleware=[kernel]) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == content_of(large)
        assert site.connection.memory_pool.statistics.rents == 0
    assert kernel.asked == [
        *((0, MEBIBYTE), (MEBIBYTE, MEBIBYTE), (2 * MEBIBYTE, MEBIBYTE // 2)),
    ]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSOCK])
@pytest.mark.parametrize("at", [0, 1, 1000, MEBIBYTE, MEBIBYTE + 10])
async def test_what_the_kernel_will_not_send_is_read(
    number: int, at: int, large: int, serving: Serving, log: ServerLog
) -> None:
    kernel = Kernel()
    kernel.refusals[at] = number
    async with serving(sending(large), middleware=[kernel]) as site:
        client = await site.connect()
        for _ in range(2):
            kernel.sent = 0
            assert (await client.ask(GET)).body == content_of(large)
            statistics = site.connection.memory_pool.statistics
            assert statistics.rents > statistics.rented == 0
    assert kernel.sent == at


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EBADF])
@pytest.mark.parametrize("at", [0, 1, 1000, MEBIBYTE, MEBIBYTE + 10])
async def test_what_even_the_kernel_cannot_read(
    number: int, at: int, large: int, serving: Serving, log: ServerLog
) -> None:
    """The application is told what the system said, however much was sent before."""
    kernel = Kernel()
    kernel.refusals[at] = number
    errors: list[OSError] = []

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        try:
            await exchange.write_file(large, 0, 2 * MEBIBYTE)
        except OSError as error:
            errors.append(error)
            raise

    async with serving(handler, middleware=[kernel]) as site:
        client = await site.connect()
        await client.send(GET)
        assert await client.is_reset()
        await site.all_ended()
        assert log.take().exc_info is not None
    assert [error.errno for error in errors] == [number]
    assert log.ends == [EndReason.ERROR_AFTER_STARTING_RESPONSE]


@pytest.mark.parametrize("size", [0, 1, MEBIBYTE, MEBIBYTE + 1])
async def test_what_is_shorter_than_the_kernel_was_told(
    size: int, large: int, serving: Serving, log: ServerLog
) -> None:
    os.truncate(large, size)

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write_file(large, 0, 2 * MEBIBYTE)

    async with serving(handler, middleware=[Kernel()]) as site:
        client = await site.connect()
        await client.send(GET)
        assert await client.is_reset()
        await site.all_ended()
    record = log.take()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == f"the file has {size} bytes from 0 on, not 2097152"
    assert log.ends == [EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH]


async def test_a_client_that_takes_steadily_what_the_kernel_sends(
    file: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """However full the buffers are, what it takes counts."""
    async with serving(sending(file), middleware=[Kernel()], endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(request(b"connection: close"))
        received = 0
        while piece := await client.connection.transport.input.receive(1000):
            received += len(piece)
            await trio.sleep(3.5)
        assert received > len(CONTENT)
    assert log.ends == [EndReason.COMPLETED]


async def test_a_client_that_takes_nothing_of_what_the_kernel_sends(
    file: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(sending(file), middleware=[Kernel()], endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        began = trio.current_time()
        await wait_all_tasks_blocked()
        await site.all_ended()
        assert trio.current_time() - began < 10  # what the pipe itself has taken counts as well
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def as_stream(connection: Connection, following: ConnectionHandler) -> None:
    """Put a pipe that knows nothing but bytes over the connection's."""
    inner = connection.transport
    connection.transport = DuplexPipe.from_stream(inner.as_stream())
    try:
        await following(connection)
    finally:
        connection.transport = inner


async def test_a_layer_that_cannot_send_files_gets_them_in_pieces(
    file: int, serving: Serving, log: ServerLog
) -> None:
    """Such as TLS: what it wraps could, but must not."""
    kernel = Kernel()
    async with serving(
        sending(file, LENGTH), middleware=[kernel, as_stream], endpoint=NARROW
    ) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == CONTENT
    assert kernel.asked == []


# Writers that cannot ----------------------------------------------------------------------------


@pytest.fixture(params=["memory", "stream"])
def writer(request: pytest.FixtureRequest) -> PipeWriter:
    if request.param == "memory":
        return duplex_pipe_pair()[0].output
    return DuplexPipe.from_stream(memory_stream_pair()[0]).output


async def test_who_cannot_send_files_says_so(writer: PipeWriter, file: int) -> None:
    assert not writer.sends_files
    with pytest.raises(io.UnsupportedOperation, match=r"Writer cannot send files"):
        await writer.send_file(file, 0, 5)
    assert writer.backlog_bytes == 0


async def test_who_can_no_longer_send_anything_says_that_first(file: int) -> None:
    near, far = duplex_pipe_pair()
    await near.output.send_eof()
    with pytest.raises(trio.ClosedResourceError, match="the end of this pipe was already sent"):
        await near.output.send_file(file, 0, 5)
    near.abort()
    with pytest.raises(trio.BrokenResourceError):
        await near.output.send_file(file, 0, 5)
    await far.aclose()
    near, _far = duplex_pipe_pair()
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError, match="closed on our side"):
        await near.output.send_file(file, 0, 5)


async def test_what_was_written_before_is_flushed_even_then(file: int) -> None:
    near, far = duplex_pipe_pair()
    near.output.write(b"before")
    with pytest.raises(io.UnsupportedOperation):
        await near.output.send_file(file, 0, 5)
    assert await far.input.receive() == b"before"


async def test_what_the_reader_has_not_taken_is_told() -> None:
    near, far = duplex_pipe_pair(1000)
    output = near.output
    assert output.backlog_bytes == 0
    output.write(bytes(300))
    assert output.backlog_bytes == 300
    output.flush_nowait()
    assert (output.unflushed_bytes, output.backlog_bytes) == (0, 300)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.send, bytes(3000))
        await wait_all_tasks_blocked()
        assert (output.unflushed_bytes, output.backlog_bytes) == (0, 3300)
        output.write(bytes(7))
        assert output.backlog_bytes == 3307
        left = 3307
        while left > 7:
            left -= len(await far.input.receive(400))
            await wait_all_tasks_blocked()
            assert output.backlog_bytes == left
    await output.flush()
    assert await far.input.receive() == bytes(7)
    assert output.backlog_bytes == 0


async def test_a_flush_that_was_cancelled_leaves_no_backlog_of_its_own() -> None:
    near, _far = duplex_pipe_pair(1000)
    with trio.move_on_after(0) as scope:
        await near.output.send(bytes(3000))
    assert scope.cancelled_caught
    assert near.output.backlog_bytes == 1000
