"""Nobody fills anybody's memory: whoever does not read stops whoever sends."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, HttpExchange
from tests.http1_site import ServerLog, Serving, answer, read_body
from tests.raw_client import GET, UnexpectedEnd, post, post_chunked, request

NARROW = "memory://narrow?pause_at_bytes=1000"

PIECE = b"x" * 100


class Endless:
    """Sends pieces until it is told to stop, and counts them."""

    def __init__(self) -> None:
        self.sent = 0
        self.enough = False
        self.error: OSError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while not self.enough:
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
                self.sent += 1
        except OSError as error:
            self.error = error
            raise
        await send({"type": "http.response.body"})


# Responses --------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_stops_send(serving: Serving, log: ServerLog) -> None:
    app = Endless()
    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        stopped_at = app.sent
        assert 0 < stopped_at <= 10
        assert site.connection.transport.output.unflushed_bytes == 0

        received = len(await client.received_by_now())
        await wait_all_tasks_blocked()
        assert app.sent > stopped_at
        app.enough = True
        while app.sent * 100 > received:
            received += len(await client.received_by_now())


async def test_a_client_that_reads_slowly_gets_everything(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    body = bytes(range(256)) * 100

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, body)

    limits = Limits(min_response_bytes_per_second=50)
    async with serving(app, endpoint=NARROW, limits=limits) as site:
        client = await site.connect()
        await client.send(request(b"connection: close"))
        received = b""
        while piece := await client.receive_some():
            received += piece
            await trio.sleep(10)
        assert received.endswith(b"\r\n\r\n" + body)


async def test_pipelined_requests_of_a_client_that_does_not_read(
    serving: Serving, log: ServerLog
) -> None:
    served = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal served
        served += 1
        await answer(send, PIECE)

    limits = Limits(max_response_buffer_bytes=1000)
    async with serving(app, endpoint=NARROW, limits=limits) as site:
        client = await site.connect(byte_by_byte=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, GET * 1000)
            await wait_all_tasks_blocked()
            assert 0 < served < 50
            assert site.connection.transport.output.unflushed_bytes < 2000
            for _ in range(1000):
                assert (await client.receive()).body == PIECE
        assert served == 1000


async def test_a_client_that_leaves_while_send_waits(serving: Serving, log: ServerLog) -> None:
    for leave in ("reset", "aclose"):
        app = Endless()
        async with serving(app, endpoint=NARROW) as site:
            client = await site.connect()
            await client.send(GET)
            await wait_all_tasks_blocked()
            if leave == "reset":
                client.reset()
            else:
                await client.aclose()
            await site.all_ended()
        assert isinstance(app.error, ClientDisconnected)
    assert log.ends == [EndReason.CONNECTION_RESET] * 2


# A send that the application gives up ---------------------------------------------------------------


async def test_a_cancelled_send_ends_the_connection(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Nobody knows how much of it has left, so nothing that follows could be understood."""
    late: list[Exception] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        with trio.move_on_after(4) as scope_:
            await send({"type": "http.response.body", "body": PIECE * 50, "more_body": True})
        assert scope_.cancelled_caught
        try:
            await send({"type": "http.response.body", "body": b"never"})
        except OSError as error:
            late.append(error)

    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(6)
        with pytest.raises(UnexpectedEnd):
            await client.receive()
        await site.all_ended()
    assert isinstance(late.pop(), ClientDisconnected)
    assert log.ends == [EndReason.ABORTED_BY_APP]


