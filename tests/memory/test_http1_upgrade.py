"""Connections that stop speaking HTTP: Upgrade, and the tunnels of CONNECT."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, HttpExchange, ResponseError
from kestrel_protocols.http.exchange import TooManyUpgrades
from kestrel_protocols.wsgi import WsgiApplication
from tests.http1_site import ServerLog, Serving
from tests.raw_client import GET, RawClient, request

OK = [(b"content-length", b"2")]

UPGRADE = request(b"connection: Upgrade", b"upgrade: echo/1")

CONNECT = b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n"

HEADERS = [(b"upgrade", b"echo/1")]


async def echo(pipe: DuplexPipe) -> None:
    """Send back what comes until that ends, and say goodbye."""
    async for chunk in pipe.input:
        await pipe.output.send(chunk)
    await pipe.output.send(b"bye")


class Echo:
    """Echoes whatever it is asked, or says why it cannot; other requests are answered."""

    def __init__(self) -> None:
        self.ended = 0

    async def __call__(self, exchange: HttpExchange) -> None:
        if not exchange.upgradable:
            await exchange.respond(200, OK, b"ok")
            return
        try:
            headers = [] if exchange.method == "CONNECT" else HEADERS
            await echo(await exchange.upgrade(headers))
        finally:
            self.ended += 1


async def receive_yes(client: RawClient, sent: bytes = UPGRADE) -> None:
    """Receive the head of the answer that says yes to that."""
    status, headers = await client.receive_head()
    names = [name for name, _ in headers]
    assert b"content-length" not in names
    assert b"transfer-encoding" not in names
    if sent.startswith(b"CONNECT"):
        assert status == 200
        assert b"upgrade" not in names
    else:
        assert status == 101
        assert (b"upgrade", b"echo/1") in headers
        assert (b"connection", b"upgrade") in headers
    assert {b"date", b"server"} <= set(names)


async def upgraded(client: RawClient, sent: bytes = UPGRADE) -> None:
    """Send that, and receive the head of an answer that says yes."""
    await client.send(sent)
    await receive_yes(client, sent)


async def receive_exactly(client: RawClient, count: int) -> bytes:
    return await client.connection.transport.input.read_exactly(count)


both_ways = pytest.mark.parametrize("sent", [UPGRADE, CONNECT], ids=["upgrade", "connect"])


# Switching --------------------------------------------------------------------------------------


@both_ways
async def test_both_directions(sent: bytes, serving: Serving, log: ServerLog) -> None:
    async with serving(native=Echo()) as site:
        client = await site.connect()
        await upgraded(client, sent)
        for word in (b"hello", b"you", b"\r\n\r\n", GET):
            await client.send(word)
            assert await receive_exactly(client, len(word)) == word
        await client.send_eof()
        assert await client.receive_rest() == b"bye"
        await site.all_ended()
    assert log.ends == [EndReason.UPGRADED]


@both_ways
async def test_bytes_right_behind_the_request(
    sent: bytes, serving: Serving, log: ServerLog
) -> None:
    """They are the other protocol's, even if they look like requests, or come in one segment."""
    async with serving(native=Echo()) as site:
        for early in (b"hello", GET, b"\r\n", b"G", GET * 10):
            client = await site.connect()
            await upgraded(client, sent + early)
            assert await receive_exactly(client, len(early)) == early
            await client.send(b"more")
            assert await receive_exactly(client, 4) == b"more"
            await client.aclose()


@both_ways
async def test_after_other_requests(sent: bytes, serving: Serving, log: ServerLog) -> None:
    async with serving(native=Echo()) as site:
        client = await site.connect()
        await client.send(GET * 3 + sent + b"hello")
        for _ in range(3):
            assert (await client.receive()).body == b"ok"
        await receive_yes(client, sent)
        assert await receive_exactly(client, 5) == b"hello"


@both_ways
async def test_the_client_ends_its_side_first(
    sent: bytes, serving: Serving, log: ServerLog
) -> None:
    """In the same segment as its request; the other direction goes on."""

    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade([] if exchange.method == "CONNECT" else HEADERS)
        assert await pipe.input.read_exactly(100) == b"last words"
        assert pipe.input.at_eof
        for _ in range(3):
            await pipe.output.send(b"still here ")
            await trio.lowlevel.checkpoint()

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(sent + b"last words")
        await client.send_eof()
        await receive_yes(client, sent)
        assert await client.receive_rest() == b"still here " * 3
        await site.all_ended()
    assert log.ends == [EndReason.UPGRADED]


