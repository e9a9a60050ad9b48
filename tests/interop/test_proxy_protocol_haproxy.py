"""PROXY headers from HAProxy and to HAProxy, in real time."""

import json
import ssl
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import pytest
import trio
import trustme

from kestrel_core import Address, Connection, Endpoint, ProxyTls, open_transport_context
from kestrel_core.transport import TransportContext
from kestrel_middleware.proxy_protocol import (
    Command,
    Family,
    ProxyHeader,
    ProxyProtocol,
    SendProxyHeader,
    SslClient,
    SslTlv,
    Tlv,
    TlvType,
    encode,
)
from kestrel_transports.tcp import TcpTransport
from tests.interop.conftest import EXAMPLES, program
from tests.reverse_proxy import Site, ask, front_socket, running_proxy, serving_behind_proxy
from tests.server_process import running as running_program
from tests.socket_ends import HAS_IPV6

CHECKSUM: Tlv = (TlvType.CRC32C, bytes(4))

TO_TCP = "tcp://127.0.0.1:0"

# Two lines are for the tests' sake: sockets are inherited, so that ports are known and free.
CONFIGURATION = """
defaults
    mode {mode}
    retries 0
    timeout connect 10s
    timeout client 30s
    timeout server 30s
frontend front
    bind fd@{front} {bind}
    {more}
"""

SENDING = """
    unique-id-format "%ci:%cp of kestrel"
    default_backend app
backend app
    server app {server} {options}
"""


@attrs.frozen
class HaProxy:
    """A running HAProxy."""

    host: str
    port: int

    async def connect(self) -> trio.SocketStream:
        """Connect to it."""
        return await trio.open_tcp_stream(self.host, self.port)


RunHaProxy = Callable[..., AbstractAsyncContextManager[HaProxy]]


@pytest.fixture
def haproxy(tmp_path: Path) -> RunHaProxy:
    """Run HAProxy with a frontend that does `more`, and whose socket has options `bind`."""
    found = program("haproxy")

    @asynccontextmanager
    async def run(
        more: str, *, bind: str = "", mode: str = "tcp", host: str = "127.0.0.1"
    ) -> AsyncGenerator[HaProxy]:
        front = front_socket(host)
        running = HaProxy(host, front.getsockname()[1])
        path = tmp_path / "haproxy.cfg"
        path.write_text(CONFIGURATION.format(mode=mode, front=front.fileno(), bind=bind, more=more))
        command = (found, "-db", "-f", path)
        async with running_proxy(command, log=tmp_path / "haproxy.log", inherited=[front]):
            yield running

    return run


def sending(site: Site, options: str) -> str:
    """Return what makes a frontend send PROXY headers to `site`."""
    endpoint = site.opened.endpoint
    server = f"unix@{endpoint.address}" if endpoint.scheme == "unix" else endpoint.address
    return SENDING.format(server=server, options=options)


async def seen_through(haproxy: HaProxy) -> tuple[object, list[list[object]]]:
    """Ask through HAProxy; return what our server saw, and what it should have seen."""
    stream = await haproxy.connect()
    async with stream:
        client, front = stream.socket.getsockname()[:2], stream.socket.getpeername()[:2]
        return json.loads(await ask(stream)), [list(client), list(front)]


# From HAProxy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
@pytest.mark.parametrize("scheme", ["tcp", "unix"])
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        pytest.param("::1", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
    ],
)
async def test_addresses(
    options: str, version: int, scheme: str, host: str, haproxy: RunHaProxy
) -> None:
    with TemporaryDirectory(prefix="kestrel-", dir="/tmp") as folder:
        endpoint = TO_TCP if scheme == "tcp" else f"unix://{folder}/app.sock"
        trusted = "127.0.0.1" if scheme == "tcp" else "unix"
        layer = ProxyProtocol(trusted=trusted, versions=[version])
        async with (
            serving_behind_proxy(endpoint, layer) as site,
            haproxy(sending(site, options), host=host) as running,
        ):
            seen, expected = await seen_through(running)
            assert seen == expected
            assert site.info.version == version
            assert not site.info.is_local
            assert (site.info.tls, site.info.tlvs) == (None, ())


async def test_checksum_and_unique_id(haproxy: RunHaProxy) -> None:
    layer = ProxyProtocol(trusted="127.0.0.0/8", versions=[2])
    options = "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl"
    async with (
        serving_behind_proxy(TO_TCP, layer) as site,
        haproxy(sending(site, options)) as running,
    ):
        seen, expected = await seen_through(running)
        assert seen == expected
        (host, port), _ = expected
        assert site.info.unique_id == f"{host}:{port} of kestrel".encode()
        assert {kind for kind, _ in site.info.tlvs} == {
            TlvType.CRC32C,
            TlvType.UNIQUE_ID,
            TlvType.SSL,
        }
        assert site.info.tls is None  # which is what that last one says


