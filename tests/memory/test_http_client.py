"""The HTTP clients for tests, against servers that are a few lines of raw handler."""

import functools
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import TypeAlias, TypedDict, Unpack

import attrs
import httpcore
import httpcore2
import httpx
import httpx2
import pytest
import trio
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.features import TlsInfo
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.pipe_reader import SeparatorNotFound
from kestrel_core.registry import Registry
from kestrel_core.testing import open_server
from kestrel_core.testing.authority import Authority
from kestrel_core.testing.clients import httpx2_client, httpx_client
from kestrel_core.testing.clients.network_backend import StartTls
from kestrel_core.testing.connect import Connect
from kestrel_core.transport import open_transport_context
from kestrel_middleware.tls import Tls, TlsClient

Client: TypeAlias = httpx.AsyncClient | httpx2.AsyncClient
NETWORK_STREAMS = (httpcore.AsyncNetworkStream, httpcore2.AsyncNetworkStream)


class Options(TypedDict, total=False):
    """Those of `HttpTransport`."""

    start_tls: StartTls
    http1: bool
    http2: bool
    max_connections: int


@attrs.frozen
class Library:
    """One of the libraries whose client is tested."""

    module: ModuleType
    core: ModuleType

    def client(
        self,
        connect: Connect,
        *,
        base_url: str = "http://testserver",
        timeout_seconds: float | None = 30,
        **options: Unpack[Options],
    ) -> Client:
        """Make a client."""
        if self.module is httpx:
            return httpx.AsyncClient(
                transport=httpx_client.HttpTransport(connect, **options),
                base_url=base_url,
                timeout=timeout_seconds,
            )
        return httpx2.AsyncClient(
            transport=httpx2_client.HttpTransport(connect, **options),
            base_url=base_url,
            timeout=timeout_seconds,
        )

    @asynccontextmanager
    async def serving(
        self,
        handler: ConnectionHandler,
        *,
        middleware: Sequence[Middleware] = (),
        endpoint: str | None = None,
        base_url: str = "http://testserver",
        timeout_seconds: float | None = 30,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Client]:
        """Serve `handler`, and yield a client of it, which is to close all that it opened."""
        opened_by_client: list[Connection] = []

        async def connect() -> Connection:
            opened_by_client.append(await opened.connect())
            return opened_by_client[-1]

        async with open_server(handler, middleware=middleware, endpoint=endpoint) as opened:
            async with self.client(
                connect,
                base_url=base_url,
                timeout_seconds=timeout_seconds,
                **options,
            ) as client:
                yield client
            assert all(connection.closed for connection in opened_by_client)
        assert not opened.server.connections


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Library:
    return Library(httpx2, httpcore2) if request.param == "httpx2" else Library(httpx, httpcore)


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
    library: Library,
    handler: ConnectionHandler,
) -> AsyncGenerator[tuple[Client, list[str]]]:
    """Yield a client of `handler`, and a list that grows by each connection's id."""
    ids: list[str] = []

    async def middleware(connection: Connection, following: ConnectionHandler) -> None:
        ids.append(connection.id)
        await following(connection)

    async with library.serving(handler, middleware=[middleware]) as client:
        yield client, ids


async def test_requests_are_real_bytes_and_so_are_responses(library: Library) -> None:
    heads: list[bytes] = []

    async def handler(connection: Connection) -> None:
        while request := await read_request(connection):
            heads.append(request[0])
            await answer(connection, request[1].upper(), b"x-header: value")

    async with library.serving(handler) as client:
        response = await client.post("/path?query=1", content=b"hello", headers={"x-own": "1"})
    assert response.status_code == 200
    assert response.headers["x-header"] == "value"
    assert response.text == "HELLO"
    assert response.http_version == "HTTP/1.1"
    assert heads[0].startswith(b"POST /path?query=1 HTTP/1.1\r\n")
    assert b"\r\nHost: testserver\r\n" in heads[0]
    assert b"\r\nx-own: 1\r\n" in heads[0].lower()


