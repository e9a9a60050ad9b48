"""How long one connection is served: so many requests, so many in a row, and for so long."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.http import HttpExchange
from tests.http1_site import Flushes, ServerLog, Serving, hello
from tests.raw_client import GET, RawClient, post, request

OK = [(b"content-length", b"2")]


class Served:
    """Answers, after so many seconds, and keeps the targets of the requests."""

    def __init__(self, seconds: float = 0) -> None:
        self.targets: list[bytes] = []
        self.seconds = seconds

    async def __call__(self, exchange: HttpExchange) -> None:
        self.targets.append(exchange.target)
        if self.seconds:
            await trio.sleep(self.seconds)
        await exchange.respond(200, OK, b"ok")


def numbered(count: int) -> bytes:
    """Return as many requests, each with its number as its target."""
    return b"".join(request(first=b"GET /%d HTTP/1.1" % number) for number in range(count))


async def seconds_to_end(client: RawClient) -> float:
    """Receive nothing but the end; return how long that took."""
    start = trio.current_time()
    assert await client.receive_rest() == b""
    return trio.current_time() - start


# How many requests ------------------------------------------------------------------------------


async def test_the_last_answer_says_so(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(limits=Limits(max_requests_per_connection=3)) as site:
        client = await site.connect()
        for last in (False, False, True):
            response = await client.ask(GET)
            assert (response.body, response.keeps_alive) == (b"hello", not last)
        assert await seconds_to_end(client) == 0
        await site.all_ended()
    assert log.ends == [EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED]


async def test_one_request(serving: Serving, log: ServerLog) -> None:
    async with serving(limits=Limits(max_requests_per_connection=1)) as site:
        for _ in range(2):
            client = await site.connect()
            assert not (await client.ask(GET)).keeps_alive
            assert await client.receive_rest() == b""
            await site.all_ended()
    assert log.ends == [EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED] * 2


async def test_requests_behind_the_last_are_not_served(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    served = Served()
    async with serving(native=served, limits=Limits(max_requests_per_connection=3)) as site:
        client = await site.connect()
        await client.send(numbered(5))
        assert [(await client.receive()).keeps_alive for _ in range(3)] == [True, True, False]
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert served.targets == [b"/0", b"/1", b"/2"]
    assert log.ends == [EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED]


async def test_blank_lines_are_no_requests(serving: Serving, log: ServerLog) -> None:
    async with serving(limits=Limits(max_requests_per_connection=2)) as site:
        client = await site.connect()
        assert (await client.ask(b"\r\n\r\n" + GET)).keeps_alive
        assert not (await client.ask(b"\r\n" + GET)).keeps_alive


async def test_the_body_of_the_last_request(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It is received as any other, or dropped as any other."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.respond(200, [], await exchange.receive())

    limits = Limits(max_requests_per_connection=1)
    async with serving(native=handler, limits=limits) as site:
        client = await site.connect(byte_by_byte=False)
        response = await client.ask(post(b"hello"))
        assert (response.body, response.keeps_alive) == (b"hello", False)
        assert await client.receive_rest() == b""
    async with serving(limits=limits) as site:
        client = await site.connect()
        response = await client.ask(request(b"content-length: 100"))
        assert (response.body, response.keeps_alive) == (b"hello", False)
        assert await client.receive_rest() == b""
        await client.send(b"x" * 100)
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED] * 2


async def test_any_number(serving: Serving, log: ServerLog) -> None:
    async with serving() as site:
        client = await site.connect(byte_by_byte=False)
        for _ in range(1500):
            assert (await client.ask(GET)).keeps_alive


# How many in a row ------------------------------------------------------------------------------


def a_get(number: int) -> bytes:
    return request(first=b"GET /%d HTTP/1.1" % number)


def a_post(number: int) -> bytes:
    digits = b"%d" % number
    return request(
        b"content-length: %d" % len(digits), first=b"POST /%d HTTP/1.1" % number, body=digits
    )


def a_chunked_post(number: int) -> bytes:
    digits = b"%d" % number
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(digits), digits)
    return request(b"transfer-encoding: chunked", first=b"POST /%d HTTP/1.1" % number, body=chunks)


class Turns:
    """Reads the body, or does not, answers, and keeps the order in which it was called."""

    def __init__(self, *, reads: bool) -> None:
        self.targets: list[bytes] = []
        self.reads = reads

    async def __call__(self, exchange: HttpExchange) -> None:
        self.targets.append(exchange.target)
        while self.reads and await exchange.receive():
            pass
        await exchange.respond(200, OK, b"ok")


@pytest.mark.parametrize("reads", [True, False], ids=["read", "dropped"])
@pytest.mark.parametrize(
    ("a_request", "count"), [(a_get, 10_000), (a_post, 2_000), (a_chunked_post, 2_000)]
)
async def test_others_have_a_turn(
    a_request: Callable[[int], bytes], count: int, reads: bool, serving: Serving, log: ServerLog
) -> None:
    """A burst of requests, and another client in the middle of it."""
    handler = Turns(reads=reads)
    burst = b"".join(a_request(number) for number in range(count))
    async with serving(native=handler, endpoint="memory://wide?pause_at_bytes=2000000") as site:
        greedy = await site.connect(byte_by_byte=False)
        modest = await site.connect(byte_by_byte=False)
        for client in (greedy, modest):
            assert (await client.ask(GET)).body == b"ok"
        handler.targets.clear()
        await greedy.send_in_one(burst)
        for _ in range(3):
            assert (await modest.ask(GET)).body == b"ok"
        for _ in range(count):
            assert (await greedy.receive()).body == b"ok"
    at = [index for index, target in enumerate(handler.targets) if target == b"/"]
    assert at[0] <= 64
    assert at[1] - at[0] <= 4 * 64  # the client, too, needs turns until it has asked again
    assert at[2] - at[1] <= 4 * 64
    assert [target for target in handler.targets if target != b"/"] == [
        b"/%d" % number for number in range(count)
    ]


async def test_answers_are_flushed_then(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Joined as many as are served in a row, and not more."""
    flushes = Flushes()
    async with serving(
        native=Served(), middleware=[flushes], limits=Limits(max_pipelined_requests=10)
    ) as site:
        client = await site.connect()
        await client.send_in_one(numbered(35))
        for _ in range(35):
            assert (await client.receive()).body == b"ok"
    assert [flush.count(b"HTTP/1.1 200") for flush in flushes.all] == [10, 10, 10, 5]