@pytest.mark.parametrize("shows_a_certificate", [True, False])
async def test_tls_that_haproxy_ended(
    shows_a_certificate: bool, haproxy: RunHaProxy, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("front.example").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "front.pem"
    )
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    trusting.set_alpn_protocols(["http/1.1"])
    if shows_a_certificate:
        ada = authority.issue_cert("ada@example.com", common_name="Ada Lovelace")
        ada.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ada.pem")
        trusting.load_cert_chain(tmp_path / "ada.pem")
    bind = f"ssl crt {tmp_path}/front.pem ca-file {tmp_path}/ca.pem verify optional alpn http/1.1"
    options = "send-proxy-v2-ssl-cn proxy-v2-options crc32c,authority,cert-sig,cert-key,ssl-cipher"
    layer = ProxyProtocol(trusted="127.0.0.1")
    async with (
        serving_behind_proxy(TO_TCP, layer) as site,
        haproxy(sending(site, options), bind=bind) as running,
    ):
        stream = await running.connect()
        client = list(stream.socket.getsockname())
        secured = trio.SSLStream(
            stream, trusting, server_hostname="front.example", https_compatible=True
        )
        async with secured:
            assert json.loads(await ask(secured))[0] == client
            cipher = secured.cipher()
        info = site.info
        assert info.alpn == "http/1.1"
        assert info.authority == "front.example"
        assert cipher is not None
        assert info.tls == ProxyTls(
            version="TLSv1.3",
            cipher=cipher[0],
            client_common_name="Ada Lovelace" if shows_a_certificate else None,
            client_certificate_on_connection=shows_a_certificate,
            client_certificate_in_session=shows_a_certificate,
            verified=shows_a_certificate,
        )
        (value,) = [value for kind, value in info.tlvs if kind == TlvType.SSL]
        told = SslTlv.parse(value)
        assert SslClient.SSL in told.client
        assert {TlvType.SSL_KEY_ALG, TlvType.SSL_SIG_ALG} <= {kind for kind, _ in told.tlvs}


async def test_health_checks_are_local(haproxy: RunHaProxy) -> None:
    options = "send-proxy-v2 check inter 50ms\n    option httpchk GET /health"
    async with (
        serving_behind_proxy(TO_TCP, ProxyProtocol(trusted="127.0.0.1")) as site,
        haproxy(sending(site, options)),
    ):
        with trio.fail_after(30):
            while not site.infos:  # noqa: ASYNC110  # HAProxy does not say when
                await trio.sleep(0.02)
        assert site.infos[0].is_local


async def test_one_connection_serves_one_client(haproxy: RunHaProxy) -> None:
    """Also where HAProxy knows HTTP and is told to share connections to servers."""
    options = "send-proxy-v2\n    http-reuse always"
    async with (
        serving_behind_proxy(TO_TCP, ProxyProtocol(trusted="127.0.0.1")) as site,
        haproxy(sending(site, options), mode="http") as running,
    ):
        async with await running.connect() as first, await running.connect() as second:
            for stream in (first, second, first, second):
                await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                received = b""
                with trio.fail_after(30):
                    while not received.endswith(b"]]"):
                        received += await stream.receive_some()
                client = json.dumps(list(stream.socket.getsockname())).encode()
                assert received.partition(b"\r\n\r\n")[2].startswith(b"[" + client)
        assert len({info.header for info in site.infos}) == 2
        assert len(site.infos) == 4


async def test_a_proxy_that_is_not_trusted_gets_nothing(haproxy: RunHaProxy) -> None:
    async with (
        serving_behind_proxy(TO_TCP, ProxyProtocol(trusted="192.0.2.1")) as site,
        haproxy(sending(site, "send-proxy")) as running,
    ):
        stream = await running.connect()
        async with stream:
            try:
                await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                pass
        assert not site.infos


# To HAProxy -------------------------------------------------------------------------------------

TELLING = (
    "http-request return status 200 content-type text/plain lf-string"
    ' "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"'
)


@asynccontextmanager
async def connected(haproxy: HaProxy) -> AsyncGenerator[Connection]:
    """Connect as a proxy of ours would."""
    async with open_transport_context() as context:
        connection = await connect(haproxy, context)
        try:
            yield connection
        finally:
            await connection.aclose()


async def connect(haproxy: HaProxy, context: TransportContext) -> Connection:
    endpoint = Endpoint("tcp", f"{haproxy.host}:{haproxy.port}")
    return await TcpTransport().connect(endpoint, context)


async def told_by(haproxy: HaProxy, header: ProxyHeader) -> str:
    """Send a header and a request; return what HAProxy makes of it."""
    answers: list[bytes] = []

    async def talk(connection: Connection) -> None:
        answers.append(await ask(connection.transport.as_stream()))

    async with connected(haproxy) as connection:
        await SendProxyHeader(header)(connection, talk)
    (answer,) = answers
    return answer.decode()


CLIENT, SERVER = Address("203.0.113.7", 4711), Address("192.0.2.1", 443)
CLIENT_6, SERVER_6 = Address("2001:db8::7", 4711), Address("2001:db8::1", 443)


