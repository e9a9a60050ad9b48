"""PROXY headers on connections: who is believed, what becomes of it, and what ends a connection."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import product

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core import (
    Address,
    ConfigurationError,
    Connection,
    ConnectionContext,
    ConnectionHandler,
    EndReason,
    Layer,
    ProxyInfo,
    ProxyTls,
    Server,
    Sniff,
    TlsInfo,
    duplex_pipe_pair,
)
from kestrel_core.testing import check_middleware, open_server
from kestrel_middleware.proxy_protocol import (
    Command,
    ProxyHeader,
    ProxyProtocol,
    SendProxyHeader,
    SocketKind,
    SslClient,
    SslTlv,
    Tlv,
    TlvType,
    decode,
    encode,
    header_for,
)
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.http1_site import ServerLog, Serving, answer
from tests.http1_site import serving as serving_so
from tests.raw_client import GET, RawClient

CLIENT, SERVER = Address("203.0.113.7", 4711), Address("192.0.2.1", 443)
CLIENT_6, SERVER_6 = Address("2001:db8::7", 4711), Address("2001:db8::1", 443)

PROXY = "10.0.0.5:30000"
STRANGER = "198.51.100.66:30000"
TRUSTED = "10.0.0.0/8"

CHECKSUM: Tlv = (TlvType.CRC32C, bytes(4))
SSL = SslTlv(
    client=SslClient.SSL | SslClient.CERT_CONN | SslClient.CERT_SESS,
    verify=0,
    tlvs=[
        (TlvType.SSL_VERSION, b"TLSv1.3"),
        (TlvType.SSL_CIPHER, b"TLS_AES_256_GCM_SHA384"),
        (TlvType.SSL_CN, "Ada Lövelace".encode()),
    ],
)

LINE = encode(ProxyHeader.between(CLIENT, SERVER, version=1))
BLOCK = encode(ProxyHeader.between(CLIENT, SERVER))
BLOCK_6 = encode(ProxyHeader.between(CLIENT_6, SERVER_6, tlvs=[CHECKSUM]))
LOCAL = encode(ProxyHeader(command=Command.LOCAL))


@pytest.fixture(params=["at once", "byte by byte"])
def serving(request: pytest.FixtureRequest) -> Serving:
    """Serve HTTP with nothing outside of the middleware under test."""
    return serving_so(byte_by_byte=request.param == "byte by byte")


# What it promises -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [LINE, BLOCK, BLOCK_6, LOCAL, b"PROXY UNKNOWN\r\n"],
    ids=["v1", "v2", "v2 with a checksum", "local", "unknown"],
)
async def test_taking_a_header_keeps_every_promise(
    header: bytes, autojump_clock: MockClock
) -> None:
    await check_middleware(ProxyProtocol(trusted="*"), preamble=header)


@pytest.mark.parametrize(
    ("trusted", "header"),
    [("*", LINE), ("*", BLOCK), ("10.0.0.0/8", b"")],
    ids=["v1", "v2", "stranger"],
)
async def test_requiring_none_keeps_every_promise(
    trusted: str, header: bytes, autojump_clock: MockClock
) -> None:
    layer = ProxyProtocol(trusted=trusted, required=False)
    await check_middleware(layer, preamble=header)


@pytest.mark.parametrize("version", [1, 2])
async def test_both_ends_keep_every_promise(version: int, autojump_clock: MockClock) -> None:
    sending = SendProxyHeader(ProxyHeader.between(CLIENT, SERVER, version=version))
    await check_middleware(ProxyProtocol(trusted="*"), counterpart=sending)
    await check_middleware(sending, counterpart=ProxyProtocol(trusted="*"))


# What becomes of it -----------------------------------------------------------------------------


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell both ends, as HTTP's application sees them."""
    await answer(send, f"{scope['client']} {scope['server']}".encode())


