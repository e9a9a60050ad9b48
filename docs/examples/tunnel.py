"""A proxy that opens tunnels to a few targets: python tunnel.py ENDPOINT TARGET...

python tunnel.py tcp://127.0.0.1:8080 127.0.0.1:8000
curl --proxytunnel --proxy http://127.0.0.1:8080 http://127.0.0.1:8000/
"""

import sys

import trio

from kestrel_core import Server
from kestrel_protocols.http import HttpApplication, HttpExchange
from kestrel_protocols.http1 import Http1


def proxy_to(targets: list[bytes]) -> HttpApplication:
    async def proxy(exchange: HttpExchange) -> None:
        if exchange.method != "CONNECT":
            await exchange.respond(405, [(b"allow", b"CONNECT")])
        elif exchange.target not in targets:
            await exchange.respond(403, [])
        else:
            await tunnel(exchange)

    return proxy


async def tunnel(exchange: HttpExchange) -> None:
    host, _, port = exchange.target.decode().rpartition(":")
    try:
        target = await trio.open_tcp_stream(host.strip("[]"), int(port))
    except OSError:
        await exchange.respond(502, [])
        return
    async with target, trio.open_nursery() as nursery:
        client = (await exchange.upgrade()).as_stream()
        nursery.start_soon(copy, client, target)
        nursery.start_soon(copy, target, client)


async def copy(
    source: trio.abc.HalfCloseableStream, destination: trio.abc.HalfCloseableStream
) -> None:
    async for chunk in source:
        await destination.send_all(chunk)
    await destination.send_eof()


async def main(endpoint: str, targets: list[str]) -> None:
    server = Server()
    server.listen(endpoint, Http1(proxy_to([target.encode() for target in targets])))
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    first, *others = sys.argv[1:] or ["tcp://127.0.0.1:8080", "127.0.0.1:8000"]
    trio.run(main, first, others)
