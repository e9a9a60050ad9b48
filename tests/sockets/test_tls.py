"""TLS over sockets, with clients that are trio's and the standard library's own."""

import random
import socket
import ssl
import sys
import tempfile

import pytest
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.features import PeerCredentials, SocketInfo, TlsInfo
from kestrel_core.limits import Limits
from kestrel_middleware.tls import PlainHttp
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from tests.raw_client import GET, post
from tests.socket_ends import call, reset
from tests.tls_site import SERVER_NAME, Echo, TlsPeer, TlsSite, serving_tls, tls, trusting

pytestmark = pytest.mark.usefixtures("nothing_left_open")

VOLUME = random.Random(1).randbytes(3_000_000)


async def open_stream(site: TlsSite) -> trio.SSLStream[trio.SocketStream]:
    """Connect with trio's TLS, and shake hands."""
    endpoint = site.opened.endpoint
    if endpoint.scheme == "unix":
        plain = await trio.open_unix_socket(endpoint.address)
    else:
        plain = await trio.open_tcp_stream(*endpoint.host_and_port())
    stream = trio.SSLStream(plain, trusting(), server_hostname=SERVER_NAME)
    await stream.do_handshake()
    site.connections_made += 1
    return stream


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(chunk) async for chunk in stream])


async def test_volume_and_a_clean_end(endpoint: Endpoint) -> None:
    echo = Echo()
    async with serving_tls(handler=echo, endpoint=str(endpoint)) as site:
        stream = await open_stream(site)
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, VOLUME)
            while len(received) < len(VOLUME):
                received += await stream.receive_some()
        assert received == VOLUME
        await stream.aclose()  # which raises, unless the server ends TLS, too
        assert await site.ended() in (EndReason.COMPLETED, EndReason.CONNECTION_RESET)
    assert [info.version for info in echo.infos] == ["TLSv1.3"]


