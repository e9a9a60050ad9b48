"""Clients that speak TLS on a bad network, told event by event; run as a program, it prints that.

`python -m tests.simulated_tls_scenario SEED` is for a process of its own, which has other keys.
"""

import sys
from functools import partial

import trio

from kestrel_core.testing import OpenServer, serve
from kestrel_core.testing.authority import Authority
from kestrel_core.testing.network import Network, run_simulation
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.raw_client import RawClient, post

__all__ = ["tls_story"]

_CLIENTS = 4
_REQUESTS = 2
_BODY = b"a body " * 500


def tls_story(seed: int | str) -> list[str]:
    """Return what happened, with times and numbers of bytes; the same for the same seed."""
    return run_simulation(_day, Network.seeded(seed, faults=False))


async def _day(network: Network) -> list[str]:
    authority = Authority()
    tls = {"client_certificates": "allow"}
    async with (
        serve(_app, tls=tls, authority=authority, network=network, drain_seconds=60) as server,
        trio.open_nursery() as nursery,
    ):
        for number in range(_CLIENTS):
            nursery.start_soon(partial(_ask, server, authority, number))
    return [
        *(str(event) for event in network.events),
        *(
            f"{transcript.name}: {event.at_seconds!r} {event.kind.value} {len(event.data)}"
            for transcript in server.transcripts
            for event in transcript.events
        ),
    ]


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body, chunk for chunk."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        event = await receive()
        more = event["more_body"]
        await send({"type": "http.response.body", "body": event["body"], "more_body": more})


async def _ask(server: OpenServer, authority: Authority, number: int) -> None:
    """Ask twice; every other client shows a certificate."""
    identity = authority.issue(common_name=f"client {number}") if number % 2 else None
    address = f"192.0.2.{number}"
    client = RawClient(await server.connect(address=address, identity=identity))
    for _ in range(_REQUESTS):
        response = await client.ask(post(_BODY))
        assert response.status == 200
        assert response.body == _BODY
    await client.connection.transport.aclose()


if __name__ == "__main__":
    sys.stdout.write("\n".join(tls_story(sys.argv[1])))
