"""The end of a connection whose client may still be sending: closing at once could lose the answer."""

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.both_ways_only import BothWaysOnly
from tests.http1_site import ServerLog, Serving, answer, echo
from tests.raw_client import GET, post, request

BAD = b"nonsense\r\n"  # of which more may come


async def test_input_is_dropped_until_the_client_ends(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(BAD + b"\r\n" + b"x" * 100_000)
        assert (await client.receive()).status == 400
        assert await client.receive_rest() == b""
        for _ in range(10):
            await trio.sleep(0.1)
            await client.send(b"x" * 10_000)
        assert len(site.server.connections) == 1
        assert site.connection.transport.input.buffered == b""
        await client.send_eof()
        await site.all_ended()
        assert autojump_clock.current_time() < 1.1
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


@pytest.mark.parametrize("seconds", [2.0, 0.25])
async def test_not_for_ever(
    seconds: float, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Apache's two seconds, unless told otherwise."""
    async with serving(limits=Limits(linger_seconds=seconds)) as site:
        client = await site.connect()
        await client.ask(BAD)
        start = autojump_clock.current_time()
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                while True:
                    await trio.sleep(seconds / 10)
                    await client.send(b"x")

            nursery.start_soon(trickle)
            await site.all_ended()
            nursery.cancel_scope.cancel()
        assert autojump_clock.current_time() - start == pytest.approx(seconds, abs=0.02)
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


@pytest.mark.parametrize(
    "sent",
    [request(b"connection: close") + GET, request(first=b"GET / HTTP/1.0") + b"\r\n"],
    ids=["more requests", "a blank line"],
)
async def test_behind_a_last_request(
    sent: bytes, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect(byte_by_byte=False)
        assert (await client.ask(sent)).body == b"hello"
        assert await client.receive_rest() == b""
        await trio.sleep(1)
        assert len(site.server.connections) == 1
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.COMPLETED]


async def test_nothing_to_wait_for(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Where no input is left, the connection is closed at once."""
    async with serving(echo) as site:
        for sent in (request(b"connection: close"), post(b"x", b"connection: close")):
            client = await site.connect()
            await client.ask(sent)
            assert await client.receive_rest() == b""
            await site.all_ended()
        assert autojump_clock.current_time() < 0.1


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"nonsense\r\n\r\n", 0),
        (GET + b"nonsense\r\n\r\n", 2),  # nothing more may come, but that is not looked into
        (request(b"host: b"), 0),
        (GET + request(b"host: b"), 0),
        (request(b"host: b") + b"x", 2),
        (GET + request(b"host: b") + GET, 2),
        (request(b"x: y", b"Content-Length: 1", b"host: b"), 2),
        (request(b"transfer-encoding: gzip"), 2),
        (request(b"host: b", b"expect: 100-continue"), 2),
        (request(b"host: b") + b"\r\n", 2),
    ],
)
async def test_behind_a_bad_request(
    sent: bytes, seconds: int, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Where more may come: what has come whole was all of it."""
    async with serving(echo) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(sent)
        if sent.startswith(GET):
            assert (await client.receive()).status == 200
        assert (await client.receive()).status == 400
        assert await client.receive_rest() == b""
        await site.all_ended()
        assert autojump_clock.current_time() == pytest.approx(seconds, abs=0.02)
    log.ends.clear()


async def test_after_an_answer_that_came_before_the_body(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"no", status=403, headers=[(b"connection", b"close")])

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(request(b"content-length: 1000000"))
        assert (await client.receive()).status == 403
        assert await client.receive_rest() == b""
        for _ in range(10):
            await client.send(b"x" * 100_000)
        await client.aclose()
        await site.all_ended()
        assert autojump_clock.current_time() < 0.1


async def both_ways_only(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    connection.transport = DuplexPipe.from_stream(BothWaysOnly(inner.as_stream()))
    try:
        await following(connection)
        await connection.transport.aclose()
    finally:
        connection.transport = inner


async def test_over_a_pipe_that_ends_both_ways_only(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(middleware=[both_ways_only]) as site:
        client = await site.connect()
        assert (await client.ask(GET)).body == b"hello"
        assert (await client.ask(BAD)).status == 400
        await client.send(b"x" * 10)
        assert autojump_clock.current_time() < 0.1
        assert await client.receive_rest() == b""
        assert autojump_clock.current_time() == pytest.approx(2, abs=0.02)
        await site.all_ended()
    assert log.ends == [EndReason.INVALID_REQUEST_LINE]


async def test_a_client_that_leaves_then_is_no_reset(serving: Serving, log: ServerLog) -> None:
    """Though it was the turn of other connections just then, before which answers are flushed."""
    async with serving(limits=Limits(max_pipelined_requests=1)) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(post(b"x" * 100, b"connection: close"))
        assert (await client.receive()).body == b"hello"
        assert await client.receive_rest() == b""
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.COMPLETED]


@pytest.mark.parametrize("pipelines", [True, False])
async def test_when_the_server_ends_what_the_client_pipelines(
    pipelines: bool, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    """Requests may be on their way that the answer has to survive; else none is expected."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        last = [(b"connection", b"close")] if scope["path"] == "/last" else []
        await answer(send, b"hello", headers=last)

    last = request(first=b"GET /last HTTP/1.1")
    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        if pipelines:
            await client.send(GET + last)
            assert (await client.receive()).body == b"hello"
        else:
            assert (await client.ask(GET)).body == b"hello"
            await client.send(last)
        assert (await client.receive()).body == b"hello"
        assert await client.receive_rest() == b""
        if pipelines:
            await client.send(GET * 10)
            await trio.sleep(1)
            assert len(site.server.connections) == 1
            await client.aclose()
        await site.all_ended()
        assert autojump_clock.current_time() < 1.1
    log.ends.clear()


async def test_it_lingers_once(serving: Serving, log: ServerLog, autojump_clock: MockClock) -> None:
    """Behind a body that nobody read, and not again behind the connection's last request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        last = [(b"connection", b"close")] if scope["method"] == "POST" else []
        await answer(send, b"hello", headers=last)

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET + post(b"x" * 10)[:-5])
        for _ in range(2):
            assert (await client.receive()).body == b"hello"
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                while True:
                    await trio.sleep(0.3)
                    await client.send(b"x")

            nursery.start_soon(trickle)
            await site.all_ended()
            nursery.cancel_scope.cancel()
        assert autojump_clock.current_time() == pytest.approx(2, abs=0.02)
    log.ends.clear()
