"""Faults that other servers had in where a message ends: requests smuggled, dropped or truncated.

Each test says the fault and where it was reported. The rejections themselves, rule by rule, are in
`test_http1_rejections`; here is what an attacker, or an honest client, would have got out of it.
"""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.http1_site import Disconnected, ServerLog, Serving, Site, answer, read_body
from tests.raw_client import GET, post, post_chunked, request

SMUGGLED = request(first=b"GET /smuggled HTTP/1.1")
NEXT = request(first=b"GET /next HTTP/1.1")


class Noting:
    """Answers with what it is to do with the body, and notes what it was called for."""

    def __init__(self, *, read: bool = True) -> None:
        self.read = read
        self.served: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        if self.read:
            try:
                body = await read_body(receive)
            except Disconnected:
                return
        self.served.append((scope["method"] + " " + scope["path"], body))
        await answer(send, body)


async def end_of(site: Site) -> None:
    """Wait until the server has given up on the only client."""
    with trio.fail_after(100):
        await site.all_ended()


async def expect_refused(
    sent: bytes, status: int, reason: EndReason, serving: Serving, log: ServerLog
) -> None:
    """Nothing of it reaches the application; the client is told once, and then nothing more."""
    app = Noting()
    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(sent)
        assert (response.status, response.keeps_alive) == (status, False)
        assert await client.receive_rest() == b""
        await client.aclose()
        await end_of(site)
    assert app.served == []
    assert log.ends == [reason]


# Bodies that nobody reads -----------------------------------------------------------------------

UNREAD = {
    "length": post(SMUGGLED),
    "chunked": post_chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    "trailers": post_chunked(b"0\r\nx: GET /smuggled HTTP/1.1\r\n\r\n"),
    "GET": request(b"content-length: %d" % len(SMUGGLED), body=SMUGGLED),
}


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("paused_at", [None, 20, 70, -1], ids=["whole", "line", "body", "end"])
async def test_an_unread_body_is_not_taken_for_requests(
    kind: str, paused_at: int | None, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """What an application leaves of a body is served as the next request (gunicorn #3614)."""
    app = Noting(read=False)
    sent = UNREAD[kind]
    async with serving(app) as site:
        client = await site.connect()
        await client.send(sent[:paused_at])
        await trio.sleep(1)
        await client.send((b"" if paused_at is None else sent[paused_at:]) + NEXT)
        assert [(await client.receive()).status for _ in range(2)] == [200, 200]
        assert await client.received_by_now() == b""
    assert [path.partition(" ")[2] for path, _ in app.served] == ["/", "/next"]


async def test_a_body_that_is_not_read_to_its_end_is_not_taken_for_requests(
    serving: Serving, log: ServerLog
) -> None:
    """The same, where the application stops in the middle (gunicorn #3614)."""
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await receive()
        await answer(send)

    async with serving(app) as site:
        client = await site.connect()
        chunk = b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED)
        await client.send(post_chunked(b"1\r\nx\r\n"))
        assert (await client.receive()).status == 200
        await client.send(chunk * 3 + b"0\r\n\r\n" + NEXT)
        assert (await client.receive()).status == 200
        assert await client.received_by_now() == b""
    assert served == ["/", "/next"]


# Requests that come together --------------------------------------------------------------------


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
async def test_a_request_in_one_segment_with_another_is_served(
    read: bool, serving: Serving, log: ServerLog
) -> None:
    """A request that comes together with the one before, or with its body, is dropped, and the
    client waits for an answer (gunicorn #3727)."""
    app = Noting(read=read)
    async with serving(app) as site:
        for first in (GET, post(b"hello"), post_chunked(b"5\r\nhello\r\n0\r\n\r\n")):
            client = await site.connect(byte_by_byte=False)
            await client.send(first + NEXT)
            with trio.fail_after(5):
                for _ in range(2):
                    assert (await client.receive()).status == 200
            assert app.served.pop()[0] == "GET /next"

            await client.send(first[:-1])
            await wait_all_tasks_blocked()
            await client.send(first[-1:] + NEXT + NEXT)
            with trio.fail_after(5):
                for _ in range(3):
                    assert (await client.receive()).status == 200
            assert app.served.pop()[0] == "GET /next"