async def test_the_base_url_is_a_parameter(library: Library) -> None:
    async with library.serving(mirror, base_url="http://example.org/app") as client:
        assert (await client.get("/x")).text == "/app/x "
        assert (await client.get("http://other.example/y")).text == "/y "


async def test_connections_are_used_again(library: Library) -> None:
    async with counted(library, mirror) as (client, ids):
        for number in range(5):
            assert (await client.post("/", content=b"%d" % number)).text == f"/ {number}"
    assert len(ids) == 1


async def test_requests_at_once_have_a_connection_each(library: Library) -> None:
    async with counted(library, mirror) as (client, ids):

        async def ask(number: int) -> None:
            assert (await client.post("/", content=b"%d" % number)).text == f"/ {number}"

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, number)
        assert 1 < len(ids) <= 5
        before = len(ids)
        await ask(6)
        assert len(ids) == before


async def test_a_connection_that_the_server_ended_is_not_used_again(library: Library) -> None:
    async with counted(library, answer_once) as (client, ids):
        for number in range(3):
            assert (await client.get("/")).text == "once"
            await wait_all_tasks_blocked()
            assert len(ids) == number + 1


async def test_a_half_closed_connection_is_not_used_again(library: Library) -> None:
    async def end_output(connection: Connection) -> None:
        await answer_once(connection)
        await connection.transport.output.send_eof()
        await never_answer(connection)

    async with counted(library, end_output) as (client, ids):
        for _ in range(3):
            assert (await client.get("/")).text == "once"
            await wait_all_tasks_blocked()
    assert len(ids) == 3


async def test_a_reset_connection_is_not_used_again(
    library: Library, autojump_clock: MockClock
) -> None:
    async def reset(connection: Connection) -> None:
        await answer_once(connection)
        await trio.sleep(1)
        connection.transport.abort()

    async with counted(library, reset) as (client, ids):
        for _ in range(3):
            assert (await client.get("/")).text == "once"
            await trio.sleep(2)
    assert len(ids) == 3


async def test_connection_close_is_obeyed(library: Library) -> None:
    async def handler(connection: Connection) -> None:
        while await read_request(connection):
            await answer(connection, b"bye", b"connection: close")

    async with counted(library, handler) as (client, ids):
        for _ in range(3):
            assert (await client.get("/")).text == "bye"
    assert len(ids) == 3


