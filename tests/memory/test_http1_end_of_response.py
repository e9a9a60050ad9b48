"""What is under way while the last of a response leaves, and while a stream never has to wait."""

import pytest
import trio
from trio.testing import MockClock

from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import ClientDisconnected, HttpExchange
from tests.http1_site import ServerLog, Serving
from tests.raw_client import GET, request

NARROW = "memory://narrow?pause_at_bytes=400"  # room for the first piece
LAST = b"x" * 1000


async def stream_until_told(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as frameworks do that listen for the disconnection, and then cancel what they do."""
    await receive()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            assert await receive() == {"type": "http.disconnect"}
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await trio.sleep(0.1)
        await send({"type": "http.response.body", "body": LAST})


async def respond_until_told(exchange: HttpExchange) -> None:
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            await exchange.wait_disconnected()
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        await trio.lowlevel.checkpoint()
        await exchange.respond(200, [], b"first" + LAST)


@pytest.mark.counts_bytes
@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed meanwhile"])
@pytest.mark.parametrize("native", [False, True], ids=["asgi", "native"])
async def test_the_end_of_a_response_is_not_lost_to_its_own_end(
    native: bool, half_closed: bool, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    site_of = (
        serving(native=respond_until_told, endpoint=NARROW)
        if native
        else serving(stream_until_told, endpoint=NARROW)
    )
    async with site_of as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET)
        await trio.sleep(1)  # all is said, and the client has read nothing
        if half_closed:
            await client.send_eof()
            await trio.sleep(1)
        response = await client.receive()
        assert response.body == b"first" + LAST
        if not half_closed:
            assert (await client.ask(GET)).status == 200


async def test_a_stream_that_never_waits_lets_others_have_a_turn(
    serving: Serving, log: ServerLog
) -> None:
    """Each connection is served before any of them is done, though no send ever waits."""
    began: list[str] = []
    pieces_when_last_began: list[int] = []
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        began.append(scope["path"])
        pieces_when_last_began.append(sent)
        await send({"type": "http.response.start", "status": 200})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with serving(app) as site:
        clients = [await site.connect(byte_by_byte=False) for _ in range(5)]
        for client in clients:
            await client.send(GET)
        for client in clients:
            assert (await client.receive()).body == b"x" * 1000
    assert len(began) == 5
    assert max(pieces_when_last_began) < 1000


async def test_a_stream_is_told_at_once_that_its_client_is_gone(
    serving: Serving, log: ServerLog
) -> None:
    errors: list[int] = []
    gone = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await gone.wait()
        for number in range(3):
            try:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            except ClientDisconnected:
                errors.append(number)

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        client.reset()
        gone.set()
        await site.all_ended()
    assert errors == [0, 1, 2]


async def test_a_field_is_looked_up(serving: Serving, log: ServerLog) -> None:
    found: list[bytes | None] = []

    async def handler(exchange: HttpExchange) -> None:
        found.extend(exchange.field(name) for name in (b"x-a", b"x-b", b"x-c", b"host"))
        await exchange.respond(204)

    async with serving(native=handler) as site:
        client = await site.connect()
        sent = request(b"X-A: 1", b"x-b:", b"x-A:  2")
        assert (await client.ask(sent)).status == 204
    assert found == [b"1, 2", b"", None, b"a"]
