"""Bodies of WSGI requests and responses as they stream, break off, and are given up.

Worker threads take real time, so there is no clock here that jumps; nothing waits for time either,
but for what the other thread does.
"""

import hashlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator

import httpx
import pytest
import trio
from trio.testing import active_thread_count, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.testing import OpenServer, open_server
from kestrel_core.testing.clients.httpx_client import HttpTransport
from kestrel_protocols.http import ClientDisconnected
from kestrel_protocols.http1 import Http1
from kestrel_protocols.wsgi import WsgiApplication

TEXT = [("Content-Type", "text/plain")]
PIECE = 16 * 1024

# What a pipe in memory holds.
HELD = 4 * PIECE


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Generator[pytest.LogCaptureFixture]:
    """What the server logged: nothing, but for what a test has taken from here."""
    yield caplog
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@asynccontextmanager
async def serving(
    app: WSGIApplication, *, limits: Limits | None = None, threads: int = 40
) -> AsyncGenerator[OpenServer]:
    application = WsgiApplication(validator(app), threads=threads)
    async with open_server(Http1(application), limits=limits) as opened:
        yield opened
    assert application.limiter.borrowed_tokens == 0
    assert active_thread_count() == 0


async def connect(opened: OpenServer, request: bytes) -> Connection:
    connection = await opened.connect()
    await connection.transport.output.send(request)
    return connection


async def rest_of(connection: Connection) -> bytes:
    return b"".join([chunk async for chunk in connection.transport.input])


async def happened(event: threading.Event) -> None:
    """Wait for what another thread does."""
    await trio.to_thread.run_sync(event.wait)


