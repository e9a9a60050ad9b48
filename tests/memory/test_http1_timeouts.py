"""How long a client may be silent, and what it is told when that was too long."""

import math

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.http1_site import ServerLog, Serving, answer, echo
from tests.raw_client import GET, RawClient, post, request


async def seconds_to_end(client: RawClient, expected: bytes = b"") -> float:
    """Receive exactly that and then the end; return how long it took."""
    start = trio.current_time()
    assert await client.receive_rest() == expected
    return trio.current_time() - start


# Keep-alive -------------------------------------------------------------------------------------


async def test_before_the_first_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """IIS's 120 seconds and a tick."""
    async with serving() as site:
        client = await site.connect()
        assert await seconds_to_end(client) == pytest.approx(130)
        await site.all_ended()
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]


async def test_between_requests(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            await trio.sleep(129)
            assert (await client.ask(GET)).body == b"hello"
        assert await seconds_to_end(client) == pytest.approx(130)
        await site.all_ended()
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]


async def test_after_a_body(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        await client.ask(post(b"hello"))
        assert await seconds_to_end(client) == pytest.approx(130)


async def test_after_an_unread_body(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.ask(request(b"content-length: 5"))
        await trio.sleep(4)
        await client.send(b"hello")
        assert await seconds_to_end(client) == pytest.approx(130)
        await site.all_ended()
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]


async def test_not_during_a_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(1000)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"slow ", "more_body": True})
        await trio.sleep(1000)
        await send({"type": "http.response.body", "body": b"slow"})

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == b"slow slow"
        assert autojump_clock.current_time() >= 4000
        assert await seconds_to_end(client) == pytest.approx(130)


async def test_not_while_a_body_arrives(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The time to keep alive does not run then; how fast a body must come is another matter."""
    async with serving(echo, limits=Limits(min_request_body_bytes_per_second=None)) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 3"))
        for _ in range(2):
            await trio.sleep(200)
            await client.send(b"x")
        await trio.sleep(200)
        assert (await client.ask(b"x")).body == b"/ xxx"


async def test_at_the_same_moment_as_a_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Whichever wins, the request is served as any other or not at all."""
    for early in (0.0, 1e-9):
        async with serving(echo) as site:
            client = await site.connect(byte_by_byte=False)
            await client.ask(GET)
            await trio.sleep(130 - early)
            await client.send(post(b"hello"))
            received = await client.received_by_now()
            if received:
                assert received.endswith(b"/ hello")
                await client.send(request(b"content-length: 1"))
                await trio.sleep(4)
                assert (await client.ask(b"x")).body == b"/ x"


async def test_keep_alive_seconds(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(limits=Limits(keep_alive_seconds=0.5)) as site:
        client = await site.connect()
        await client.ask(GET)
        assert await seconds_to_end(client) == pytest.approx(0.5)


async def test_for_ever(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    limits = Limits(keep_alive_seconds=math.inf, request_headers_seconds=math.inf)
    async with serving(limits=limits) as site:
        client = await site.connect()
        await trio.sleep(40_000)
        await client.send(GET[:-1])
        await trio.sleep(40_000)
        assert (await client.ask(GET[-1:])).body == b"hello"


# Heads ------------------------------------------------------------------------------------------


async def expect_408(client: RawClient, log: ServerLog, seconds: float) -> None:
    start = trio.current_time()
    response = await client.receive()
    assert trio.current_time() - start == pytest.approx(seconds)
    assert (response.status, response.keeps_alive) == (408, False)
    assert await client.receive_rest() == b""
    await client.aclose()
    await trio.sleep(1)
    assert log.ends == [EndReason.REQUEST_HEADERS_TIMEOUT]


@pytest.mark.parametrize("begun", [b"G", GET[:16], GET[:-2], GET[:-1], b"\r\nG"])
async def test_half_a_head(
    begun: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(begun)
        await expect_408(client, log, 30)


async def test_bytes_do_not_prolong_it(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        await trio.sleep(100)
        await client.send(GET[:-2])
        for _ in range(25):
            await trio.sleep(1)
            await client.send(b"x: y\r\n")
        await expect_408(client, log, 5)


async def test_it_counts_from_the_first_byte(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.ask(GET)
        await trio.sleep(129)
        await client.send(b"G")
        await trio.sleep(29)
        assert (await client.ask(GET[1:])).body == b"hello"


async def test_each_request_has_its_own(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(4):
            await client.send(GET[:20])
            await trio.sleep(20)
            assert (await client.ask(GET[20:])).body == b"hello"
        await client.send(GET + GET[:20])
        assert (await client.receive()).body == b"hello"
        await expect_408(client, log, 30)


async def test_not_during_the_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(100)
        await answer(send, b"slow")

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET[:20])
        await trio.sleep(20)
        assert (await client.ask(GET[20:])).body == b"slow"


async def test_a_head_that_ends_at_the_last_moment(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Whichever wins; and having been nearly late has no consequences for what follows."""
    for early in (0.0, 1e-9):
        async with serving() as site:
            client = await site.connect(byte_by_byte=False)
            await client.send(GET[:20])
            await trio.sleep(30 - early)
            await client.send(request(b"content-length: 1")[20:])
            if (await client.receive()).status == 200:  # the body is still to be dropped
                await trio.sleep(4)
                assert (await client.ask(b"x" + GET)).body == b"hello"


async def test_request_headers_seconds(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(limits=Limits(request_headers_seconds=0.5)) as site:
        client = await site.connect()
        await client.send(GET[:20])
        await expect_408(client, log, 0.5)


async def test_408_does_not_overtake_earlier_answers(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        await client.send(GET * 2 + GET[:10])
        assert [(await client.receive()).status for _ in range(2)] == [200, 200]
        await expect_408(client, log, 30)
