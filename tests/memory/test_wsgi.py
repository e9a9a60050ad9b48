"""WSGI applications on the real server: what they are told, and what becomes of their answers.

Every application that keeps to PEP 3333 runs inside `wsgiref.validate`, which checks both sides.
"""

import io
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sized
from contextlib import asynccontextmanager
from contextvars import ContextVar
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator

import httpx
import pytest
import trio
from trio.testing import active_thread_count

from kestrel_core.errors import ConfigurationError
from kestrel_core.testing import open_server
from kestrel_protocols.http import HttpApplication, HttpExchange
from kestrel_protocols.http1 import Http1
from kestrel_protocols.wsgi import WsgiApplication

TEXT = [("Content-Type", "text/plain")]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Generator[pytest.LogCaptureFixture]:
    """What the server logged: nothing, but for what a test has taken from here."""
    yield caplog
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def expect_failure(log: pytest.LogCaptureFixture, text: str, request: str = "GET /") -> None:
    """Take from the log one failure of the application, and nothing else."""
    [record] = log.records
    assert (record.name, record.levelname) == ("kestrel.http", "ERROR")
    assert record.getMessage() == f"the application failed on {request}"
    assert record.exc_info is not None
    assert text in str(record.exc_info[1])
    log.clear()


@asynccontextmanager
async def serving(
    app: WSGIApplication,
    *,
    around: Callable[[HttpApplication], HttpApplication] | None = None,
) -> AsyncGenerator[httpx.AsyncClient]:
    application = WsgiApplication(app)
    called = application if around is None else around(application)
    async with open_server(Http1(called)) as opened, opened.httpx_client() as client:
        yield client
    assert application.limiter.borrowed_tokens == 0
    assert active_thread_count() == 0


async def raw_answer(app: WSGIApplication, request: bytes) -> bytes:
    """Send `request` and return all that comes back, but for the line Date."""
    async with open_server(Http1(WsgiApplication(app))) as opened:
        connection = await opened.connect()
        await connection.transport.output.send(request)
        await connection.transport.output.send_eof()
        answer = b"".join([chunk async for chunk in connection.transport.input])
    return b"\r\n".join(line for line in answer.split(b"\r\n") if not line.startswith(b"date: "))


def checked(app: WSGIApplication) -> WSGIApplication:
    """Return `app` inside `wsgiref.validate`, which hides that a body has a length; this does not."""
    bodies: list[Iterable[bytes]] = []

    def keep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        bodies.append(app(environ, start_response))
        return bodies[-1]

    def checked_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = validator(keep)(environ, start_response)
        if isinstance(bodies[-1], Sized):
            body.close()  # type: ignore[attr-defined]  # that of the validator, which insists
            return bodies[-1]
        return body

    return checked_app


