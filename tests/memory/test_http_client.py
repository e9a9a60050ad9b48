"""The HTTP client for tests, against servers that are a few lines of raw handler."""

import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpcore
import httpx
import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.pipe_reader import SeparatorNotFound
from kestrel_core.registry import Registry
from kestrel_core.testing.clients.httpx_client import HttpTransport, open_http_client
from kestrel_core.transport import open_transport_context


async def read_request(connection: Connection) -> tuple[bytes, bytes] | None:
    """Return a request's head and body, None at the end of the connection."""
    reader = connection.transport.input
    try:
        head = await reader.read_until(b"\r\n\r\n", 10_000)
    except SeparatorNotFound:
        return None
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return head, await reader.read_exactly(int(length[1]) if length else 0)


async def answer(connection: Connection, body: bytes, *headers: bytes) -> None:
    """Send a response with `body`."""
    fields = b"".join(header + b"\r\n" for header in headers)
    length = b"content-length: %d\r\n" % len(body)
    await connection.transport.output.send(
        b"HTTP/1.1 200 OK\r\n" + fields + length + b"\r\n" + body
    )


async def mirror(connection: Connection) -> None:
    """Answer each request with its target and body."""
    while request := await read_request(connection):
        head, body = request
        await answer(connection, head.split()[1] + b" " + body)


async def answer_once(connection: Connection) -> None:
    """Answer one request and end the connection, without having said so."""
    await read_request(connection)
    await answer(connection, b"once")


async def never_answer(connection: Connection) -> None:
    """Read everything."""
    async for _ in connection.transport.input:
        pass


async def never_read(connection: Connection) -> None:
    """Ignore the peer."""
    await trio.sleep_forever()


@asynccontextmanager
async def counted(
    handler: ConnectionHandler,
) -> AsyncGenerator[tuple[httpx.AsyncClient, list[str]]]:
    """Yield a client of `handler`, and a list that grows by each connection's id."""
    ids: list[str] = []

    async def middleware(connection: Connection, following: ConnectionHandler) -> None:
        ids.append(connection.id)
        await following(connection)

    async with open_http_client(handler, middleware=[middleware]) as client:
        yield client, ids


async def test_requests_are_real_bytes_and_so_are_responses() -> None:
    heads: list[bytes] = []

    async def handler(connection: Connection) -> None:
        while request := await read_request(connection):
            heads.append(request[0])
            await answer(connection, request[1].upper(), b"x-header: value")

    async with open_http_client(handler) as client:
        response = await client.post("/path?query=1", content=b"hello", headers={"x-own": "1"})
    assert response.status_code == 200
    assert response.headers["x-header"] == "value"
    assert response.text == "HELLO"
    assert response.http_version == "HTTP/1.1"
    assert heads[0].startswith(b"POST /path?query=1 HTTP/1.1\r\n")
    assert b"\r\nHost: testserver\r\n" in heads[0]
    assert b"\r\nx-own: 1\r\n" in heads[0].lower()


async def test_the_base_url_is_a_parameter() -> None:
    async with open_http_client(mirror, base_url="http://example.org/app") as client:
        assert (await client.get("/x")).text == "/app/x "
        assert (await client.get("http://other.example/y")).text == "/y "


async def test_connections_are_used_again() -> None:
    async with counted(mirror) as (client, ids):
        for number in range(5):
            assert (await client.post("/", content=b"%d" % number)).text == f"/ {number}"
    assert len(ids) == 1


async def test_requests_at_once_have_a_connection_each() -> None:
    async with counted(mirror) as (client, ids):

        async def ask(number: int) -> None:
            assert (await client.post("/", content=b"%d" % number)).text == f"/ {number}"

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, number)
        assert 1 < len(ids) <= 5
        before = len(ids)
        await ask(6)
        assert len(ids) == before


async def test_a_connection_that_the_server_ended_is_not_used_again() -> None:
    async with counted(answer_once) as (client, ids):
        for number in range(3):
            assert (await client.get("/")).text == "once"
            await wait_all_tasks_blocked()
            assert len(ids) == number + 1


async def test_a_half_closed_connection_is_not_used_again() -> None:
    async def end_output(connection: Connection) -> None:
        await answer_once(connection)
        await connection.transport.output.send_eof()
        await never_answer(connection)

    async with counted(end_output) as (client, ids):
        for _ in range(3):
            assert (await client.get("/")).text == "once"
            await wait_all_tasks_blocked()
    assert len(ids) == 3