@pytest.mark.parametrize("coded", [False, True], ids=["plain", "said to be chunked"])
@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"HEAD / HTTP/1.1", 200),
        (b"GET / HTTP/1.1", 204),
        (b"GET / HTTP/1.1", 304),
        (b"HEAD / HTTP/1.1", 404),
    ],
)
async def test_a_response_without_a_body_is_followed_by_the_next(
    first: bytes, status: int, coded: bool, serving: Serving, log: ServerLog
) -> None:
    """The last chunk of an empty body follows a response that can have none, and the client takes it
    for the beginning of the next (gunicorn #3614, #1079)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"transfer-encoding", b"chunked")] if coded else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        client = await site.connect()
        await client.send(request(first=first) * 3)
        received = await client.received_by_now()
    heads = received.split(b"\r\n\r\n")
    assert heads.pop() == b""
    assert [head[:13] for head in heads] == [b"HTTP/1.1 %d " % status] * 3


# Two lengths, or none that can be --------------------------------------------------------------


async def test_a_body_of_two_framings_is_refused(serving: Serving, log: ServerLog) -> None:
    """Content-Length beside Transfer-Encoding is obeyed or ignored, unlike by the proxy in front
    (hypercorn #279)."""
    sent = post_chunked(b"0\r\n\r\n" + SMUGGLED, b"content-length: 4")
    await expect_refused(sent, 400, EndReason.INVALID_REQUEST_HEADERS, serving, log)


@pytest.mark.parametrize(
    ("length", "status", "reason"),
    [
        (b"9" * 46, 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"9" * 20, 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"9223372036854775808", 413, EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED),
        (b"18446744073709551617", 400, EndReason.INVALID_REQUEST_HEADERS),
        (b"4294967297", 413, EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED),
    ],
    ids=["46 digits", "20 digits", "2**63", "2**64 + 1", "2**32 + 1"],
)
async def test_an_immense_length_is_refused_at_once(
    length: bytes,
    status: int,
    reason: EndReason,
    serving: Serving,
    log: ServerLog,
    autojump_clock: MockClock,
) -> None:
    """A Content-Length beyond all bounds is believed, and the body waited for (hypercorn #284), or
    overflows (uwsgi #2775)."""
    sent = request(b"content-length: " + length, first=b"POST / HTTP/1.1", body=b"Hello,world")
    await expect_refused(sent, status, reason, serving, log)
    assert autojump_clock.current_time() < 0.1


async def test_what_is_beyond_the_length_is_no_part_of_the_body(
    serving: Serving, log: ServerLog
) -> None:
    """A body that is longer than its Content-Length is taken whole, or what is left over is let pass
    (hypercorn #282)."""
    app = Noting()
    async with serving(app) as site:
        client = await site.connect()
        sent = request(b"content-length: 5", first=b"POST / HTTP/1.1", body=b"hello, world\r\n\r\n")
        assert (await client.ask(sent + SMUGGLED)).body == b"hello"
        assert (await client.receive()).status == 400
        assert await client.receive_rest() == b""
        await client.aclose()
        await end_of(site)
    assert app.served == [("POST /", b"hello")]
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


# Chunks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\r\r0\r\n\r\n",
        b"5\r\nhello\n\n0\r\n\r\n",
        b"5\r\nhello\n\r0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        # A proxy that takes "XX" for a line end sees one request here, and another server two.
        b"5\r\nhelloXX2\r\n45\r\n0\r\n\r\n" + SMUGGLED + b"0\r\n\r\n",
    ],
)
async def test_a_chunk_ends_with_a_line_end(
    chunks: bytes, serving: Serving, log: ServerLog
) -> None:
    """Any two bytes are taken for the line end after a chunk's data (h11 GHSA-vqfr-h8mv-ghfj)."""
    sent = post_chunked(chunks + SMUGGLED)
    await expect_refused(sent, 400, EndReason.INVALID_BODY_FRAMING, serving, log)


