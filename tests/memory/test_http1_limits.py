"""Limits on what a client may send, at the exact byte."""

import pytest
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from tests.http1_site import ServerLog, Serving, echo, hello
from tests.raw_client import GET, post, post_chunked, request

SMALL = Limits(
    max_request_line_bytes=64,
    max_request_headers_bytes=128,
    max_request_header_count=4,
    max_request_body_bytes=20,
)
DEFAULT = Limits()

LINE_TOO_LONG = EndReason.MAX_REQUEST_LINE_EXCEEDED
HEADERS_TOO_LARGE = EndReason.MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED
TOO_MANY_HEADERS = EndReason.MAX_REQUEST_HEADER_COUNT_EXCEEDED
BODY_TOO_LARGE = EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED


def line_of(size: int) -> bytes:
    """Return a request line of that size, with its line end."""
    return b"GET /" + b"x" * (size - 16) + b" HTTP/1.1\r\n"


def headers_of(size: int) -> bytes:
    """Return field lines of that size together, with the blank line."""
    return b"host: a\r\nx: " + b"y" * (size - 16) + b"\r\n\r\n"


def fields(count: int) -> bytes:
    return request(*[b"x: y"] * (count - 1))


async def expect(
    sent: bytes,
    status: int,
    reason: EndReason,
    serving: Serving,
    log: ServerLog,
    limits: Limits = SMALL,
) -> None:
    """Send that, and nothing more: it is served, or refused and the connection ended."""
    async with serving(echo, limits=limits) as site:
        client = await site.connect()
        response = await client.ask(sent)
        assert response.status == status
        assert response.keeps_alive == (status == 200)
        if status == 200:
            assert (await client.ask(GET)).status == 200
        else:
            assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert log.ends == [reason]


async def expect_ok(sent: bytes, serving: Serving, log: ServerLog, limits: Limits = SMALL) -> None:
    await expect(sent, 200, EndReason.PEER_CLOSED, serving, log, limits)


# Request lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [b"", b"\r\n", b"\r\n\r\n\r\n"], ids=["", "blank", "3 blank"])
async def test_longest_request_line(blank: bytes, serving: Serving, log: ServerLog) -> None:
    await expect_ok(blank + line_of(64) + headers_of(128), serving, log)


@pytest.mark.parametrize("blank", [b"", b"\r\n"], ids=["", "blank"])
@pytest.mark.parametrize("rest", [b"", headers_of(128)], ids=["alone", "with headers"])
async def test_request_line_too_long(
    blank: bytes, rest: bytes, serving: Serving, log: ServerLog
) -> None:
    await expect(blank + line_of(65) + rest, 414, LINE_TOO_LONG, serving, log)


async def test_request_line_that_cannot_end_in_time(serving: Serving, log: ServerLog) -> None:
    await expect(b"G" * 64, 414, LINE_TOO_LONG, serving, log)


async def test_request_line_of_a_second_request(serving: Serving, log: ServerLog) -> None:
    async with serving(limits=SMALL) as site:
        client = await site.connect()
        await client.send(GET + line_of(65))
        assert [(await client.receive()).status for _ in range(2)] == [200, 414]
        await client.aclose()
        await site.all_ended()
    assert log.ends == [LINE_TOO_LONG]


@pytest.mark.parametrize(
    ("size", "status"), [(8192, 200), (8193, 414)], ids=["longest", "too long"]
)
async def test_default_request_line(
    size: int, status: int, serving: Serving, log: ServerLog
) -> None:
    """Kestrel's: 8 KiB with the line end."""
    reason = EndReason.PEER_CLOSED if status == 200 else LINE_TOO_LONG
    await expect(line_of(size) + headers_of(100), status, reason, serving, log, DEFAULT)


# Header fields ----------------------------------------------------------------------------------


async def test_largest_headers(serving: Serving, log: ServerLog) -> None:
    await expect_ok(line_of(64) + headers_of(128), serving, log)


@pytest.mark.parametrize("arrived", [128, 129], ids=["so far", "complete"])
async def test_headers_too_large(arrived: int, serving: Serving, log: ServerLog) -> None:
    sent = line_of(30) + headers_of(129)[:arrived]
    await expect(sent, 431, HEADERS_TOO_LARGE, serving, log)


@pytest.mark.parametrize(
    ("size", "status"), [(32768, 200), (32769, 431)], ids=["largest", "too large"]
)
async def test_default_headers(size: int, status: int, log: ServerLog, serving: Serving) -> None:
    """Kestrel's: 32 KiB with the blank line."""
    if size > 32768:
        await expect(line_of(99) + headers_of(size), 431, HEADERS_TOO_LARGE, serving, log, DEFAULT)
    else:
        await expect_ok(line_of(99) + headers_of(size), serving, log, DEFAULT)


async def test_most_fields(serving: Serving, log: ServerLog) -> None:
    await expect_ok(fields(4), serving, log)