async def test_a_body_streams_in(library: Library, autojump_clock: MockClock) -> None:
    async def drip(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for chunk in (b"1\r\na\r\n", b"2\r\nbc\r\n", b"0\r\n\r\n"):
            await trio.sleep(5)
            await connection.transport.output.send(chunk)

    async with library.serving(drip) as client, client.stream("GET", "/") as response:
        assert trio.current_time() == 0
        arrivals = [(trio.current_time(), chunk) async for chunk in response.aiter_raw()]
    assert arrivals == [(5, b"a"), (10, b"bc")]


async def test_a_body_streams_out(library: Library, autojump_clock: MockClock) -> None:
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

    async with library.serving(handler) as client:
        await client.post("/", content=body())
    assert [chunk for _, chunk in arrivals] == [b"1\r\na\r\n", b"2\r\nbc\r\n", b"0\r\n\r\n"]
    assert [time for time, _ in arrivals] == [0, 5, 10]


async def test_a_response_may_be_left_in_the_middle(library: Library) -> None:
    async def endless(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.transport.output.send(bytes(1000))

    async with counted(library, endless) as (client, ids):
        for _ in range(2):
            async with client.stream("GET", "/") as response:
                assert response.status_code == 200
    assert len(ids) == 2


async def test_a_server_that_does_not_answer_is_a_read_timeout(
    library: Library, autojump_clock: MockClock
) -> None:
    async with library.serving(never_answer, timeout_seconds=7) as client:
        with pytest.raises(library.module.ReadTimeout):
            await client.get("/")
        assert trio.current_time() == 7
        with pytest.raises(library.module.ReadTimeout):
            await client.get("/", timeout=2)
        assert trio.current_time() == 9


async def test_a_server_that_does_not_read_is_a_write_timeout(
    library: Library, autojump_clock: MockClock
) -> None:
    async with library.serving(never_read, timeout_seconds=7) as client:
        with pytest.raises(library.module.WriteTimeout):
            await client.post("/", content=bytes(1_000_000))
    assert trio.current_time() == 8, "seven for the request and one for the drain"


async def test_a_server_that_does_not_accept_is_a_connect_timeout(
    library: Library, autojump_clock: MockClock
) -> None:
    endpoint = Endpoint.parse("memory://deaf?backlog=1")
    async with open_transport_context() as context:
        transport = Registry().transport("memory")
        listener = await transport.bind(endpoint, context)
        first = await transport.connect(endpoint, context)
        connect = functools.partial(transport.connect, endpoint, context)
        client = library.client(connect, timeout_seconds=7)
        with pytest.raises(library.module.ConnectTimeout):
            await client.get("http://testserver/")
        assert trio.current_time() == 7
        await client.aclose()
        await first.aclose()
        await listener.aclose()


async def test_no_server_is_a_connect_error(library: Library) -> None:
    async with open_transport_context() as context:
        connect = functools.partial(
            Registry().transport("memory").connect, Endpoint.parse("memory://nobody"), context
        )
        async with library.client(connect) as client:
            with pytest.raises(library.module.ConnectError, match="nobody listens") as caught:
                await client.get("http://testserver/")
    assert isinstance(caught.value.__cause__, library.core.ConnectError)


async def test_a_connection_of_any_making_is_closed(library: Library) -> None:
    async with open_transport_context() as context, trio.open_nursery() as nursery:
        near, far = duplex_pipe_pair()
        connection = Connection(near, context)  # which does not hear when its pipe is closed

        async def connect() -> Connection:
            return connection

        nursery.start_soon(mirror, Connection(far, context))
        async with library.client(connect) as client:
            assert (await client.get("/path")).text == "/path "
        assert connection.closed


async def test_a_reset_is_a_read_error(library: Library) -> None:
    async def reset(connection: Connection) -> None:
        await read_request(connection)
        connection.transport.abort()

    async with library.serving(reset) as client:
        with pytest.raises(library.module.ReadError):
            await client.get("/")


async def test_a_reset_in_the_middle_of_a_body_is_a_read_error(library: Library) -> None:
    async def reset(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
        )
        await wait_all_tasks_blocked()
        connection.transport.abort()

    async with library.serving(reset) as client:
        with pytest.raises(library.module.ReadError):
            await client.get("/")


async def test_an_early_end_is_a_protocol_error(library: Library) -> None:
    async def end(connection: Connection) -> None:
        await read_request(connection)

    async with library.serving(end) as client:
        with pytest.raises(library.module.RemoteProtocolError, match="without sending a response"):
            await client.get("/")


async def test_what_is_no_http_is_a_protocol_error(library: Library) -> None:
    async def talk(connection: Connection) -> None:
        await connection.transport.output.send(b"220 mail.example ESMTP\r\n\r\n")
        await never_answer(connection)

    async with library.serving(talk) as client:
        with pytest.raises(library.module.RemoteProtocolError):
            await client.get("/")


async def test_an_answer_before_the_body_was_read_arrives(library: Library) -> None:
    async def refuse(connection: Connection) -> None:
        await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
        await connection.transport.output.send(
            b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        await connection.transport.output.send_eof()
        await never_answer(connection)

    async with library.serving(refuse) as client:
        assert (await client.post("/", content=bytes(1_000_000))).status_code == 413


async def test_an_upgrade_leads_to_the_bytes(library: Library) -> None:
    async def upgrade(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n"
        )
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk)

    headers = {"upgrade": "echo", "connection": "upgrade"}
    async with (
        library.serving(upgrade) as client,
        client.stream("GET", "/", headers=headers) as response,
    ):
        assert response.status_code == 101
        stream: object = response.extensions["network_stream"]
        assert isinstance(stream, NETWORK_STREAMS)
        await stream.write(b"hello")
        assert await stream.read(100) == b"hello"


async def test_addresses_are_known_on_both_sides(library: Library) -> None:
    async def handler(connection: Connection) -> None:
        await read_request(connection)
        await answer(connection, f"{connection.remote} {connection.local}".encode())

    endpoint = "memory://name?client=203.0.113.7:4711&server=192.0.2.1:80"
    async with library.serving(handler, endpoint=endpoint) as client:
        response = await client.get("/")
        assert response.text == "203.0.113.7:4711 192.0.2.1:80"
        stream: object = response.extensions["network_stream"]
        assert isinstance(stream, NETWORK_STREAMS)
        assert stream.get_extra_info("client_addr") == ("203.0.113.7", 4711)
        assert stream.get_extra_info("server_addr") == ("192.0.2.1", 80)
        assert stream.get_extra_info("socket") is None


async def test_https_without_tls_says_what_is_missing(library: Library) -> None:
    async with library.serving(mirror, base_url="https://testserver") as client:
        with pytest.raises(library.module.ConnectError, match="this client speaks no TLS: give it"):
            await client.get("/")


async def test_https_with_somebodys_tls(library: Library) -> None:
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

    async with library.serving(
        mirror, middleware=[tls], base_url="https://test.example", start_tls=start_tls
    ) as client:
        for number in range(3):
            response = await client.post("/", content=bytes([number]) * 100_000)
            assert response.content == b"/ " + bytes([number]) * 100_000


async def test_requests_wait_for_one_of_so_many_connections(
    library: Library, autojump_clock: MockClock
) -> None:
    async def take_three_seconds(connection: Connection) -> None:
        while await read_request(connection):
            await trio.sleep(3)
            await answer(connection, b"")

    answered_at: list[float] = []
    async with library.serving(take_three_seconds, max_connections=2) as client:

        async def ask() -> None:
            await client.get("/")
            answered_at.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
    assert answered_at == [3, 3, 6, 6, 9]


async def test_no_connection_in_time_is_a_pool_timeout(
    library: Library, autojump_clock: MockClock
) -> None:
    async def hold(connection: Connection) -> None:
        await read_request(connection)
        await connection.transport.output.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await never_answer(connection)

    async with (
        library.serving(hold, max_connections=1, timeout_seconds=7) as client,
        client.stream("GET", "/"),
    ):
        with pytest.raises(library.module.PoolTimeout):
            await client.get("/")
        assert trio.current_time() == 7


async def test_an_early_answer_ends_a_body_that_streams_out(library: Library) -> None:
    is_closed = False

    class Endless:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            return bytes(10_000)

    async def refuse(connection: Connection) -> None:
        nonlocal is_closed
        await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
        await connection.transport.output.send(
            b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno"
        )
        is_closed = True

    async with library.serving(refuse) as client:
        response = await client.post("/", content=Endless())
    assert is_closed
    assert (response.status_code, response.text) == (413, "no")


async def test_a_reset_in_the_middle_of_a_request_is_a_read_error(library: Library) -> None:
    async def reset(connection: Connection) -> None:
        await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
        connection.transport.abort()

    async with counted(library, reset) as (client, ids):
        for _ in range(2):
            with pytest.raises(library.module.ReadError):
                await client.post("/", content=bytes(1_000_000))
    assert len(ids) == 2


async def test_bodies_stream_both_ways_at_once(library: Library) -> None:
    chunks = 300

    async def body() -> AsyncIterator[bytes]:
        for number in range(chunks):
            yield bytes([number % 256]) * 1000

    async def mirror_chunks(connection: Connection) -> None:
        reader, writer = connection.transport.input, connection.transport.output
        await reader.read_until(b"\r\n\r\n", 10_000)
        taken: list[bytes] = []
        while (chunk := await reader.read_until(b"\r\n", 100)) != b"0\r\n":
            taken.append(await reader.read_exactly(int(chunk, 16) + 2))
        await writer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for chunk in taken:
            await writer.send(b"%x\r\n%b" % (len(chunk) - 2, chunk))
        await writer.send(b"0\r\n\r\n")

    async with (
        library.serving(mirror_chunks) as client,
        client.stream("POST", "/", content=body()) as response,
    ):
        received = b"".join([part async for part in response.aiter_bytes()])
    assert received == b"".join([bytes([number % 256]) * 1000 for number in range(chunks)])


async def test_what_no_client_may_send_is_refused(library: Library) -> None:
    async with library.serving(mirror) as client:
        with pytest.raises(library.module.UnsupportedProtocol):
            await client.get("gopher://testserver/")
        with pytest.raises(library.module.LocalProtocolError):
            await client.get("/", headers={"transfer-encoding": "gzip"})

        def body() -> Iterator[bytes]:
            yield b"from a generator that is not asynchronous"

        with pytest.raises((TypeError, RuntimeError), match="sync"):
            await client.post("/", content=body())


async def test_https_with_the_middleware_for_clients(library: Library) -> None:
    authority = Authority()
    identity = authority.issue("test.example")
    resumed: list[bool] = []

    async def answer_in_tls(connection: Connection) -> None:
        resumed.append(connection.features[TlsInfo].resumed)
        await answer_once(connection)

    async with library.serving(
        answer_in_tls,
        middleware=[Tls(certificate=identity.certificate_chain, key=identity.key)],
        base_url="https://test.example",
        start_tls=TlsClient(authorities=authority.pem).start_tls,
    ) as client:
        for _ in range(2):
            assert (await client.get("/")).text == "once"
            await wait_all_tasks_blocked()
        assert resumed == [False, True]
        with pytest.raises(library.module.ConnectError, match="verify failed: Hostname mismatch"):
            await client.get("https://other.example/")


async def test_a_handshake_that_fails_closes_the_connection(library: Library) -> None:
    async def start_tls(pipe: DuplexPipe, server_name: str | None) -> DuplexPipe:
        assert server_name == "test.example"
        raise ssl.SSLError("the certificate is not good")

    async with library.serving(
        never_answer, base_url="https://test.example", start_tls=start_tls
    ) as client:
        with pytest.raises(library.module.ConnectError, match="the certificate is not good"):
            await client.get("/")


async def test_a_handshake_that_hangs_is_a_connect_timeout(
    library: Library, autojump_clock: MockClock
) -> None:
    async def start_tls(pipe: DuplexPipe, server_name: str | None) -> DuplexPipe:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async with library.serving(
        never_answer, base_url="https://test.example", start_tls=start_tls, timeout_seconds=7
    ) as client:
        with pytest.raises(library.module.ConnectTimeout):
            await client.get("/")
        assert trio.current_time() == 7


async def test_http_2_from_the_first_byte(library: Library) -> None:
    async def serve_http_2(connection: Connection) -> None:
        h2_connection = H2Connection(H2Configuration(client_side=False))
        h2_connection.initiate_connection()
        async for data in connection.transport.input:
            for event in h2_connection.receive_data(data):
                if isinstance(event, StreamEnded):
                    assert event.stream_id
                    h2_connection.send_headers(event.stream_id, [(":status", "200")])
                    h2_connection.send_data(event.stream_id, b"two", end_stream=True)
            await connection.transport.output.send(h2_connection.data_to_send())

    async with library.serving(serve_http_2, http1=False, http2=True) as client:
        response = await client.get("/")
    assert (response.http_version, response.text) == ("HTTP/2", "two")


async def test_a_client_in_one_step() -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with (
        open_server(mirror) as opened,
        opened.httpx_client(base_url="http://example.org/app") as client,
    ):
        assert (await client.get("/x")).text == "/app/x "
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    with pytest.raises(RuntimeError, match="closed"):
        await client.get("/")


async def test_an_exception_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block is what is tested
        async with open_server(mirror) as opened, opened.httpx_client() as client:
            await client.get("/")
            raise ZeroDivisionError
