"""A proxy that tells the next server who its clients are: python tcp_proxy.py [ENDPOINT UPSTREAM]

For instance before behind_haproxy.py: python tcp_proxy.py tcp://127.0.0.1:7000 tcp://127.0.0.1:8000
"""

import sys

import trio

from kestrel_core import (
    Connection,
    Endpoint,
    PipeReader,
    PipeWriter,
    Registry,
    Server,
    open_transport_context,
)
from kestrel_middleware.proxy_protocol import SendProxyHeader, header_for


async def copy(source: PipeReader, target: PipeWriter) -> None:
    async for chunk in source:
        await target.send(chunk)
    await target.send_eof()


async def main(endpoint: str, upstream: str) -> None:
    there = Endpoint.parse(upstream)
    transport = Registry().transport(there.scheme)

    async with open_transport_context() as context, trio.open_nursery() as nursery:

        async def forward(client: Connection) -> None:
            server = await transport.connect(there, context)

            async def both_ways(server: Connection) -> None:
                async with trio.open_nursery() as copies:
                    copies.start_soon(copy, client.transport.input, server.transport.output)
                    copies.start_soon(copy, server.transport.input, client.transport.output)

            try:
                header = header_for(client, checksum=True)
                await SendProxyHeader(header)(server, both_ways)
            finally:
                await server.aclose()

        proxy = Server()
        proxy.listen(endpoint, forward)
        [bound] = await nursery.start(proxy.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    one, other = sys.argv[1:] or ["tcp://127.0.0.1:7000", "tcp://127.0.0.1:8000"]
    trio.run(main, one, other)