class Outcome:
    """What an application has seen, and that it has ended."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.closed = threading.Event()
        self.error: BaseException | None = None


# Request bodies.

BODY = b"one\ntwo\n\nthree" + b"x" * 100_000 + b"\nlast"

READERS: dict[str, Callable[[WSGIEnvironment], bytes]] = {
    "read(-1)": lambda environ: environ["wsgi.input"].read(-1),
    "read(n)": lambda environ: b"".join(iter(lambda: environ["wsgi.input"].read(1000), b"")),
    "read(all)": lambda environ: environ["wsgi.input"].read(len(BODY)),
    "read(more)": lambda environ: environ["wsgi.input"].read(1_000_000),
    "readline": lambda environ: b"".join(iter(lambda: environ["wsgi.input"].readline(), b"")),
    "readline(n)": lambda environ: b"".join(iter(lambda: environ["wsgi.input"].readline(7), b"")),
    "readlines": lambda environ: b"".join(environ["wsgi.input"].readlines()),
    "readlines(n)": lambda environ: b"".join(
        line for lines in iter(lambda: environ["wsgi.input"].readlines(5), []) for line in lines
    ),
    "iteration": lambda environ: b"".join(environ["wsgi.input"]),
    "mixed": lambda environ: (
        environ["wsgi.input"].readline()
        + environ["wsgi.input"].read(3)
        + environ["wsgi.input"].read(-1)
        + environ["wsgi.input"].read(-1)
        + environ["wsgi.input"].readline()
    ),
}


@pytest.fixture(params=list(READERS))
def echo(request: pytest.FixtureRequest) -> WSGIApplication:
    """Return an application that reads in one way and returns what it has read."""
    reader = READERS[request.param]

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        body = reader(environ)
        start_response("200 OK", list(TEXT))
        return [body]

    return app


async def chunks(body: bytes, size: int) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_is_read_as_a_file(echo: WSGIApplication, framing: str) -> None:
    async with (
        open_server(Http1(WsgiApplication(validator(echo)))) as opened,
        opened.httpx_client() as client,
    ):
        for _ in range(2):  # the connection goes on
            content = BODY if framing == "length" else chunks(BODY, 30_000)
            assert (await client.post("/", content=content)).content == BODY


async def test_a_body_that_arrives_byte_by_byte(echo: WSGIApplication) -> None:
    body = b"one\n\ntwo\nthree"
    async with serving(echo) as opened:
        head = (
            b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        connection = await connect(opened, head)
        for byte in b"3\r\none\r\nb\r\n\n\ntwo\nthree\r\n0\r\n\r\n":
            await connection.transport.output.send(bytes([byte]))
            await wait_all_tasks_blocked()
        assert b"\r\n%b\r\n" % body in await rest_of(connection)


@pytest.mark.parametrize("content", [None, b""])
async def test_no_body_is_an_empty_file(echo: WSGIApplication, content: bytes | None) -> None:
    async with (
        open_server(Http1(WsgiApplication(validator(echo)))) as opened,
        opened.httpx_client() as client,
    ):
        assert (await client.post("/", content=content)).content == b""


async def test_a_large_upload_waits_for_its_reader() -> None:
    """The client never gets further ahead of the application than what the buffers hold."""
    size, block = 64 * PIECE, 1000
    most_held = HELD + 64 * 1024 + 2 * PIECE  # the pipe, the file, one on its way in and one out
    sent = 0
    gaps: list[int] = []
    may_read = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        may_read.wait()
        digest, received = hashlib.sha256(), 0
        while data := environ["wsgi.input"].read(block):
            received += len(data)
            digest.update(data)
            gaps.append(sent - received)
        start_response("200 OK", list(TEXT))
        return [digest.hexdigest().encode()]

    async with serving(app) as opened:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size
        connection = await connect(opened, head)

        async def upload() -> None:
            nonlocal sent
            while sent < size:
                await connection.transport.output.send(b"%7d\n" % sent * (PIECE // 8))
                sent += PIECE

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await wait_all_tasks_blocked()
            assert 0 < sent <= most_held  # not a byte was asked for yet
            may_read.set()
        expected = hashlib.sha256(
            b"".join(b"%7d\n" % start * (PIECE // 8) for start in range(0, size, PIECE))
        )
        answer = await connection.transport.input.read_until(b"\r\n0\r\n\r\n", 1000)
    assert expected.hexdigest().encode() in answer
    assert max(gaps) <= most_held


async def test_what_is_not_read_is_not_in_the_way() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        first = environ["wsgi.input"].read(2)
        start_response("200 OK", list(TEXT))
        return [first]

    async with (
        open_server(Http1(WsgiApplication(validator(app)))) as opened,
        opened.httpx_client() as client,
    ):
        for _ in range(2):
            assert (await client.post("/", content=b"hi" + b"x" * 300_000)).content == b"hi"


async def test_the_client_that_waits_for_100_gets_it_when_the_application_reads() -> None:
    may_read = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        may_read.wait()
        body = environ["wsgi.input"].read(4)
        start_response("200 OK", list(TEXT))
        return [body]

    async with serving(app) as opened:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n"
        connection = await connect(opened, head)
        await wait_all_tasks_blocked()
        assert connection.transport.input.buffered == b""
        may_read.set()
        reader = connection.transport.input
        assert await reader.read_until(b"\r\n\r\n", 100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.transport.output.send(b"body")
        assert b"\r\nbody\r\n" in await reader.read_until(b"\r\n0\r\n\r\n", 1000)


# Response bodies.


async def test_a_large_download_waits_for_its_reader() -> None:
    """The application is not asked for a piece while earlier ones lie in the buffers."""
    pieces = 64
    consumed = produced = 0
    gaps: list[int] = []
    full = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        nonlocal produced
        start_response("200 OK", [*TEXT, ("Content-Length", str(pieces * PIECE))])
        for number in range(pieces):
            gaps.append(produced - consumed)
            produced += PIECE
            if produced == HELD:
                full.set()
            yield b"%7d\n" % number * (PIECE // 8)

    async with serving(app) as opened:
        connection = await connect(opened, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await happened(full)
        for _ in range(20):  # it would have come much further by now
            await wait_all_tasks_blocked()
        assert produced == HELD
        reader = connection.transport.input
        await reader.read_until(b"\r\n\r\n", 1000)
        for number in range(pieces):
            assert await reader.read_exactly(PIECE) == b"%7d\n" % number * (PIECE // 8)
            consumed += PIECE
    assert max(gaps) <= HELD + 2 * PIECE  # one on its way in, and one out


async def test_a_piece_is_sent_before_the_next_is_asked_for() -> None:
    received = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield b"first"
        received.wait()
        yield b"second"

    async with serving(app) as opened:
        connection = await connect(opened, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        reader = connection.transport.input
        assert (await reader.read_until(b"first\r\n", 1000)).endswith(b"5\r\nfirst\r\n")
        received.set()
        assert await reader.read_until(b"0\r\n\r\n", 1000) == b"6\r\nsecond\r\n0\r\n\r\n"


async def test_reading_and_answering_take_turns() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        for line in environ["wsgi.input"]:
            yield line.upper()

    async with serving(app) as opened:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        connection = await connect(opened, head)
        for word in (b"one", b"two"):
            await connection.transport.output.send(b"4\r\n%b\n\r\n" % word)
            chunk = b"4\r\n%b\n\r\n" % word.upper()
            assert (await connection.transport.input.read_until(chunk, 1000)).endswith(chunk)
        await connection.transport.output.send(b"0\r\n\r\n")
        assert await connection.transport.input.read_until(b"\r\n\r\n", 1000) == b"0\r\n\r\n"


# Clients that go away.


class Produced:
    """An endless body that notes how it ended, written or returned."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * PIECE
            self._outcome.begun.set()

    def close(self) -> None:
        self._outcome.closed.set()


