"""A busy hour on a bad network, told event by event; run as a program, it prints that.

`python -m tests.simulated_scenario SEED` is for a process of its own, which shares no memory layout,
no order of hashes and no time of day with another one.
"""

import hashlib
import re
import sys
from functools import partial

import trio

from kestrel_core.connection import Connection, close_within
from kestrel_core.endpoint import Endpoint
from kestrel_core.testing import OpenServer, open_server
from kestrel_core.testing.network import Network, SimulatedTransport, run_simulation
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1

__all__ = ["story"]

_CLIENTS = 6
_REQUESTS = 4
_PATIENCE_SECONDS = 60.0

# What tells the time of day, and no virtual one.
_DATE = re.compile(rb"\r\ndate: [^\r]*")


def story(seed: int | str) -> list[str]:
    """Return what happened, with times and with digests of bytes; the same for the same seed."""
    told: list[str] = []
    run_simulation(partial(_hour, told), Network.seeded(seed))
    return told


async def _hour(told: list[str], network: Network) -> None:
    network.on_event = lambda event: told.append(str(event))
    async with (
        open_server(Http1(partial(_answer, told)), drain_seconds=10) as opened,
        trio.open_nursery() as nursery,
    ):
        for number in range(_CLIENTS):
            nursery.start_soon(_ask, told, opened, network, number)
    told.append(f"{trio.current_time()!r} over")


async def _answer(told: list[str], exchange: HttpExchange) -> None:
    """Answer with the body, in pieces, as the path says, and say what came when."""
    body = b""
    while piece := await exchange.receive():
        body += piece
        told.append(f"{trio.current_time()!r} {exchange.path} got {len(piece)}")
    await exchange.respond(200, [], body * 3)


async def _ask(told: list[str], opened: OpenServer, network: Network, number: int) -> None:
    bound = opened.endpoint
    endpoint = Endpoint(bound.scheme, bound.address)
    transport = SimulatedTransport(opened.server.registry.transport(bound.scheme), network)
    for count in range(_REQUESTS):
        path = f"/{number}/{count}"
        try:
            connection = await transport.connect(endpoint, opened.context)
        except ConnectionRefusedError:
            told.append(f"{trio.current_time()!r} {path} refused")
            continue
        with trio.move_on_after(_PATIENCE_SECONDS):
            await _exchange(told, connection, path)
        await close_within(connection, 1)
        told.append(f"{trio.current_time()!r} {path} ended")


async def _exchange(told: list[str], connection: Connection, path: str) -> None:
    body = path.encode() * 100
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\nconnection: close"
    received = b""
    try:
        await connection.transport.output.send(head.encode() + b"\r\n\r\n" + body)
        async for chunk in connection.transport.input:
            received += chunk
            told.append(f"{trio.current_time()!r} {path} received {len(chunk)}")
    except trio.BrokenResourceError:
        told.append(f"{trio.current_time()!r} {path} broken")
    told.append(f"{path} {hashlib.sha256(_DATE.sub(b'', received)).hexdigest()}")


if __name__ == "__main__":
    sys.stdout.write("\n".join(story(sys.argv[1])))
