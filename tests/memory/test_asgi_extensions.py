"""The extensions that ASGI applications are offered: files, hints, debugging (trailers stand apart)."""

import os
import random
from collections.abc import Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import pytest
import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, HttpExchange, ResponseError
from tests.http1_site import Flushes, ServerLog, Serving, answer, hello
from tests.raw_client import GET, UnexpectedEnd, request
from tests.socket_ends import open_descriptors

CONTENT = random.Random(5).randbytes(300_001)

# The largest file that leaves in one write with its head.
MOST_AT_ONCE = 64 * 1024

SIZES = [0, 1, MOST_AT_ONCE, MOST_AT_ONCE + 1, len(CONTENT)]

NARROW = "memory://narrow?pause_at_bytes=1000"

HEAD = request(first=b"HEAD / HTTP/1.1")
GET10 = request(first=b"GET / HTTP/1.0")


@pytest.fixture(autouse=True)
def nothing_left_open() -> Generator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() <= before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return file_of(len(CONTENT), tmp_path)


def file_of(size: int, folder: Path) -> Path:
    path = folder / "file"
    path.write_bytes(CONTENT[:size])
    return path


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Event:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}


def pathsend(path: Path | str) -> Event:
    return {"type": "http.response.pathsend", "path": str(path)}


def length(value: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % value)


CODED = (b"transfer-encoding", b"chunked")


class Sending:
    """Sends these events for everything but /fine, and keeps the first error that comes of it."""

    def __init__(self, *events: Event) -> None:
        self.events = events
        self.error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await answer(send, b"fine")
            return
        try:
            for event in self.events:
                await send(event)
        except BaseException as error:
            self.error = self.error or error
            raise


FINE = request(first=b"GET /fine HTTP/1.1")


async def expect_500(app: AsgiApp, kind: type[Exception], serving: Serving, log: ServerLog) -> None:
    """The error is the application's: logged once, answered, and the connection goes on."""
    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert response.keeps_alive
        assert log.take_error(kind) == "the application failed on GET /"
        assert (await client.ask(FINE)).body == b"fine"
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]
    log.ends.clear()


async def expect_cut(
    app: AsgiApp, kind: type[Exception], reason: EndReason, serving: Serving, log: ServerLog
) -> None:
    """The error is the application's: logged once, and what the client has is not complete."""
    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        with pytest.raises(UnexpectedEnd):
            await client.receive()
        await site.all_ended()
    log.take_error(kind)
    assert log.ends == [reason]


