"""`Limits`: how long a client may take, and how slow it may be."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.testing import open_server, serve
from kestrel_protocols.http import HttpExchange
from tests.http1_site import hello
from tests.raw_client import GET, post, request
from tests.virtual_time.ending import Ending, connect, ending
from tests.virtual_time.proofs import proves

# Holds of a response what earns five seconds, or a minute.
NARROW = "memory://narrow?pause_at_bytes=1200"
WIDE = "memory://wide?pause_at_bytes=14400"

TIMED_OUT = b"HTTP/1.1 408 Request Timeout"


async def count_body(exchange: HttpExchange) -> None:
    count = 0
    while piece := await exchange.receive():
        count += len(piece)
    await exchange.respond(200, [], b"%d" % count)


async def megabyte(exchange: HttpExchange) -> None:
    await exchange.respond(200, [], b"x" * 1_000_000)


# Connections ------------------------------------------------------------------------------------


@proves("Limits.keep_alive_seconds")
@pytest.mark.parametrize("requests", [0, 1])
async def test_an_idle_connection_is_closed(requests: int, autojump_clock: MockClock) -> None:
    async with serve(hello) as server:
        client = await connect(server)
        for _ in range(requests):
            await trio.sleep(129)
            assert (await client.ask(GET)).status == 200
        assert await ending(server, client) == Ending(
            at=129 * requests + 130, reason=EndReason.KEEP_ALIVE_TIMEOUT
        )


@proves("Limits.max_connection_age_seconds")
async def test_an_old_connection_is_closed_if_it_is_idle(autojump_clock: MockClock) -> None:
    async with serve(hello, limits=Limits(max_connection_age_seconds=100)) as server:
        client = await connect(server)
        await trio.sleep(99)
        assert (await client.ask(GET)).keeps_alive
        assert await ending(server, client) == Ending(
            at=100, reason=EndReason.MAX_CONNECTION_AGE_REACHED
        )


@proves("Limits.max_connection_age_seconds")
async def test_an_old_connection_answers_the_request_of_the_moment(
    autojump_clock: MockClock,
) -> None:
    async def sleep(exchange: HttpExchange) -> None:
        await trio.sleep(50)
        await exchange.respond(200, [], b"")

    limits = Limits(max_connection_age_seconds=100)
    async with serve(sleep, interface="native", limits=limits) as server:
        client = await connect(server)
        assert (await client.ask(GET)).keeps_alive
        await trio.sleep(10)
        assert not (await client.ask(GET)).keeps_alive
        assert await ending(server, client) == Ending(
            at=110, reason=EndReason.MAX_CONNECTION_AGE_REACHED
        )


@proves("Limits.linger_seconds")
async def test_a_client_that_sends_past_the_last_answer_is_read_for_so_long(
    autojump_clock: MockClock,
) -> None:
    async with serve(hello) as server:
        client = await connect(server)
        await client.send(b"nonsense\r\n\r\n" + b"x" * 1000)
        assert await ending(server, client) == Ending(
            at=0,
            said=b"HTTP/1.1 400 Bad Request",
            reason=EndReason.INVALID_REQUEST_LINE,
            gone_at=2,
        )


@proves("Limits.linger_seconds")
async def test_a_client_that_does_not_read_is_cut_then(autojump_clock: MockClock) -> None:
    async def leave_something_unsent(connection: Connection) -> None:
        connection.transport.output.write(b"x" * 10_000)

    async with open_server(leave_something_unsent, endpoint=NARROW) as server:
        await connect(server)
        await wait_all_tasks_blocked()
        await server.connections[0].wait_closed()
        assert trio.current_time() == 2


# Requests ---------------------------------------------------------------------------------------


@proves("Limits.request_headers_seconds")
async def test_half_a_head_is_answered_408(autojump_clock: MockClock) -> None:
    async with serve(hello) as server:
        client = await connect(server)
        await trio.sleep(100)
        await client.send(GET[:-1])
        assert await ending(server, client) == Ending(
            at=130, said=TIMED_OUT, reason=EndReason.REQUEST_HEADERS_TIMEOUT, gone_at=132
        )


@proves("Limits.request_headers_seconds")
async def test_a_head_that_is_complete_a_moment_before_is_not(autojump_clock: MockClock) -> None:
    async with serve(hello) as server:
        client = await connect(server)
        await client.send(GET[:-1])
        await trio.sleep(29.999)
        assert (await client.ask(GET[-1:])).status == 200


@proves("Limits.request_body_drain_seconds")
async def test_a_body_that_nobody_reads_has_so_long_to_pass(autojump_clock: MockClock) -> None:
    async with serve(hello) as server:
        client = await connect(server)
        assert (await client.ask(request(b"content-length: 10"))).keeps_alive
        assert await ending(server, client) == Ending(
            at=5, reason=EndReason.REQUEST_BODY_DRAIN_TIMEOUT
        )


@proves("Limits.max_request_seconds")
async def test_an_application_that_takes_too_long_is_cancelled(autojump_clock: MockClock) -> None:
    cancelled_at: list[float] = []

    async def slow(exchange: HttpExchange) -> None:
        try:
            await trio.sleep(float(exchange.target[1:]))
        except trio.Cancelled:
            cancelled_at.append(trio.current_time())
            raise
        await exchange.respond(200, [], b"")

    limits = Limits(max_request_seconds=10)
    async with serve(slow, interface="native", limits=limits) as server:
        client = await connect(server)
        assert (await client.ask(GET.replace(b"/ ", b"/9.999 "))).status == 200
        await trio.sleep_until(20)
        assert (await client.ask(GET.replace(b"/ ", b"/10.001 "))).status == 503
        assert (trio.current_time(), cancelled_at) == (30, [30])
        assert (await client.ask(GET.replace(b"/ ", b"/1 "))).status == 200


# Rates ------------------------------------------------------------------------------------------


@proves("Limits.request_body_grace_seconds")
async def test_nothing_of_a_body_has_the_grace(autojump_clock: MockClock) -> None:
    async with serve(count_body, interface="native") as server:
        client = await connect(server)
        await client.send(request(b"content-length: 10"))
        assert await ending(server, client) == Ending(
            at=5, said=TIMED_OUT, reason=EndReason.MIN_REQUEST_BODY_DATA_RATE, gone_at=7
        )


@proves("Limits.min_request_body_bytes_per_second", "Limits.request_body_grace_seconds")
@pytest.mark.parametrize(("grace", "rate", "seconds"), [(5, 240, 10), (2, 100, 14), (3, 1200, 4)])
async def test_half_a_body_earns_time(
    grace: float, rate: float, seconds: float, autojump_clock: MockClock
) -> None:
    """1200 bytes, at that rate, and the grace."""
    limits = Limits(min_request_body_bytes_per_second=rate, request_body_grace_seconds=grace)
    async with serve(count_body, interface="native", limits=limits) as server:
        client = await connect(server)
        await client.send(post(b"x" * 2400)[:-1200])
        assert await ending(server, client) == Ending(
            at=seconds,
            said=TIMED_OUT,
            reason=EndReason.MIN_REQUEST_BODY_DATA_RATE,
            gone_at=seconds + 2,
        )


@proves("Limits.min_request_body_bytes_per_second")
async def test_a_body_at_the_minimum_rate_is_read_to_its_end(autojump_clock: MockClock) -> None:
    async with serve(count_body, interface="native") as server:
        client = await connect(server)
        await client.send(post(b"x" * 24_000)[:-24_000])
        for _ in range(100):
            await trio.sleep(1)
            await client.send(b"x" * 240)
        assert (await client.receive()).body == b"24000"


@proves("Limits.response_grace_seconds")
async def test_a_response_that_nobody_takes_has_the_grace(autojump_clock: MockClock) -> None:
    async with serve(megabyte, interface="native") as server:
        client = await connect(server)
        await client.send(GET)
        await wait_all_tasks_blocked()
        await server.connections[0].wait_closed()
        assert trio.current_time() == 5
        assert await ending(server, client) == Ending(
            at=5, reset=True, reason=EndReason.MIN_RESPONSE_DATA_RATE
        )


@proves("Limits.min_response_bytes_per_second", "Limits.response_grace_seconds")
@pytest.mark.parametrize(("grace", "rate", "seconds"), [(5, 240, 10), (2, 100, 14), (3, 1200, 4)])
async def test_what_was_taken_of_a_response_earns_time(
    grace: float, rate: float, seconds: float, autojump_clock: MockClock
) -> None:
    """1200 bytes, at that rate, and the grace."""
    limits = Limits(min_response_bytes_per_second=rate, response_grace_seconds=grace)
    async with serve(megabyte, interface="native", limits=limits, endpoint=NARROW) as server:
        client = await connect(server)
        await client.send(GET)
        await trio.sleep(1)
        assert len(await client.receive_some()) == 1200
        await server.connections[0].wait_closed()
        assert trio.current_time() == pytest.approx(seconds)
        assert server.connections[0].end_reason is EndReason.MIN_RESPONSE_DATA_RATE


@proves("Limits.min_response_bytes_per_second")
async def test_a_response_is_sent_at_the_minimum_rate(autojump_clock: MockClock) -> None:
    async with serve(megabyte, interface="native", endpoint=NARROW) as server:
        client = await connect(server)
        await client.send(GET)
        for _ in range(100):
            assert len(await client.receive_some()) == 1200
            await trio.sleep(5)
        assert trio.current_time() == 500
        assert server.metrics().open_connections == 1
        client.reset()


@proves("HttpExchange.min_body_bytes_per_second")
async def test_a_handler_may_want_a_body_faster(autojump_clock: MockClock) -> None:
    async def handler(exchange: HttpExchange) -> None:
        exchange.min_body_bytes_per_second = 1200
        await count_body(exchange)

    async with serve(handler, interface="native") as server:
        client = await connect(server)
        await client.send(post(b"x" * 2400)[:-1200])
        assert (await ending(server, client)).at == 5 + 1


@proves("HttpExchange.min_response_bytes_per_second")
async def test_a_handler_may_have_its_response_taken_slower(autojump_clock: MockClock) -> None:
    async def handler(exchange: HttpExchange) -> None:
        exchange.min_response_bytes_per_second = 24
        await megabyte(exchange)

    async with serve(handler, interface="native", endpoint=NARROW) as server:
        client = await connect(server)
        await client.send(GET)
        await client.receive_some()
        await server.connections[0].wait_closed()
        assert trio.current_time() == pytest.approx(5 + 50)


@proves("kestrel_protocols.http.patience._MOST_SECONDS")
async def test_nobody_saves_up_more_than_a_minute(autojump_clock: MockClock) -> None:
    async with serve(count_body, interface="native") as server:
        client = await connect(server)
        await client.send(post(b"x" * 1_000_000)[:-1])
        assert (await ending(server, client)).at == 60


@proves("kestrel_protocols.http1.pace._MOST_SECONDS_UNCHECKED")
async def test_what_is_taken_counts_from_when_it_was(autojump_clock: MockClock) -> None:
    """What is beyond a minute then is lost, though the account would have had room at its end."""
    async with serve(megabyte, interface="native", endpoint=WIDE) as server:
        client = await connect(server)
        await client.send(GET)
        await wait_all_tasks_blocked()
        for at in (1, 6):
            await trio.sleep_until(at)
            await client.receive_some()
        await server.connections[0].wait_closed()
        assert trio.current_time() == pytest.approx(10 + 60)
