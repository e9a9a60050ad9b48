"""Requests with faults that a server was told to tolerate, and what then comes of them."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.testing import open_server
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import HttpApplication, HttpExchange
from kestrel_protocols.http1 import Http1, Leniency
from tests.http1_site import ServerLog, Site, answer, echo, read_body
from tests.raw_client import GET, post, post_chunked, request

BARE = Leniency.BARE_LINE_FEED
FOLDED = Leniency.OBSOLETE_LINE_FOLDING
LENGTH_TOO = Leniency.LENGTH_WITH_TRANSFER_ENCODING
REPEATED = Leniency.REPEATED_CONTENT_LENGTH
SPACES = Leniency.SPACES_IN_REQUEST_LINE
OVERRIDE = Leniency.ABSOLUTE_TARGET_OVERRIDES_HOST


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's fields and body."""
    body = await read_body(receive)
    lines = [b"%b: %b" % field for field in scope["headers"]]
    await answer(send, b"\n".join([scope["path"].encode(), *lines, body]))


@attrs.frozen
class LenientSite(Site):
    """A site whose server tolerates some faults."""

    http1: Http1


Tolerating = Callable[..., AbstractAsyncContextManager[LenientSite]]


@pytest.fixture(params=["at once", "byte by byte"], name="tolerating")
def tolerating_(request: pytest.FixtureRequest) -> Tolerating:
    @asynccontextmanager
    async def serve(
        *lenient: Leniency,
        app: AsgiApp = tell,
        native: HttpApplication | None = None,
        limits: Limits | None = None,
    ) -> AsyncGenerator[LenientSite]:
        http1 = Http1(native or AsgiApplication(app), lenient=lenient)
        async with open_server(http1, limits=limits) as opened:
            yield LenientSite(opened, request.param == "byte by byte", http1)
        assert not opened.server.connections

    return serve


def take_uses(log: ServerLog) -> list[str]:
    """Return what was logged about leniencies, for each use one record, and forget it."""
    uses: list[str] = []
    for record in log.records:
        assert (record.name, record.levelno) == ("kestrel.http", logging.DEBUG)
        assert vars(record)["connection_id"]
        uses.append(record.getMessage())
    log.records.clear()
    return uses


@pytest.mark.parametrize(
    ("leniency", "sent", "told"),
    [
        (BARE, GET.replace(b"\r\n", b"\n"), b"/\nhost: a\n"),
        (BARE, b"\n" + GET.replace(b"\r\n", b"\n"), b"/\nhost: a\n"),
        (BARE, b"\r\n\n\r\n\n" + GET.replace(b"\r\n", b"\n"), b"/\nhost: a\n"),
        (BARE, b"GET / HTTP/1.1\r\nhost: a\nx: y\n\r\n", b"/\nhost: a\nx: y\n"),
        (
            BARE,
            post(b"\n\nx\r\n").replace(b"\r\n", b"\n", 4),
            b"/\nhost: a\ncontent-length: 5\n\n\nx\r\n",
        ),
        (FOLDED, request(b"x: y", b"\tz"), b"/\nhost: a\nx: y z\n"),
        (REPEATED, post(b"x", b"content-length: 1"), b"/\nhost: a\ncontent-length: 1\nx"),
        (SPACES, request(first=b"GET   /a  HTTP/1.1 "), b"/a\nhost: a\n"),
        (OVERRIDE, request(first=b"GET http://b/a HTTP/1.1"), b"/a\nhost: b\n"),
    ],
    ids=repr,
)
async def test_what_is_tolerated_is_served(
    leniency: Leniency, sent: bytes, told: bytes, tolerating: Tolerating, log: ServerLog
) -> None:
    async with tolerating(leniency) as site:
        client = await site.connect()
        for count in (1, 2):
            response = await client.ask(sent)
            assert (response.status, response.body) == (200, told)
            assert response.keeps_alive
            assert site.http1.tolerated == {leniency: count}
            assert take_uses(log) == [f"tolerated {leniency.value}"]
        assert (await client.ask(GET)).status == 200
        assert site.http1.tolerated == {leniency: 2}
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]