def told(client: str, server: str) -> bytes:
    ends = [client.rpartition(":"), server.rpartition(":")]
    return " ".join(f"('{host}', {port})" for host, _, port in ends).encode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (LINE, told("203.0.113.7:4711", "192.0.2.1:443")),
        (BLOCK, told("203.0.113.7:4711", "192.0.2.1:443")),
        (BLOCK_6, told("2001:db8::7:4711", "2001:db8::1:443")),
        (b"PROXY UNKNOWN\r\n", told(PROXY, "10.0.0.1:80")),
        (LOCAL, told(PROXY, "10.0.0.1:80")),
        (encode(ProxyHeader()), told(PROXY, "10.0.0.1:80")),
    ],
    ids=["v1", "v2", "IPv6", "unknown", "local", "unspec"],
)
async def test_http_behind_it(header: bytes, expected: bytes, serving: Serving) -> None:
    layer = ProxyProtocol(trusted=TRUSTED)
    async with serving(who, middleware=[layer]) as site:
        client = await site.connect(client=PROXY, server="10.0.0.1:80")
        assert (await client.ask(header + GET)).body == expected
        assert (await client.ask(GET)).body == expected  # and nothing is taken twice
        assert site.connection.features[ProxyInfo].header == header
        await client.send(header)  # which no more is one
        assert (await client.receive()).status == 400


async def test_an_ipv4_client_in_an_ipv6_header_is_one_of_ipv4(serving: Serving) -> None:
    header = encode(ProxyHeader.between(CLIENT, SERVER_6))
    async with serving(who, middleware=[ProxyProtocol(trusted=TRUSTED)]) as site:
        client = await site.connect(client=PROXY)
        expected = told("203.0.113.7:4711", "2001:db8::1:443")
        assert (await client.ask(header + GET)).body == expected


async def test_unix_sockets_before_and_behind_the_proxy() -> None:
    header = encode(ProxyHeader.between(None, Address("/run/proxy.sock")))
    seen = await served(ProxyProtocol(trusted="unix"), header, client="/run/client.sock")
    assert (seen.remote, seen.local) == (None, Address("/run/proxy.sock"))


async def test_datagrams_have_addresses_and_unknown_kinds_have_none() -> None:
    for kind, remote in [
        (SocketKind.DGRAM, CLIENT),
        (SocketKind.UNSPEC, Address("10.0.0.5", 30000)),
    ]:
        header = attrs.evolve(ProxyHeader.between(CLIENT, SERVER), kind=kind)
        seen = await served(ProxyProtocol(trusted=TRUSTED), encode(header))
        assert seen.remote == remote


async def served(layer: ProxyProtocol, sent: bytes, *, client: str = PROXY) -> Connection:
    """Serve one connection; return it as the handler has seen it."""
    seen: list[Connection] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection)

    async with open_server(handler, middleware=[layer]) as opened:
        connection = await opened.connect(address=client)
        await connection.transport.output.send(sent)
        await wait_all_tasks_blocked()
        (found,) = seen
        return found


async def test_what_a_line_says() -> None:
    seen = await served(ProxyProtocol(trusted=TRUSTED), LINE)
    assert seen.features[ProxyInfo] == ProxyInfo(
        version=1,
        is_local=False,
        alpn=None,
        authority=None,
        unique_id=None,
        tls=None,
        tlvs=(),
        header=LINE,
    )


async def test_what_a_block_says() -> None:
    tlvs: list[Tlv] = [
        (TlvType.ALPN, b"h2"),
        (TlvType.AUTHORITY, b"a.example"),
        (TlvType.AUTHORITY, b"b.example"),  # and the first counts
        (TlvType.NOOP, b"..."),
        (TlvType.UNIQUE_ID, b"\x00" * 128),
        (TlvType.SSL, SSL.to_bytes()),
        (TlvType.NETNS, b"blue"),
        (0xEA, b"custom"),
    ]
    header = encode(ProxyHeader.between(CLIENT, SERVER, tlvs=tlvs))
    seen = await served(ProxyProtocol(trusted=TRUSTED), header)
    assert seen.features[ProxyInfo] == ProxyInfo(
        version=2,
        is_local=False,
        alpn="h2",
        authority="a.example",
        unique_id=b"\x00" * 128,
        tls=ProxyTls(
            version="TLSv1.3",
            cipher="TLS_AES_256_GCM_SHA384",
            client_common_name="Ada Lövelace",
            client_certificate_on_connection=True,
            client_certificate_in_session=True,
            verified=True,
        ),
        tlvs=tuple(tlvs),
        header=header,
    )


