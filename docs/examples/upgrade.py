"""A protocol of one's own after an upgrade: lines, each answered in capitals.

python upgrade.py                               serves it
python upgrade.py tcp://127.0.0.1:8000 hello    says hello there
"""

import sys

import trio

from kestrel_core import Endpoint, Registry, SeparatorNotFound, Server, open_transport_context
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1

MOST_LINE_BYTES = 1000

UPGRADE = (b"upgrade", b"shout")


async def shout(exchange: HttpExchange) -> None:
    if not (exchange.upgradable and UPGRADE in exchange.headers):
        await exchange.respond(426, [UPGRADE, (b"connection", b"upgrade")])
        return
    pipe = await exchange.upgrade([UPGRADE])
    exchange.connection.close_requested.listen(pipe.input.cancel_pending_read)
    try:
        while True:
            line = await pipe.input.read_until(b"\n", MOST_LINE_BYTES)
            await pipe.output.send(line.upper())
    except SeparatorNotFound:  # the client's end, a line that is too long, or the server drains
        await pipe.output.send(b"BYE\n")


async def serve(endpoint: str) -> None:
    server = Server()
    server.listen(endpoint, Http1(shout))
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


async def say(endpoint: str, words: list[str]) -> None:
    target = Endpoint.parse(endpoint)
    async with open_transport_context() as context:
        connection = await Registry().transport(target.scheme).connect(target, context)
        wire = connection.transport
        head = b"GET / HTTP/1.1\r\nhost: shout\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n"
        await wire.output.send(head)
        print((await wire.input.read_until(b"\r\n\r\n", 8192)).decode().partition("\r\n")[0])
        for word in words:
            await wire.output.send(f"{word}\n".encode())
            print((await wire.input.read_until(b"\n", MOST_LINE_BYTES)).decode(), end="")
        await wire.output.send_eof()
        async for chunk in wire.input:
            print(chunk.decode(), end="")
        await connection.aclose()


if __name__ == "__main__":
    first, *others = sys.argv[1:] or ["tcp://127.0.0.1:8000"]
    if others:
        trio.run(say, first, others)
    else:
        trio.run(serve, first)