# Path Send: what the client gets ----------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("own", [False, True], ids=["no length", "length"])
@pytest.mark.parametrize("endpoint", ["memory://wide", NARROW], ids=["wide", "narrow"])
async def test_a_file_has_its_length(
    size: int, own: bool, endpoint: str, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    app = Sending(start(200, *([length(size)] if own else [])), pathsend(file_of(size, tmp_path)))
    async with serving(app, endpoint=endpoint) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(GET)
            assert (response.status, response.body) == (200, CONTENT[:size])
            assert response.all(b"content-length") == [b"%d" % size]
            assert response.keeps_alive


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_may_be_chunked(
    size: int, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    async with serving(Sending(start(200, CODED), pathsend(file_of(size, tmp_path)))) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(GET)
            assert response.body == CONTENT[:size]
            assert response.all(b"transfer-encoding") == [b"chunked"]


@pytest.mark.parametrize("size", SIZES)
async def test_http10(size: int, tmp_path: Path, serving: Serving, log: ServerLog) -> None:
    async with serving(Sending(start(), pathsend(file_of(size, tmp_path)))) as site:
        client = await site.connect()
        response = await client.ask(GET10)
        assert response.body == CONTENT[:size]
        assert response.all(b"content-length") == [b"%d" % size]
        assert await client.receive_rest() == b""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("own", [False, True], ids=["no length", "length"])
async def test_head_gets_its_length(
    size: int, own: bool, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    app = Sending(start(200, *([length(size)] if own else [])), pathsend(file_of(size, tmp_path)))
    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(HEAD, to_head=True)
            assert response.all(b"content-length") == [b"%d" % size]
        assert (await client.ask(FINE)).body == b"fine"


@pytest.mark.parametrize("size", [0, 1, MOST_AT_ONCE])
async def test_a_small_file_leaves_with_its_head(
    size: int, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    flushes = Flushes()
    app = Sending(start(), pathsend(file_of(size, tmp_path)))
    async with serving(
        app, endpoint="memory://wide?pause_at_bytes=100000", middleware=[flushes]
    ) as site:
        client = await site.connect()
        await client.ask(GET)
    (flush,) = flushes.all
    assert flush.endswith(b"\r\n\r\n" + CONTENT[:size])


@pytest.mark.parametrize("size", SIZES)
async def test_behind_pieces_of_body(
    size: int, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    path = file_of(size, tmp_path)
    for own in ([], [length(size + 6)]):
        app = Sending(
            start(200, *own), body(b"pie", more=True), body(b"ces", more=True), pathsend(path)
        )
        async with serving(app) as site:
            client = await site.connect()
            for _ in range(2):
                assert (await client.ask(GET)).body == b"pieces" + CONTENT[:size]


async def test_fields_may_come_from_anywhere(path: Path, serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = ([b"x-%d" % number, b"y"] for number in range(3))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(pathsend(path))

    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert [name for name, _ in response.headers][:3] == [b"x-0", b"x-1", b"x-2"]
        assert response.body == CONTENT


async def test_a_pipeline_of_files(path: Path, serving: Serving, log: ServerLog) -> None:
    async with serving(Sending(start(), pathsend(path)), endpoint=NARROW) as site:
        client = await site.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, (GET + FINE) * 3)
            for _ in range(3):
                assert (await client.receive()).body == CONTENT
                assert (await client.receive()).body == b"fine"


async def test_many_at_once(path: Path, serving: Serving, log: ServerLog) -> None:
    """More than there are worker threads."""
    responses: list[bytes] = []
    async with serving(Sending(start(), pathsend(path))) as site:

        async def ask() -> None:
            client = await site.connect()
            responses.append((await client.ask(GET)).body)
            await client.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
    assert responses == [CONTENT] * 50


# Path Send: errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, len(CONTENT)])
@pytest.mark.parametrize("by", [-1, 1])
async def test_a_wrong_length(
    size: int, by: int, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    """It is seen before anything is sent, if it is too long, or the file small."""
    app = Sending(start(200, length(size + by)), pathsend(file_of(size, tmp_path)))
    if size == 1 or by < 0:
        await expect_500(app, ResponseError, serving, log)
    else:
        reason = EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH
        await expect_cut(app, ResponseError, reason, serving, log)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("size", SIZES)
async def test_statuses_without_a_body(
    status: int, size: int, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    app = Sending(start(status), pathsend(file_of(size, tmp_path)))
    if size:
        await expect_500(app, ResponseError, serving, log)
        return
    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).status == status


def make_nothing(path: Path) -> None:
    pass


def make_folder(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_nothing, FileNotFoundError),
        (make_folder, ResponseError),
        (os.mkfifo, ResponseError),
        (make_loop, OSError),
    ],
)
async def test_what_is_no_file(
    make: Callable[[Path], None],
    kind: type[Exception],
    tmp_path: Path,
    serving: Serving,
    log: ServerLog,
) -> None:
    make(tmp_path / "odd")
    with trio.fail_after(20):
        await expect_500(Sending(start(), pathsend(tmp_path / "odd")), kind, serving, log)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "http.response.pathsend"}, KeyError),
        ({"type": "http.response.pathsend", "path": None}, TypeError),
        ({"type": "http.response.pathsend", "path": "/a\0b"}, ValueError),
    ],
    ids=["missing", "none", "null"],
)
async def test_a_path_that_is_none(
    event: Event, kind: type[Exception], serving: Serving, log: ServerLog
) -> None:
    await expect_500(Sending(start(), event), kind, serving, log)


async def test_the_application_may_do_without(
    tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(404))
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await send(pathsend(tmp_path / "missing"))
        await send(body(b"there is none"))

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(GET)
            assert (response.status, response.body) == (404, b"there is none")


async def test_before_the_start(path: Path, serving: Serving, log: ServerLog) -> None:
    await expect_500(Sending(pathsend(path)), ResponseError, serving, log)