def answering(
    body: Iterable[bytes],
    *headers: tuple[str, str],
    status: str = "200 OK",
    text: list[tuple[str, str]] = TEXT,
) -> WSGIApplication:
    """Return an application that answers so."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [*text, *headers])
        return body

    return app


# What the application is told.


async def test_a_whole_response() -> None:
    app = checked(answering([b"Hello"]))
    answer = await raw_answer(app, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n"
        b"server: kestrel\r\n\r\nHello"
    )


async def test_the_environ_over_the_wire() -> None:
    environs: list[WSGIEnvironment] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        environs.append(environ)
        start_response("200 OK", list(TEXT))
        return []

    application = WsgiApplication(checked(app), root_path="/shop/")
    endpoint = "memory://wsgi?client=203.0.113.7:4711&server=192.0.2.1:443"
    async with (
        open_server(Http1(application), endpoint=endpoint) as opened,
        opened.httpx_client() as client,
    ):
        headers = {"cookie": "a=1", "x-a": "b", "x_a": "c"}
        await client.get("http://example.com:81/%E2%82%AC?q=%20", headers=headers)
        await client.options("/")
    first, second = environs
    assert first["SCRIPT_NAME"] == "/shop"
    assert first["PATH_INFO"].encode("latin-1").decode() == "/€"
    assert first["QUERY_STRING"] == "q=%20"
    assert (first["SERVER_NAME"], first["SERVER_PORT"]) == ("example.com", "81")
    assert (first["REMOTE_ADDR"], first["REMOTE_PORT"]) == ("203.0.113.7", "4711")
    assert (first["HTTP_COOKIE"], first["HTTP_X_A"]) == ("a=1", "b")
    assert "CONTENT_LENGTH" not in first
    assert second["REQUEST_METHOD"] == "OPTIONS"


async def test_options_of_the_whole_server_has_no_path() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", list(TEXT))
        return [repr(environ["PATH_INFO"]).encode()]

    answer = await raw_answer(checked(app), b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n''")


def test_a_root_path_begins_with_a_slash() -> None:
    assert WsgiApplication(answering([]), root_path="/").root_path == ""
    with pytest.raises(ConfigurationError, match="begins with /, unlike 'shop'"):
        WsgiApplication(answering([]), root_path="shop")


def test_there_is_a_thread_at_least() -> None:
    with pytest.raises(ConfigurationError, match="threads must be 1 or more, not 0"):
        WsgiApplication(answering([]), threads=0)


async def test_errors_are_logged(log: pytest.LogCaptureFixture) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        print("a line", file=environ["wsgi.errors"])
        environ["wsgi.errors"].write("and what is left")
        start_response("200 OK", list(TEXT))
        return []

    async with serving(checked(app)) as client:
        await client.get("/")
    assert [(record.name, record.getMessage()) for record in log.records] == [
        ("kestrel.wsgi", "a line"),
        ("kestrel.wsgi", "and what is left"),
    ]
    assert all(hasattr(record, "connection_id") for record in log.records)
    log.clear()


async def test_the_thread_can_call_into_the_event_loop_by_trios_means() -> None:
    async def length(text: str) -> int:
        await trio.lowlevel.checkpoint()
        return len(text)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", list(TEXT))
        return [b"%d" % trio.from_thread.run(length, "four")]

    async with serving(checked(app)) as client:
        assert (await client.get("/")).text == "4"


async def test_each_request_has_a_context_of_its_own() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        seen = user.get()
        user.set("the last one")
        start_response("200 OK", list(TEXT))
        return [seen.encode()]

    def around(following: HttpApplication) -> HttpApplication:
        async def application(exchange: HttpExchange) -> None:
            if exchange.path != "/nobody":
                user.set(exchange.path)
            await following(exchange)

        return application

    async with serving(checked(app), around=around) as client:
        for path, expected in [("/ada", "/ada"), ("/nobody", "nobody")]:
            assert (await client.get(path)).text == expected


# start_response.


async def test_start_response_may_be_called_with_the_first_piece() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("202 Accepted", list(TEXT))
        yield b"lazy"

    async with serving(checked(app)) as client:
        response = await client.get("/")
    assert (response.status_code, response.text) == (202, "lazy")


@pytest.mark.parametrize(
    "body", [[], [b""], [b"early"], iter([]), iter([b"early"])], ids=["[]", "[0]", "[1]", "0", "1"]
)
async def test_start_response_must_be_called(
    body: Iterable[bytes], log: pytest.LogCaptureFixture
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return body

    async with serving(app) as client:
        assert (await client.get("/")).status_code == 500
    expect_failure(log, "the application did not call start_response")


async def test_start_response_cannot_be_called_twice(log: pytest.LogCaptureFixture) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", list(TEXT))
        start_response("404 Not Found", list(TEXT), (None, None, None))
        return []

    async with serving(app) as client:
        assert (await client.get("/")).status_code == 500
    expect_failure(log, "start_response was called before, and now without exc_info")


def fails_after(*pieces: bytes) -> WSGIApplication:
    """Return an application that, having yielded `pieces`, fails and says so as PEP 3333 has it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT, ("X-First", "yes")])
        yield from pieces
        try:
            raise LookupError("out of stock")
        except LookupError:
            start_response("503 Sorry", list(TEXT), sys.exc_info())
        yield b"sorry"

    return app


@pytest.mark.parametrize("pieces", [[], [b"", b""]])
async def test_an_error_replaces_what_was_not_sent(pieces: list[bytes]) -> None:
    async with serving(checked(fails_after(*pieces))) as client:
        response = await client.get("/")
    assert (response.status_code, response.text) == (503, "sorry")
    assert "x-first" not in response.headers


async def test_an_error_after_something_was_sent_is_raised(log: pytest.LogCaptureFixture) -> None:
    async with serving(checked(fails_after(b"sent"))) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/")
    expect_failure(log, "out of stock")


@pytest.mark.parametrize(
    ("status", "header", "text"),
    [
        ("200OK", ("a", "b"), "a status is like '200 OK', not '200OK'"),
        ("", ("a", "b"), "a status is like '200 OK', not ''"),
        ("101 Switching Protocols", ("a", "b"), "a status is like '200 OK', not '101 Sw"),
        (200, ("a", "b"), "a status is a str, not 200"),
        ("200 OK", ("a", "€"), "headers are pairs of str, of Latin-1 characters"),
        ("200 OK", ("a", b"b"), "headers are pairs of str"),
        ("200 OK", (b"a", "b"), "headers are pairs of str"),
        ("200 OK", ("a", "b", "c"), "headers are pairs of str"),
        ("200 OK", ("content-length", "²"), "headers are pairs of str"),
        ("200 OK", None, "headers are pairs of str"),
        ("200 OK", ("Connection", "close"), "Connection is the server's to send"),
        ("200 OK", ("transfer-encoding", "chunked"), "transfer-encoding is the server's to send"),
        ("200 OK", ("a", "b\r\nc: d"), "control character"),
        ("200 OK", ("a b", "c"), "no field name"),
    ],
)
async def test_what_start_response_refuses(
    status: str, header: tuple[str, str], text: str, log: pytest.LogCaptureFixture
) -> None:
    async with serving(answering([b"never sent"], header, status=status)) as client:
        response = await client.get("/")
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    expect_failure(log, text)


