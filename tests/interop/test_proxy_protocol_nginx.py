"""PROXY headers from nginx and to nginx, in real time.

It sends version 1 alone, by its module `stream`; it receives both.
"""

import json
import os
import re
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import pytest
import trio

from kestrel_core import Address, Connection, Endpoint, open_transport_context
from kestrel_middleware.proxy_protocol import (
    ProxyHeader,
    ProxyProtocol,
    SendProxyHeader,
    SslClient,
    SslTlv,
    TlvType,
)
from kestrel_transports.tcp import TcpTransport
from tests.interop.conftest import program
from tests.reverse_proxy import ask, front_socket, running_proxy, serving_behind_proxy
from tests.socket_ends import HAS_IPV6

CONFIGURATION = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr warn;
{top}
events {{}}
{body}
"""

HOSTS = [
    "127.0.0.1",
    pytest.param("::1", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
]


@attrs.frozen
class Nginx:
    """A running nginx."""

    host: str
    port: int


RunNginx = Callable[..., AbstractAsyncContextManager[Nginx]]


def written(front: socket.socket) -> str:
    """Return a socket's address as nginx writes it."""
    host, port = front.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@pytest.fixture
def nginx(tmp_path: Path) -> RunNginx:
    """Run nginx with `body`, in which LISTEN stands for the address of its socket."""
    found = program("nginx")

    @asynccontextmanager
    async def run(body: str, *, top: str = "", host: str = "127.0.0.1") -> AsyncGenerator[Nginx]:
        front = front_socket(host)
        running = Nginx(host, front.getsockname()[1])
        path = tmp_path / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # who may use the files of the test
        body = body.replace("LISTEN", written(front)).replace("FOLDER", str(tmp_path))
        path.write_text(CONFIGURATION.format(folder=tmp_path, user=user, top=top, body=body))
        async with running_proxy(
            [found, "-p", tmp_path, "-c", path, "-e", "stderr"],
            log=tmp_path / "nginx.log",
            inherited=[front],
            environment={"NGINX": f"{front.fileno()};"},  # as it passes them on to itself
        ):
            yield running

    return run


# From nginx -------------------------------------------------------------------------------------


@pytest.fixture
def stream_module() -> str:
    """Return what loads nginx's module `stream`, where it is not built in."""
    built = subprocess.run(
        [program("nginx"), "-V"], capture_output=True, text=True, timeout=30, check=True
    ).stderr
    match re.search(r"--with-stream(=dynamic)?(?:\s|$)", built):
        case None:
            path = None
        case built_in if built_in[1] is None:
            return ""
        case _:
            folder = re.search(r"--modules-path=(\S+)", built)
            path = Path(folder[1] if folder else "modules", "ngx_stream_module.so")
    if path is None or not path.exists():
        reason = "nginx has no module for streams (Debian: libnginx-mod-stream)"
        if os.environ.get("KESTREL_REQUIRE_PROGRAMS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return f"load_module {path};"


FORWARDING = """
stream {
    server {
        listen LISTEN;
        proxy_pass UPSTREAM;
        proxy_protocol on;
    }
}
"""


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
@pytest.mark.parametrize("host", HOSTS)
async def test_addresses(scheme: str, host: str, nginx: RunNginx, stream_module: str) -> None:
    with TemporaryDirectory(prefix="kestrel-", dir="/tmp") as folder:
        endpoint = "tcp://127.0.0.1:0" if scheme == "tcp" else f"unix://{folder}/app.sock"
        trusted = "127.0.0.1" if scheme == "tcp" else "unix"
        async with serving_behind_proxy(endpoint, ProxyProtocol(trusted=trusted)) as site:
            bound = site.opened.endpoint.address
            upstream = bound if scheme == "tcp" else f"unix:{bound}"
            body = FORWARDING.replace("UPSTREAM", upstream)
            async with nginx(body, top=stream_module, host=host) as running:
                stream = await trio.open_tcp_stream(running.host, running.port)
                async with stream:
                    client = stream.socket.getsockname()[:2]
                    assert json.loads(await ask(stream)) == [
                        list(client),
                        [running.host, running.port],
                    ]
        assert site.info.version == 1


# To nginx ---------------------------------------------------------------------------------------

TELLING = """
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen LISTEN proxy_protocol;
        location / {
            default_type text/plain;
            return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
        }
    }
}
"""

CLIENT, SERVER = Address("203.0.113.7", 4711), Address("192.0.2.1", 443)
CLIENT_6, SERVER_6 = Address("2001:db8::7", 4711), Address("2001:db8::1", 443)


async def told_by(nginx: Nginx, header: ProxyHeader) -> str:
    """Send a header and a request; return what nginx makes of it."""
    answers: list[bytes] = []

    async def talk(connection: Connection) -> None:
        answers.append(await ask(connection.transport.as_stream()))

    async with open_transport_context() as context:
        endpoint = Endpoint("tcp", f"{nginx.host}:{nginx.port}")
        connection = await TcpTransport().connect(endpoint, context)
        try:
            await SendProxyHeader(header)(connection, talk)
        finally:
            await connection.aclose()
    (answer,) = answers
    return answer.decode()


@pytest.mark.parametrize("version", [1, 2])
async def test_headers_of_ours(version: int, nginx: RunNginx) -> None:
    async with nginx(TELLING) as running:
        for source, destination, expected in [
            (CLIENT, SERVER, "203.0.113.7 4711 192.0.2.1 443"),
            (CLIENT_6, SERVER_6, "2001:db8::7 4711 2001:db8::1 443"),
            (None, None, ""),
            (None, Address("/run/front.sock"), ""),  # which it skips
        ]:
            header = ProxyHeader.between(source, destination, version=version)
            assert (await told_by(running, header)).strip() == expected


async def test_extensions_of_ours(nginx: RunNginx) -> None:
    ssl = SslTlv(client=SslClient.SSL, verify=1, tlvs=[(TlvType.SSL_VERSION, b"TLSv1.3")])
    header = ProxyHeader.between(
        CLIENT,
        SERVER,
        tlvs=[
            (TlvType.CRC32C, bytes(4)),
            (TlvType.AUTHORITY, b"a.example"),
            (TlvType.SSL, ssl.to_bytes()),
            (0xEA, b"custom"),
        ],
    )
    async with nginx(TELLING) as running:
        assert await told_by(running, header) == "203.0.113.7 4711 192.0.2.1 443"