async def test_the_server_ends_its_side_first(serving: Serving, log: ServerLog) -> None:
    received: list[bytes] = []

    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        await pipe.output.send(b"done")
        await pipe.output.send_eof()
        received.extend([chunk async for chunk in pipe.input])

    async with serving(native=handler) as site:
        client = await site.connect()
        await upgraded(client)
        assert await client.receive_rest() == b"done"
        await client.send(b"but I am not")
        await client.send_eof()
        await site.all_ended()
    assert b"".join(received) == b"but I am not"
    assert log.ends == [EndReason.UPGRADED]


async def test_a_tunnel_to_a_server(serving: Serving, log: ServerLog) -> None:
    """A proxy in a dozen lines: both directions at once, each with its own end."""

    async def far_end(pipe: DuplexPipe) -> None:
        request = await pipe.input.read_until(b"\n", 100)
        await pipe.output.send(b"you said " + request)
        assert await pipe.input.receive() == b""
        await pipe.output.send(b"goodbye")
        await pipe.aclose()

    async def copy(source: DuplexPipe, target: DuplexPipe) -> None:
        async for chunk in source.input:
            await target.output.send(chunk)
        await target.output.send_eof()

    async def proxy(exchange: HttpExchange) -> None:
        assert (exchange.method, exchange.target) == ("CONNECT", b"example.org:443")
        near, far = duplex_pipe_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far_end, far)
            client = await exchange.upgrade()
            nursery.start_soon(copy, client, near)
            nursery.start_soon(copy, near, client)

    async with serving(native=proxy) as site:
        client = await site.connect()
        await upgraded(client, CONNECT + b"he")
        await client.send(b"llo\n")
        assert await receive_exactly(client, 15) == b"you said hello\n"
        await client.send_eof()
        assert await client.receive_rest() == b"goodbye"
        await site.all_ended()
    assert log.ends == [EndReason.UPGRADED]


async def test_what_is_told_of_it(serving: Serving, log: ServerLog) -> None:
    """The exchange is over when the application returns, and has the status it switched with."""
    ended: list[tuple[str, int | None, int]] = []

    def note(exchange: HttpExchange) -> None:
        assert exchange.response_finished
        ended.append((exchange.method, exchange.status, exchange.response_body_bytes))

    async with serving(native=Echo(), on_exchange_end=note) as site:
        for sent in (UPGRADE, CONNECT):
            client = await site.connect()
            await upgraded(client, sent)
            await wait_all_tasks_blocked()
            assert len(ended) == [UPGRADE, CONNECT].index(sent)
            await client.aclose()
            await site.all_ended()
    assert ended == [("GET", 101, 0), ("CONNECT", 200, 0)]