async def test_a_status_needs_no_phrase_and_has_its_own() -> None:
    for status, line in [("404", b"404 Not Found"), ("200 Fine", b"200 OK"), ("299 ", b"299 ")]:
        answer = await raw_answer(
            answering([], status=status), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 " + line + b"\r\n")


# The body.


async def test_pieces_without_a_length_are_chunks() -> None:
    app = checked(answering(iter([b"", b"one", b"", b"two"])))
    answer = await raw_answer(app, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n"
        b"server: kestrel\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    )


async def test_pieces_without_a_length_end_an_http_10_connection() -> None:
    app = checked(answering(iter([b"one", b"two"])))
    answer = await raw_answer(app, b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    assert answer == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n"
        b"server: kestrel\r\n\r\nonetwo"
    )


class OneItem:
    """An iterable with a length, which is no list."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"whole"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], ""),
        ([b""], ""),
        ((b"one", b"", b"two"), "onetwo"),
        (OneItem(), "whole"),
        (iter([]), ""),
    ],
    ids=["[]", "[0]", "(3)", "len", "0"],
)
async def test_a_body_that_is_known_as_a_whole_has_a_length(
    body: Iterable[bytes], expected: str
) -> None:
    async with serving(answering(body)) as client:
        response = await client.get("/")
    assert response.text == expected
    assert response.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize(
    "body", [iter([b"whole"]), iter([b"", b"whole"]), iter([b"who", b"le"]), [b"who", b"le"]]
)
async def test_the_applications_own_length(body: Iterable[bytes]) -> None:
    async with serving(answering(body, ("Content-Length", "5"))) as client:
        response = await client.get("/")
        assert response.headers["content-length"] == "5"
        assert response.text == "whole"


async def test_a_piece_after_a_body_that_was_whole_is_a_failure(
    log: pytest.LogCaptureFixture,
) -> None:
    body = iter([b"whole", b"", b"more"])
    async with serving(checked(answering(body, ("Content-Length", "5")))) as client:
        assert (await client.get("/")).text == "whole"
    expect_failure(log, "the body is longer than its Content-Length")


async def test_a_body_longer_than_its_length_is_a_failure(log: pytest.LogCaptureFixture) -> None:
    body = iter([b"who", b"less"])
    async with serving(checked(answering(body, ("Content-Length", "5")))) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/")
    expect_failure(log, "longer than the 5 bytes")


async def test_a_body_shorter_than_its_length_is_a_failure(log: pytest.LogCaptureFixture) -> None:
    async with serving(answering(iter([b"who"]), ("Content-Length", "5"))) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/")
    expect_failure(log, "3 bytes of the 5")


async def test_a_whole_body_of_another_length_is_refused(log: pytest.LogCaptureFixture) -> None:
    async with serving(answering([b"who"], ("Content-Length", "5"))) as client:
        assert (await client.get("/")).status_code == 500
    expect_failure(log, "has 3 bytes, but Content-Length says 5")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (["text"], "bytes, not str"),
        (iter(["text"]), "bytes, not str"),
        ("text", "bytes, not str"),
        (b"bytes", "bytes, not int"),
        (None, "'NoneType' object is not iterable"),
    ],
)
async def test_what_is_no_body_is_a_failure(
    body: Iterable[bytes], text: str, log: pytest.LogCaptureFixture
) -> None:
    async with serving(answering(body)) as client:
        assert (await client.get("/")).status_code == 500
    expect_failure(log, text)


async def test_write_comes_before_the_iterable() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", list(TEXT))
        write(b"")
        write(b"written, ")
        write(b"twice, ")
        return [b"and ", b"returned"]

    async with serving(checked(app)) as client:
        response = await client.get("/")
    assert response.text == "written, twice, and returned"
    assert response.headers["transfer-encoding"] == "chunked"


async def test_writing_everything_and_returning_nothing() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "5")])(b"whole")
        return []

    async with serving(checked(app)) as client:
        assert (await client.get("/")).text == "whole"


async def test_a_file_is_sent_and_closed() -> None:
    file = io.BytesIO(b"x" * 200_000)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(TEXT))
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 8192)
        return wrapped

    async with serving(checked(app)) as client:
        assert (await client.get("/")).content == b"x" * 200_000
    assert file.closed


# Responses without a body.


def endless() -> Iterator[bytes]:
    while True:
        yield b"again"


async def test_head_has_the_length_of_a_whole_body() -> None:
    async with serving(checked(answering([b"whole"]))) as client:
        response = await client.head("/")
    assert (response.headers["content-length"], response.content) == ("5", b"")


@pytest.mark.parametrize("body", [[], iter([]), endless()], ids=["[]", "0", "endless"])
async def test_head_of_an_unknown_length_has_none(body: Iterable[bytes]) -> None:
    async with serving(checked(answering(body))) as client:
        response = await client.head("/")
    assert response.status_code == 200
    assert response.content == b""
    assert "content-length" not in response.headers


async def test_head_keeps_the_applications_length() -> None:
    async with serving(checked(answering([], ("Content-Length", "77")))) as client:
        assert (await client.head("/")).headers["content-length"] == "77"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("body", [[], [b""], iter([])], ids=["[]", "[0]", "0"])
async def test_statuses_without_a_body(status: str, body: Iterable[bytes]) -> None:
    async with serving(checked(answering(body, status=status, text=[]))) as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (int(status[:3]), b"")


@pytest.mark.parametrize("body", [[b"too much"], endless()], ids=["[1]", "endless"])
async def test_a_body_where_there_is_none_is_a_failure(
    body: Iterable[bytes], log: pytest.LogCaptureFixture
) -> None:
    async with serving(answering(body, status="204 No Content", text=[])) as client:
        assert (await client.get("/")).status_code == 500
    expect_failure(log, "a response 204 has no body")


# close.


class Body:
    """An iterable that knows whether it was closed, and how often."""

    def __init__(self, *pieces: bytes | Exception, at_close: Callable[[], object] = bool) -> None:
        self._pieces = pieces
        self._at_close = at_close
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1
        self._at_close()


async def test_the_iterable_is_closed() -> None:
    body = Body(b"one", b"two")
    async with serving(checked(answering(body))) as client:
        assert (await client.get("/")).text == "onetwo"
    assert body.closed == 1


@pytest.mark.parametrize("headers", [[], [("Content-Length", "5")]], ids=["chunked", "length"])
async def test_the_response_is_complete_before_the_iterable_is_closed(
    headers: list[tuple[str, str]],
) -> None:
    received = threading.Event()
    body = Body(b"whole", at_close=received.wait)
    async with serving(checked(answering(body, *headers))) as client:
        assert (await client.get("/")).text == "whole"
        assert active_thread_count() == 1
        received.set()
    assert body.closed == 1


@pytest.mark.parametrize("pieces", [[], [b"sent"]], ids=["before", "after"])
async def test_the_iterable_is_closed_when_it_fails(
    pieces: list[bytes], log: pytest.LogCaptureFixture
) -> None:
    body = Body(*pieces, LookupError("no more"))
    async with serving(checked(answering(body))) as client:
        if pieces:
            with pytest.raises(httpx.TransportError):
                await client.get("/")
        else:
            assert (await client.get("/")).status_code == 500
    assert body.closed == 1
    expect_failure(log, "no more")


async def test_the_iterable_is_closed_when_its_response_is_refused(
    log: pytest.LogCaptureFixture,
) -> None:
    body = Body(b"never sent")
    async with serving(answering(body, ("a b", "c"))) as client:
        assert (await client.get("/")).status_code == 500
    assert body.closed == 1
    expect_failure(log, "no field name")


async def test_a_failing_close_is_logged_and_the_connection_goes_on(
    log: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise LookupError("not closed")

    body = Body(b"whole", at_close=fail)
    async with serving(checked(answering(body, ("Content-Length", "5")))) as client:
        assert (await client.get("/")).text == "whole"
        assert [(await client.get("/")).text for _ in range(2)] == ["whole", "whole"]
    assert len(log.records) == 3
    log.clear()


# Failures.


async def test_a_failure_is_500_and_one_record(log: pytest.LogCaptureFixture) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", list(TEXT))
        raise LookupError("out of stock")

    async with serving(app) as client:
        response = await client.get("/x?y")
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    expect_failure(log, "out of stock", "GET /x?y")


async def test_sys_exit_ends_the_request_and_not_the_server(log: pytest.LogCaptureFixture) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/exit":
            sys.exit("enough")
        start_response("200 OK", list(TEXT))
        return [b"still here"]

    async with serving(app) as client:
        assert (await client.get("/exit")).status_code == 500
        expect_failure(log, "the application raised SystemExit", "GET /exit")
        assert (await client.get("/")).text == "still here"


# Connections.


async def test_requests_share_a_connection_one_after_the_other() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", list(TEXT))
        return [environ["PATH_INFO"].encode()]

    requests = b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(3))
    answer = await raw_answer(checked(app), requests)
    assert [part[:2] for part in answer.split(b"\r\n\r\n")[1:]] == [b"/0", b"/1", b"/2"]