async def test_too_many_fields(serving: Serving, log: ServerLog) -> None:
    await expect(fields(5), 431, TOO_MANY_HEADERS, serving, log)


async def test_default_field_count(serving: Serving, log: ServerLog) -> None:
    """Apache's, and Kestrel's: 100."""
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(fields(100))).status == 200
        assert (await client.ask(fields(101))).status == 431
        await client.aclose()
        await site.all_ended()
    assert log.ends == [TOO_MANY_HEADERS]


# Trailers share what the headers left -------------------------------------------------------------


def chunked_with_trailers(size: int) -> bytes:
    """Return a request whose headers, with the blank line, have 39 bytes and its trailers `size`."""
    return post_chunked(b"1\r\nx\r\n0\r\nx: " + b"y" * (size - 7) + b"\r\n\r\n")


async def test_largest_trailers(serving: Serving, log: ServerLog) -> None:
    await expect_ok(chunked_with_trailers(128 - 39), serving, log)


async def test_trailers_too_large(serving: Serving, log: ServerLog) -> None:
    await expect(chunked_with_trailers(129 - 39), 431, HEADERS_TOO_LARGE, serving, log)


async def test_most_trailer_fields(serving: Serving, log: ServerLog) -> None:
    await expect_ok(post_chunked(b"0\r\na: b\r\nc: d\r\n\r\n"), serving, log)


async def test_too_many_trailer_fields(serving: Serving, log: ServerLog) -> None:
    sent = post_chunked(b"0\r\na: b\r\nc: d\r\ne: f\r\n\r\n")
    await expect(sent, 431, TOO_MANY_HEADERS, serving, log)


# Bodies -----------------------------------------------------------------------------------------


async def test_largest_body(serving: Serving, log: ServerLog) -> None:
    await expect_ok(post(b"x" * 20), serving, log)


async def test_body_too_large(serving: Serving, log: ServerLog) -> None:
    await expect(post(b"x" * 21), 413, BODY_TOO_LARGE, serving, log)


async def test_body_too_large_is_refused_before_it_comes(serving: Serving, log: ServerLog) -> None:
    await expect(request(b"content-length: 21"), 413, BODY_TOO_LARGE, serving, log)


async def test_body_too_large_is_not_asked_for(serving: Serving, log: ServerLog) -> None:
    sent = request(b"content-length: 21", b"expect: 100-continue")
    await expect(sent, 413, BODY_TOO_LARGE, serving, log)


# Eleven bytes of framing: "9\r\n" and "\r\n", "0\r\n\r\n"; the last line end counts as a header's.
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n"


async def test_largest_chunked_body(serving: Serving, log: ServerLog) -> None:
    await expect_ok(post_chunked(CHUNKS % (12, b"x" * 12)), serving, log)


async def test_chunked_body_too_large(serving: Serving, log: ServerLog) -> None:
    await expect(post_chunked(CHUNKS % (13, b"x" * 13)), 413, BODY_TOO_LARGE, serving, log)


async def test_chunk_framing_counts(serving: Serving, log: ServerLog) -> None:
    await expect(post_chunked(b"1;" + b"y" * 20 + b"\r\n"), 413, BODY_TOO_LARGE, serving, log)


async def test_default_body(serving: Serving, log: ServerLog) -> None:
    """IIS's, and Kestrel's: 30,000,000."""
    sent = request(b"content-length: 30000001")
    await expect(sent, 413, BODY_TOO_LARGE, serving, log, DEFAULT)


async def test_no_limit(serving: Serving, log: ServerLog) -> None:
    limits = Limits(max_request_body_bytes=None)
    async with serving(echo, limits=limits) as site:
        client = await site.connect(byte_by_byte=False)
        body = b"0123456789" * 10_000
        assert (await client.ask(post(body))).body == b"/ " + body


async def test_body_that_nobody_reads_is_refused_after_the_answer(
    serving: Serving, log: ServerLog
) -> None:
    async with serving(hello, limits=SMALL) as site:
        client = await site.connect()
        assert (await client.ask(post(b"x" * 21))).status == 200
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert log.ends == [BODY_TOO_LARGE]


# Blank lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 5))
async def test_a_few_blank_lines_before_a_request(
    count: int, serving: Serving, log: ServerLog
) -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):  # each request anew
            assert (await client.ask(b"\r\n" * count + GET)).status == 200
        await client.send(GET + b"\r\n" * count + GET)
        assert [(await client.receive()).status for _ in range(2)] == [200, 200]
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]


async def test_a_blank_line_is_not_the_beginning_of_a_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Clients of long ago sent one after a body; they have not begun anything."""
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(post(b"x") + b"\r\n")).status == 200
        start = autojump_clock.current_time()
        assert await client.receive_rest() == b""
        assert 130 <= autojump_clock.current_time() - start < 260.1
        await site.all_ended()
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]
