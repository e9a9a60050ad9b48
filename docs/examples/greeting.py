"""A middleware with options, in company: python greeting.py

kestrel --app-dir docs/examples --middleware greeting:Greeting:text=hi ... finds it, too.
"""

import sys
from typing import ClassVar

import attrs
import trio

from kestrel_core import Connection, ConnectionHandler, Layer, Server
from kestrel_middleware.admission import ConnectionAdmission
from kestrel_middleware.idle import Idle


@attrs.frozen(kw_only=True, eq=False)
class Greeting(Layer):
    """Says something before the protocol does."""

    name: ClassVar[str] = "greeting"

    text: str = "hello"
    """What is said."""
    times: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    """How often it is said."""

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        for _ in range(self.times):
            connection.transport.output.write(f"{self.text}\n".encode())
        await following(connection)


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def main(endpoint: str) -> None:
    server = Server()
    server.listen(
        endpoint,
        echo,
        middleware=[
            ConnectionAdmission(max_connections_per_address=20),
            Idle(seconds=300),
            Greeting(text="hi", times=2),
        ],
    )
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:7007")