@pytest.mark.parametrize("size", [1, len(CONTENT)])
@pytest.mark.parametrize(
    "late", [start(), body(b"x"), body(), pathsend("/")], ids=lambda event: event["type"]
)
async def test_nothing_comes_after_it(
    late: Event, size: int, tmp_path: Path, serving: Serving, log: ServerLog
) -> None:
    """The client has what it should have; the error is told all the same."""
    app = Sending(start(), pathsend(file_of(size, tmp_path)), late)
    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == CONTENT[:size]
            log.take_error(ResponseError)
        assert (await client.ask(FINE)).body == b"fine"


async def test_a_file_that_is_cut_while_it_is_sent(
    path: Path, serving: Serving, log: ServerLog
) -> None:
    app = Sending(start(), pathsend(path))
    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        os.truncate(path, 100_000)
        with pytest.raises(UnexpectedEnd):
            await client.receive()
        await site.all_ended()
    assert log.take_error(ResponseError) == "the application failed on GET /"
    assert log.ends == [EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH]


async def test_a_file_that_grows_while_it_is_sent(
    path: Path, serving: Serving, log: ServerLog
) -> None:
    app = Sending(start(), pathsend(path))
    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        _, headers = await client.receive_head()
        os.truncate(path, len(CONTENT) + 10_000)
        assert (b"content-length", b"300001") in headers
        assert await client.connection.transport.input.read_exactly(len(CONTENT)) == CONTENT
        assert (await client.ask(FINE)).body == b"fine"


# Path Send: who does not go along ---------------------------------------------------------------


