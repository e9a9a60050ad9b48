"""Old devices on an endpoint of their own, which is lenient: python lenient.py [PUBLIC DEVICES]

printf 'GET / HTTP/1.0\n\n' | nc -N 127.0.0.1 8000
printf 'GET / HTTP/1.0\n\n' | nc -N 127.0.0.1 8001
"""

import sys

import trio

from kestrel_core import Server
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1, Leniency


async def hello(exchange: HttpExchange) -> None:
    await exchange.respond(200, [(b"content-type", b"text/plain")], b"Hello\n")


async def main(public_endpoint: str, device_endpoint: str) -> None:
    def show_tolerated(_exchange: HttpExchange) -> None:
        for leniency, count in for_devices.tolerated.items():
            print(f"{leniency.value}: {count} requests", flush=True)

    for_devices = Http1(hello, lenient=[Leniency.BARE_LINE_FEED], on_exchange_end=show_tolerated)
    server = Server()
    server.listen(public_endpoint, Http1(hello))
    server.listen(device_endpoint, for_devices)
    async with trio.open_nursery() as nursery:
        for bound in await nursery.start(server.serve):
            print("listening on", bound, flush=True)


if __name__ == "__main__":
    one, other = sys.argv[1:] or ["tcp://127.0.0.1:8000", "tcp://127.0.0.1:8001"]
    trio.run(main, one, other)