@pytest.mark.parametrize("sent", [GET * 3, post(b"x" * 10)[:-5]], ids=["pipelined", "unread body"])
async def test_a_cancelled_whole_response_ends_the_connection(
    sent: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(4):
            await answer(send, PIECE * 50)

    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(sent)
        await trio.sleep(6)
        assert await client.is_reset()
        await site.all_ended()
        assert autojump_clock.current_time() < 7
    assert log.ends == [EndReason.ABORTED_BY_APP]


async def test_an_application_that_fails_because_send_took_too_long(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.fail_after(4):
            await answer(send, PIECE * 50)

    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(6)
        assert await client.is_reset()
        await site.all_ended()
    log.take_error(trio.TooSlowError)
    assert log.ends == [EndReason.ABORTED_BY_APP]


async def test_sending_in_a_cancelled_scope_when_there_is_room(
    serving: Serving, log: ServerLog
) -> None:
    """It need not wait, so it is not cancelled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope() as scope_:
            scope_.cancel()
            await answer(send, b"hello")

    async with serving(app) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(GET)).body == b"hello"


# Requests ---------------------------------------------------------------------------------------


@pytest.mark.counts_bytes
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_an_application_that_does_not_receive_stops_the_client(
    chunked: bool, serving: Serving, log: ServerLog
) -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await answer(send, b"%d" % len(await read_body(receive)))

    body = PIECE * 1000
    sent = post_chunked(b"186a0\r\n%b\r\n0\r\n\r\n" % body) if chunked else post(body)
    async with serving(app, endpoint=NARROW) as site:
        client = await site.connect(byte_by_byte=False)
        arrived = trio.Event()

        async def send() -> None:
            await client.send(sent)
            arrived.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            assert not arrived.is_set()
            assert len(site.connection.transport.input.buffered) <= 1000
            go_on.set()
            assert (await client.receive()).body == b"100000"
            assert arrived.is_set()


@pytest.mark.counts_bytes
async def test_one_piece_at_a_time(serving: Serving, log: ServerLog) -> None:
    """What the application does not ask for stays with the client."""
    step = trio.Event()
    received = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        more_body = True
        while more_body:
            await step.wait()
            event = await receive()
            received += len(event["body"])
            more_body = event["more_body"]
        await answer(send)

    async with serving(app, endpoint=NARROW) as site, trio.open_nursery() as nursery:
        client = await site.connect(byte_by_byte=False)
        nursery.start_soon(client.send, post(PIECE * 100))
        previous = 0
        while received < 10_000:
            step.set()
            step = trio.Event()
            await wait_all_tasks_blocked()
            assert received - previous <= 2000
            previous = received
        assert (await client.receive()).status == 200


@pytest.mark.counts_bytes
async def test_looking_out_for_the_client_reads_ahead_within_bounds(
    serving: Serving, log: ServerLog
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        event = await receive()
        assert event == {"type": "http.disconnect"}

    limits = Limits(
        max_request_buffer_bytes=3000, max_request_line_bytes=2000, max_request_headers_bytes=2000
    )
    async with serving(app, endpoint=NARROW, limits=limits) as site:
        client = await site.connect(byte_by_byte=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, GET * 1000)
            await wait_all_tasks_blocked()
            assert 3000 <= len(site.connection.transport.input.buffered) <= 4000
            client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_whoever_looks_out_beyond_those_bounds_is_told_of_the_response(
    serving: Serving, log: ServerLog
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:

            async def look_out() -> None:
                assert await receive() == {"type": "http.disconnect"}

            nursery.start_soon(look_out)
            await wait_all_tasks_blocked()
            await answer(send, b"hello")

    limits = Limits(
        max_request_buffer_bytes=3000, max_request_line_bytes=2000, max_request_headers_bytes=2000
    )
    async with serving(app, limits=limits) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET * 200)
        for _ in range(200):
            assert (await client.receive()).body == b"hello"


# Endings ----------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_its_rejection_is_cut_off(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(endpoint="memory://hair?pause_at_bytes=10") as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(b"nonsense\r\n\r\n" + b"more" * 100)
        await site.all_ended()
        assert autojump_clock.current_time() <= 2.1
        assert await client.is_reset()
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


async def test_native_handlers_see_the_same(serving: Serving, log: ServerLog) -> None:
    written = 0

    async def handler(exchange: HttpExchange) -> None:
        nonlocal written
        await exchange.start(200, [])
        while True:
            await exchange.write(PIECE)
            written += 1

    async with serving(native=handler, endpoint=NARROW) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        assert 0 < written <= 10
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]
