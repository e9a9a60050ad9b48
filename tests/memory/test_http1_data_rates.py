"""How slowly a client may send its request, and how slowly it may take the response."""

import gc
import math
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http import BadRequest, ClientDisconnected, HttpExchange
from kestrel_protocols.http1.body import Body
from kestrel_protocols.http1.pace import Pace
from tests.http1_site import ServerLog, Serving, Site, answer, echo, hello
from tests.raw_client import GET, RawClient, post, post_chunked, request

OK = [(b"content-length", b"2")]

BIG_BUFFER = "memory://big?pause_at_bytes=1000000"


async def count_body(exchange: HttpExchange) -> None:
    """Answer how long the body was."""
    count = 0
    while piece := await exchange.receive():
        count += len(piece)
    await exchange.respond(200, [], b"%d" % count)


async def expect_408(client: RawClient, log: ServerLog, seconds: float) -> None:
    """Wait for that many seconds until the client is told that it is too slow, and no longer."""
    start = trio.current_time()
    response = await client.receive()
    assert trio.current_time() - start == pytest.approx(seconds)
    assert (response.status, response.keeps_alive) == (408, False)
    assert await client.receive_rest() == b""
    await client.aclose()
    await trio.sleep(1)
    assert log.ends == [EndReason.MIN_REQUEST_BODY_DATA_RATE]