def reading(outcome: Outcome) -> WSGIApplication:
    """Return an application that reads to the end, and notes how that went."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        try:
            outcome.begun.set()
            for _ in environ["wsgi.input"]:
                pass
            start_response("200 OK", list(TEXT))
            yield b"all of it"
        except OSError as error:
            outcome.error = error
            raise
        finally:
            outcome.closed.set()

    return app


def writing(outcome: Outcome) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", list(TEXT))
        try:
            while True:
                write(b"x" * PIECE)
                outcome.begun.set()
        except OSError as error:
            outcome.error = error
            raise
        finally:
            outcome.closed.set()

    return app


def returning(outcome: Outcome) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(TEXT))
        return Produced(outcome)

    return app


UPLOAD = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nonly this"


@pytest.mark.parametrize("how", ["reset", "end"])
async def test_reading_from_a_client_that_went_away_raises(how: str) -> None:
    outcome = Outcome()
    async with serving(reading(outcome)) as opened:
        connection = await connect(opened, UPLOAD)
        await happened(outcome.begun)
        if how == "reset":
            connection.abort(EndReason.ABORTED_BY_APP)
        else:
            await connection.transport.output.send_eof()
        await happened(outcome.closed)
    assert isinstance(outcome.error, ClientDisconnected)


@pytest.mark.parametrize("app", [writing, returning])
async def test_writing_to_a_client_that_went_away_raises(
    app: Callable[[Outcome], WSGIApplication],
) -> None:
    outcome = Outcome()
    async with serving(app(outcome)) as opened:
        connection = await connect(opened, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await happened(outcome.begun)
        connection.abort(EndReason.ABORTED_BY_APP)
        await happened(outcome.closed)
    if app is writing:
        assert isinstance(outcome.error, ClientDisconnected)


async def test_an_application_that_carries_on_is_told_again() -> None:
    errors: list[OSError] = []
    begun = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        begun.set()
        for _ in range(2):
            try:
                environ["wsgi.input"].read(100)
            except OSError as error:
                errors.append(error)
        start_response("200 OK", list(TEXT))
        return [b"for nobody"]

    async with serving(app) as opened:
        connection = await connect(opened, UPLOAD)
        await happened(begun)
        connection.abort(EndReason.ABORTED_BY_APP)
    assert len(errors) == 2


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"content-length: 11\r\n\r\n", b"413 Content Too Large"),
        (b"transfer-encoding: chunked\r\n\r\nnonsense\r\n", b"400 Bad Request"),
    ],
)
async def test_a_request_that_turns_out_wrong_is_answered_by_the_server(
    rest: bytes, status: bytes
) -> None:
    outcome = Outcome()
    async with serving(reading(outcome), limits=Limits(max_request_body_bytes=10)) as opened:
        connection = await connect(opened, b"POST / HTTP/1.1\r\nhost: a\r\n" + rest)
        answer = await connection.transport.input.read_until(b"\r\n", 1000)
        await connection.aclose()
        await happened(outcome.closed)
    assert answer.split(b" ")[1] == status[:3]
    assert isinstance(outcome.error, ClientDisconnected)
    assert "the request was refused" in str(outcome.error)


# Requests that the server gives up.


async def test_the_end_of_a_drain_does_not_wait_for_a_busy_thread(
    log: pytest.LogCaptureFixture,
) -> None:
    outcome = Outcome()
    go_on = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        outcome.begun.set()
        go_on.wait()
        try:
            yield b"too late"
        finally:
            outcome.closed.set()

    application = WsgiApplication(validator(app))
    async with open_server(Http1(application)) as opened:
        await connect(opened, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await happened(outcome.begun)
        assert await opened.server.drain(0) == 1
    assert not opened.server.connections
    assert application.limiter.borrowed_tokens == 1  # the thread is still there
    go_on.set()
    await happened(outcome.closed)
    while application.limiter.borrowed_tokens:
        await wait_all_tasks_blocked()
    expect_cut(log)


@pytest.mark.parametrize("app", [reading, writing, returning])
async def test_the_end_of_a_drain_ends_a_thread_that_waits_for_the_client(
    app: Callable[[Outcome], WSGIApplication], log: pytest.LogCaptureFixture
) -> None:
    outcome = Outcome()
    application = WsgiApplication(validator(app(outcome)))
    async with open_server(Http1(application)) as opened:
        await connect(opened, UPLOAD)
        await happened(outcome.begun)
        await wait_all_tasks_blocked()
        assert await opened.server.drain(0) == 1
        await happened(outcome.closed)
    while application.limiter.borrowed_tokens:
        await wait_all_tasks_blocked()
    if app is not returning:
        assert isinstance(outcome.error, ClientDisconnected)
    expect_cut(log)


async def test_a_failure_after_the_request_was_given_up_is_logged(
    log: pytest.LogCaptureFixture,
) -> None:
    outcome = Outcome()
    go_on = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        outcome.begun.set()
        go_on.wait()
        raise LookupError("nobody hears")

    application = WsgiApplication(validator(app))
    async with open_server(Http1(application)) as opened:
        await connect(opened, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await happened(outcome.begun)
        assert await opened.server.drain(0) == 1
    expect_cut(log)
    go_on.set()
    while application.limiter.borrowed_tokens:
        await wait_all_tasks_blocked()
    [record] = log.records
    assert (record.name, record.levelname) == ("kestrel.wsgi", "ERROR")
    assert record.getMessage() == "the application failed after its request was given up"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "nobody hears"
    log.clear()


def expect_cut(log: pytest.LogCaptureFixture) -> None:
    """Take from the log that one connection was cut."""
    [record] = log.records
    assert (record.name, record.levelno) == ("kestrel.server", logging.WARNING)
    assert record.getMessage() == "1 connections did not finish in 0 s and were cut"
    log.clear()


# Threads.


async def test_no_more_threads_than_allowed() -> None:
    active: list[int] = []
    lock, go_on = threading.Lock(), threading.Semaphore(0)
    now = 0

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        nonlocal now
        with lock:
            now += 1
            active.append(now)
        go_on.acquire()
        with lock:
            now -= 1
        start_response("200 OK", list(TEXT))
        return [b"done"]

    application = WsgiApplication(validator(app), threads=2)
    async with (
        open_server(Http1(application)) as opened,
        httpx.AsyncClient(transport=HttpTransport(opened.connect)) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(5):
            nursery.start_soon(client.get, "http://testserver/")
        while application.limiter.statistics().tasks_waiting < 3 or len(active) < 2:
            await wait_all_tasks_blocked()
        assert application.limiter.borrowed_tokens == 2
        go_on.release(5)
    assert len(active) == 5
    assert max(active) == 2


async def test_several_applications_may_share_their_threads() -> None:
    limiter = trio.CapacityLimiter(1)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", list(TEXT))
        return [b"%d" % limiter.borrowed_tokens]

    for application in (
        WsgiApplication(app, threads=limiter),
        WsgiApplication(app, threads=limiter),
    ):
        assert application.limiter is limiter
        async with open_server(Http1(application)) as opened, opened.httpx_client() as client:
            assert (await client.get("/")).text == "1"


async def test_threads_are_used_again() -> None:
    names: set[int] = set()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        names.add(threading.get_ident())
        start_response("200 OK", list(TEXT))
        return [b"done"]

    before = threading.active_count()
    async with (
        open_server(Http1(WsgiApplication(validator(app), threads=1))) as opened,
        opened.httpx_client() as client,
    ):
        for _ in range(50):
            await client.get("/")
    assert len(names) < 10
    assert threading.active_count() <= before + 2