async def test_fields_of_the_application(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.upgrade(
            [
                (b"Connection", b"Upgrade, x"),
                (b"Upgrade", b"echo/1"),
                (b"x", b"y"),
                (b"date", b"today"),
                (b"server", b"own"),
            ]
        )

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(UPGRADE)
        status, headers = await client.receive_head()
        assert status == 101
        assert sorted(headers) == [
            (b"connection", b"Upgrade, x"),
            (b"date", b"today"),
            (b"server", b"own"),
            (b"upgrade", b"echo/1"),
            (b"x", b"y"),
        ]


# Whether it may be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        GET,
        request(b"upgrade: echo/1"),
        request(b"connection: upgrade"),
        request(b"connection: keep-alive", b"upgrade: echo/1"),
        request(b"connection: Upgrade", b"upgrade: echo/1", first=b"GET / HTTP/1.0"),
        request(b"connection: Upgrade", b"upgrade: x", b"content-length: 5", body=b"hello"),
        request(b"connection: upgrade", b"upgrade: x", b"transfer-encoding: chunked", body=b"0")
        + b"\r\n\r\n",
        CONNECT.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_not_asked_for(sent: bytes, serving: Serving, log: ServerLog) -> None:
    """Without being asked, with a body, or by HTTP/1.0; then it is a request as any other."""
    status = 404

    async def handler(exchange: HttpExchange) -> None:
        assert not exchange.upgradable
        with pytest.raises(ResponseError, match="did not ask for an upgrade"):
            await exchange.upgrade(HEADERS)
        while await exchange.receive():
            pass
        await exchange.respond(status, OK, b"ok")

    async with serving(native=handler) as site:
        client = await site.connect()
        response = await client.ask(sent)
        assert (response.status, response.body) == (404, b"ok")
        if response.keeps_alive:
            assert (await client.ask(GET)).body == b"ok"


@pytest.mark.parametrize(
    "sent",
    [
        request(b"Connection: keep-alive, Upgrade", b"upgrade: echo/1"),
        request(b"connection: keep-alive", b"connection: upgrade", b"Upgrade: echo/2, echo/1"),
        request(b"connection: upgrade", b"upgrade: echo/1", b"content-length: 0"),
        request(b"connection: close, upgrade", b"upgrade: echo/1", first=b"OPTIONS * HTTP/1.1"),
        CONNECT.replace(b"\r\n\r\n", b"\r\nproxy-authorization: x\r\n\r\n"),
    ],
)
async def test_ways_to_ask(sent: bytes, serving: Serving, log: ServerLog) -> None:
    async with serving(native=Echo()) as site:
        client = await site.connect()
        await upgraded(client, sent)
        await client.send(b"hello")
        assert await receive_exactly(client, 5) == b"hello"


async def test_twice(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        assert pipe is exchange.connection.transport
        for again in (
            exchange.upgrade(HEADERS),
            exchange.respond(200, []),
            exchange.start(200, []),
            exchange.inform(103, []),
            exchange.write(b"x"),
            exchange.finish(),
        ):
            with pytest.raises(ResponseError):
                await again
        await pipe.output.send(b"fine")

    async with serving(native=handler) as site:
        client = await site.connect()
        await upgraded(client)
        assert await client.receive_rest() == b"fine"


async def test_after_the_start_of_a_response(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.start(200, OK)
        with pytest.raises(ResponseError, match="a response was started already"):
            await exchange.upgrade(HEADERS)
        await exchange.write(b"ok")
        await exchange.finish()

    async with serving(native=handler) as site:
        client = await site.connect()
        assert (await client.ask(UPGRADE)).body == b"ok"
        assert site.connection.context.upgraded_connections == 0
        assert (await client.ask(UPGRADE)).body == b"ok"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([], "a response 101 has a field Upgrade"),
        ([(b"connection", b"upgrade")], "a response 101 has a field Upgrade"),
        ([(b"upgrade", b"x\r\ny: z")], "control character"),
        ([(b"upgrade", b"x"), (b"content-length", b"0")], "has no body"),
        ([(b"upgrade", b"x"), (b"transfer-encoding", b"chunked")], "has no body"),
    ],
)
async def test_an_answer_that_is_wrong(
    headers: list[tuple[bytes, bytes]], text: str, serving: Serving, log: ServerLog
) -> None:
    """Nothing is sent, and HTTP goes on."""

    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ResponseError, match=text):
            await exchange.upgrade(headers)
        await exchange.respond(200, OK, b"ok")

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(UPGRADE)).body == b"ok"
        assert site.connection.context.upgraded_connections == 0


async def test_a_request_to_upgrade_may_be_answered(serving: Serving, log: ServerLog) -> None:
    """A server may ignore it (RFC 9110, 7.8)."""

    async def handler(exchange: HttpExchange) -> None:
        assert exchange.upgradable
        await exchange.respond(200, OK, b"ok")

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(UPGRADE)
            assert (response.status, response.body, response.keeps_alive) == (200, b"ok", True)


async def test_connect_may_be_refused(serving: Serving, log: ServerLog) -> None:
    """By any status that is no success; that would open the tunnel.

    What follows is no request: its client may have sent the first bytes of the tunnel already.
    """

    async def handler(exchange: HttpExchange) -> None:
        assert exchange.upgradable
        for status in (200, 204):
            with pytest.raises(ResponseError, match=r"upgrade\(\) opens the tunnel"):
                await exchange.respond(
                    status, OK if status == 200 else [], b"ok"[: 2 * (status == 200)]
                )
            with pytest.raises(ResponseError, match=r"upgrade\(\) opens the tunnel"):
                await exchange.start(status, [])
        await exchange.respond(407, OK, b"no")

    async with serving(native=handler) as site:
        client = await site.connect()
        response = await client.ask(CONNECT + GET)
        assert (response.status, response.body, response.keeps_alive) == (407, b"no", False)
        assert await client.receive_rest() == b""


@pytest.mark.parametrize("framing", [b"content-length: 5", b"transfer-encoding: chunked"])
async def test_connect_with_a_body(framing: bytes, serving: Serving, log: ServerLog) -> None:
    """It means nothing that is agreed on, and what follows would be the tunnel's."""
    async with serving(native=Echo()) as site:
        client = await site.connect()
        await client.send(CONNECT[:-2] + framing + b"\r\n\r\nhello")
        assert (await client.receive()).status == 400
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_REQUEST_HEADERS]