async def trickle(client: RawClient, pieces: Sequence[bytes], seconds: float) -> None:
    """Send each of `pieces` in one flush, so many seconds after the one before."""
    for piece in pieces:
        await trio.sleep(seconds)
        try:
            await client.send_in_one(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def all_ended(site: Site) -> None:
    """Wait until the server has seen what was sent, and then until no connection is left."""
    await wait_all_tasks_blocked()
    await site.all_ended()


# Bodies -----------------------------------------------------------------------------------------


async def test_nothing_of_a_body(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        await expect_408(client, log, 5)


@pytest.mark.parametrize(
    ("sent", "received_bytes"),
    [
        (post(b"0123456789")[:-5], 5),
        (post_chunked(b"5\r\nhello\r\n"), 10),
        (post_chunked(b"5\r\nhello\r\n5\r\nhe"), 15),
        (post_chunked(b"5\r\nhello\r\n5"), 11),
        (post_chunked(b"5\r\nhello\r\n0\r\nx: y\r\n"), 19),
    ],
    ids=["length", "chunk", "half a chunk", "half a size", "half the trailers"],
)
async def test_half_a_body(
    sent: bytes, received_bytes: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Exactly the grace, and the time that the bytes earn which came; framing counts as they do."""
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(sent)
        await expect_408(client, log, 5 + received_bytes / 240)


@pytest.mark.parametrize("head", [post(b"x" * 99)[:-99], post_chunked(b"63\r\n")])
async def test_a_byte_a_second(
    head: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Five seconds of grace, and a 240th of a second for each of the five bytes of that time."""
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(head)
        framing = 4 if head.endswith(b"63\r\n") else 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, client, [b"x"] * 20, 1)
            await expect_408(client, log, 5 + (5 + framing) / 240)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("piece_bytes", "seconds"), [(24, 0.1), (240, 1), (960, 4)])
async def test_the_minimum_rate(
    piece_bytes: int, seconds: float, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """However it is spread: a client that keeps to it is never cut."""
    count = round(400 / seconds)
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(request(b"content-length: %d" % (count * piece_bytes)))
        await trickle(client, [b"x" * piece_bytes] * count, seconds)
        assert (await client.receive()).body == b"%d" % (count * piece_bytes)
        assert autojump_clock.current_time() == pytest.approx(400)


async def test_the_minimum_rate_byte_by_byte(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 4800"))
        await trickle(client, [b"x"] * 4800, 1 / 240)
        assert (await client.receive()).body == b"4800"


async def test_the_minimum_rate_in_chunks(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """All of it arrives so: sizes, data, the rest of the framing, trailers."""
    chunks = b"A\r\n0123456789\r\n" * 100 + b"0\r\n" + b"a-trailer: x\r\n" * 50 + b"\r\n"
    async with serving(native=count_body, limits=Limits(max_request_header_count=1000)) as site:
        client = await site.connect()
        await client.send(post_chunked(b""))
        await trickle(client, [chunks[i : i + 1] for i in range(len(chunks))], 1 / 240)
        assert (await client.receive()).body == b"1000"


async def test_long_framing_at_the_minimum_rate(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Trailers come as a whole: nothing ends the application's wait while they arrive."""
    trailers = b"".join(b"trailer-%03d: %s\r\n" % (i, b"x" * 200) for i in range(50))
    assert len(trailers) > 10_000
    framing = b"1; %s\r\nx\r\n0\r\n" % (b"x" * 3000) + trailers + b"\r\n"
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(post_chunked(b""))
        await trickle(client, [framing[i : i + 60] for i in range(0, len(framing), 60)], 0.25)
        assert (await client.receive()).body == b"1"


async def test_long_framing_that_stops(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Three seconds for 1200 bytes of trailers, five of grace, and five more that they earn."""
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(post_chunked(b""))
        await trickle(client, [b"0\r\n" + b"x" * 397, b"x" * 400, b"x" * 398 + b":y"], 1)
        await expect_408(client, log, 5 + 5 - 3)


async def test_what_is_saved_up_is_bounded(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A million bytes would earn more than an hour."""
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 1000001"))
        await client.send_in_one(b"x" * 1_000_000)
        await expect_408(client, log, 60)


async def test_only_waiting_is_counted(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """While the application thinks, a silent client spends nothing."""

    async def handler(exchange: HttpExchange) -> None:
        for _ in range(10):
            await trio.sleep(100)
            await exchange.receive()

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 100"))
        for _ in range(4):
            await trio.sleep(101)  # it waits for one second of these
            await client.send_in_one(b"x")
        await expect_408(client, log, 100 + 1 + 4 / 240)


async def test_what_is_at_hand_is_not_waited_for(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await trio.sleep(1000)
        await count_body(exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        assert (await client.ask(post(b"hello"))).body == b"5"
        assert (await client.ask(post_chunked(b"5\r\nhello\r\n0\r\n\r\n"))).body == b"5"


async def test_polling_is_not_waiting(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """As Starlette asks, in a scope that is cancelled; nor does it start the account anew."""
    polls = 0

    async def handler(exchange: HttpExchange) -> None:
        nonlocal polls
        for seconds in (0, 0, 2, 0, 2, 0, 0, 2):
            with trio.CancelScope(deadline=trio.current_time() + seconds):
                await exchange.receive()
            polls += 1
            await trio.sleep(20)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        await expect_408(client, log, 7 * 20 + 5)
    assert polls == 7


async def test_the_application_is_told(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Natively, and whenever it asks."""
    told: list[str] = []

    async def handler(exchange: HttpExchange) -> None:
        for _ in range(3):
            try:
                await exchange.receive()
            except BadRequest as error:
                told.append(str(error))
        with pytest.raises(ClientDisconnected):
            await exchange.respond(200, OK, b"ok")

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        await expect_408(client, log, 5)
    assert told == ["the body comes too slowly"] * 3


async def test_an_asgi_application_is_told(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    events: list[Event] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not events or events[-1]["type"] == "http.request":
            events.append(await receive())
        events.append(await receive())

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(post(b"0123456789")[:-5])
        await expect_408(client, log, 5 + 5 / 240)
    assert events == [
        {"type": "http.request", "body": b"01234", "more_body": True},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]


async def test_after_the_response_has_begun(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It is too late to tell the client; it sees that what it has is not all."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write(b"hello")
        await count_body(exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        assert (await client.receive_head())[0] == 200
        assert await client.receive_some() == b"5\r\nhello\r\n"
        assert await client.is_reset()
        assert autojump_clock.current_time() == pytest.approx(5)
    assert log.ends == [EndReason.MIN_REQUEST_BODY_DATA_RATE]


async def test_before_anything_of_the_response_was_sent(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The head waits for the body, so this is the same, and the client is only cut off."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.receive()

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        assert await client.is_reset()
        assert autojump_clock.current_time() == pytest.approx(5)
    assert log.ends == [EndReason.MIN_REQUEST_BODY_DATA_RATE]


async def test_a_response_that_was_begun_may_be_finished(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        await exchange.write(b"hello")
        with pytest.raises(BadRequest):
            await exchange.receive()
        await exchange.write(b", too slow")
        await exchange.finish()

    async with serving(native=handler) as site:
        client = await site.connect()
        response = await client.ask(request(b"content-length: 10"))
        assert response.body == b"hello, too slow"
        assert await client.receive_rest() == b""
        await client.aclose()
        await all_ended(site)
    assert log.ends == [EndReason.MIN_REQUEST_BODY_DATA_RATE]


@pytest.mark.parametrize(
    ("rate", "grace", "seconds"), [(1.0, 5, 10), (240, 0.5, 0.5 + 5 / 240), (0.25, 200, 200)]
)
async def test_by_limits(
    rate: float,
    grace: float,
    seconds: float,
    serving: Serving,
    log: ServerLog,
    autojump_clock: MockClock,
) -> None:
    """With a grace of more than a minute nothing is saved up beyond it."""
    limits = Limits(min_request_body_bytes_per_second=rate, request_body_grace_seconds=grace)
    async with serving(native=count_body, limits=limits) as site:
        client = await site.connect()
        await client.send(post(b"0123456789")[:-5])
        await expect_408(client, log, seconds)


@pytest.mark.parametrize("limits", [{"rate": None}, {"grace": math.inf}])
async def test_not_by_limits(
    limits: dict[str, float | None], serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    unlimited = Limits(
        min_request_body_bytes_per_second=limits.get("rate", 240.0),
        request_body_grace_seconds=limits.get("grace") or 5,
    )
    async with serving(native=count_body, limits=unlimited) as site:
        client = await site.connect()
        await client.send(post(b"0123456789")[:-5])
        await trio.sleep(40_000)
        assert (await client.ask(b"56789")).body == b"10"


async def test_by_the_exchange(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    """For that exchange alone; and the account is opened anew."""
    rates: list[float | None] = []

    async def handler(exchange: HttpExchange) -> None:
        rates.append(exchange.min_body_bytes_per_second)
        if exchange.target == b"/slow":
            exchange.min_body_bytes_per_second = None
            rates.append(exchange.min_body_bytes_per_second)
        if exchange.target == b"/one":
            exchange.min_body_bytes_per_second = 1
        await count_body(exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 1", first=b"POST /slow HTTP/1.1"))
        await trio.sleep(40_000)
        assert (await client.ask(b"x")).body == b"1"
        await client.send(request(b"content-length: 10", first=b"POST /one HTTP/1.1"))
        await trickle(client, [b"x"] * 10, 1)
        assert (await client.receive()).body == b"10"
        await client.send(request(b"content-length: 1"))
        await expect_408(client, log, 5)
    assert rates == [240, None, 240, 240]


async def test_by_the_exchange_and_not_for_those_behind_it(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        if exchange.target == b"/slow":
            exchange.min_body_bytes_per_second = None
        await count_body(exchange)

    slow = request(b"content-length: 5", first=b"POST /slow HTTP/1.1", body=b"hello")
    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send_in_one(slow + request(b"content-length: 5"))
        assert (await client.receive()).body == b"5"
        await expect_408(client, log, 5)


async def test_by_the_exchange_in_the_middle(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.receive()
        exchange.min_body_bytes_per_second = None
        await exchange.receive()
        exchange.min_body_bytes_per_second = 1
        await exchange.receive()

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 3"))
        await trio.sleep(4)
        await client.send(b"x")
        await trio.sleep(1000)
        await client.send(b"x")
        await expect_408(client, log, 5 + 2)  # what came before earns at the new rate


@pytest.mark.parametrize("rate", [0, -1, math.nan])
async def test_a_rate_is_above_zero(rate: float, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ValueError, match="a rate must be above zero, or None"):
            exchange.min_body_bytes_per_second = rate
        with pytest.raises(ValueError, match="a rate must be above zero, or None"):
            exchange.min_response_bytes_per_second = rate
        assert exchange.min_body_bytes_per_second == 240
        assert exchange.min_response_bytes_per_second == 240
        await exchange.respond(200, OK, b"ok")

    async with serving(native=handler) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"ok"


async def test_each_request_has_its_own_account(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=count_body) as site:
        client = await site.connect()
        for _ in range(5):
            await client.send(request(b"content-length: 1"))
            await trio.sleep(4)
            assert (await client.ask(b"x")).body == b"1"
        await client.ask(post(b"x" * 10_000))
        await client.send(request(b"content-length: 1"))
        await expect_408(client, log, 5)


async def test_a_client_that_waits_to_be_asked(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The grace begins when it is asked, however late that is."""

    async def handler(exchange: HttpExchange) -> None:
        await trio.sleep(50)
        await count_body(exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10", b"expect: 100-continue"))
        assert (await client.receive_head())[0] == 100
        assert autojump_clock.current_time() == 50
        await expect_408(client, log, 5)


async def test_what_follows_is_not_served(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    served: list[bytes] = []

    async def handler(exchange: HttpExchange) -> None:
        served.append(exchange.target)
        await count_body(exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10", first=b"POST /slow HTTP/1.1"))
        await trio.sleep(5.5)
        await client.send(b"0123456789" + GET)
        assert (await client.receive()).status == 408
        assert await client.receive_rest() == b""
        await client.aclose()
        await all_ended(site)
    assert served == [b"/slow"]
    assert log.ends == [EndReason.MIN_REQUEST_BODY_DATA_RATE]


async def test_408_does_not_overtake_earlier_answers(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(native=count_body) as site:
        client = await site.connect()
        await client.send(GET * 2 + request(b"content-length: 10"))
        for _ in range(2):
            assert (await client.receive()).body == b"0"
        await expect_408(client, log, 5)


async def test_what_is_dropped_has_a_bound_of_its_own(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """An application that took a part leaves the rest: five seconds for all of it."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.receive()
        await exchange.respond(200, OK, b"ok")

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 1000"))
        await trio.sleep(4.5)
        assert (await client.ask(b"x")).body == b"ok"
        start = autojump_clock.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, client, [b"x" * 10] * 100, 0.1)
            assert await client.receive_rest() == b""
            assert autojump_clock.current_time() - start == pytest.approx(5)
            nursery.cancel_scope.cancel()
        await all_ended(site)
    assert log.ends == [EndReason.REQUEST_BODY_DRAIN_TIMEOUT]


async def test_a_starved_server_does_not_blame_the_client(
    serving: Serving, log: ServerLog, mock_clock: MockClock
) -> None:
    """What it did not look at for ten seconds may be there; so it looks for as long again."""
    async with serving(native=count_body) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(request(b"content-length: 3"))
        await wait_all_tasks_blocked()
        for seconds in (0, 2, 4):
            mock_clock.jump(10)
            await wait_all_tasks_blocked()
            assert await client.received_by_now() == b""
            mock_clock.jump(seconds)  # still before the new end, which is five seconds later
            await wait_all_tasks_blocked()
            await client.send(b"x")
            await wait_all_tasks_blocked()
        assert (await client.receive()).body == b"3"


async def test_a_starved_server_takes_what_came_at_the_same_time(
    serving: Serving, log: ServerLog, mock_clock: MockClock
) -> None:
    """Nor does that cost the client what it has left."""
    async with serving(native=count_body) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(request(b"content-length: 2"))
        await wait_all_tasks_blocked()
        await client.send(b"x")
        mock_clock.jump(10)
        await wait_all_tasks_blocked()
        mock_clock.jump(4)
        await wait_all_tasks_blocked()
        assert (await client.ask(b"x")).body == b"2"


async def test_a_client_that_stays_silent_after_the_server_has_starved(
    serving: Serving, log: ServerLog, mock_clock: MockClock
) -> None:
    async with serving(native=count_body) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(request(b"content-length: 3"))
        await wait_all_tasks_blocked()
        mock_clock.jump(12)
        await wait_all_tasks_blocked()
        mock_clock.jump(6.9)
        assert await client.received_by_now() == b""
        mock_clock.jump(0.1)
        assert (await client.receive()).status == 408


# Responses --------------------------------------------------------------------------------------


class Sender:
    """Sends so many pieces, and notes how that ended and when."""

    def __init__(self, piece_bytes: int = 50_000, pieces: int = 100) -> None:
        self.piece = b"x" * piece_bytes
        self.pieces = pieces
        self.error: ClientDisconnected | None = None
        self.ended_at = math.nan

    async def __call__(self, exchange: HttpExchange) -> None:
        try:
            await exchange.start(200, [(b"content-length", b"%d" % self.total_bytes)])
            for _ in range(self.pieces):
                await exchange.write(self.piece)
            await exchange.finish()
        except ClientDisconnected as error:
            self.error = error
            raise
        finally:
            self.ended_at = trio.current_time()

    @property
    def total_bytes(self) -> int:
        return len(self.piece) * self.pieces


async def test_a_client_that_does_not_read(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    sender = Sender()
    async with serving(native=sender) as site:
        client = await site.connect()
        await client.send(GET)
        await all_ended(site)
        assert sender.ended_at == pytest.approx(5)
        assert isinstance(sender.error, ClientDisconnected)
        assert await client.is_reset()
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


@pytest.mark.counts_bytes
async def test_an_asgi_application_fails_to_send(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    errors: list[OSError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await answer(send, b"x" * 100_000)
        except OSError as error:
            errors.append(error)
            raise

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await all_ended(site)
        assert autojump_clock.current_time() == pytest.approx(5, abs=0.02)
    assert [type(error) for error in errors] == [ClientDisconnected]
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


@pytest.mark.counts_bytes
async def test_a_client_that_reads_steadily(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """From a buffer that takes half a minute to become free again."""
    sender = Sender()
    async with serving(native=sender, endpoint=BIG_BUFFER) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        received = 0
        while received < sender.total_bytes:
            await trio.sleep(1)
            received += len(await client.connection.transport.input.receive(10_000))
        assert autojump_clock.current_time() > 400
    assert sender.error is None


async def test_a_client_that_reads_at_the_minimum_rate(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    sender = Sender(1000, 100)
    async with serving(native=sender, endpoint="memory://small?pause_at_bytes=5000") as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        received = 0
        while received < sender.total_bytes:
            await trio.sleep(1)
            received += len(await client.connection.transport.input.receive(240))
        assert autojump_clock.current_time() > 400
    assert sender.error is None


async def read_slowly(
    client: RawClient, count: int, bytes_each: int, seconds: float, first: float
) -> None:
    await trio.sleep(first)
    for _ in range(count):
        try:
            await client.connection.transport.input.receive(bytes_each)
        except trio.BrokenResourceError:
            return
        await trio.sleep(seconds)


@pytest.mark.counts_bytes
async def test_a_client_that_reads_too_slowly(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """A hundred bytes at half past each second.

    After 5 s it has taken 500 bytes, which earn 2 1/12 s; in these it takes 200, which earn 5/6 s;
    in these 100, which earn 5/12 s; and in these none.
    """
    sender = Sender()
    async with serving(native=sender, endpoint=BIG_BUFFER) as site:
        client = await site.connect()
        await client.send(GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly, client, 100, 100, 1, 0.5)
            await all_ended(site)
            nursery.cancel_scope.cancel()
        assert sender.ended_at == pytest.approx(5 + 500 / 240 + 200 / 240 + 100 / 240)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_what_a_reader_saves_up_is_bounded(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    sender = Sender()
    async with serving(native=sender) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        await client.connection.transport.input.read_exactly(2_000_000)
        await all_ended(site)
        assert sender.ended_at == pytest.approx(60)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_only_what_keeps_the_server_waiting_is_counted(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """As long as there is room for what it sends, a client may read when it likes."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        for _ in range(9):
            await exchange.write(b"x" * 10_000)
            await trio.sleep(100)

    async with serving(native=handler, endpoint="memory://x?pause_at_bytes=80000") as site:
        client = await site.connect()
        await client.send(GET)
        await all_ended(site)
        assert autojump_clock.current_time() == pytest.approx(700 + 5, abs=0.02)
        assert await client.is_reset()
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


@pytest.mark.counts_bytes
async def test_several_waits_are_one_account(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Each time the client makes room for one more piece, and the application pauses."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        for _ in range(100):
            await exchange.write(b"x" * 20)
            await trio.sleep(10)

    limits = Limits(min_response_bytes_per_second=1e9)  # so that only the grace counts
    async with serving(
        native=handler, endpoint="memory://tiny?pause_at_bytes=1", limits=limits
    ) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        piece = client.connection.transport.input.read_exactly
        assert await piece(26) == b"14\r\n" + b"x" * 20 + b"\r\n"
        for _ in range(2):
            await trio.sleep(10 + 2)
            await piece(26)
        start = trio.current_time()
        await all_ended(site)
        assert trio.current_time() - start == pytest.approx(10 + 5 - 2 * 2, abs=0.02)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


@pytest.mark.counts_bytes
@pytest.mark.parametrize("limits", [{"rate": None}, {"grace": math.inf}])
async def test_responses_not_by_limits(
    limits: dict[str, float | None], serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    unlimited = Limits(
        min_response_bytes_per_second=limits.get("rate", 240.0),
        response_grace_seconds=limits.get("grace") or 5,
    )
    async with serving(native=Sender(), limits=unlimited) as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(40_000)
        assert len((await client.receive()).body) == 5_000_000


@pytest.mark.counts_bytes
async def test_responses_by_limits(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    sender = Sender()
    limits = Limits(min_response_bytes_per_second=100, response_grace_seconds=0.5)
    async with serving(native=sender, limits=limits) as site:
        client = await site.connect()
        await client.send(GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly, client, 5, 10, 1, 0.25)
            await all_ended(site)
            nursery.cancel_scope.cancel()
        assert sender.ended_at == pytest.approx(0.5 + 10 / 100)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_responses_by_the_exchange(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """For that exchange alone."""
    rates: list[float | None] = []
    sender = Sender()

    async def handler(exchange: HttpExchange) -> None:
        rates.append(exchange.min_response_bytes_per_second)
        if exchange.target == b"/slow":
            exchange.min_response_bytes_per_second = None
            rates.append(exchange.min_response_bytes_per_second)
        await sender(exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(first=b"GET /slow HTTP/1.1"))
        await trio.sleep(40_000)
        assert len((await client.receive()).body) == 5_000_000
        start = trio.current_time()
        await client.send(GET)
        await all_ended(site)
        assert sender.ended_at - start == pytest.approx(5)
    assert rates == [240, None, 240]


async def test_joined_answers_that_are_not_taken(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """They leave when the input has run dry, and no exchange is under way then."""
    served = 0

    async def handler(exchange: HttpExchange) -> None:
        nonlocal served
        served += 1
        await exchange.respond(200, [(b"content-length", b"400")], b"x" * 400)

    async with serving(native=handler, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send_in_one(GET * 10)
        await wait_all_tasks_blocked()
        assert served == 10
        await all_ended(site)
        assert autojump_clock.current_time() == pytest.approx(5, abs=0.02)
        assert await client.is_reset()
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_joined_answers_that_are_taken_slowly(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.respond(200, [(b"content-length", b"400")], b"x" * 400)

    async with serving(native=handler, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send_in_one(GET * 10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly, client, 16, 240, 1, 1)
        while b"x" in await client.received_by_now():
            pass
        assert (await client.ask(GET)).body == b"x" * 400
        assert autojump_clock.current_time() >= 16


@pytest.mark.counts_bytes
async def test_the_last_answer(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(native=Sender(500_000, 1)) as site:
        client = await site.connect()
        await client.send(request(b"connection: close"))
        await all_ended(site)
        assert autojump_clock.current_time() == pytest.approx(5, abs=0.02)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_time_to_keep_alive_is_not_shortened_by_it(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """There is one deadline, and what an exchange leaves in it is of no consequence."""
    async with serving(native=Sender(100_000, 1)) as site:
        client = await site.connect()
        for _ in range(3):
            await client.send(request(b"content-length: 1"))
            await trio.sleep(4)
            assert len((await client.ask(b"x")).body) == 100_000
            await trio.sleep(129)
        assert len((await client.ask(GET)).body) == 100_000
        start = trio.current_time()
        assert await client.receive_rest() == b""
        assert trio.current_time() - start == pytest.approx(130)
    assert log.ends == [EndReason.KEEP_ALIVE_TIMEOUT]


async def test_a_starved_server_does_not_blame_the_reader(
    serving: Serving, log: ServerLog, mock_clock: MockClock
) -> None:
    sender = Sender(100_000, 4)
    async with serving(native=sender) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET)
        await client.receive_head()
        for _ in range(2):
            await wait_all_tasks_blocked()
            mock_clock.jump(10)
            await wait_all_tasks_blocked()
            mock_clock.jump(4)
            await wait_all_tasks_blocked()
            await client.connection.transport.input.read_exactly(1000)
        await client.connection.transport.input.read_exactly(398_000)
    assert sender.error is None


# Both -------------------------------------------------------------------------------------------


Waits = Callable[[HttpExchange], Awaitable[None]]


async def wait_for_body(exchange: HttpExchange) -> None:
    await exchange.receive()


async def wait_for_response(exchange: HttpExchange) -> None:
    await exchange.write(b"x" * 100_000)


@pytest.mark.counts_bytes
@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        (wait_for_body, wait_for_response, EndReason.MIN_REQUEST_BODY_DATA_RATE),
        (wait_for_response, wait_for_body, EndReason.MIN_RESPONSE_DATA_RATE),
    ],
)
async def test_both_at_once(
    first: Waits,
    then: Waits,
    reason: EndReason,
    serving: Serving,
    log: ServerLog,
    autojump_clock: MockClock,
) -> None:
    """Two tasks wait, and there is one deadline: whichever is due first."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first, exchange)
            await trio.sleep(3)
            nursery.start_soon(then, exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        await all_ended(site)
        assert autojump_clock.current_time() == pytest.approx(5, abs=0.02)
    assert log.ends == [reason]


@pytest.mark.counts_bytes
async def test_one_wait_does_not_end_the_other(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The body comes late enough that its wait would have ended by then; nobody reads."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.receive)
            await trio.sleep(3)
            nursery.start_soon(wait_for_response, exchange)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(request(b"content-length: 10"))
        await trio.sleep(4)
        await client.send_in_one(b"0123456789")
        await all_ended(site)
        assert autojump_clock.current_time() == pytest.approx(3 + 5, abs=0.02)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_echo_of_a_slow_client(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It sends and reads 250 bytes a second, and nothing is wrong with that."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, [])
        while piece := await exchange.receive():
            await exchange.write(piece)
        await exchange.finish()

    async with serving(native=handler, endpoint="memory://narrow?pause_at_bytes=100") as site:
        client = await site.connect()
        await client.send(request(b"content-length: 25000"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, client, [b"x" * 250] * 100, 1)
            assert len((await client.receive()).body) == 25_000
        assert autojump_clock.current_time() == pytest.approx(100)


async def test_a_request_without_a_body_costs_no_time(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Waiting until the client leaves is not waiting for it to send."""

    async def handler(exchange: HttpExchange) -> None:
        with trio.move_on_after(1000):
            await exchange.wait_disconnected()
        await exchange.respond(200, OK, b"ok")

    async with serving(native=handler) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"ok"
        assert autojump_clock.current_time() == pytest.approx(1000)


async def test_applications_that_read_nothing(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(hello) as site:
        client = await site.connect()
        assert (await client.ask(request(b"content-length: 1"))).body == b"hello"
        await trio.sleep(4)
        assert (await client.ask(b"x" + GET)).body == b"hello"
    async with serving(echo) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"/ "


async def test_an_idle_connection_keeps_no_account(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """There may be many of them, and an account holds on to its body."""
    async with serving(native=count_body, limits=Limits(max_request_seconds=10)) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(request(b"content-length: 1"))
            await trio.sleep(1)
            assert (await client.ask(b"x")).body == b"1"
            await wait_all_tasks_blocked()
            gc.collect()
            kept = [each for each in gc.get_objects() if isinstance(each, (Pace, Body))]
            assert kept == []
