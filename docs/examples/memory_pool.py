"""A handler that rents its buffer: python memory_pool.py FILE [ENDPOINT] sends FILE to whoever connects."""

import sys

import trio

from kestrel_core import Connection, ConnectionHandler, MemoryPool, Server, Timers


def sender_of(path: str) -> ConnectionHandler:
    async def send_file(connection: Connection) -> None:
        output = connection.transport.output
        async with await trio.open_file(path, "rb", buffering=0) as file:
            with connection.memory_pool.rent() as block:
                while count := await file.readinto(block.view):
                    await output.send(block.view[:count])
        print(connection.memory_pool.statistics, flush=True)

    return send_file


def pool_of_large_blocks(timers: Timers) -> MemoryPool:
    return MemoryPool(timers, block_bytes=1024 * 1024)


async def main(path: str, endpoint: str) -> None:
    server = Server(memory_pool=pool_of_large_blocks)
    server.listen(endpoint, sender_of(path))
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    path, endpoint = [*sys.argv[1:], "tcp://127.0.0.1:7007"][:2]
    trio.run(main, path, endpoint)