@pytest.mark.parametrize("ending", [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"x\ny", b"x\ry", b"\0"])
@pytest.mark.parametrize("extension", [b"", b"a=", b'a="', b"\t"])
async def test_a_chunk_extension_ends_with_a_line_end_and_contains_none(
    ending: bytes, extension: bytes, serving: Serving, log: ServerLog
) -> None:
    """A lone CR or LF in a chunk extension is skipped, where a proxy in front takes it for the end
    of the line (CVE-2025-55315 of Kestrel, gunicorn #3327)."""
    # To whoever takes the lone LF for a line end, the chunk has two bytes and the rest is a request.
    rest = b"xx\r\n%x\r\n0\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    sent = post_chunked(b"2;" + extension + ending + rest + b"\r\n0\r\n\r\n")
    await expect_refused(sent, 400, EndReason.INVALID_BODY_FRAMING, serving, log)


# Heads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        [b"useless:\n\nGET /smuggled HTTP/1.1\nhost: a"],
        [b"useless: \nGET /smuggled HTTP/1.1"],
        [b"useless: x\r\rGET /smuggled HTTP/1.1\rhost: a"],
        [b"useless: x\0y"],
        [b"transfer-encoding : chunked", b"content-length: 0"],
        [b"transfer-encoding\t: chunked", b"content-length: 0"],
        [b"x: y", b" transfer-encoding: chunked"],
        [b"content-length: 5", b"content-length:", b" 6"],
    ],
)
async def test_a_field_is_one_line(lines: list[bytes], serving: Serving, log: ServerLog) -> None:
    """A line end, or a blank where none belongs, hides a field, or a request, from one of two who
    read the same head (gunicorn #3144, glaze #2661, netty #9866)."""
    sent = request(*lines, first=b"POST / HTTP/1.1", body=SMUGGLED)
    await expect_refused(sent, 400, EndReason.INVALID_REQUEST_HEADERS, serving, log)


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.0\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"CONNECT http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\ncontent-length: 4\r\n\r\nGET ",
    ],
)
async def test_connect_is_no_request_to_an_application(
    sent: bytes, serving: Serving, log: ServerLog
) -> None:
    """CONNECT is served as if it were a request for a path, and what the client then sends through
    its tunnel as further requests (hypercorn #277)."""
    app = Noting()
    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(sent + SMUGGLED)
        assert response.status in (400, 405, 501)
        assert not response.keeps_alive
        assert await client.receive_rest() == b""
        await client.aclose()
        await end_of(site)
    assert app.served == []


@pytest.mark.parametrize(
    "lines",
    [
        [b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ"],
        [b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"],
    ],
    ids=["h2c", "websocket"],
)
async def test_a_body_behind_an_offer_to_upgrade_arrives(
    lines: list[bytes], serving: Serving, log: ServerLog
) -> None:
    """The body of a request that also offers to upgrade is lost (vllm #57203, uvicorn #2722), or the
    bytes behind such a request end the whole server (hypercorn #225)."""
    app = Noting()
    async with serving(app) as site:
        client = await site.connect()
        assert (await client.ask(post(b"hello", *lines))).body == b"hello"
        sent = post_chunked(b"5\r\nhello\r\n0\r\n\r\n", *lines)
        await client.send(sent[:-10])
        await wait_all_tasks_blocked()
        assert (await client.ask(sent[-10:])).body == b"hello"
        assert (await client.ask(request(*lines) + b"x\r\n")).status == 200
        assert (await client.receive()).status == 400
        neighbour = await site.connect()
        assert (await neighbour.ask(GET)).status == 200
    assert [path for path, _ in app.served] == ["POST /", "POST /", "GET /", "GET /"]
