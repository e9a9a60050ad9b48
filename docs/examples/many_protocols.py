"""Several protocols on one port, one of them one's own: python many_protocols.py

python many_protocols.py tcp://127.0.0.1:8000 tcp://127.0.0.1:22 chain.pem key.pem

curl http://127.0.0.1:8000/                     HTTP
curl --insecure https://127.0.0.1:8000/         HTTP inside TLS, if there is a certificate
ssh -p 8000 127.0.0.1                           SSH, forwarded to the second endpoint
redis-cli -p 8000 set greeting hello            RESP, which is defined here
redis-cli -p 8000 --tls --insecure get greeting
"""

import sys

import trio

from kestrel_core import (
    Connection,
    PipeReader,
    Protocol,
    SeparatorNotFound,
    Server,
    Sniff,
    SniffedLayer,
)
from kestrel_middleware.detect import Detect
from kestrel_middleware.tls import Tls
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from kestrel_protocols.ssh import SshForward

MOST_WORDS = 3
MOST_WORD_BYTES = 1_000_000


class Resp(Protocol):
    """Keeps values for clients of Redis, as far as PING, GET and SET go."""

    name = "resp"

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def sniff(self, prefix: bytes) -> Sniff:
        # A command is a list of words: "*2", say, and a line end.
        if prefix[:1] not in (b"", b"*"):
            return Sniff.NO
        if len(prefix) < 2:
            return Sniff.MORE
        return Sniff.YES if prefix[1:2].isdigit() else Sniff.NO

    async def __call__(self, connection: Connection) -> None:
        wire = connection.transport
        connection.close_requested.listen(wire.input.cancel_pending_read)
        try:
            while True:
                await wire.output.send(self.answer(await read_words(wire.input)))
        except SeparatorNotFound:  # the client's end, or the server drains
            return
        except ValueError as error:
            await wire.output.send(b"-ERR %b\r\n" % str(error).encode())

    def answer(self, words: list[bytes]) -> bytes:
        match words:
            case [b"PING"]:
                return b"+PONG\r\n"
            case [b"GET", key] if key in self.values:
                return b"$%d\r\n%b\r\n" % (len(self.values[key]), self.values[key])
            case [b"GET", _]:
                return b"$-1\r\n"
            case [b"SET", key, value]:
                self.values[key] = value
                return b"+OK\r\n"
            case _:
                return b"-ERR unknown command\r\n"


async def read_words(reader: PipeReader) -> list[bytes]:
    words: list[bytes] = []
    for _ in range(await read_number(reader, b"*", MOST_WORDS)):
        length = await read_number(reader, b"$", MOST_WORD_BYTES)
        word = await reader.read_exactly(length + 2)
        if len(word) < length + 2 or not word.endswith(b"\r\n"):
            raise ValueError("a word is not complete")
        words.append(word[:-2])
    return [word.upper() for word in words[:1]] + words[1:]


async def read_number(reader: PipeReader, mark: bytes, most: int) -> int:
    line = await reader.read_until(b"\r\n", 20)
    number = int(line[1:])
    if line[:1] != mark or not 0 <= number <= most:
        raise ValueError(f"{line!r} is not expected here")
    return number


async def hello(exchange: HttpExchange) -> None:
    await exchange.respond(200, [], f"Hello over {exchange.scheme}\n".encode())


async def main(endpoint: str, ssh_server: str, certificate: list[str]) -> None:
    ssh = SshForward(ssh_server)
    found: list[Protocol | SniffedLayer] = [ssh, Resp(), Http1(hello)]
    if certificate:
        chain, key = certificate
        found.insert(0, Tls(certificate=chain, key=key))

    server = Server()
    # A client that says nothing for a while is one of SSH that waits to be greeted.
    server.listen(endpoint, Detect(found, silent=ssh, seconds=3))
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    first, second, *others = sys.argv[1:] or ["tcp://127.0.0.1:8000", "tcp://127.0.0.1:22"]
    trio.run(main, first, second, others)
