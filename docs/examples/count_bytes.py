"""A middleware of one's own, which counts the bytes of each connection: python count_bytes.py"""

import sys

import trio

from kestrel_core import (
    Connection,
    ConnectionHandler,
    LayeredPipe,
    LayerReader,
    LayerWriter,
    Server,
    serve_over,
)


class CountingReader(LayerReader):
    total = 0

    def arrived(self, data: bytes) -> bytes:
        self.total += len(data)
        return data


class CountingWriter(LayerWriter):
    total = 0

    def leaving(self, data: bytes | memoryview) -> None:
        self.total += len(data)


async def count_bytes(connection: Connection, following: ConnectionHandler) -> None:
    inner = connection.transport
    reader, writer = CountingReader(inner.input), CountingWriter(inner.output)
    try:
        await serve_over(LayeredPipe(inner, reader, writer), connection, following)
    finally:
        print(f"received {reader.total}, sent {writer.total} bytes", flush=True)


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