# Those who cannot -------------------------------------------------------------------------------


async def test_asgi_applications_open_no_tunnels(serving: Serving, log: ServerLog) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async with serving(app) as site:
        client = await site.connect()
        response = await client.ask(CONNECT)
        assert (response.status, response.body, response.keeps_alive) == (501, b"", False)


async def test_wsgi_applications_open_no_tunnels(serving: Serving, log: ServerLog) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise AssertionError

    async with serving(native=WsgiApplication(app)) as site:
        client = await site.connect()
        response = await client.ask(CONNECT)
        assert (response.status, response.body, response.keeps_alive) == (501, b"", False)


# How it ends ------------------------------------------------------------------------------------


Leave = Callable[[RawClient], Awaitable[None]]


async def close(client: RawClient) -> None:
    await client.aclose()


async def reset(client: RawClient) -> None:
    client.reset()


@pytest.mark.parametrize("leave", [close, reset])
async def test_a_client_that_leaves_while_it_is_written_to(
    leave: Leave, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The pipe raises, which ends the connection and is nobody's fault."""
    errors: list[Exception] = []

    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        try:
            while True:
                await pipe.output.send(b"x" * 10_000)
        except Exception as error:
            errors.append(error)
            raise

    async with serving(native=handler) as site:
        client = await site.connect()
        await upgraded(client)
        await trio.sleep(1000)
        await leave(client)
        await site.all_ended()
    assert [type(error) for error in errors] == [trio.BrokenResourceError]
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_client_that_resets_while_it_is_read_from(serving: Serving, log: ServerLog) -> None:
    async with serving(native=Echo()) as site:
        client = await site.connect()
        await upgraded(client)
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_client_that_leaves_from_a_nursery(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, pipe)
            nursery.start_soon(trio.sleep_forever)

    async with serving(native=handler) as site:
        client = await site.connect()
        await upgraded(client)
        client.reset()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_client_that_is_gone_before_it_could_be_told(
    grouped: bool, serving: Serving, log: ServerLog
) -> None:
    errors: list[Exception] = []

    async def handler(exchange: HttpExchange) -> None:
        await exchange.connection.wait_closed()
        try:
            await exchange.upgrade(HEADERS)
        except Exception as error:
            errors.append(error)
            if grouped:
                raise ExceptionGroup("of a nursery", [error]) from None
            raise

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(UPGRADE)
        await wait_all_tasks_blocked()
        context = site.connection.context
        client.reset()
        await wait_all_tasks_blocked()
        await site.all_ended()
        assert context.upgraded_connections == 0
    assert [type(error) for error in errors] == [ClientDisconnected]
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_client_that_does_not_take_the_answer(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Until it has, HTTP's rates hold."""
    async with serving(native=Echo(), endpoint="memory://narrow?pause_at_bytes=10") as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(UPGRADE)
        await wait_all_tasks_blocked()
        await site.all_ended()
        assert autojump_clock.current_time() == pytest.approx(5, abs=0.02)
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


async def test_an_application_that_fails(serving: Serving, log: ServerLog) -> None:
    """Its error is logged once, and the client sees that this is no orderly end."""

    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        await pipe.output.send(b"hello")
        raise ZeroDivisionError

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(UPGRADE)
        await wait_all_tasks_blocked()
        assert await client.is_reset()
        await site.all_ended()
        record = log.take()
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError
    assert log.ends == [EndReason.OTHER_ERROR]


async def test_what_follows_is_never_taken_for_a_request(serving: Serving, log: ServerLog) -> None:
    """Not even if the application leaves it unread."""
    served: list[bytes] = []

    async def handler(exchange: HttpExchange) -> None:
        served.append(exchange.target)
        await exchange.upgrade(HEADERS)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(UPGRADE + request(first=b"GET /smuggled HTTP/1.1"))
        await client.receive_head()
        await client.is_reset()
        await site.all_ended()
    assert served == [b"/"]
    assert log.ends == [EndReason.UPGRADED]


async def test_cancelled_in_the_middle_of_the_answer(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Half a head has left, and nothing sensible can follow it."""

    async def handler(exchange: HttpExchange) -> None:
        with trio.move_on_after(1):
            await exchange.upgrade(HEADERS)

    async with serving(native=handler, endpoint="memory://narrow?pause_at_bytes=10") as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(UPGRADE)
        await wait_all_tasks_blocked()
        context = site.connection.context
        await site.all_ended()
        assert await client.is_reset()
        assert context.upgraded_connections == 0
    assert log.ends == [EndReason.ABORTED_BY_APP]


# Waiting for the client to leave, meanwhile -----------------------------------------------------


@pytest.mark.parametrize("early", [b"", b"hello"])
async def test_who_waits_for_the_client_to_leave_is_told(
    early: bytes, serving: Serving, log: ServerLog
) -> None:
    """It has read ahead, and leaves what it found to the other protocol."""
    told: list[bool] = []

    async def handler(exchange: HttpExchange) -> None:
        async def wait() -> None:
            await exchange.wait_disconnected()
            told.append(exchange.disconnected)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            pipe = await exchange.upgrade(HEADERS)
            await echo(pipe)

    async with serving(native=handler) as site:
        client = await site.connect(byte_by_byte=False)
        await upgraded(client, UPGRADE + early)
        assert await receive_exactly(client, len(early)) == early
        await client.send(b"more")
        assert await receive_exactly(client, 4) == b"more"
        assert told == [False]


async def test_what_is_left_of_the_exchange(serving: Serving, log: ServerLog) -> None:
    """There is no body, and nobody to wait for."""

    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        assert exchange.response_started
        assert exchange.response_finished
        assert exchange.body_complete
        assert await exchange.receive() == b""
        await exchange.wait_disconnected()
        assert await pipe.input.read_exactly(5) == b"hello"

    async with serving(native=handler) as site:
        client = await site.connect()
        await upgraded(client, UPGRADE + b"hello")
        assert await client.receive_rest() == b""
    assert log.ends == [EndReason.UPGRADED]


# Limits -----------------------------------------------------------------------------------------


async def test_no_limit_of_http_holds(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """However slow or large it is, and however long it is silent."""
    limits = Limits(
        max_request_body_bytes=1000,
        keep_alive_seconds=20,
        request_headers_seconds=1,
        max_connection_age_seconds=30,
        max_requests_per_connection=10,
        max_request_seconds=10,
        max_pipelined_requests=1,
    )
    async with serving(native=Echo(), limits=limits) as site:
        client = await site.connect(byte_by_byte=False)
        await upgraded(client)
        for seconds in (50, 200, 40_000):
            await trio.sleep(seconds)
            await client.send(b"x")
            assert await receive_exactly(client, 1) == b"x"
        for _ in range(100):
            await client.send(b"x" * 10_000)
            assert len(await receive_exactly(client, 10_000)) == 10_000
        await client.send(b"x" * 60_000)
        await client.connection.transport.output.send(b"x" * 30_000)
        await trio.sleep(1000)  # it is not read from meanwhile
        assert len(await receive_exactly(client, 90_000)) == 90_000
        await client.send_eof()
        assert await client.receive_rest() == b"bye"
        await site.all_ended()
    assert log.ends == [EndReason.UPGRADED]


async def test_a_client_that_does_not_read_is_waited_for(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        await pipe.output.send(b"x" * 1_000_000)

    async with serving(native=handler) as site:
        client = await site.connect()
        await upgraded(client)
        await trio.sleep(10_000)
        assert await client.receive_rest() == b"x" * 1_000_000


async def test_the_count(serving: Serving, log: ServerLog) -> None:
    app = Echo()
    async with serving(native=app) as site:
        clients = [await site.connect() for _ in range(3)]
        await clients[0].ask(GET)
        context = next(iter(site.server.connections)).context
        for number, client in enumerate(clients):
            assert context.upgraded_connections == number
            await upgraded(client)
            assert context.upgraded_connections == number + 1
        for number, client in enumerate(clients):
            await client.aclose()
            await wait_all_tasks_blocked()
            assert context.upgraded_connections == 2 - number
    assert app.ended == 3


def expect_refusal(log: ServerLog) -> None:
    """Take from the log that there is no room, which is nobody's error."""
    record = log.take()
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert vars(record)["connection_id"]
    assert record.getMessage() == "the server has no room for another upgraded connection"


async def test_too_many(serving: Serving, log: ServerLog) -> None:
    """503, on a connection that goes on; and when there is room again, it may ask again."""
    async with serving(native=Echo(), limits=Limits(max_upgraded_connections=1)) as site:
        first, second = await site.connect(), await site.connect()
        await upgraded(first)
        for _ in range(2):
            response = await second.ask(UPGRADE)
            assert (response.status, response.keeps_alive) == (503, True)
            expect_refusal(log)
            assert (await second.ask(GET)).body == b"ok"
        await first.aclose()
        await wait_all_tasks_blocked()
        await upgraded(second)
        await second.send(b"hello")
        assert await receive_exactly(second, 5) == b"hello"


async def test_too_many_tunnels(serving: Serving, log: ServerLog) -> None:
    async with serving(native=Echo(), limits=Limits(max_upgraded_connections=1)) as site:
        first, second = await site.connect(), await site.connect()
        await upgraded(first)
        response = await second.ask(CONNECT)
        assert (response.status, response.keeps_alive) == (503, False)
        expect_refusal(log)
        await first.aclose()
        await wait_all_tasks_blocked()
        await upgraded(await site.connect(), CONNECT)


async def test_none_at_all(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(TooManyUpgrades):
            await exchange.upgrade(HEADERS)
        await exchange.respond(429, OK, b"no")

    async with serving(native=handler, limits=Limits(max_upgraded_connections=0)) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(UPGRADE)
            assert (response.status, response.body, response.keeps_alive) == (429, b"no", True)


async def test_a_refusal_that_was_answered_and_raised(serving: Serving, log: ServerLog) -> None:
    """Once is enough for the client."""

    async def handler(exchange: HttpExchange) -> None:
        try:
            await exchange.upgrade(HEADERS)
        except TooManyUpgrades:
            await exchange.respond(429, OK, b"no")
            raise

    async with serving(native=handler, limits=Limits(max_upgraded_connections=0)) as site:
        client = await site.connect()
        for _ in range(2):
            response = await client.ask(UPGRADE)
            assert (response.status, response.body, response.keeps_alive) == (429, b"no", True)
            await wait_all_tasks_blocked()
            expect_refusal(log)


@pytest.mark.parametrize("raises", [ZeroDivisionError, trio.BrokenResourceError])
async def test_room_is_made_however_it_ends(
    raises: type[Exception], serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.upgrade(HEADERS)
        raise raises

    async with serving(native=handler, limits=Limits(max_upgraded_connections=1)) as site:
        for _ in range(3):
            client = await site.connect()
            await client.send(UPGRADE)
            await wait_all_tasks_blocked()
            await site.all_ended()
            if raises is ZeroDivisionError:
                log.take()


async def test_they_do_not_count_as_connections(serving: Serving, log: ServerLog) -> None:
    async with serving(native=Echo(), limits=Limits(max_connections=2)) as site:
        for _ in range(3):
            client = await site.connect()
            await upgraded(client)
        first, second = await site.connect(), await site.connect()
        for client in (first, second):
            assert (await client.ask(GET)).body == b"ok"
        refused = await site.connect()
        assert await refused.is_reset()
        await upgraded(first)
        third = await site.connect()
        assert (await third.ask(GET)).body == b"ok"
    assert log.ends[0] is EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED


# Draining ---------------------------------------------------------------------------------------


async def test_the_application_sees_that_the_server_drains(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        pipe = await exchange.upgrade(HEADERS)
        await exchange.connection.close_requested.wait()
        await pipe.output.send(b"going down")

    async with serving(native=handler) as site:
        client = await site.connect()
        await upgraded(client)
        assert await site.server.drain(1000) == 0
        assert await client.receive_rest() == b"going down"
        assert autojump_clock.current_time() < 1
    assert log.ends == [EndReason.UPGRADED]


async def test_one_that_does_not_care_is_cut_at_the_deadline(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    app = Echo()
    async with serving(native=app) as site:
        client = await site.connect()
        await upgraded(client)
        context = site.connection.context
        assert await site.server.drain(5) == 1
        assert autojump_clock.current_time() == pytest.approx(5)
        assert await client.is_reset()
        assert context.upgraded_connections == 0
        assert "did not finish" in log.take().getMessage()
    assert app.ended == 1
    assert log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT]


async def test_the_server_drains_before_the_answer(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """The request may be the last, and be an upgrade all the same."""

    async def handler(exchange: HttpExchange) -> None:
        await exchange.connection.close_requested.wait()
        pipe = await exchange.upgrade(HEADERS)
        await pipe.output.send(b"short")

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(UPGRADE)
        await wait_all_tasks_blocked()
        assert await site.server.drain(1000) == 0
        await receive_yes(client)
        assert await client.receive_rest() == b"short"
    assert log.ends == [EndReason.UPGRADED]
