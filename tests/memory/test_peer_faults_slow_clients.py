"""Clients that stall or dribble: every other server lets some of them stay for ever; none may here.

The rows are the ways of misbehaving that were tried on the other servers, with what is to happen
by default: after how long, with which answer, for which recorded reason.
"""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from tests.http1_site import ServerLog, Serving, answer, echo
from tests.raw_client import GET, RawClient, UnexpectedEnd, post, post_chunked, request

DISCONNECT = {"type": "http.disconnect"}

CHUNKED = b"transfer-encoding: chunked"


# No test waits in real time for what never comes: virtual time jumps here instead.
FOR_EVER_SECONDS = 600


async def dribble(client: RawClient, data: bytes) -> None:
    """Send a byte each second."""
    for number in range(len(data)):
        await client.send(data[number : number + 1])
        await trio.sleep(1)


async def nothing(client: RawClient) -> None:
    """Send nothing at all."""


async def a_blank_line(client: RawClient) -> None:
    await client.send(b"\r\n")


async def half_a_head(client: RawClient) -> None:
    await client.send(GET[: len(GET) // 2])


async def a_head_byte_a_second(client: RawClient) -> None:
    await dribble(client, request(*[b"x: y"] * 50))


async def half_a_body(client: RawClient) -> None:
    await client.send(post(b"hello")[:-2])


async def half_a_chunk(client: RawClient) -> None:
    await client.send(post_chunked(b"5\r\nhel"))


async def a_body_byte_a_second(client: RawClient) -> None:
    await client.send(request(b"content-length: 1000"))
    await dribble(client, b"x" * 1000)


async def a_chunk_a_second(client: RawClient) -> None:
    await client.send(request(CHUNKED))
    for _ in range(1000):
        await client.send(b"1\r\nx\r\n")
        await trio.sleep(1)


async def a_chunk_extension_byte_a_second(client: RawClient) -> None:
    await client.send(request(CHUNKED) + b"1;")
    await dribble(client, b"x" * 1000)


async def a_trailer_byte_a_second(client: RawClient) -> None:
    await client.send(request(CHUNKED) + b"0\r\nx: ")
    await dribble(client, b"y" * 1000)


async def nothing_more(client: RawClient) -> None:
    assert (await client.ask(GET)).status == 200


async def nothing_after_a_body(client: RawClient) -> None:
    assert (await client.ask(post(b"hello"))).status == 200


@attrs.frozen
class Row:
    """How a client misbehaves, and when and how that ends."""

    misbehave: Callable[[RawClient], Awaitable[None]]
    seconds: float
    status: int | None
    reason: EndReason


SILENT = [
    Row(nothing, 130, None, EndReason.KEEP_ALIVE_TIMEOUT),
    Row(a_blank_line, 130, None, EndReason.KEEP_ALIVE_TIMEOUT),
    Row(nothing_more, 130, None, EndReason.KEEP_ALIVE_TIMEOUT),
    Row(nothing_after_a_body, 130, None, EndReason.KEEP_ALIVE_TIMEOUT),
]
HEADS = [
    Row(half_a_head, 30, 408, EndReason.REQUEST_HEADERS_TIMEOUT),
    Row(a_head_byte_a_second, 30, 408, EndReason.REQUEST_HEADERS_TIMEOUT),
]
BODIES = [
    Row(half_a_body, 5, 408, EndReason.MIN_REQUEST_BODY_DATA_RATE),
    Row(half_a_chunk, 5, 408, EndReason.MIN_REQUEST_BODY_DATA_RATE),
    Row(a_body_byte_a_second, 5, 408, EndReason.MIN_REQUEST_BODY_DATA_RATE),
    Row(a_chunk_a_second, 5, 408, EndReason.MIN_REQUEST_BODY_DATA_RATE),
    Row(a_chunk_extension_byte_a_second, 5, 408, EndReason.MIN_REQUEST_BODY_DATA_RATE),
    Row(a_trailer_byte_a_second, 5, 408, EndReason.MIN_REQUEST_BODY_DATA_RATE),
]


def rows(of: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", of, ids=[row.misbehave.__name__ for row in of])


async def seconds_until_told(client: RawClient, row: Row) -> float:
    """Misbehave; return how long it took until the server ended its side, having said its last."""
    began, ended = trio.current_time(), 0.0
    async with trio.open_nursery() as nursery:

        async def misbehave() -> None:
            await row.misbehave(client)
            nursery.start_soon(wait_for_the_end)

        async def wait_for_the_end() -> None:
            nonlocal ended
            if row.status is not None:
                response = await client.receive()
                assert (response.status, response.keeps_alive) == (row.status, False)
            assert await client.receive_rest() == b""
            ended = trio.current_time()
            nursery.cancel_scope.cancel()

        if row.status is None:
            await misbehave()
        else:
            nursery.start_soon(row.misbehave, client)
            nursery.start_soon(wait_for_the_end)
    return ended - began


async def expect(row: Row, serving: Serving, log: ServerLog) -> None:
    """Nothing that the client does keeps it connected for longer than the row says."""
    async with serving(echo) as site:
        client = await site.connect()
        with trio.fail_after(FOR_EVER_SECONDS):
            seconds = await seconds_until_told(client, row)
            await site.all_ended()  # though the client has not closed its end
        lingered = trio.current_time() - seconds
    assert seconds == pytest.approx(row.seconds, abs=0.2)  # bytes that came buy a little time
    assert lingered <= Limits().linger_seconds + 0.1
    assert log.ends == [row.reason]


@rows(SILENT)
async def test_silence_between_requests(
    row: Row, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A client that connects and says nothing, or nothing more, is never closed (uvicorn #1199,
    #160, gunicorn #3735)."""
    await expect(row, serving, log)


@rows(HEADS)
async def test_heads(row: Row, serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    """A head that never ends, or comes a byte at a time, holds its connection for ever
    (xinference #5213, of uvicorn)."""
    await expect(row, serving, log)


@rows(BODIES)
async def test_bodies(
    row: Row, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A body that stops half-way is waited for without end by hypercorn, uvicorn and granian, and
    one that comes a byte at a time by every server that was tried (hypercorn #262)."""
    await expect(row, serving, log)


@rows(BODIES[:2])
async def test_a_body_that_stalls_is_not_taken_for_one_that_ends(
    row: Row, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The application is handed half a body as if it were whole when the rest is late
    (gunicorn #3614)."""
    events: list[Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not events or events[-1] != DISCONNECT:
            events.append(await receive())

    async with serving(app) as site:
        client = await site.connect()
        await row.misbehave(client)
        with trio.fail_after(FOR_EVER_SECONDS):
            assert (await client.receive()).status == 408
        client.reset()
    assert b"".join(event["body"] for event in events[:-1]) == b"hel"
    assert all(event["more_body"] for event in events[:-1])


async def test_a_body_that_comes_steadily_is_not_cut(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The other side of it: slow is not too slow, however long it takes."""
    async with serving(echo) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(request(b"content-length: 250000"))
        for _ in range(1000):
            await trio.sleep(1)
            await client.send(b"x" * 250)
        assert (await client.receive()).body == b"/ " + b"x" * 250_000
        assert autojump_clock.current_time() >= 1000
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.PEER_CLOSED]


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a megabyte."""
    await answer(send, b"x" * 1_000_000)


async def read_until_cut(client: RawClient, bytes_a_second: int) -> int:
    """Read that slowly, or not at all, until the connection is reset; return how much came."""
    received = 0
    while True:
        await trio.sleep(1)
        try:
            if bytes_a_second:
                received += len(await client.connection.transport.input.receive(bytes_a_second))
            elif client.connection.closed.is_set:
                return received
        except trio.BrokenResourceError:
            return received


@pytest.mark.counts_bytes
@pytest.mark.parametrize("bytes_a_second", [0, 1, 100], ids=["nothing", "a byte", "100 bytes"])
async def test_a_client_that_does_not_take_its_response(
    bytes_a_second: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A client that reads nothing, or a few bytes a second, keeps its connection and the response
    that waits for it, on every server that was tried (hypercorn #262)."""
    async with serving(large, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send(GET)
        with trio.fail_after(FOR_EVER_SECONDS):
            received = await read_until_cut(client, bytes_a_second)
        assert 5 <= autojump_clock.current_time() < 15
        assert received < 2000
        await site.all_ended()
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


@pytest.mark.counts_bytes
async def test_a_client_that_takes_its_response_steadily_is_not_cut(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The other side of it."""
    received = b""
    async with serving(large, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send(request(b"connection: close"))
        while piece := await client.connection.transport.input.receive(1000):
            received += piece
            await trio.sleep(4)
        assert autojump_clock.current_time() >= 4000
    assert received.endswith(b"\r\n\r\n" + b"x" * 1_000_000)
    assert log.ends == [EndReason.COMPLETED]


async def test_one_that_stalls_does_not_slow_down_its_neighbours(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A few hundred clients that send half a head each stop the server for everybody else
    (xinference #5213, of uvicorn)."""
    async with serving() as site:
        stalled = [await site.connect(byte_by_byte=False) for _ in range(300)]
        for number, client in enumerate(stalled):
            await client.send((GET + request(b"content-length: 9"))[: number % 50])
        neighbour = await site.connect()
        for _ in range(13):
            await trio.sleep(10)
            assert (await neighbour.ask(GET)).body == b"hello"
        await trio.sleep(20)
        assert len(site.server.connections) == 1
        with pytest.raises(UnexpectedEnd):
            await stalled[0].receive()


@pytest.mark.parametrize("begun", [b"1;", b"0\r\nx: "], ids=["extension", "trailer"])
async def test_a_byte_at_the_last_moment_does_not_prolong_a_body(
    begun: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It comes as the time to drop an unread body is up, in the middle of its framing."""
    async with serving() as site:
        client = await site.connect(byte_by_byte=False)
        assert (await client.ask(request(CHUNKED) + begun)).body == b"hello"
        for _ in range(20):
            await trio.sleep(1)
            await client.send(b"x")
        with trio.fail_after(10):
            await site.all_ended()
    assert log.ends == [EndReason.REQUEST_BODY_DRAIN_TIMEOUT]
