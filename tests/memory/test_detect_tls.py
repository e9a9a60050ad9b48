"""Detection with the real layers: HTTP and HTTPS on one endpoint, behind proxies and without."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from functools import cache

import pytest
import trustme
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.features import ClientHello, ProxyInfo, TlsInfo
from kestrel_core.protocol import SniffedLayer
from kestrel_core.testing import OpenServer, open_server
from kestrel_middleware.detect import Detect
from kestrel_middleware.proxy_protocol import ProxyProtocol
from kestrel_middleware.sniffers import sniff_http2_preface, sniffed_protocol
from kestrel_middleware.tls import Tls, TlsClient
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, watch_log
from tests.raw_client import GET, RawClient

PROXY = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"


@cache
def certificates() -> tuple[bytes, bytes, bytes]:
    """Return an authority's certificate, a server's chain, and its key."""
    authority = trustme.CA()
    issued = authority.issue_cert("server.example")
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return authority.cert_pem.bytes(), chain, issued.private_key_pem.bytes()


def tls() -> Tls:
    _, chain, key = certificates()
    return Tls(certificate=chain, key=key)


def tls_client(*alpn: str) -> TlsClient:
    return TlsClient(authorities=certificates()[0], server_name="server.example", alpn=alpn)


async def tell(exchange: HttpExchange) -> None:
    """Answer with what is known about the connection."""
    features = exchange.connection.features
    hello, agreed, proxy = features.get(ClientHello), features.get(TlsInfo), features.get(ProxyInfo)
    told = [
        exchange.scheme,
        hello.server_name if hello else None,
        agreed.alpn if agreed else None,
        str(exchange.connection.remote) if proxy else None,
    ]
    await exchange.respond(200, [], " ".join(str(each) for each in told).encode())


async def http2(connection: Connection) -> None:
    await connection.transport.output.send(b"this is HTTP/2")


def every(*layers: SniffedLayer) -> Detect:
    return Detect(
        [*layers, sniffed_protocol("h2", sniff_http2_preface, http2, alpn=["h2"]), Http1(tell)]
    )


@pytest.fixture
def log() -> Generator[ServerLog]:
    with watch_log() as log:
        yield log
        assert {record.name for record in log.records} <= {"kestrel.detect", "kestrel.tls"}
        log.records.clear()


@asynccontextmanager
async def serving(detect: Detect) -> AsyncGenerator[OpenServer]:
    async with open_server(detect) as opened:
        yield opened


async def answer_to(
    opened: OpenServer,
    *,
    before: bytes = b"",
    through: TlsClient | None = None,
    byte_by_byte: bool = False,
) -> str:
    """Send `before`, speak `through` TLS if that is given, and ask a question of HTTP/1.1."""
    answers: list[str] = []

    async def ask(connection: Connection) -> None:
        client = RawClient(connection, byte_by_byte=byte_by_byte)
        answers.append((await client.ask(GET)).body.decode())

    connection = await opened.connect()
    await RawClient(connection, byte_by_byte=byte_by_byte).send(before)
    if through is None:
        await ask(connection)
    else:
        await through(connection, ask)
    await connection.aclose()
    return answers[0]


@pytest.mark.parametrize("byte_by_byte", [False, True])
async def test_http_and_https_on_one_endpoint(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(every(tls())) as opened:
        answer = await answer_to(opened, byte_by_byte=byte_by_byte)
        assert answer == "http None None None"
        answer = await answer_to(opened, through=tls_client(), byte_by_byte=byte_by_byte)
        assert answer == "https server.example None None"
        answer = await answer_to(opened, through=tls_client("http/1.1"))
        assert answer == "https server.example http/1.1 None"


async def test_alpn_chooses_inside_of_tls(log: ServerLog, autojump_clock: MockClock) -> None:
    received: list[bytes] = []

    async def listen(connection: Connection) -> None:
        received.append(await RawClient(connection).receive_rest())

    async with serving(every(tls())) as opened:
        connection = await opened.connect()
        await tls_client("http/1.1", "h2")(connection, listen)  # the server's order counts
        await connection.aclose()
        assert received == [b"this is HTTP/2"]


@pytest.mark.parametrize("byte_by_byte", [False, True])
async def test_behind_a_proxy_and_without(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(every(ProxyProtocol(trusted=["*"]), tls())) as opened:
        assert await answer_to(opened, byte_by_byte=byte_by_byte) == "http None None None"
        answer = await answer_to(opened, before=PROXY, byte_by_byte=byte_by_byte)
        assert answer == "http None None 203.0.113.7:4711"
        answer = await answer_to(opened, before=PROXY, through=tls_client("http/1.1"))
        assert answer == "https server.example http/1.1 203.0.113.7:4711"
        answer = await answer_to(opened, through=tls_client())
        assert answer == "https server.example None None"


async def test_tls_that_breaks_off(log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(every(tls())) as opened:
        client = RawClient(await opened.connect())
        await client.send(b"\x16\x03\x01\x00\x05\x01")
        await client.send_eof()
        await client.is_reset()
        await client.aclose()
    assert log.ends == [EndReason.TLS_HANDSHAKE_FAILED]


def test_layers_in_an_order_that_makes_no_sense() -> None:
    with pytest.raises(ConfigurationError, match="put it before tls"):
        every(tls(), ProxyProtocol(trusted=["*"]))
    with pytest.raises(ConfigurationError, match="tls stands inside of tls"):
        every(tls()).check_place([tls()], [])
