"""Flask, on the real server: what a framework makes of the environ, and of the rules."""

import hashlib
import io
import logging
from collections.abc import AsyncGenerator, Generator, Iterator
from wsgiref.validate import validator

import httpx
import pytest
from flask import (
    Flask,
    Response,
    after_this_request,
    redirect,
    request,
    send_file,
    session,
    stream_with_context,
    url_for,
)
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response as WerkzeugResponse

from kestrel_core.limits import Limits
from kestrel_core.testing import open_server
from kestrel_protocols.http1 import Http1
from kestrel_protocols.wsgi import WsgiApplication

app = Flask(__name__)
app.secret_key = "not one"
closed: list[str] = []


@app.get("/")
def front() -> str:
    return "Hello"


@app.route("/<name>/told", methods=["GET", "POST"])
def told(name: str) -> dict[str, object]:
    return {
        "name": name,
        "method": request.method,
        "url": request.url,
        "root": request.root_path,
        "q": request.args.getlist("q"),
        "agent": request.headers.get("user-agent"),
        "address": request.remote_addr,
        "link": url_for("told", name="ç", _external=True),
    }


@app.post("/form")
def form() -> dict[str, object]:
    file = request.files["file"]
    digest = hashlib.sha256()
    while block := file.read(10_000):
        digest.update(block)
    return {"field": request.form["field"], "name": file.filename, "sha256": digest.hexdigest()}


@app.post("/shout")
def shout() -> Response:
    def lines() -> Iterator[bytes]:
        for line in request.stream:
            yield line.upper()

    return Response(stream_with_context(lines()), mimetype="text/plain")


@app.get("/stream")
def stream() -> Response:
    response = Response((f"{number}\n" for number in range(3)), mimetype="text/plain")
    response.call_on_close(lambda: closed.append("stream"))
    return response


@app.get("/file")
def file() -> Response:
    return send_file(io.BytesIO(b"0123456789" * 20_000), mimetype="text/plain")


@app.get("/count")
def count() -> Response | str:
    session["count"] = session.get("count", 0) + 1

    @after_this_request
    def add_another(response: Response) -> Response:
        response.set_cookie("another", "yes")
        return response

    return str(session["count"])


@app.get("/away")
def away() -> WerkzeugResponse:
    return redirect(url_for("front"))


@app.get("/fail")
def fail() -> str:
    raise LookupError("out of stock")


@app.errorhandler(RequestEntityTooLarge)
def too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
    return "too much for the application", 413


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Generator[pytest.LogCaptureFixture]:
    """What was logged: nothing, but for what a test has taken from here."""
    closed.clear()
    yield caplog
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    application = WsgiApplication(validator(app))
    endpoint = "memory://flask?client=203.0.113.7:4711"
    async with (
        open_server(Http1(application), endpoint=endpoint) as opened,
        opened.httpx_client() as client,
    ):
        yield client


async def test_an_ordinary_page_has_a_length(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.text == "Hello"
    assert response.headers["content-length"] == "5"
    head = await client.head("/")
    assert (head.headers["content-length"], head.content) == ("5", b"")


async def test_what_the_application_is_told(client: httpx.AsyncClient) -> None:
    response = await client.get("/Zoë/told?q=a%20b&q=%E2%82%AC", headers={"user-agent": "me"})
    assert response.json() == {
        "name": "Zoë",
        "method": "GET",
        "url": "http://testserver/Zoë/told?q=a%20b&q=€",
        "root": "",
        "q": ["a b", "€"],
        "agent": "me",
        "address": "203.0.113.7",
        "link": "http://testserver/%C3%A7/told",
    }


async def test_below_a_root_path() -> None:
    application = WsgiApplication(validator(app), root_path="/shop")
    async with open_server(Http1(application)) as opened, opened.httpx_client() as client:
        told = (await client.get("/x/told")).json()
    assert (told["root"], told["link"]) == ("/shop", "http://testserver/shop/%C3%A7/told")


async def test_a_form_with_a_file(client: httpx.AsyncClient) -> None:
    content = b"x" * 1_000_000
    response = await client.post(
        "/form", data={"field": "é"}, files={"file": ("big.txt", content, "text/plain")}
    )
    assert response.json() == {
        "field": "é",
        "name": "big.txt",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


async def chunks() -> AsyncGenerator[bytes]:
    yield b"one\ntw"
    yield b"o\n"


async def test_a_chunked_body_is_streamed_both_ways(client: httpx.AsyncClient) -> None:
    response = await client.post("/shout", content=chunks())
    assert response.text == "ONE\nTWO\n"
    assert response.headers["transfer-encoding"] == "chunked"


async def test_a_streamed_response_is_closed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/stream")).text == "0\n1\n2\n"
    assert (await client.get("/")).text == "Hello"  # on the same connection, so after closing
    assert closed == ["stream"]


async def test_a_file(client: httpx.AsyncClient) -> None:
    assert (await client.get("/file")).content == b"0123456789" * 20_000
    part = await client.get("/file", headers={"range": "bytes=10-14"})
    assert (part.status_code, part.text) == (206, "01234")


async def test_cookies(client: httpx.AsyncClient) -> None:
    assert [(await client.get("/count")).text for _ in range(3)] == ["1", "2", "3"]
    assert set(client.cookies) == {"session", "another"}


async def test_redirects_and_wrong_methods(client: httpx.AsyncClient) -> None:
    assert (await client.get("/away")).headers["location"] == "/"
    assert (await client.delete("/")).status_code == 405
    options = await client.options("/")
    assert {"GET", "HEAD", "OPTIONS"} == set(options.headers["allow"].split(", "))
    assert (await client.get("/nowhere")).status_code == 404


async def test_the_frameworks_own_500(
    client: httpx.AsyncClient, log: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/fail")
    assert response.status_code == 500
    assert "Internal Server Error" in response.text
    [record] = log.records
    assert (record.name, record.levelno) == (app.name, logging.ERROR)
    log.clear()


async def test_the_servers_limit_comes_first(log: pytest.LogCaptureFixture) -> None:
    """Flask takes what reading raises for a failure of its own and logs it, but is not heard.

    It reads without a size, which the validator would not have.
    """
    application = WsgiApplication(app)
    limits = Limits(max_request_body_bytes=1000)
    async with (
        open_server(Http1(application), limits=limits) as opened,
        opened.httpx_client() as client,
    ):
        response = await client.post("/form", data={"field": "x" * 2000})
    assert response.status_code == 413
    assert response.content == b""
    log.clear()