async def test_http(endpoint: Endpoint) -> None:
    async with serving_tls(endpoint=str(endpoint)) as site:
        stream = await open_stream(site)
        for _ in range(3):
            await stream.send_all(post(b"body"))
            assert (await stream.receive_some()).endswith(b"\r\n\r\n/ body")
        await stream.send_all(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert (await receive_all(stream)).endswith(b"\r\n\r\n/ ")
        assert await site.ended() is EndReason.COMPLETED
        await trio.aclose_forcefully(stream)


async def test_a_file(endpoint: Endpoint) -> None:
    """The kernel cannot send it, so it is read."""

    async def answer(exchange: HttpExchange) -> None:
        await exchange.start(200, [(b"content-length", b"%d" % len(VOLUME))])
        await exchange.write_file(file.fileno(), 0, len(VOLUME))
        await exchange.finish()

    with tempfile.TemporaryFile() as file:
        file.write(VOLUME)
        file.flush()
        async with serving_tls(handler=Http1(answer), endpoint=str(endpoint)) as site:
            client = await site.client()
            assert (await client.ask(GET)).body == VOLUME
            await client.aclose()


async def test_many_at_once(endpoint: Endpoint) -> None:
    async with serving_tls(tls(max_handshakes=3), endpoint=str(endpoint)) as site:

        async def visit() -> None:
            client = await site.client()
            assert (await client.ask(GET)).status == 200
            await client.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(visit)
        await site.ended()


async def test_what_was_known_is_still_known(endpoint: Endpoint) -> None:
    async def tell(connection: Connection) -> None:
        features = connection.features
        known = [
            each.__name__
            for each in (SocketInfo, PeerCredentials, TlsInfo)
            if features.get(each) is not None
        ]
        await connection.transport.output.send(",".join(known).encode())

    async with serving_tls(handler=tell, endpoint=str(endpoint)) as site:
        peer = await site.peer()
        credentials = endpoint.scheme == "unix" and sys.platform == "linux"
        expected = ["SocketInfo", *(["PeerCredentials"] if credentials else []), "TlsInfo"]
        assert await peer.receive_all() == ",".join(expected).encode()
        await peer.aclose()


@pytest.mark.parametrize("count", [0, 1, 50])
async def test_a_reset_in_the_handshake(count: int) -> None:
    async with serving_tls(endpoint="tcp://127.0.0.1:0") as site:
        peer = call(site.opened.endpoint)
        site.connections_made += 1
        peer.sendall(hello()[:count])
        while not site.opened.server.connections:  # noqa: ASYNC110  # there is no event
            await trio.sleep(0.001)
        reset(peer)
        assert await site.ended() is EndReason.CONNECTION_RESET
        assert (await (await site.client()).ask(GET)).status == 200


async def test_a_reset_after_the_handshake() -> None:
    async with serving_tls(endpoint="tcp://127.0.0.1:0") as site:
        stream = await open_stream(site)
        await stream.send_all(GET)
        await stream.receive_some()
        linger = b"\1\0\0\0\0\0\0\0"
        stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await trio.aclose_forcefully(stream)
        assert await site.ended() is EndReason.CONNECTION_RESET


def hello() -> bytes:
    """Return what a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting().wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def test_a_client_that_does_not_read(endpoint: Endpoint) -> None:
    """Our buffers and the kernel's hide nothing."""

    async def pour(exchange: HttpExchange) -> None:
        await exchange.start(200)
        while True:
            await exchange.write(bytes(50_000))

    limits = Limits(min_response_bytes_per_second=1e9, response_grace_seconds=0.2)
    async with serving_tls(handler=Http1(pour), endpoint=str(endpoint), limits=limits) as site:
        stream = await open_stream(site)
        await stream.send_all(GET)
        with trio.fail_after(10):
            assert await site.ended() is EndReason.MIN_RESPONSE_DATA_RATE
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("how", [PlainHttp.REJECT, PlainHttp.REDIRECT])
async def test_a_body_does_not_lose_the_answer_to_plain_http(
    how: PlainHttp, endpoint: Endpoint
) -> None:
    """Closing with something unread would have the kernel reset the connection."""
    async with serving_tls(tls(plain_http=how), endpoint=str(endpoint)) as site:
        answers = await trio.to_thread.run_sync(upload, call(site.opened.endpoint))
        assert answers.startswith(b"HTTP/1.1 400 " if how is PlainHttp.REJECT else b"HTTP/1.1 308 ")
        site.connections_made += 1
        assert await site.ended() is EndReason.PLAIN_HTTP_ON_TLS


def upload(peer: socket.socket) -> bytes:
    """Send a body that is larger than any buffer, and then listen."""
    with peer:
        peer.settimeout(30)
        peer.sendall(post(bytes(1_000_000)))
        received = b""
        while chunk := peer.recv(65536):
            received += chunk
        return received


async def test_the_standard_librarys_client(endpoint: Endpoint) -> None:
    """Which sees the end of TLS, and says so itself."""

    def talk(plain: socket.socket) -> bytes:
        plain.settimeout(30)
        with trusting().wrap_socket(
            plain, server_hostname=SERVER_NAME, suppress_ragged_eofs=False
        ) as client:
            client.sendall(VOLUME[:100_000])
            client.sendall(b"end")
            received = b""
            while not received.endswith(b"end"):
                received += client.recv(65536)
            client.unwrap().close()
            return received

    async with serving_tls(handler=Echo(), endpoint=str(endpoint)) as site:
        plain = call(site.opened.endpoint)
        received = await trio.to_thread.run_sync(talk, plain)
        assert received == VOLUME[:100_000] + b"end"


async def test_the_last_word_is_a_close_notify(endpoint: Endpoint) -> None:
    async def greet(connection: Connection) -> None:
        await connection.transport.output.send(VOLUME)

    async with serving_tls(handler=greet, endpoint=str(endpoint)) as site:
        peer: TlsPeer = await site.peer()
        assert await peer.receive_all() == VOLUME
        await peer.aclose()
