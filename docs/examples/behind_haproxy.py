"""An application that a proxy tells who its clients are: python behind_haproxy.py [ENDPOINT]

printf 'PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\nGET / HTTP/1.0\r\n\r\n' | nc 127.0.0.1 8000
"""

import sys

import trio

from kestrel_core import ProxyInfo, Server
from kestrel_middleware.proxy_protocol import ProxyProtocol
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1


async def who(exchange: HttpExchange) -> None:
    connection = exchange.connection
    info = connection.features[ProxyInfo]
    lines = [f"client {connection.remote}, which connected to {connection.local}"]
    if info.tls is not None:
        lines.append(f"over {info.tls.version}, as {info.tls.client_common_name or 'nobody'}")
    if info.unique_id is not None:
        lines.append(f"as connection {info.unique_id.decode()}")
    await exchange.respond(200, [(b"content-type", b"text/plain")], "\n".join(lines).encode())


async def main(endpoint: str) -> None:
    server = Server()
    behind_proxy = ProxyProtocol(trusted=["127.0.0.1", "::1", "unix"])
    server.listen(endpoint, Http1(who), middleware=[behind_proxy])
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8000")
