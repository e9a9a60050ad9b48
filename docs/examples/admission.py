"""An echo server that bounds what one client can take of it: python admission.py ENDPOINT..."""

import sys

import trio

from kestrel_core import Connection, Server
from kestrel_middleware.admission import ConnectionAdmission
from kestrel_middleware.idle import Idle
from kestrel_middleware.throttle import Throttle


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def main(*endpoints: str) -> None:
    admission = ConnectionAdmission(
        max_connections=1000,
        max_connections_per_address=2,
        connections_per_second_per_address=10,
        deny=["198.51.100.0/24"],
    )
    idle = Idle(seconds=600)
    throttle = Throttle(read_bytes_per_second=100_000, write_bytes_per_second=100_000)

    server = Server()
    for endpoint in endpoints:
        server.listen(endpoint, echo, middleware=[admission, idle, throttle])
    async with trio.open_nursery() as nursery:
        for bound in await nursery.start(server.serve):
            print("listening on", bound, flush=True)
        while True:
            await trio.sleep(0.5)
            print(admission.statistics, flush=True)


if __name__ == "__main__":
    trio.run(main, *(sys.argv[1:] or ["tcp://127.0.0.1:7007", "tcp://127.0.0.1:7008"]))
