"""What httpx2 has and httpx has not, over a transport; the rest is in `test_http_client`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio
from httpx2.websockets import WebSocketDisconnect, WebSocketNetworkError, WebSocketUpgradeError
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)

from kestrel_core.connection import Connection
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.testing import open_server
from kestrel_core.testing.authority import Authority
from kestrel_core.testing.clients.httpx2_client import make_client
from kestrel_middleware.tls import Tls, TlsClient

EVENTS = (
    b"id: 1\nevent: news\ndata: one\ndata: line\n\n",
    b": a comment\n\n",
    "data: zwölf\nretry: 7\n\n".encode(),
)


@asynccontextmanager
async def client_of(handler: ConnectionHandler) -> AsyncGenerator[httpx2.AsyncClient]:
    async with (
        open_server(handler) as opened,
        make_client(opened.connect, base_url="http://testserver") as client,
    ):
        yield client
    assert not opened.server.connections


# Server-sent events -----------------------------------------------------------------------------


async def tell_events(connection: Connection) -> None:
    """Answer one request with a chunk for each byte, and five seconds between two events."""
    head = await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
    assert b"\r\naccept: text/event-stream\r\n" in head.lower()
    send = connection.transport.output.send
    fields = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    await send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
    for event in EVENTS:
        await trio.sleep(5)
        for byte in event:
            await send(b"1\r\n%c\r\n" % byte)
    await send(b"0\r\n\r\n")
    async for _ in connection.transport.input:
        pass


async def test_server_sent_events_come_as_they_are_sent(autojump_clock: MockClock) -> None:
    async with client_of(tell_events) as client, client.sse("/") as source:
        came = [(trio.current_time(), event) async for event in source]
    assert came == [
        (5, httpx2.ServerSentEvent("news", "one\nline", "1")),
        (15, httpx2.ServerSentEvent("message", "zwölf", "1", 7)),
    ]


async def test_a_source_whose_connection_is_reset_is_a_read_error() -> None:
    async def tell_one(connection: Connection) -> None:
        await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
        await connection.transport.output.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENTS[0]
        )
        await wait_all_tasks_blocked()
        connection.transport.abort()

    came: list[str] = []
    async with client_of(tell_one) as client, client.sse("/") as source:
        with pytest.raises(httpx2.ReadError):  # noqa: PT012  # of the iteration
            async for event in source:
                came.append(event.data)  # noqa: PERF401  # a comprehension would lose them
    assert came == ["one\nline"]


async def test_a_source_that_is_none_says_so() -> None:
    async def answer(connection: Connection) -> None:
        await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
        await connection.transport.output.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with client_of(answer) as client, client.sse("/") as source:
        with pytest.raises(httpx2.SSEError, match="text/event-stream"):
            [event async for event in source]


# WebSockets -------------------------------------------------------------------------------------


async def shout(connection: Connection) -> None:
    """Send each message back in capitals, after a ping; "close" and "reset" do that."""
    websocket = WSConnection(ConnectionType.SERVER)
    reader, writer = connection.transport.input, connection.transport.output

    async def answer(event: Event) -> None:
        await writer.send(websocket.send(event))

    async for data in reader:
        websocket.receive_data(data)
        for event in websocket.events():
            match event:
                case Request(target="/"):
                    await answer(AcceptConnection())
                case Request():
                    await answer(RejectConnection(status_code=404))
                case Ping():
                    await answer(event.response())
                case TextMessage(data="reset"):
                    connection.transport.abort()
                    return
                case TextMessage(data="close"):
                    await answer(CloseConnection(code=1001, reason="going"))
                case TextMessage():
                    await answer(Ping(b"are you there?"))
                    await answer(TextMessage(data=event.data.upper()))
                case CloseConnection():
                    if websocket.state.name == "REMOTE_CLOSING":
                        await answer(event.response())
                    return
                case _:
                    pass


async def test_a_websocket_carries_messages_both_ways() -> None:
    async with client_of(shout) as client, client.websocket("ws://testserver/") as websocket:
        for number in range(3):
            await websocket.send_text(f"hello {number}")
            assert await websocket.receive_text() == f"HELLO {number}"
        await websocket.send_text("x" * 50_000)
        assert await websocket.receive_text() == "X" * 50_000
    assert client.is_closed


async def test_a_quiet_websocket_is_kept_alive_by_pings(autojump_clock: MockClock) -> None:
    async with client_of(shout) as client, client.websocket("ws://testserver/") as websocket:
        await trio.sleep(1000)
        await websocket.send_text("still here?")
        assert await websocket.receive_text() == "STILL HERE?"


async def test_a_server_that_closes_a_websocket_gives_its_reason() -> None:
    async with client_of(shout) as client, client.websocket("ws://testserver/") as websocket:
        await websocket.send_text("close")
        with pytest.raises(WebSocketDisconnect) as caught:
            await websocket.receive_text()
    assert (caught.value.code, caught.value.reason) == (1001, "going")


async def test_a_reset_of_a_websocket_is_a_network_error() -> None:
    async with client_of(shout) as client, client.websocket("ws://testserver/") as websocket:
        await websocket.send_text("reset")
        with pytest.raises(WebSocketNetworkError):
            await websocket.receive_text()


async def test_a_refused_websocket_has_its_response() -> None:
    async with client_of(shout) as client:
        with pytest.raises(WebSocketUpgradeError) as caught:
            await client.websocket("ws://testserver/elsewhere").__aenter__()
    assert caught.value.response.status_code == 404


async def test_a_websocket_inside_of_tls() -> None:
    authority = Authority()
    identity = authority.issue("testserver")
    layer = Tls(certificate=identity.certificate_chain, key=identity.key)
    start_tls = TlsClient(authorities=authority.pem).start_tls
    async with (
        open_server(shout, middleware=[layer]) as opened,
        make_client(opened.connect, base_url="https://testserver", start_tls=start_tls) as client,
        client.websocket("wss://testserver/") as websocket,
    ):
        await websocket.send_text("hello")
        assert await websocket.receive_text() == "HELLO"