async def test_chunks_win_over_a_length_and_the_connection_ends(
    tolerating: Tolerating, log: ServerLog
) -> None:
    async with tolerating(LENGTH_TOO) as site:
        client = await site.connect()
        sent = post_chunked(b"5\r\nhello\r\n0\r\n\r\n", b"content-length: 3")
        await client.send(sent + GET)
        response = await client.receive()
        assert response.body == b"/\nhost: a\ntransfer-encoding: chunked\nhello"
        assert not response.keeps_alive
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
        assert site.http1.tolerated == {LENGTH_TOO: 1}
    assert take_uses(log) == ["tolerated length_with_transfer_encoding"]


async def test_several_at_once(tolerating: Tolerating, log: ServerLog) -> None:
    async with tolerating(BARE, FOLDED, SPACES) as site:
        client = await site.connect()
        response = await client.ask(b"GET  / HTTP/1.1\nhost: a\nx: y\n z\n\n")
        assert response.body == b"/\nhost: a\nx: y z\n"
        assert site.http1.tolerated == {BARE: 1, FOLDED: 1, SPACES: 1}
    assert len(take_uses(log)) == 3


async def test_counts_are_of_all_connections(tolerating: Tolerating, log: ServerLog) -> None:
    async with tolerating(SPACES) as site:
        for _ in range(3):
            client = await site.connect()
            assert (await client.ask(request(first=b"GET  / HTTP/1.1"))).status == 200
            await client.aclose()
        assert site.http1.tolerated == {SPACES: 3}
    ids = {vars(record)["connection_id"] for record in log.records}
    assert len(ids) == 3
    assert len(take_uses(log)) == 3


# Line ends --------------------------------------------------------------------------------------

WITH_LF = GET.replace(b"\r\n", b"\n")


async def test_pipelined(tolerating: Tolerating, log: ServerLog) -> None:
    """Each head is taken by its own line ends, and what is between them is not touched."""
    body = b"a\nb\r\n\n\r\n\r\n"
    posted = post(body)
    posted_with_lf = posted.removesuffix(body).replace(b"\r\n", b"\n") + body
    sent = [GET, WITH_LF, posted, WITH_LF, posted_with_lf, GET, WITH_LF, posted_with_lf, b"\n", GET]
    async with tolerating(BARE, app=echo) as site:
        client = await site.connect()
        await client.send(b"".join(sent))
        bodies = [(await client.receive()).body for _ in range(9)]
        empty, full = b"/ ", b"/ " + body
        assert bodies == [empty, empty, full, empty, full, empty, empty, full, empty]
        await client.aclose()
        await site.all_ended()
        assert site.http1.tolerated == {BARE: 6}  # one for the blank line
    assert log.ends == [EndReason.PEER_CLOSED]
    take_uses(log)


@pytest.mark.parametrize("first", [WITH_LF, b"\n\n\n\n", b"\r\n\n"], ids=repr)
async def test_what_is_wrong_behind_it_is_refused(
    first: bytes, tolerating: Tolerating, log: ServerLog
) -> None:
    async with tolerating(BARE) as site:
        client = await site.connect()
        await client.send(first + b"GET / HTTP/3.0\n\n" + b"x" * 100)
        if first == WITH_LF:
            assert (await client.receive()).status == 200
        assert (await client.receive()).status == 505
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_HTTP_VERSION]
    take_uses(log)


@pytest.mark.parametrize(
    "chunks",
    [
        b"1\nx\r\n0\r\n\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"1;a\nx\r\n0\r\n\r\n",
        b"0\n\r\n",
        b"0\r\n\n",
        b"0\r\nx: y\n\r\n",
        b"0\r\nx: y\r\n z\r\n\r\n",
    ],
    ids=repr,
)
async def test_not_in_chunks_and_trailers(
    chunks: bytes, tolerating: Tolerating, log: ServerLog
) -> None:
    async with tolerating(*Leniency, app=echo) as site:
        client = await site.connect()
        assert (await client.ask(post_chunked(chunks))).status == 400
        await client.aclose()
        await site.all_ended()
        assert set(site.http1.tolerated.values()) == {0}


