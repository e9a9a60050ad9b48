"""A middleware of one's own, which counts the bytes of each connection: python count_bytes.py"""

import sys

import trio

from kestrel_core import Connection, ConnectionHandler, DuplexPipe, PipeStream, Server


class CountingStream(PipeStream):
    received = sent = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        self.received += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(data)
        self.sent += len(data)


async def count_bytes(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    counted = CountingStream(inner)
    connection.transport = DuplexPipe.from_stream(counted)
    try:
        await following(connection)
    finally:
        connection.transport = inner
        print(f"received {counted.received}, sent {counted.sent} bytes", flush=True)


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def main(endpoint: str) -> None:
    server = Server()
    server.listen(endpoint, echo, middleware=[count_bytes])
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:7007")