async def test_a_reset_connection_is_not_used_again(autojump_clock: MockClock) -> None:
    async def reset(connection: Connection) -> None:
        await answer_once(connection)
        await trio.sleep(1)
        connection.transport.abort()

    async with counted(reset) as (client, ids):
        for _ in range(3):
            assert (await client.get("/")).text == "once"
            await trio.sleep(2)
    assert len(ids) == 3


async def test_connection_close_is_obeyed() -> None:
    async def handler(connection: Connection) -> None:
        while await read_request(connection):
            await answer(connection, b"bye", b"connection: close")

    async with counted(handler) as (client, ids):
        for _ in range(3):
            assert (await client.get("/")).text == "bye"
    assert len(ids) == 3


async def test_a_body_streams_in(autojump_clock: MockClock) -> None:
    async def drip(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for chunk in (b"1\r\na\r\n", b"2\r\nbc\r\n", b"0\r\n\r\n"):
            await trio.sleep(5)
            await connection.transport.output.send(chunk)

    async with open_http_client(drip) as client, client.stream("GET", "/") as response:
        assert trio.current_time() == 0
        arrivals = [(trio.current_time(), chunk) async for chunk in response.aiter_raw()]
    assert arrivals == [(5, b"a"), (10, b"bc")]


async def test_a_body_streams_out(autojump_clock: MockClock) -> None:
    arrivals: list[tuple[float, bytes]] = []

    async def handler(connection: Connection) -> None:
        await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
        for _ in range(3):
            chunk = await connection.transport.input.read_until(b"\r\n", 100)
            arrivals.append(
                (trio.current_time(), chunk + await connection.transport.input.receive())
            )
        await answer(connection, b"")

    async def body() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"bc"):
            yield chunk
            await trio.sleep(5)

    async with open_http_client(handler) as client:
        await client.post("/", content=body())
    assert [chunk for _, chunk in arrivals] == [b"1\r\na\r\n", b"2\r\nbc\r\n", b"0\r\n\r\n"]
    assert [time for time, _ in arrivals] == [0, 5, 10]


async def test_a_response_may_be_left_in_the_middle() -> None:
    async def endless(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.transport.output.send(bytes(1000))

    async with counted(endless) as (client, ids):
        for _ in range(2):
            async with client.stream("GET", "/") as response:
                assert response.status_code == 200
    assert len(ids) == 2


async def test_a_server_that_does_not_answer_is_a_read_timeout(autojump_clock: MockClock) -> None:
    async with open_http_client(never_answer, timeout_seconds=7) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/")
        assert trio.current_time() == 7
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=2)
        assert trio.current_time() == 9


async def test_a_server_that_does_not_read_is_a_write_timeout(autojump_clock: MockClock) -> None:
    async with open_http_client(never_read, timeout_seconds=7) as client:
        with pytest.raises(httpx.WriteTimeout):
            await client.post("/", content=bytes(1_000_000))
    assert trio.current_time() == 8, "seven for the request and one for the drain"


async def test_a_server_that_does_not_accept_is_a_connect_timeout(
    autojump_clock: MockClock,
) -> None:
    endpoint = Endpoint.parse("memory://deaf?backlog=1")
    async with open_transport_context() as context:
        transport = Registry().transport("memory")
        listener = await transport.bind(endpoint, context)
        first = await transport.connect(endpoint, context)
        client = httpx.AsyncClient(transport=HttpTransport(context, endpoint), timeout=7)
        with pytest.raises(httpx.ConnectTimeout):
            await client.get("http://testserver/")
        assert trio.current_time() == 7
        await client.aclose()
        await first.aclose()
        await listener.aclose()


async def test_no_server_is_a_connect_error() -> None:
    async with open_transport_context() as context:
        transport = HttpTransport(context, Endpoint.parse("memory://nobody"))
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(httpx.ConnectError, match="nobody listens") as caught:
                await client.get("http://testserver/")
    assert isinstance(caught.value.__cause__, httpcore.ConnectError)