@pytest.mark.parametrize(
    ("client", "verify", "verified"),
    [
        (SslClient.SSL, 0, False),  # HAProxy's zero where nobody showed a certificate
        (SslClient.SSL | SslClient.CERT_SESS, 0, True),
        (SslClient.SSL | SslClient.CERT_SESS, 20, False),
        (SslClient.SSL | SslClient.CERT_CONN | SslClient.CERT_SESS, 0, True),
    ],
)
async def test_who_is_verified(client: SslClient, verify: int, verified: bool) -> None:
    ssl = SslTlv(client=client, verify=verify)
    header = ProxyHeader.between(CLIENT, SERVER, tlvs=[(TlvType.SSL, ssl.to_bytes())])
    seen = await served(ProxyProtocol(trusted=TRUSTED), encode(header))
    tls = seen.features[ProxyInfo].tls
    assert tls is not None
    assert tls.verified is verified
    assert tls.client_certificate_in_session is (SslClient.CERT_SESS in client)
    assert tls.client_certificate_on_connection is (SslClient.CERT_CONN in client)
    assert (tls.version, tls.cipher, tls.client_common_name) == (None, None, None)


async def test_no_tls_and_no_utf8() -> None:
    tlvs: list[Tlv] = [
        (TlvType.SSL, SslTlv(client=SslClient(0), verify=0).to_bytes()),
        (TlvType.AUTHORITY, b"\xff.example"),
    ]
    header = encode(ProxyHeader.between(CLIENT, SERVER, tlvs=tlvs))
    info = (await served(ProxyProtocol(trusted=TRUSTED), header)).features[ProxyInfo]
    assert info.tls is None
    assert info.authority == "\\xff.example"


async def test_local_is_published_too() -> None:
    info = (await served(ProxyProtocol(trusted=TRUSTED), LOCAL)).features[ProxyInfo]
    assert (info.version, info.is_local) == (2, True)


# Who is believed --------------------------------------------------------------------------------


async def test_strangers_are_not_served(serving: Serving, log: ServerLog) -> None:
    async with serving(who, middleware=[ProxyProtocol(trusted=TRUSTED)]) as site:
        client = await site.connect(client=STRANGER)
        assert await client.is_reset()  # before it has sent a byte
        await site.all_ended()
    assert log.ends == [EndReason.PROXY_SOURCE_NOT_TRUSTED]


async def test_strangers_may_be_served_as_who_they_are(serving: Serving, log: ServerLog) -> None:
    layer = ProxyProtocol(trusted=TRUSTED, required=False)
    async with serving(who, middleware=[layer]) as site:
        client = await site.connect(client=STRANGER, server="10.0.0.1:80")
        assert (await client.ask(GET)).body == told(STRANGER, "10.0.0.1:80")
        for header in (LINE, BLOCK):
            client = await site.connect(client=STRANGER)
            assert (await client.ask(header + GET)).status == 400
        assert all(ProxyInfo not in each.features for each in site.server.connections)
    assert EndReason.INVALID_PROXY_HEADER not in log.ends


async def test_a_trusted_proxy_may_leave_the_header_out(serving: Serving) -> None:
    layer = ProxyProtocol(trusted=TRUSTED, required=False)
    async with serving(who, middleware=[layer]) as site:
        plain = await site.connect(client=PROXY, server="10.0.0.1:80")
        assert (await plain.ask(GET)).body == told(PROXY, "10.0.0.1:80")
        assert ProxyInfo not in site.connection.features
        await plain.aclose()
        await site.all_ended()
        for header in (LINE, BLOCK):
            client = await site.connect(client=PROXY)
            expected = told("203.0.113.7:4711", "192.0.2.1:443")
            assert (await client.ask(header + GET)).body == expected


async def test_input_that_ends_undecided_is_no_header() -> None:
    seen: list[bytes] = []

    async def handler(connection: Connection) -> None:
        seen.append(b"".join([chunk async for chunk in connection.transport.input]))

    layer = ProxyProtocol(trusted=TRUSTED, required=False)
    async with open_server(handler, middleware=[layer]) as opened:
        for sent in (b"", b"PRO", b"PROXY T", b"\r\n\r\n"):
            client = await opened.connect(address=PROXY)
            if sent:
                await client.transport.output.send(sent)
            await client.transport.output.send_eof()
            await wait_all_tasks_blocked()
    assert seen == [b"", b"PRO", b"PROXY T", b"\r\n\r\n"]