async def test_a_client_that_leaves_a_file(path: Path, serving: Serving, log: ServerLog) -> None:
    app = Sending(start(), pathsend(path))
    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        client.reset()
        await site.all_ended()
    assert isinstance(app.error, ClientDisconnected)
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_client_that_reads_nothing_of_a_file(
    path: Path, serving: Serving, log: ServerLog
) -> None:
    app = Sending(start(), pathsend(path))
    limits = Limits(response_grace_seconds=0.1)
    async with serving(app, endpoint=NARROW, limits=limits) as site:
        client = await site.connect()
        await client.send(GET)
        with trio.fail_after(10):
            while not log.ends:  # noqa: ASYNC110  # the log has no event for it
                await trio.sleep(0.01)
        assert await client.is_reset()
    assert isinstance(app.error, ClientDisconnected)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_a_client_that_has_ended_its_side_gets_all_of_it(
    path: Path, serving: Serving, log: ServerLog
) -> None:
    async with serving(Sending(start(), pathsend(path)), endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await client.send_eof()
        assert (await client.receive()).body == CONTENT
        assert await client.receive_rest() == b""


async def test_an_application_that_gives_a_file_up(
    path: Path, serving: Serving, log: ServerLog
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, pathsend(path))
            await go_on.wait()
            nursery.cancel_scope.cancel()

    go_on = trio.Event()
    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        go_on.set()
        assert await client.is_reset()
        await site.all_ended()
    assert log.ends == [EndReason.ABORTED_BY_APP]


# Path Send: Starlette, which uses it where it is offered ----------------------------------------


def serving_files(path: Path, *middleware: Middleware) -> AsgiApp:
    async def file(request: Request) -> Response:
        return FileResponse(path, filename="name.bin")

    async def missing(request: Request) -> Response:
        return FileResponse(path.with_name("missing"))

    routes = [
        Route("/", file),
        Route("/missing", missing),
        Mount("/static", StaticFiles(directory=path.parent)),
    ]
    return Starlette(routes=routes, middleware=list(middleware))


async def pass_on(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers["x-passed"] = "on"
    return response


passing = Middleware(BaseHTTPMiddleware, dispatch=pass_on)


class Watching:
    """Notes the kinds of events that an application sends."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        self.kinds: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(event: Event) -> None:
            self.kinds.append(event["type"])
            await send(event)

        await self.app(scope, receive, send_on)


@pytest.mark.parametrize("target", [b"/", b"/static/file"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("middleware", [(), (passing,)], ids=["bare", "inside middleware"])
async def test_starlettes_files(
    middleware: tuple[Middleware, ...],
    size: int,
    target: bytes,
    tmp_path: Path,
    serving: Serving,
    log: ServerLog,
) -> None:
    app = Watching(serving_files(file_of(size, tmp_path), *middleware))
    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            app.kinds.clear()
            response = await client.ask(request(first=b"GET %b HTTP/1.1" % target))
            assert (response.status, response.body) == (200, CONTENT[:size])
            assert response.all(b"content-length") == [b"%d" % size]
            assert "http.response.pathsend" in app.kinds
        response = await client.ask(request(first=b"HEAD %b HTTP/1.1" % target), to_head=True)
        assert response.all(b"content-length") == [b"%d" % size]
        etag = b"if-none-match: " + response.all(b"etag")[0]
        response = await client.ask(request(etag, first=b"GET %b HTTP/1.1" % target))
        assert response.status == (304 if b"static" in target else 200)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        (b"0-0", CONTENT[:1]),
        (b"100-200000", CONTENT[100:200_001]),
        (b"300000-", CONTENT[-1:]),
        (b"-5", CONTENT[-5:]),
        (b"0-", CONTENT),
    ],
)
async def test_starlettes_ranges(
    ranges: bytes, expected: bytes, path: Path, serving: Serving, log: ServerLog
) -> None:
    async with serving(serving_files(path)) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(request(b"range: bytes=" + ranges))
            assert (response.status, response.body) == (206, expected)
            assert response.all(b"content-length") == [b"%d" % len(expected)]


async def test_starlettes_other_ranges(path: Path, serving: Serving, log: ServerLog) -> None:
    async with serving(serving_files(path)) as site:
        client = await site.connect()
        response = await client.ask(request(b"range: bytes=0-4,100000-199999"))
        assert response.status == 206
        assert CONTENT[:5] + b"\r\n" in response.body
        assert CONTENT[100_000:200_000] + b"\r\n" in response.body
        assert (await client.ask(request(b"range: bytes=300001-"))).status == 416
        assert (await client.ask(request(b"range: lines=1-"))).status == 400
        response = await client.ask(request(b"range: bytes=0-4", b'if-range: "other"'))
        assert (response.status, response.body) == (200, CONTENT)


async def test_starlettes_missing_files(path: Path, serving: Serving, log: ServerLog) -> None:
    async with serving(serving_files(path)) as site:
        client = await site.connect()
        assert (await client.ask(request(first=b"GET /missing HTTP/1.1"))).status == 500
        log.take_error(RuntimeError)
        assert (await client.ask(request(first=b"GET /static/missing HTTP/1.1"))).status == 404
        assert (await client.ask(GET)).body == CONTENT


# Zero Copy Send ---------------------------------------------------------------------------------


@pytest.fixture(params=["buffered", "raw"])
def file(request: pytest.FixtureRequest, path: Path) -> Generator[IO[bytes]]:
    with path.open("rb", -1 if request.param == "buffered" else 0) as file:
        yield cast("IO[bytes]", file)


def piece(file: object, *, more: bool = False, **what: int | None) -> Event:
    return {"type": "http.response.zerocopysend", "file": file, "more_body": more, **what}


@pytest.mark.parametrize(
    ("what", "expected", "position"),
    [
        ({}, CONTENT[7:], len(CONTENT)),
        ({"count": 5}, CONTENT[7:12], 12),
        ({"count": 0}, b"", 7),
        ({"offset": 0}, CONTENT, 7),
        ({"offset": 100, "count": 200_000}, CONTENT[100:200_100], 7),
        ({"offset": 300_000}, CONTENT[-1:], 7),
        ({"offset": 300_001}, b"", 7),
        ({"offset": None, "count": None}, CONTENT[7:], len(CONTENT)),
    ],
)
async def test_a_piece(
    what: dict[str, Any],
    expected: bytes,
    position: int,
    file: IO[bytes],
    serving: Serving,
    log: ServerLog,
) -> None:
    """As an ordinary body in one event it has its length."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        file.seek(0)
        file.read(7)
        await send(start())
        await send(piece(file, **what))
        assert file.tell() == position
        assert file.read(3) == CONTENT[position : position + 3]

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(GET)
            assert response.body == expected
            assert response.all(b"content-length") == [b"%d" % len(expected)]
        response = await client.ask(HEAD, to_head=True)
        assert response.all(b"content-length") == [b"%d" % len(expected)]


@pytest.mark.parametrize("own", [[], [length(100_006)]], ids=["chunked", "length"])
@pytest.mark.parametrize("sent", [GET, GET10], ids=["1.1", "1.0"])
async def test_several_pieces(
    own: list[tuple[bytes, bytes]],
    sent: bytes,
    file: IO[bytes],
    path: Path,
    serving: Serving,
    log: ServerLog,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        file.seek(0)
        await send(start(200, *own))
        await send(piece(file, more=True, count=3))
        await send(body(b"|", more=True))
        await send(piece(file, more=True, count=100_000))
        await send(piece(file, more=True, offset=5, count=0))
        await send(piece(file, more=True, count=1))
        await send(body(b"|"))

    async with serving(app) as site:
        client = await site.connect()
        expected = CONTENT[:3] + b"|" + CONTENT[3:100_004] + b"|"
        response = await client.ask(sent)
        assert response.body == expected
        if response.keeps_alive:
            assert (await client.ask(sent)).body == expected


async def test_a_file_behind_pieces(
    file: IO[bytes], path: Path, serving: Serving, log: ServerLog
) -> None:
    app = Sending(
        start(),
        piece(file, more=True, offset=1, count=2),
        piece(file, more=True, offset=0, count=1),
        pathsend(path),
    )
    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == CONTENT[1:3] + CONTENT[:1] + CONTENT


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ({"count": -1}, ResponseError),
        ({"offset": -1}, ResponseError),
        ({"offset": -10, "count": 5}, ResponseError),
        ({"offset": "5"}, TypeError),
        ({"count": 5.0}, TypeError),
    ],
)
async def test_wrong_numbers(
    what: dict[str, Any],
    kind: type[Exception],
    file: IO[bytes],
    serving: Serving,
    log: ServerLog,
) -> None:
    await expect_500(Sending(start(), piece(file, **what)), kind, serving, log)


@pytest.fixture
def pipe() -> Generator[IO[bytes]]:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb"):
        yield pipe


async def test_wrong_kinds(path: Path, pipe: IO[bytes], serving: Serving, log: ServerLog) -> None:
    closed = path.open("rb")
    closed.close()
    for wrong, kind in (
        (None, AttributeError),
        (pipe.fileno(), AttributeError),
        (path, AttributeError),
        (closed, ValueError),
        (pipe, ResponseError),
    ):
        await expect_500(Sending(start(), piece(wrong)), kind, serving, log)
        await expect_500(Sending(start(), piece(wrong, offset=0, count=1)), kind, serving, log)
    nothing = {"type": "http.response.zerocopysend"}
    await expect_500(Sending(start(), nothing), KeyError, serving, log)


async def test_more_than_there_is(file: IO[bytes], serving: Serving, log: ServerLog) -> None:
    app = Sending(start(), piece(file, offset=299_000, count=1002))
    reason = EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH
    await expect_cut(app, ResponseError, reason, serving, log)
    assert str(app.error) == "the file has 1001 bytes from 299000 on, not 1002"


async def test_a_piece_out_of_order(file: IO[bytes], serving: Serving, log: ServerLog) -> None:
    await expect_500(Sending(piece(file)), ResponseError, serving, log)
    async with serving(Sending(start(), piece(file, offset=0), piece(file, offset=0))) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == CONTENT
            log.take_error(ResponseError)


# Early Hints ------------------------------------------------------------------------------------


LINKS = [b"</a.css>; rel=preload", b"</b.js>; rel=preload; as=script"]


def hint(*links: bytes) -> Event:
    return {"type": "http.response.early_hint", "links": list(links)}


@pytest.mark.parametrize(
    "events",
    [
        [hint(*LINKS), start(), body(b"hello")],
        [start(), hint(*LINKS), body(b"hello")],
        [start(), hint(*LINKS), body(b"hel", more=True), body(b"lo")],
        [start(), hint(*LINKS), body(b"hel", more=True), hint(*LINKS), body(b"lo")],
    ],
    ids=["before the start", "behind it", "in front of pieces", "again among them"],
)
async def test_hints_come_before_the_response(
    events: list[Event], serving: Serving, log: ServerLog
) -> None:
    """Where one comes too late to go out, it is dropped; the specification has it sent until then."""
    async with serving(Sending(*events)) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(GET)
            assert await client.receive_head() == (103, [(b"link", link) for link in LINKS])
            response = await client.receive()
            assert (response.status, response.body) == (200, b"hello")


async def test_hints_leave_at_once(serving: Serving, log: ServerLog) -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(hint(b"<a>"))
        await send(hint())
        await send(start(404))
        await send(hint(b"<b>"))
        await go_on.wait()
        await send(body(b"none"))

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        first = b"HTTP/1.1 103 Early Hints\r\n"
        expected = first + b"link: <a>\r\n\r\n" + first + b"\r\n" + first + b"link: <b>\r\n\r\n"
        assert await client.received_by_now() == expected
        go_on.set()
        response = await client.receive()
        assert (response.status, response.body) == (404, b"none")


async def test_http10_has_no_hints(serving: Serving, log: ServerLog) -> None:
    async with serving(Sending(hint(b"<a>"), start(), hint(b"<a>"), body(b"hello"))) as site:
        client = await site.connect()
        assert (await client.ask(GET10)).body == b"hello"


@pytest.mark.parametrize("link", [b"<a>\r\nx: y", b"\0", "<a>", None])
async def test_hints_that_are_none(link: bytes, serving: Serving, log: ServerLog) -> None:
    await expect_500(Sending(hint(link), start(), body()), ResponseError, serving, log)
    await expect_500(Sending(start(), hint(link), body()), ResponseError, serving, log)


async def test_hints_behind_the_response(serving: Serving, log: ServerLog) -> None:
    async with serving(Sending(start(), body(b"hello"), hint(b"<a>"))) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == b"hello"
            log.take_error(ResponseError)


# Debug ------------------------------------------------------------------------------------------


def debug(**info: object) -> Event:
    return {"type": "http.response.debug", "info": info}


async def test_who_wants_to_hear_it_is_told(serving: Serving, log: ServerLog) -> None:
    heard: list[tuple[str, Mapping[str, Any]]] = []
    scopes: list[Scope] = []

    def on_debug(exchange: HttpExchange, info: Mapping[str, Any]) -> None:
        assert exchange.status is None
        heard.append((exchange.path, info))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(debug(template="a.html", context={"b": 1}))
        await send({"type": "http.response.debug"})
        await answer(send, b"hello")

    async with serving(native=AsgiApplication(app, on_debug=on_debug)) as site:
        client = await site.connect()
        assert (await client.ask(request(first=b"GET /x HTTP/1.1"))).body == b"hello"
    assert heard == [("/x", {"template": "a.html", "context": {"b": 1}}), ("/x", {})]
    assert scopes[0]["extensions"]["http.response.debug"] == {}


async def test_nobody_wants_to_hear_it(serving: Serving, log: ServerLog) -> None:
    scopes: list[Scope] = []

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async with serving(keep) as site:
        client = await site.connect()
        await client.ask(GET)
    log.ends.clear()
    assert "http.response.debug" not in scopes[0]["extensions"]
    await expect_500(Sending(debug(a=1), start(), body()), ResponseError, serving, log)


async def test_it_comes_before_the_start(serving: Serving, log: ServerLog) -> None:
    heard: list[Mapping[str, Any]] = []
    app = Sending(start(), debug(a=1))
    hooked = AsgiApplication(app, on_debug=lambda _, info: heard.append(info))
    async with serving(native=hooked) as site:
        client = await site.connect()
        assert (await client.ask(GET)).status == 500
        log.take_error(ResponseError)
    assert heard == []


async def test_a_hook_that_raises_is_the_applications_error(
    serving: Serving, log: ServerLog
) -> None:
    def on_debug(exchange: HttpExchange, info: Mapping[str, Any]) -> None:
        raise ZeroDivisionError

    async with serving(native=AsgiApplication(Sending(debug()), on_debug=on_debug)) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).status == 500
            log.take_error(ZeroDivisionError)


# What is offered --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http.response.push", "http.response.zerocopy", "", None])
async def test_no_other_event_is_known(kind: str, serving: Serving, log: ServerLog) -> None:
    for events in ([{"type": kind}], [start(), {"type": kind}]):
        await expect_500(Sending(*events), ResponseError, serving, log)


async def test_each_request_has_extensions_of_its_own(serving: Serving, log: ServerLog) -> None:
    """An application may do with its scope what it likes."""
    seen: list[set[str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(set(scope["extensions"]))
        scope["extensions"].clear()
        scope["extensions"]["mine"] = {}
        await answer(send, b"")

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            await client.ask(GET)
    assert seen[0] == seen[1] != set()
