"""Other people's proxies, run between clients of ours and a server of ours.

They wait in real time, for processes and sockets.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from kestrel_core import ProxyInfo
from kestrel_core.testing import OpenServer, open_server
from kestrel_middleware.proxy_protocol import ProxyProtocol
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1

__all__ = ["Site", "ask", "front_socket", "running_proxy", "serving_behind_proxy"]

# Real time, and a machine that may be busy: far more than is needed.
_PATIENCE_SECONDS = 30.0

GET = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


def front_socket(host: str = "127.0.0.1") -> socket.socket:
    """Listen on a free port, for a proxy to inherit: it is taken before the proxy runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    front = socket.socket(family)
    front.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    front.bind((host, 0))
    front.listen()
    return front


@asynccontextmanager
async def running_proxy(
    command: Sequence[str | Path],
    *,
    log: Path,
    inherited: Sequence[socket.socket],
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[None]:
    """Run a proxy that inherits these sockets, which are closed here; stop it at the end.

    What it prints goes to `log`, and is shown where a test fails.
    """
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            pass_fds=[front.fileno() for front in inherited],
        )
    for front in inherited:
        front.close()  # so that a proxy that fails to start refuses connections
    try:
        yield
        assert process.poll() is None, "the proxy ended by itself"
    finally:
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(_PATIENCE_SECONDS, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
        sys.stdout.write(await trio.Path(log).read_text())


@attrs.frozen
class Site:
    """A server of ours that takes PROXY headers, and what it was told in them."""

    opened: OpenServer
    infos: list[ProxyInfo]
    """Of all connections that brought a request, in order."""

    @property
    def port(self) -> int:
        """Its TCP port."""
        return self.opened.endpoint.host_and_port()[1]

    @property
    def info(self) -> ProxyInfo:
        """What the one connection said."""
        (info,) = self.infos
        return info


@asynccontextmanager
async def serving_behind_proxy(endpoint: str, layer: ProxyProtocol) -> AsyncGenerator[Site]:
    """Serve an application over `endpoint` that answers with both ends of its connection."""
    infos: list[ProxyInfo] = []

    async def who(exchange: HttpExchange) -> None:
        connection = exchange.connection
        infos.append(connection.features[ProxyInfo])
        ends = [each and each.pair for each in (connection.remote, connection.local)]
        await exchange.respond(200, [], json.dumps(ends).encode())

    async with open_server(Http1(who), middleware=[layer], endpoint=endpoint) as opened:
        yield Site(opened, infos)


async def ask(stream: trio.abc.Stream) -> bytes:
    """Send a request, and return the body of the response, which is the last one."""
    await stream.send_all(GET)
    received = b""
    with trio.fail_after(_PATIENCE_SECONDS):
        async for chunk in stream:
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    return body