# What ends a connection -------------------------------------------------------------------------


async def refused(
    layer: ProxyProtocol, sent: bytes, *, end: bool = False, seconds: float = 0.0
) -> EndReason | None:
    """Send something; expect that nothing is served, and return why it ended."""
    connections: list[Connection] = []

    class Outside(Layer):
        name = "outside"

        async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
            connections.append(connection)
            await following(connection)

    async def handler(connection: Connection) -> None:
        raise AssertionError("nothing may be served")

    async with open_server(handler, middleware=[Outside(), layer]) as opened:
        client = RawClient(await opened.connect(address=PROXY))
        await client.send(sent)
        if end:
            await client.send_eof()
        await trio.sleep(seconds)
        with trio.fail_after(1):
            await client.is_reset()
        assert not opened.server.connections
    (connection,) = connections
    assert connection.remote == Address("10.0.0.5", 30000)
    assert ProxyInfo not in connection.features
    return connection.end_reason


@pytest.mark.parametrize("header", [LINE, BLOCK, BLOCK_6], ids=["v1", "v2", "v2 with a checksum"])
async def test_every_truncation(header: bytes, autojump_clock: MockClock) -> None:
    for required, length in product([True, False], range(1, len(header))):
        layer = ProxyProtocol(trusted=TRUSTED, required=required)
        if not required and layer.sniff(header[:length]) is Sniff.MORE:
            continue  # as above: no header
        reason = await refused(layer, header[:length], end=True)
        assert reason is EndReason.INVALID_PROXY_HEADER


async def test_who_connects_and_says_nothing_only_checks_the_port() -> None:
    assert await refused(ProxyProtocol(trusted=TRUSTED), b"", end=True) is EndReason.PEER_CLOSED


BAD_CHECKSUM = BLOCK_6[:-1] + bytes([BLOCK_6[-1] ^ 1])
OVERSIZED = encode(ProxyHeader.between(CLIENT, SERVER, tlvs=[(0xEA, bytes(4096))]))
OVERSIZED_TLV = BLOCK[:14] + (15).to_bytes(2) + BLOCK[16:] + b"\x02\xff\xff"


@pytest.mark.parametrize(
    "sent",
    [
        GET,
        b"\x16\x03\x01\x02\x00",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 4433443\r\n",
        BAD_CHECKSUM,
        OVERSIZED,
        OVERSIZED[:16],
        OVERSIZED_TLV,
    ],
    ids=["HTTP", "TLS", "port", "checksum", "oversized", "to be oversized", "oversized TLV"],
)
async def test_bad_headers(sent: bytes, log: ServerLog, autojump_clock: MockClock) -> None:
    assert await refused(ProxyProtocol(trusted=TRUSTED), sent) is EndReason.INVALID_PROXY_HEADER
    record = log.take()
    assert record.name == "kestrel.connection"
    assert "from 10.0.0.5:30000: bad PROXY header: " in record.getMessage()


async def test_bad_headers_are_refused_also_where_none_is_required() -> None:
    layer = ProxyProtocol(trusted=TRUSTED, required=False)
    assert await refused(layer, BAD_CHECKSUM) is EndReason.INVALID_PROXY_HEADER