async def test_headers_of_ours(haproxy: RunHaProxy) -> None:
    said: list[Tlv] = [
        (TlvType.AUTHORITY, b"a.example"),
        (TlvType.UNIQUE_ID, b"one"),
        (TlvType.NOOP, b".."),
        (TlvType.SSL, SslTlv(client=SslClient.SSL, verify=1).to_bytes()),
        (0xEA, b"custom"),
        CHECKSUM,
    ]
    async with haproxy(TELLING, bind="accept-proxy", mode="http") as running:
        ends = "203.0.113.7 4711 192.0.2.1 443"
        ends_6 = "2001:db8::7 4711 2001:db8::1 443"
        for header, expected in [
            (ProxyHeader.between(CLIENT, SERVER, version=1), f"{ends}"),
            (ProxyHeader.between(CLIENT, SERVER), f"{ends}"),
            (ProxyHeader.between(CLIENT, SERVER, tlvs=[CHECKSUM]), f"{ends}"),
            (ProxyHeader.between(CLIENT, SERVER, tlvs=said), f"{ends} a.example one"),
            (ProxyHeader.between(CLIENT_6, SERVER_6, version=1), f"{ends_6}"),
            (ProxyHeader.between(CLIENT_6, SERVER_6, tlvs=said), f"{ends_6} a.example one"),
        ]:
            assert (await told_by(running, header)).split() == expected.split()


async def test_headers_of_ours_without_addresses(haproxy: RunHaProxy) -> None:
    async with haproxy(TELLING, bind="accept-proxy", mode="http") as running:
        for header in (
            ProxyHeader.between(None, None),
            ProxyHeader.between(None, None, version=1),
            ProxyHeader(command=Command.LOCAL, tlvs=[CHECKSUM]),
        ):
            source, _, destination, port, *_ = (await told_by(running, header)).split()
            assert (source, destination, port) == ("127.0.0.1", "127.0.0.1", str(running.port))


async def takes(haproxy: HaProxy, header: bytes) -> bool:
    """Tell whether HAProxy serves who begins with `header`."""
    stream = await haproxy.connect()
    async with stream:
        try:
            await stream.send_all(header)
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            with trio.fail_after(30):
                answer = await stream.receive_some()
        except trio.BrokenResourceError:
            return False
        assert answer == b"" or answer.startswith(b"HTTP/1.1 200 ")
        return bool(answer)


async def test_our_checksum_is_checked_there(haproxy: RunHaProxy) -> None:
    good = encode(ProxyHeader.between(CLIENT, SERVER, tlvs=[CHECKSUM]))
    async with haproxy(TELLING, bind="accept-proxy", mode="http") as running:
        assert await takes(running, good)
        assert not await takes(running, good[:-1] + bytes([good[-1] ^ 1]))


async def test_haproxy_refuses_clients_of_unix_sockets(haproxy: RunHaProxy) -> None:
    """It does not know the family, and does not skip it either, as others do."""
    header = ProxyHeader.between(None, Address("/run/front.sock"))
    assert header.family is Family.UNIX
    async with haproxy(TELLING, bind="accept-proxy", mode="http") as running:
        assert not await takes(running, encode(header))


async def test_a_chain_of_ours_haproxy_and_ours(haproxy: RunHaProxy) -> None:
    options = "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id"
    said: list[Tlv] = [(TlvType.AUTHORITY, b"a.example"), CHECKSUM]
    async with (
        serving_behind_proxy(TO_TCP, ProxyProtocol(trusted="127.0.0.1")) as site,
        haproxy(sending(site, options), bind="accept-proxy") as running,
    ):
        told = await told_by(running, ProxyHeader.between(CLIENT_6, SERVER_6, tlvs=said))
        assert json.loads(told) == [list(CLIENT_6.pair), list(SERVER_6.pair)]
        assert site.info.authority == "a.example"
        assert site.info.unique_id == b"2001:db8::7:4711 of kestrel"


TO_EXAMPLE = """
    default_backend app
backend app
    server app 127.0.0.1:{port} send-proxy-v2
"""


def test_the_examples(haproxy: RunHaProxy) -> None:
    """A client, HAProxy, a server of ours; and the same with a proxy of ours instead."""

    async def ask_through_haproxy(port: int) -> None:
        async with haproxy(TO_EXAMPLE.format(port=port)) as running:
            await ask_through(running.port)

    async def ask_through(port: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            client = stream.socket.getsockname()[1]
            expected = f"client 127.0.0.1:{client}, which connected to 127.0.0.1:{port}"
            assert (await ask(stream)).decode() == expected

    with running_program(sys.executable, EXAMPLES / "behind_haproxy.py", TO_TCP) as server:
        port = server.wait_for_port()
        trio.run(ask_through_haproxy, port)
        upstream = f"tcp://127.0.0.1:{port}"
        with running_program(sys.executable, EXAMPLES / "tcp_proxy.py", TO_TCP, upstream) as proxy:
            trio.run(ask_through, proxy.wait_for_port())