async def test_a_reset_is_a_read_error() -> None:
    async def reset(connection: Connection) -> None:
        await read_request(connection)
        connection.transport.abort()

    async with open_http_client(reset) as client:
        with pytest.raises(httpx.ReadError):
            await client.get("/")


async def test_a_reset_in_the_middle_of_a_body_is_a_read_error() -> None:
    async def reset(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
        )
        await wait_all_tasks_blocked()
        connection.transport.abort()

    async with open_http_client(reset) as client:
        with pytest.raises(httpx.ReadError):
            await client.get("/")


async def test_an_early_end_is_a_protocol_error() -> None:
    async def end(connection: Connection) -> None:
        await read_request(connection)

    async with open_http_client(end) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await client.get("/")


async def test_what_is_no_http_is_a_protocol_error() -> None:
    async def talk(connection: Connection) -> None:
        await connection.transport.output.send(b"220 mail.example ESMTP\r\n\r\n")
        await never_answer(connection)

    async with open_http_client(talk) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


async def test_an_answer_before_the_body_was_read_arrives() -> None:
    async def refuse(connection: Connection) -> None:
        await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
        await connection.transport.output.send(
            b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        await connection.transport.output.send_eof()
        await never_answer(connection)

    async with open_http_client(refuse) as client:
        assert (await client.post("/", content=bytes(1_000_000))).status_code == 413


async def test_an_upgrade_leads_to_the_bytes() -> None:
    async def upgrade(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n"
        )
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk)

    headers = {"upgrade": "echo", "connection": "upgrade"}
    async with (
        open_http_client(upgrade) as client,
        client.stream("GET", "/", headers=headers) as response,
    ):
        assert response.status_code == 101
        stream: object = response.extensions["network_stream"]
        assert isinstance(stream, httpcore.AsyncNetworkStream)
        await stream.write(b"hello")
        assert await stream.read(100) == b"hello"


async def test_addresses_are_known_on_both_sides() -> None:
    async def handler(connection: Connection) -> None:
        await read_request(connection)
        await answer(connection, f"{connection.remote} {connection.local}".encode())

    endpoint = "memory://name?client=203.0.113.7:4711&server=192.0.2.1:80"
    async with open_http_client(handler, endpoint=endpoint) as client:
        response = await client.get("/")
        assert response.text == "203.0.113.7:4711 192.0.2.1:80"
        stream: object = response.extensions["network_stream"]
        assert isinstance(stream, httpcore.AsyncNetworkStream)
        assert stream.get_extra_info("client_addr") == ("203.0.113.7", 4711)
        assert stream.get_extra_info("server_addr") == ("192.0.2.1", 80)
        assert stream.get_extra_info("socket") is None


async def test_https_without_tls_says_what_is_missing() -> None:
    async with open_http_client(mirror, base_url="https://testserver") as client:
        with pytest.raises(httpx.ConnectError, match="this client speaks no TLS: give it"):
            await client.get("/")


async def test_https_with_somebodys_tls() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("test.example").configure_cert(server_context)  # pyright: ignore[reportUnknownMemberType]  # half typed
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)  # pyright: ignore[reportUnknownMemberType]  # half typed

    async def tls(connection: Connection, following: ConnectionHandler) -> None:
        inner = connection.transport
        stream = trio.SSLStream(
            inner.as_stream(), server_context, server_side=True, https_compatible=True
        )
        connection.transport = DuplexPipe.from_stream(stream)
        try:
            await following(connection)
        finally:
            connection.transport = inner

    async def start_tls(pipe: DuplexPipe, server_name: str | None) -> DuplexPipe:
        stream = trio.SSLStream(
            pipe.as_stream(), client_context, server_hostname=server_name, https_compatible=True
        )
        await stream.do_handshake()
        return DuplexPipe.from_stream(stream)

    async with open_http_client(
        mirror, middleware=[tls], base_url="https://test.example", start_tls=start_tls
    ) as client:
        for number in range(3):
            response = await client.post("/", content=bytes([number]) * 100_000)
            assert response.content == b"/ " + bytes([number]) * 100_000


async def test_nothing_is_left_open() -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with open_http_client(mirror) as client:
        await client.get("/")
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    with pytest.raises(RuntimeError, match="closed"):
        await client.get("/")


async def test_an_exception_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block is what is tested
        async with open_http_client(mirror) as client:
            await client.get("/")
            raise ZeroDivisionError