async def test_how_large_a_header_may_be() -> None:
    seen = await served(ProxyProtocol(trusted=TRUSTED, max_header_bytes=len(OVERSIZED)), OVERSIZED)
    assert seen.remote == CLIENT
    layer = ProxyProtocol(trusted=TRUSTED, max_header_bytes=len(OVERSIZED) - 1)
    assert await refused(layer, OVERSIZED) is EndReason.INVALID_PROXY_HEADER


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("version", "taken", "other"), [(1, LINE, BLOCK), (2, BLOCK, LINE)], ids=["1", "2"]
)
async def test_one_version_only(version: int, taken: bytes, other: bytes, required: bool) -> None:
    layer = ProxyProtocol(trusted=TRUSTED, versions=[version], required=required)
    assert (await served(layer, taken)).remote == CLIENT
    assert await refused(layer, other) is EndReason.INVALID_PROXY_HEADER
    assert layer.sniff(taken) is Sniff.YES
    assert layer.sniff(other) is Sniff.NO


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    "sent", [b"", b"PROXY TCP4 203.0", BLOCK[:-1]], ids=["nothing", "v1", "v2"]
)
async def test_a_header_that_does_not_come(
    sent: bytes, required: bool, autojump_clock: MockClock
) -> None:
    layer = ProxyProtocol(trusted=TRUSTED, required=required, header_seconds=7)
    began = trio.current_time()
    assert await refused(layer, sent, seconds=7) is EndReason.PROXY_HEADER_TIMEOUT
    assert trio.current_time() == pytest.approx(began + 7)


async def test_a_header_that_dribbles(autojump_clock: MockClock) -> None:
    layer = ProxyProtocol(trusted=TRUSTED, header_seconds=10)

    async def echo(connection: Connection) -> None:
        await connection.transport.output.send(await connection.transport.input.receive())

    async with open_server(echo, middleware=[layer]) as opened:
        for seconds_a_byte, header in product([0.2, 0.5], [BLOCK, LINE]):
            client = await opened.connect(address=PROXY)
            in_time = seconds_a_byte * (len(header) + 1) < 10
            try:
                for byte in header + b"!":
                    await trio.sleep(seconds_a_byte)
                    await client.transport.output.send(bytes([byte]))
                got = await client.transport.input.receive()
            except trio.BrokenResourceError:
                got = b""
            assert got == (b"!" if in_time else b"")


async def test_its_deadline_ends_with_the_header(
    serving: Serving, autojump_clock: MockClock
) -> None:
    layer = ProxyProtocol(trusted=TRUSTED, header_seconds=3)
    async with serving(who, middleware=[layer]) as site:
        client = await site.connect(client=PROXY)
        await client.ask(BLOCK + GET)
        await trio.sleep(4)  # less than HTTP's keep-alive time
        assert (await client.ask(GET)).status == 200


async def test_it_leaves_nothing_behind_on_the_connection() -> None:
    async def echo(connection: Connection) -> None:
        assert (connection.deadline.expires_at, connection.deadline.on_expiry) == (math.inf, None)
        connection.request_close()  # which wakes nobody but who asked for it
        received = await connection.transport.input.receive()
        assert not connection.transport.input.read_cancelled
        await connection.transport.output.send(received)

    async with open_server(echo, middleware=[ProxyProtocol(trusted=TRUSTED)]) as opened:
        client = await opened.connect(address=PROXY)
        await client.transport.output.send(LINE)
        await wait_all_tasks_blocked()
        await client.transport.output.send(b"!")
        assert await client.transport.input.receive() == b"!"


async def test_draining_does_not_wait_for_who_has_said_nothing(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    async def echo(connection: Connection) -> None:
        await connection.transport.output.send(await connection.transport.input.receive())

    async with open_server(echo, middleware=[ProxyProtocol(trusted=TRUSTED)]) as opened:
        silent, begun = [await opened.connect(address=PROXY) for _ in range(2)]
        await begun.transport.output.send(BLOCK[:5])
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.server.drain, 5.0)
            assert await silent.transport.input.receive() == b""
            await trio.sleep(1)
            await begun.transport.output.send(BLOCK[5:] + b"!")
            assert await begun.transport.input.receive() == b"!"
    assert log.ends == [EndReason.SHUTDOWN, EndReason.COMPLETED]


async def test_draining_serves_what_has_come_by_then() -> None:
    class Draining(Layer):
        name = "draining"

        async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
            await wait_all_tasks_blocked()
            connection.request_close()
            await following(connection)

    async def echo(connection: Connection) -> None:
        await connection.transport.output.send(await connection.transport.input.receive())

    layers = [Draining(), ProxyProtocol(trusted=TRUSTED)]
    async with open_server(echo, middleware=layers) as opened:
        client = await opened.connect(address=PROXY)
        await client.transport.output.send(LINE + b"!")
        assert await client.transport.input.receive() == b"!"