async def test_one_in_a_row(serving: Serving, log: ServerLog) -> None:
    flushes = Flushes()
    async with serving(
        native=Served(), middleware=[flushes], limits=Limits(max_pipelined_requests=1)
    ) as site:
        client = await site.connect()
        await client.send_in_one(numbered(5))
        for _ in range(5):
            assert (await client.receive()).body == b"ok"
        assert (await client.ask(GET)).body == b"ok"
    assert [flush.count(b"HTTP/1.1 200") for flush in flushes.all] == [1] * 6


async def test_a_burst_of_a_client_that_does_not_read(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It is served no further than its answers have room."""
    served = Served()
    async with serving(native=served, endpoint="memory://narrow?pause_at_bytes=100000") as site:
        client = await site.connect(byte_by_byte=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_in_one, numbered(10_000))
            await wait_all_tasks_blocked()
            assert 64 < len(served.targets) < 2000
            for _ in range(10_000):
                assert (await client.receive()).body == b"ok"
    assert len(served.targets) == 10_000


async def test_the_server_drains_in_the_middle_of_a_burst(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It waits for its turn, too, and then the burst is over."""
    served = Served()
    async with serving(native=served, endpoint="memory://wide?pause_at_bytes=2000000") as site:
        client = await site.connect(byte_by_byte=False)
        await client.ask(GET)
        await client.send_in_one(numbered(10_000))
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert await site.server.drain(1000) == 0
        assert 1 < len(served.targets) < 1000
        for _ in range(len(served.targets) - 1):
            assert (await client.receive()).body == b"ok"
        assert await client.receive_rest() == b""
    assert log.ends == [EndReason.SHUTDOWN]


# For how long -----------------------------------------------------------------------------------


async def test_an_idle_connection_ends_at_its_age(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        assert (await client.ask(GET)).keeps_alive
        assert await seconds_to_end(client) == pytest.approx(10)
        await site.all_ended()
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_one_that_never_asked(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        assert await seconds_to_end(client) == pytest.approx(10)
        await site.all_ended()
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_an_age_beyond_the_time_to_keep_alive(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Whichever comes first."""
    async with serving(limits=Limits(max_connection_age_seconds=300)) as site:
        client = await site.connect()
        assert await seconds_to_end(client) == pytest.approx(130)
        await site.all_ended()
        client = await site.connect()
        for _ in range(2):
            await trio.sleep(120)
            assert (await client.ask(GET)).keeps_alive
        assert await seconds_to_end(client) == pytest.approx(60)
        await site.all_ended()
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT, EndReason.MAX_CONNECTION_AGE_REACHED]


@pytest.mark.parametrize("seconds", [10.5, 30, 1000])
async def test_a_busy_connection_ends_after_the_answer(
    seconds: float, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The answer says so, or the client would take the end for a fault."""
    async with serving(
        native=Served(seconds), limits=Limits(max_connection_age_seconds=10)
    ) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert (response.body, response.keeps_alive) == (b"ok", False)
        assert await seconds_to_end(client) == 0
        assert autojump_clock.current_time() == pytest.approx(seconds)
        await site.all_ended()
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_a_busy_connection_whose_client_is_slow(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """There is one deadline, and waiting for the client sets it to other times."""

    async def handler(exchange: HttpExchange) -> None:
        while not exchange.body_complete:
            await exchange.receive()
        await trio.sleep(0.5)
        await exchange.respond(200, OK, b"ok")

    async with serving(native=handler, limits=Limits(max_connection_age_seconds=30)) as site:
        client = await site.connect()
        for _ in range(3):
            await client.send(request(b"content-length: 8"))
            for _ in range(7):
                await trio.sleep(0.6)
                await client.send(b"x")
            assert (await client.ask(b"x")).keeps_alive
            await trio.sleep(3.3)
        await trio.sleep(30 - 24 - 3)  # the wait for the body would be due at 32
        await client.send(request(b"content-length: 8"))
        for _ in range(7):
            await trio.sleep(0.6)
            await client.send(b"x")
        response = await client.ask(b"x")
        assert (response.body, response.keeps_alive) == (b"ok", False)
        assert await seconds_to_end(client) == 0
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_an_answer_that_was_begun_before(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It is too late to say so; it comes to its end, and then the connection does."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write(b"slow ")
        await trio.sleep(20)
        await exchange.write(b"slow")
        await exchange.finish()

    async with serving(native=handler, limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        response = await client.ask(GET)
        assert (response.body, response.keeps_alive) == (b"slow slow", True)
        assert await seconds_to_end(client) == 0
        await site.all_ended()
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_the_age_is_reached_while_the_server_cannot_look(
    serving: Serving, log: ServerLog, mock_clock: MockClock
) -> None:
    """An application that blocks: no further request is waited for all the same."""

    async def handler(exchange: HttpExchange) -> None:
        mock_clock.jump(100)
        await exchange.respond(200, OK, b"ok")

    async with serving(native=handler, limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"ok"
        assert await client.receive_rest() == b""
        await site.all_ended()
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_the_age_does_not_keep_other_deadlines_from_expiring(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A deadline set to a time long ago looks as if the server had starved."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, OK)
        await exchange.write(b"o")
        await trio.sleep(100)
        await exchange.write(b"k")
        await exchange.finish()

    limits = Limits(max_connection_age_seconds=10, request_headers_seconds=5)
    async with serving(native=handler, limits=limits) as site:
        busy = await site.connect()
        await busy.send(GET)
        await trio.sleep(95)
        late = await site.connect()
        await late.send(GET[:10])
        assert (await late.receive()).status == 408
        assert autojump_clock.current_time() == pytest.approx(100)
        assert (await busy.receive()).body == b"ok"
        assert await busy.receive_rest() == b""
        assert autojump_clock.current_time() == pytest.approx(100)
        await late.aclose()
        await site.all_ended()


async def test_requests_that_come_after_it(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """They wait behind one that takes too long, and are not served."""
    served = Served(20)
    async with serving(native=served, limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        await client.send(numbered(3))
        response = await client.receive()
        assert (response.body, response.keeps_alive) == (b"ok", False)
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert served.targets == [b"/0"]
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_a_head_that_was_begun_before(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Its client may finish, and is served, and told."""
    async with serving(limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        await client.send(GET[:10])
        await trio.sleep(12)
        response = await client.ask(GET[10:])
        assert (response.body, response.keeps_alive) == (b"hello", False)
        assert await seconds_to_end(client) == 0
        await site.all_ended()
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_requests_do_not_make_it_younger(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        for _ in range(9):
            await trio.sleep(1)
            assert (await client.ask(GET)).keeps_alive
        assert await seconds_to_end(client) == pytest.approx(1)


async def test_while_an_unread_body_is_dropped(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(limits=Limits(max_connection_age_seconds=10)) as site:
        client = await site.connect()
        await trio.sleep(8)
        assert (await client.ask(request(b"content-length: 5"))).body == b"hello"
        await trio.sleep(4)
        await client.send(b"hello")
        assert await seconds_to_end(client) == 0
        await site.all_ended()
    assert log.ends == [EndReason.MAX_CONNECTION_AGE_REACHED]


async def test_both_limits(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    limits = Limits(max_connection_age_seconds=10, max_requests_per_connection=2)
    async with serving(limits=limits) as site:
        client = await site.connect()
        assert (await client.ask(GET)).keeps_alive
        assert not (await client.ask(GET)).keeps_alive
        assert await seconds_to_end(client) == 0
        await site.all_ended()
        client = await site.connect()
        assert (await client.ask(GET)).keeps_alive
        assert await seconds_to_end(client) == pytest.approx(10)
        await site.all_ended()
    assert log.ends == [
        EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED,
        EndReason.MAX_CONNECTION_AGE_REACHED,
    ]


async def test_never_by_default(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(hello) as site:
        client = await site.connect(byte_by_byte=False)
        for _ in range(1000):
            await trio.sleep(100)
            assert (await client.ask(GET)).keeps_alive
