"""Two servers in one program, each with its own limits; the second tells about the first.

python two_servers.py [PUBLIC PRIVATE], for instance tcp://127.0.0.1:8000 unix:///tmp/private
"""

import json
import sys

import trio

from kestrel_core import Limits, Server
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1


async def hello(exchange: HttpExchange) -> None:
    await exchange.respond(200, [(b"content-type", b"text/plain")], b"Hello, public\n")


async def main(public_endpoint: str, private_endpoint: str) -> None:
    public = Server(limits=Limits(max_connections=1000, max_request_body_bytes=64 * 1024))
    public.listen(public_endpoint, Http1(hello))

    async def status(exchange: HttpExchange) -> None:
        connections = [{"id": each.id, "client": str(each.remote)} for each in public.connections]
        body = json.dumps(connections).encode() + b"\n"
        await exchange.respond(200, [(b"content-type", b"application/json")], body)

    private = Server(limits=Limits(max_connections=4))
    private.listen(private_endpoint, Http1(status))

    async with trio.open_nursery() as nursery:
        for server in (public, private):
            [bound] = await nursery.start(server.serve)
            print("listening on", bound, flush=True)


if __name__ == "__main__":
    one, other = sys.argv[1:] or ["tcp://127.0.0.1:8000", "tcp://127.0.0.1:8001"]
    trio.run(main, one, other)