async def test_a_proxy_that_resets_is_a_peer_that_is_gone(log: ServerLog) -> None:
    async def nobody(connection: Connection) -> None:
        raise AssertionError

    async with open_server(nobody, middleware=[ProxyProtocol(trusted=TRUSTED)]) as opened:
        client = await opened.connect(address=PROXY)
        await wait_all_tasks_blocked()
        client.abort(EndReason.ABORTED_BY_APP)
        await wait_all_tasks_blocked()
    assert log.ends == [EndReason.CONNECTION_RESET]


# Options and place ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trusted": ()}, "trusted must name the proxies"),
        ({"trusted": "10.0.0.1/8"}, "is no network"),
        ({"trusted": "*", "versions": ()}, "versions must be 1, 2 or both"),
        ({"trusted": "*", "versions": (1, 3)}, "versions must be 1, 2 or both"),
        ({"trusted": "*", "header_seconds": 0}, "header_seconds must be above zero"),
        ({"trusted": "*", "max_header_bytes": 106}, "max_header_bytes must be at least 107"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], sentence: str) -> None:
    make: type = ProxyProtocol
    with pytest.raises(ValueError, match=sentence):
        make(**options)


def test_trusted_has_no_default() -> None:
    make: type = ProxyProtocol
    with pytest.raises(TypeError, match="trusted"):
        make()


class Tls(Layer):
    name = "tls"

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)


async def nothing(connection: Connection) -> None:
    pass


@pytest.mark.parametrize(
    ("middleware", "sentence"),
    [
        ([ProxyProtocol(trusted="*"), ProxyProtocol(trusted="*")], "stands there twice"),
        ([Tls(), ProxyProtocol(trusted="*")], "inside of tls.*put it before tls"),
    ],
)
async def test_where_it_may_not_stand(middleware: Sequence[Layer], sentence: str) -> None:
    server = Server()
    server.listen("memory://proxied", nothing, middleware=middleware)
    with pytest.raises(ConfigurationError, match=sentence):
        await server.serve()


async def test_where_it_may_stand(autojump_clock: MockClock) -> None:
    async with open_server(nothing, middleware=[ProxyProtocol(trusted="*"), Tls()]):
        pass


# Sending ----------------------------------------------------------------------------------------


@asynccontextmanager
async def a_client(
    remote: Address | None = CLIENT, local: Address | None = SERVER
) -> AsyncGenerator[Connection]:
    """Make a connection that a proxy has accepted."""
    context = ConnectionContext()
    connection = Connection(duplex_pipe_pair()[0], context, local=local, remote=remote)
    yield connection
    connection.abort(EndReason.ABORTED_BY_APP)
    await connection.aclose()
    context.memory_pool.close()


@attrs.frozen
class Received:
    connection: Connection
    info: ProxyInfo


async def passed_on(header: ProxyHeader) -> Received:
    """Send a header to a server of ours; return what it makes of it."""
    served: list[Received] = []

    async def handler(connection: Connection) -> None:
        served.append(Received(connection, connection.features[ProxyInfo]))
        await connection.transport.output.send(b"who speaks first")

    async def listen(connection: Connection) -> None:
        assert await connection.transport.input.receive() == b"who speaks first"

    async with open_server(handler, middleware=[ProxyProtocol(trusted="*")]) as opened:
        upstream = await opened.connect()
        before = upstream.transport
        await SendProxyHeader(header)(upstream, listen)
        assert upstream.transport is before
    (received,) = served
    return received


@pytest.mark.parametrize("version", [1, 2])
async def test_a_proxy_passes_addresses_on(version: int) -> None:
    async with a_client() as client:
        received = await passed_on(header_for(client, version=version))
    assert received.connection.remote == CLIENT
    assert received.connection.local == SERVER
    assert received.info.version == version
    assert received.info.tlvs == ()
    assert not received.info.is_local


async def test_a_proxy_without_addresses_speaks_for_itself() -> None:
    async with a_client(remote=None, local=None) as client:
        assert (await passed_on(header_for(client))).info.is_local


