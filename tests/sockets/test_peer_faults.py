"""Faults that other servers had where the kernel is involved: resets, half-closes, proxies' pools.

Each test says the fault and where it was reported; time is real here.
"""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing import OpenServer, open_server
from kestrel_protocols.asgi import AsgiApp, AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, answer, hello, read_body, watch_log
from tests.raw_client import GET
from tests.socket_ends import call, open_descriptors, reset


@asynccontextmanager
async def serving(app: AsgiApp, endpoint: Endpoint) -> AsyncGenerator[tuple[OpenServer, ServerLog]]:
    """Serve; nothing may be left open, and nothing in the log that nobody took."""
    before = open_descriptors()
    with watch_log() as log, trio.fail_after(20):
        async with open_server(Http1(AsgiApplication(app)), endpoint=str(endpoint)) as opened:
            yield opened, log
    assert open_descriptors() <= before


async def all_ended(opened: OpenServer) -> None:
    while opened.server.connections:  # noqa: ASYNC110  # the server has no event for it
        await trio.sleep(0.001)


def called(opened: OpenServer) -> socket.socket:
    """Connect a plain socket, which waits for nothing for long."""
    peer = call(opened.endpoint)
    peer.settimeout(10)
    return peer


def receive_all(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(9999), b""))


async def test_a_proxy_may_use_its_connections_again(endpoint: Endpoint) -> None:
    """A proxy that keeps a pool of connections gets 502 now and then, because something of one
    request is taken for the next, or a connection ends without a word (uvicorn #344)."""
    statuses: list[int] = []
    bodies: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["path"]
        body = await read_body(receive) if kind == "/read" else b""
        await trio.lowlevel.checkpoint() if kind == "/late" else None
        await answer(send, body, status=204 if kind == "/nothing" else 200)

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        for turn in range(12):
            path = ("/read", "/unread", "/late", "/nothing")[(number + turn) % 4]
            data = b"x" * (3000 * turn) if turn % 3 else None
            response = await client.request("POST" if data else "GET", path, content=data)
            statuses.append(response.status_code)
            if path == "/read":
                bodies.append(response.content)
                assert response.content == (data or b"")

    async with serving(app, endpoint) as (opened, log):
        bound = opened.endpoint
        transport = httpx.AsyncHTTPTransport(
            uds=bound.address if bound.scheme == "unix" else None,
            limits=httpx.Limits(max_connections=5, max_keepalive_connections=5),
        )
        host = "proxied" if bound.scheme == "unix" else bound.address
        async with (
            httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client,
            trio.open_nursery() as nursery,
        ):
            for number in range(20):
                nursery.start_soon(ask, client, number)
        await all_ended(opened)
    assert len(statuses) == 240
    assert len(bodies) == 60
    assert set(statuses) == {200, 204}
    assert len(log.ends) == 5
    assert set(log.ends) == {EndReason.PEER_CLOSED}


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET])
async def test_a_client_that_ends_its_side_leaves_no_socket(
    sent: bytes, endpoint: Endpoint
) -> None:
    """Clients that connect and leave without a request stay in CLOSE_WAIT, thousands of them
    (uvicorn #1199)."""
    async with serving(hello, endpoint) as (opened, log):
        peers = [called(opened) for _ in range(20)]
        for peer in peers:
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
        while len(log.ends) < 20:  # noqa: ASYNC110  # the log has no event for it
            await trio.sleep(0.001)
        for peer in peers:
            assert receive_all(peer).count(b"HTTP/1.1 200 OK") == (sent == GET)
            peer.close()
    assert log.ends == [EndReason.PEER_CLOSED] * 20


async def test_sending_on_and_on_after_a_reset(endpoint: Endpoint) -> None:
    """Writing to a client that has reset its connection is an error of the server's, or ends more
    than this response (hypercorn #352, #361)."""
    errors: list[OSError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await hello(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200})
        while len(errors) < 10:
            try:
                await send({"type": "http.response.body", "body": b"x" * 9999, "more_body": True})
            except OSError as error:
                errors.append(error)

    async with serving(app, endpoint) as (opened, log):
        neighbour = called(opened)
        for _ in range(3):
            errors.clear()
            peer = called(opened)
            peer.sendall(GET.replace(b" / ", b" /endless "))
            await trio.to_thread.run_sync(peer.recv, 100)
            if endpoint.scheme == "tcp":
                reset(peer)
            else:
                peer.close()  # with bytes that it has not read: as good as a reset
            while len(opened.server.connections) > 1:  # noqa: ASYNC110  # it has no event for it
                await trio.sleep(0.001)
            neighbour.sendall(GET)
            assert (await trio.to_thread.run_sync(neighbour.recv, 9999)).endswith(b"hello")
        neighbour.close()
        await all_ended(opened)
    assert log.ends == [EndReason.CONNECTION_RESET] * 3 + [EndReason.PEER_CLOSED]


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with more than any kernel buffers."""
    await answer(send, bytes(20_000_000))


async def test_draining_does_not_wait_for_a_client_that_stopped_reading(
    endpoint: Endpoint,
) -> None:
    """The end of the server waits for as long as a client does not read (hypercorn #308)."""
    async with serving(large, endpoint) as (opened, log):
        with called(opened) as peer:
            peer.sendall(GET)
            await trio.to_thread.run_sync(peer.recv, 100)
            with trio.fail_after(5):
                assert await opened.server.drain(0.1) == 1
        assert "did not finish" in log.take().getMessage()
    assert log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT]


async def test_cancelling_the_server_tells_its_clients(endpoint: Endpoint) -> None:
    """A server that is cancelled leaves its sockets as they are, and clients wait for ever
    (hypercorn #106)."""
    at_work = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        at_work.set()
        await trio.sleep_forever()

    async with serving(app, endpoint) as (opened, log):
        with called(opened) as busy, called(opened) as idle:
            busy.sendall(GET)
            await at_work.wait()
            while len(opened.server.connections) < 2:  # noqa: ASYNC110  # it has no event for it
                await trio.sleep(0.001)
            opened.server.abort()
            for peer in (busy, idle):
                try:
                    assert await trio.to_thread.run_sync(peer.recv, 1) == b""
                except ConnectionResetError:
                    assert endpoint.scheme == "tcp"
    assert log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT] * 2


async def test_the_caller_of_an_old_client_sees_the_end(endpoint: Endpoint) -> None:
    """A client of HTTP/1.0 that reads until the end waits for as long as the server keeps the
    connection (hypercorn #330)."""
    async with serving(hello, endpoint) as (opened, log):
        with called(opened) as peer:
            peer.sendall(b"GET / HTTP/1.0\r\nconnection: close\r\n\r\n")
            with trio.fail_after(1):
                received = await trio.to_thread.run_sync(receive_all, peer)
            assert received.endswith(b"\r\n\r\nhello")
    assert log.ends == [EndReason.COMPLETED]
