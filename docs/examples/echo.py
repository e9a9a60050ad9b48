"""A connection handler of one's own, on three transports at once: python echo.py"""

import sys

import trio

from kestrel_core import Connection, Server


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def main(*endpoints: str) -> None:
    server = Server()
    for endpoint in endpoints:
        server.listen(endpoint, echo)
    async with trio.open_nursery() as nursery:
        for bound in await nursery.start(server.serve):
            print("listening on", bound, flush=True)


if __name__ == "__main__":
    trio.run(main, *(sys.argv[1:] or ["tcp://127.0.0.1:7007", "unix:///tmp/echo", "memory://echo"]))