TLS = TlsInfo(
    version="TLSv1.3",
    cipher="TLS_AES_128_GCM_SHA256",
    cipher_suite=0x1301,
    alpn="http/1.1",
    server_name="a.example",
    resumed=False,
    peer_certificates=[b"a certificate"],
    peer_name="CN=Ada,O=Example",
    own_certificate=None,
)


async def test_a_proxy_passes_on_what_it_knows() -> None:
    async with a_client() as client:
        client.features.publish(TLS)
        header = header_for(client, checksum=True, unique_id=b"id")
        info = (await passed_on(header)).info
    assert (info.alpn, info.authority, info.unique_id) == ("http/1.1", "a.example", b"id")
    assert info.tls == ProxyTls(
        version="TLSv1.3",
        cipher="TLS_AES_128_GCM_SHA256",
        client_common_name="Ada",
        client_certificate_on_connection=True,
        client_certificate_in_session=True,
        verified=True,
    )
    assert [kind for kind, _ in info.tlvs].count(TlvType.CRC32C) == 1


@pytest.mark.parametrize(
    ("tls_info", "on_connection", "in_session", "verified"),
    [
        (attrs.evolve(TLS, resumed=True), False, True, True),
        (attrs.evolve(TLS, peer_name=None), True, True, False),
        (attrs.evolve(TLS, peer_name=None, peer_certificates=()), False, False, False),
    ],
    ids=["resumed", "not verified", "none"],
)
async def test_which_certificate_a_client_showed(
    tls_info: TlsInfo, on_connection: bool, in_session: bool, verified: bool
) -> None:
    async with a_client() as client:
        client.features.publish(tls_info)
        tls = (await passed_on(header_for(client))).info.tls
    assert tls is not None
    assert tls.client_certificate_on_connection is on_connection
    assert tls.client_certificate_in_session is in_session
    assert tls.verified is verified
    assert (tls.client_common_name is not None) is verified


async def test_a_chain_of_proxies_keeps_what_the_first_one_said() -> None:
    said: list[Tlv] = [
        CHECKSUM,
        (TlvType.NOOP, b"..."),
        (TlvType.ALPN, b"h2"),
        (TlvType.UNIQUE_ID, b"the first"),
        (TlvType.SSL, SSL.to_bytes()),
        (0xEA, b"custom"),
    ]
    first = (await passed_on(ProxyHeader.between(CLIENT, SERVER, tlvs=said))).info
    async with a_client() as client:
        client.features.publish(first)
        assert list(header_for(client).tlvs) == said[2:]
        renamed = header_for(client, unique_id=b"mine", checksum=True)
        assert list(renamed.tlvs) == [
            CHECKSUM,
            (TlvType.UNIQUE_ID, b"mine"),
            said[2],
            said[4],
            said[5],
        ]
        client.features.publish(TLS)  # which is nearer to the client than what was said
        info = (await passed_on(header_for(client))).info
        assert (info.alpn, info.unique_id) == ("http/1.1", b"the first")
        assert info.tls is not None
        assert info.tls.client_common_name == "Ada"
        assert (0xEA, b"custom") in info.tlvs
        assert header_for(client, version=1).tlvs == ()


async def test_version_1_has_no_room() -> None:
    async with a_client() as client:
        with pytest.raises(ValueError, match="no room for TLVs"):
            header_for(client, version=1, checksum=True)
        with pytest.raises(ValueError, match="129 bytes"):
            header_for(client, unique_id=bytes(129))


async def test_a_header_goes_out_in_one_piece_before_everything() -> None:
    near, far = duplex_pipe_pair()
    context = ConnectionContext()
    connection = Connection(near, context)

    async def talk(_connection: Connection) -> None:
        data = await far.input.read()  # before what follows has written anything
        assert decode(data) == (ProxyHeader.between(CLIENT, SERVER), len(data))

    await SendProxyHeader(ProxyHeader.between(CLIENT, SERVER))(connection, talk)
    await connection.aclose()
    await far.aclose()
    context.memory_pool.close()


def test_a_header_that_cannot_be_written_is_refused_when_the_layer_is_made() -> None:
    with pytest.raises(ValueError, match="one checksum"):
        SendProxyHeader(ProxyHeader.between(CLIENT, SERVER, tlvs=[CHECKSUM] * 2))
