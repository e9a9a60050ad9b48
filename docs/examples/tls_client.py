"""A client that speaks TLS: python tls_client.py tcp://HOST:PORT AUTHORITIES WORD...

Says each word, and prints what comes back.
"""

import sys
from pathlib import Path

import trio

from kestrel_core import Connection, Endpoint, open_transport_context
from kestrel_core.features import TlsInfo
from kestrel_middleware.tls import TlsClient
from kestrel_transports.tcp import TcpTransport


async def main(endpoint: str, authorities: Path, words: list[str]) -> None:
    client = TlsClient(server_name="door.example.org", authorities=authorities)

    async def talk(connection: Connection) -> None:
        print("resumed" if connection.features[TlsInfo].resumed else "new", flush=True)
        pipe = connection.transport
        for word in words:
            await pipe.output.send(word.encode())
            print((await pipe.input.receive()).decode(), flush=True)

    async with open_transport_context() as context:
        for _ in range(2):
            connection = await TcpTransport().connect(Endpoint.parse(endpoint), context)
            try:
                await client(connection, talk)
            finally:
                await connection.aclose()


if __name__ == "__main__":
    where, file, *what = sys.argv[1:]
    trio.run(main, where, Path(file), what)