async def test_only_a_few_blank_lines(tolerating: Tolerating, log: ServerLog) -> None:
    async with tolerating(BARE) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(b"\n" * 4 + WITH_LF)).status == 200
        await client.send(b"\n" * 12 + GET)
        assert (await client.receive()).status == 400
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]
    take_uses(log)


async def test_a_blank_line_is_not_the_beginning_of_a_request(
    tolerating: Tolerating, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with tolerating(BARE, app=echo) as site:
        client = await site.connect()
        assert (await client.ask(post(b"x") + b"\n")).status == 200
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"GET / HT", 408, EndReason.REQUEST_HEADERS_TIMEOUT),
        (WITH_LF[:-1], 408, EndReason.REQUEST_HEADERS_TIMEOUT),
        (b"GET / HTTP/2.0\n", 505, EndReason.INVALID_HTTP_VERSION),
        (
            b"GET / HTTP/1.1\nx: " + b"y" * 130,
            431,
            EndReason.MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED,
        ),
        (b"G" * 64, 414, EndReason.MAX_REQUEST_LINE_EXCEEDED),
        (
            b"GET / HTTP/1.1\n" + b"x:\n" * 5 + b"\n",
            431,
            EndReason.MAX_REQUEST_HEADER_COUNT_EXCEEDED,
        ),
        (b"GET / HTTP/1.1\nx : y\n\n", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"GET / HTTP/1.1\rhost: a\n\n", 400, EndReason.INVALID_REQUEST_LINE),
    ],
    ids=repr,
)
async def test_what_is_still_refused(
    sent: bytes,
    status: int,
    reason: EndReason,
    tolerating: Tolerating,
    log: ServerLog,
    autojump_clock: MockClock,
) -> None:
    limits = Limits(
        max_request_line_bytes=64, max_request_headers_bytes=128, max_request_header_count=4
    )
    async with tolerating(*Leniency, limits=limits) as site:
        client = await site.connect()
        assert (await client.ask(sent)).status == status
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
        assert set(site.http1.tolerated.values()) == {0}
    assert log.ends == [reason]


async def test_a_head_that_ends_early(tolerating: Tolerating, log: ServerLog) -> None:
    async with tolerating(BARE) as site:
        client = await site.connect()
        await client.send(WITH_LF[:-1])
        await client.send_eof()
        assert (await client.receive()).status == 400
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT]


async def test_what_follows_is_there_for_an_upgrade(tolerating: Tolerating, log: ServerLog) -> None:
    async def tunnel(exchange: HttpExchange) -> None:
        assert (exchange.target, exchange.path) == (b"a:80", "")
        pipe = await exchange.upgrade()
        await pipe.output.send(b"".join([piece async for piece in pipe.input]))

    async with tolerating(BARE, native=tunnel) as site:
        client = await site.connect()
        await client.send(b"CONNECT a:80 HTTP/1.1\nhost: a:80\n\nraw\r\n\n\r\nbytes")
        await client.send_eof()
        assert (await client.receive_head())[0] == 200
        assert await client.receive_rest() == b"raw\r\n\n\r\nbytes"
        await client.aclose()
    take_uses(log)


async def test_who_waits_for_the_client_to_leave(tolerating: Tolerating, log: ServerLog) -> None:
    """Waiting for that reads ahead, which must not lose the request that follows."""
    left: list[bool] = []

    async def wait(exchange: HttpExchange) -> None:
        with trio.move_on_after(0.01):
            await exchange.wait_disconnected()
            left.append(True)
        await exchange.respond(200, [], exchange.target)

    async with tolerating(BARE, native=wait) as site:
        client = await site.connect()
        for target in (b"/1", b"/2", b"/3"):
            await client.send(b"GET %b HTTP/1.1\nhost: a\n\n" % target)
        assert [(await client.receive()).body for _ in range(3)] == [b"/1", b"/2", b"/3"]
        await client.aclose()
    assert not left
    take_uses(log)
