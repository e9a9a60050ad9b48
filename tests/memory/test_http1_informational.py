"""Informational responses that the application sends before the final one, and 100 by itself."""

from functools import partial

import h11
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.testing import open_server
from kestrel_protocols.http import (
    BadRequest,
    ClientDisconnected,
    Headers,
    HttpExchange,
    ResponseError,
)
from kestrel_protocols.http1 import Http1
from tests.http1_site import Flushes, ServerLog, Serving
from tests.raw_client import GET, RawClient, post, post_chunked, request

LINKS: Headers = [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>; rel=preload")]

GET10 = request(first=b"GET / HTTP/1.0")

EXPECTING = request(b"content-length: 5", b"expect: 100-continue", first=b"POST / HTTP/1.1")


# What the client gets ---------------------------------------------------------------------------


async def hint(exchange: HttpExchange) -> None:
    """Hint, and answer with the path."""
    await exchange.inform(103, LINKS)
    assert exchange.status is None
    assert not exchange.response_started
    await exchange.respond(200, [], exchange.path.encode())


async def test_a_hint_comes_first(serving: Serving, log: ServerLog) -> None:
    async with serving(native=hint) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(GET)
            assert await client.receive_head() == (103, LINKS)
            response = await client.receive()
            assert (response.status, response.body) == (200, b"/")
            assert response.all(b"link") == []


async def test_what_is_on_the_wire(serving: Serving, log: ServerLog) -> None:
    """Nothing that the application did not say: Date and Server are the final response's."""
    flushes = Flushes()
    async with serving(native=hint, middleware=[flushes]) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
    first, second = flushes.all
    assert first == (
        b"HTTP/1.1 103 Early Hints\r\n"
        b"link: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n"
    )
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_it_leaves_at_once(serving: Serving, log: ServerLog) -> None:
    go_on = trio.Event()

    async def handler(exchange: HttpExchange) -> None:
        await exchange.inform(103, LINKS[:1])
        await go_on.wait()
        await exchange.respond(204, [])

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(GET)
        received = await client.received_by_now()
        assert received == b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        go_on.set()
        assert (await client.receive()).status == 204


@pytest.mark.parametrize("sent", [GET, GET.replace(b"GET", b"HEAD"), post(b"hello")])
async def test_there_may_be_several(sent: bytes, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.inform(102)
        await exchange.inform(103, (link for link in LINKS))
        await exchange.inform(199, [(b"x-mixed-Case", b"")])
        await exchange.start(200, [])
        await exchange.write(b"hel")
        await exchange.write(b"lo")
        await exchange.finish()

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(sent)
            assert await client.receive_head() == (102, [])
            assert await client.receive_head() == (103, LINKS)
            assert await client.receive_head() == (199, [(b"x-mixed-case", b"")])
            to_head = sent.startswith(b"HEAD")
            assert (await client.receive(to_head=to_head)).body == (b"" if to_head else b"hello")


@pytest.mark.parametrize(
    "sent", [GET10, request(b"connection: keep-alive", first=b"GET / HTTP/1.0")]
)
async def test_http10_clients_get_none(sent: bytes, serving: Serving, log: ServerLog) -> None:
    """They do not know them (RFC 9110, 15.2)."""
    async with serving(native=hint) as site:
        client = await site.connect()
        response = await client.ask(sent)
        assert (response.status, response.body) == (200, b"/")
        if response.keeps_alive:
            assert (await client.ask(sent)).body == b"/"


async def test_a_pipeline_stays_in_order(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        number = int(exchange.path[1:])
        for _ in range(number % 3):
            await exchange.inform(103, [(b"link", exchange.path.encode())])
        if number % 2:
            await trio.lowlevel.checkpoint()
        await exchange.respond(200, [], exchange.path.encode())

    async with serving(native=handler) as site:
        client = await site.connect()
        numbers = range(10)
        await client.send(b"".join(request(first=b"GET /%d HTTP/1.1" % n) for n in numbers))
        for number in numbers:
            for _ in range(number % 3):
                assert await client.receive_head() == (103, [(b"link", b"/%d" % number)])
            assert (await client.receive()).body == b"/%d" % number


async def test_a_client_that_does_not_read(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """It is waited for, and not for ever, as with any response."""
    sent = 0

    async def handler(exchange: HttpExchange) -> None:
        nonlocal sent
        while True:
            await exchange.inform(103, LINKS)  # which raises ClientDisconnected in the end
            sent += 1

    async with serving(native=handler, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        assert 0 < sent <= 12
        await site.all_ended()
        assert autojump_clock.current_time() < 10
        assert await client.is_reset()
    assert log.ends == [EndReason.MIN_RESPONSE_DATA_RATE]


# 100 (Continue) ---------------------------------------------------------------------------------


async def test_who_sends_100_by_hand_sends_it_once(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.inform(100)
        await exchange.respond(200, [], await exchange.receive())

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(EXPECTING)
            assert await client.received_by_now() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send_in_one(b"hello")
            assert (await client.receive()).body == b"hello"


async def test_other_ones_do_not_stand_for_it(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.inform(103, LINKS)
        await exchange.respond(200, [], await exchange.receive())

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(EXPECTING)
            assert await client.receive_head() == (103, LINKS)
            assert await client.receive_head() == (100, [])
            await client.send_in_one(b"hello")
            assert (await client.receive()).body == b"hello"


async def test_hints_between_pieces_of_the_request(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        while not exchange.body_complete:
            if piece := await exchange.receive():
                await exchange.inform(103, [(b"x-got", piece)])
        await exchange.respond(200, [], b"all")

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(post_chunked(b""))
        for piece in (b"a", b"b", b"c"):
            await client.send_in_one(b"1\r\n%b\r\n" % piece)
            assert await client.receive_head() == (103, [(b"x-got", piece)])
        await client.send_in_one(b"0\r\n\r\n")
        assert (await client.receive()).body == b"all"


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [101, 200, 204, 304, 404, 999])
async def test_statuses_that_inform_of_nothing(
    status: int, serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ResponseError, match=f"{status} is no informational status"):
            await exchange.inform(status)
        await exchange.respond(200, [], b"fine")

    async with serving(native=handler) as site:
        client = await site.connect()
        for sent in (GET, GET10):
            assert (await client.ask(sent)).body == b"fine"


@pytest.mark.parametrize("status", [0, 99, 1000, -103, "103", None])
async def test_what_is_no_status(status: int, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ResponseError, match="is no status code"):
            await exchange.inform(status)
        await exchange.inform(103)
        await exchange.respond(200, [], b"fine")

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(GET)
        assert await client.receive_head() == (103, [])
        assert (await client.receive()).body == b"fine"


@pytest.mark.parametrize(
    "field",
    [
        *[(b"x", b"a\r\nb: c"), (b"x", b"\r\n\r\nHTTP/1.1 200 OK"), (b"x", b"\0"), (b"x", b"\n")],
        *[(b"a b", b"x"), (b"", b"x"), (b"a:", b"x"), ("link", b"x"), (b"link", "x"), (b"link", None)],
        *[(b"content-length", b"5"), (b"content-length", b"0"), (b"transfer-encoding", b"chunked")],
    ],
)  # fmt: skip
async def test_fields_that_are_none(
    field: tuple[bytes, bytes], serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ResponseError):
            await exchange.inform(103, [*LINKS, field])
        await exchange.respond(200, [], b"fine")

    async with serving(native=handler) as site:
        client = await site.connect()
        for sent in (GET, GET10):
            assert (await client.ask(sent)).body == b"fine"


async def test_a_refused_one_that_nobody_catches(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.inform(103, LINKS)
        await exchange.inform(103, [(b"x", b"\r\n")])

    async with serving(native=handler) as site:
        client = await site.connect()
        for _ in range(2):
            await client.send(GET)
            assert await client.receive_head() == (103, LINKS)
            assert (await client.receive()).status == 500
            log.take_error(ResponseError)


async def test_none_comes_behind_the_start(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        inform = partial(exchange.inform, 103, LINKS)
        await exchange.start(200, [])
        with pytest.raises(ResponseError, match="comes before the final one"):
            await inform()
        await exchange.write(b"hello")
        with pytest.raises(ResponseError, match="comes before the final one"):
            await inform()
        await exchange.finish()
        with pytest.raises(ResponseError, match="comes before the final one"):
            await inform()

    async with serving(native=handler) as site:
        client = await site.connect()
        for sent in (GET, GET, GET10):
            assert (await client.ask(sent)).body == b"hello"


async def test_none_goes_to_a_client_that_is_gone(serving: Serving, log: ServerLog) -> None:
    gone = trio.Event()

    async def handler(exchange: HttpExchange) -> None:
        await gone.wait()
        with pytest.raises(ClientDisconnected):
            await exchange.inform(103, LINKS)

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(GET)
        await wait_all_tasks_blocked()
        client.reset()
        gone.set()
        await site.all_ended()
    assert log.ends == [EndReason.CONNECTION_RESET]


async def test_a_hint_before_a_request_turns_out_wrong(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.inform(103, LINKS)
        with pytest.raises(BadRequest):
            await exchange.receive()

    async with serving(native=handler) as site:
        client = await site.connect()
        await client.send(post_chunked(b"nonsense"))
        assert await client.receive_head() == (103, LINKS)
        assert (await client.receive()).status == 400


async def test_one_that_is_given_up_ends_the_connection(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with trio.move_on_after(1) as scope:
            while True:
                await exchange.inform(103, LINKS)
        assert scope.cancelled_caught
        with pytest.raises(ClientDisconnected):
            await exchange.respond(200, [])

    async with serving(native=handler, endpoint="memory://narrow?pause_at_bytes=1000") as site:
        client = await site.connect()
        await client.send(GET)
        await trio.sleep(2)
        assert await client.is_reset()
        await site.all_ended()
    assert log.ends == [EndReason.ABORTED_BY_APP]


# Other clients ----------------------------------------------------------------------------------


@given(
    statuses=st.lists(st.sampled_from([100, 102, 103, 199]), max_size=5),
    head=st.booleans(),
    chunked=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_another_implementation_reads_the_same(
    statuses: list[int], head: bool, chunked: bool
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        for status in statuses:
            await exchange.inform(status, LINKS[: status % 3])
        if chunked:
            await exchange.start(200, [])
            await exchange.write(b"hello")
            await exchange.finish()
        else:
            await exchange.respond(200, [], b"hello")

    async def ask() -> tuple[list[int], bytes]:
        client = h11.Connection(h11.CLIENT)
        method = "HEAD" if head else "GET"
        sent = client.send(h11.Request(method=method, target="/", headers=[("host", "a")])) or b""
        sent += client.send(h11.EndOfMessage()) or b""
        async with open_server(Http1(handler)) as opened:
            raw = RawClient(await opened.connect())
            await raw.send(sent)
            client.receive_data(await raw.received_by_now())
        seen: list[int] = []
        data = b""
        while True:
            event = client.next_event()
            if isinstance(event, h11.InformationalResponse):
                assert [(name, value) for name, value in event.headers] == LINKS[
                    : event.status_code % 3
                ]
                seen.append(event.status_code)
            elif isinstance(event, h11.Response):
                seen.append(event.status_code)
            elif isinstance(event, h11.Data):
                data += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                assert client.trailing_data == (b"", False)
                return seen, data

    assert trio.run(ask) == ([*statuses, 200], b"" if head else b"hello")


async def test_httpx_gets_the_final_response(log: ServerLog) -> None:
    async with open_server(Http1(hint)) as opened, opened.httpx_client() as client:
        for path in ("/a", "/b"):
            response = await client.get(path)
            assert (response.status_code, response.text) == (200, path)
            assert "link" not in response.headers
        assert (await client.head("/c")).status_code == 200
