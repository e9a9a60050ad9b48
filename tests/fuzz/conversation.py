"""One client's conversation with a whole server, in memory and in virtual time."""

import math
import sys
from enum import IntFlag
from random import Random
from typing import cast

import attrs
import trio
from trio.testing import MockClock

from kestrel_core import Limits
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.testing import open_server
from kestrel_protocols.http1 import Http1, Leniency
from tests.fuzz.application import Recorder, Served
from tests.fuzz.delivery import Delivery
from tests.http1_site import watch_log
from tests.raw_client import RawClient

__all__ = ["LIMITS", "Conversation", "Option", "converse"]

# Small, so that small inputs reach them.
LIMITS = Limits(
    max_request_line_bytes=100,
    max_request_headers_bytes=300,
    max_request_header_count=8,
    max_request_body_bytes=200,
    max_pipelined_requests=3,
)


class MemoryAlone(Registry):
    """Knows one transport, because looking for others reads files, for every server anew."""

    def names(self, kind: PluginKind) -> list[str]:
        """Return what a server asks for before it binds."""
        return ["memory"]


REGISTRY = MemoryAlone()

# Between two pieces: faster than the minimum rate even a byte at a time, or slower.
PAUSE_SECONDS = 0.001
DAWDLING_PAUSE_SECONDS = 1.0

# When a client sips it takes so much a second, and a server with small buffers has to wait.
SIP_BYTES = 7

# When everything is sent, the longest that the server may wait for is a further request; the rest is
# what the application takes for all that may be in one input.
MOST_SECONDS = LIMITS.keep_alive_seconds + 20


class Option(IntFlag):
    """What one byte of an input decides."""

    ENDS = 1
    """The client ends its side when it has sent everything."""
    NARROW = 2
    """Buffers are small."""
    RESETS = 4
    """The client resets when it has sent everything."""
    LENIENT = 8
    """The server tolerates all that it can be told to."""
    DAWDLES = 16
    """The client pauses for long between two pieces."""
    SIPS = 32
    """The client reads slowly."""


@attrs.frozen
class Conversation:
    """What was said."""

    served: list[Served]
    received: bytes
    reset: bool
    """Whether one of the sides cut the connection, so that something may be missing at the end."""
    tolerated: bool
    """Whether something was tolerated, so that h11 may not understand it alike."""


def converse(delivery: Delivery) -> Conversation:
    """Send a delivery to a server of its own, and receive until the end.

    Raises:
        AssertionError: something is left in the log, or left open.
        trio.TooSlowError: the end does not come.
    """
    # trio decides by chance which of two tasks goes first; here the same input decides the same.
    cast("Random", vars(sys.modules["trio._core._run"])["_r"]).seed(delivery.options[0])
    with watch_log() as log:
        conversation = trio.run(_converse, delivery, clock=MockClock(autojump_threshold=0))
        assert len(log.ends) == 1
        # What was tolerated is told for those who debug; nothing else is to be told.
        log.records = [
            record for record in log.records if not record.getMessage().startswith("tolerated ")
        ]
    return conversation


async def _converse(delivery: Delivery) -> Conversation:
    options = Option(delivery.options[0] & 63)
    recorder = Recorder()
    http1 = Http1(recorder, lenient=list(Leniency) if Option.LENIENT in options else [])
    endpoint = "memory://fuzz" + ("?pause_at_bytes=50" if Option.NARROW in options else "")
    async with open_server(http1, limits=LIMITS, registry=REGISTRY, endpoint=endpoint) as opened:
        client = RawClient(await opened.connect())
        received = bytearray()
        reset = Option.RESETS in options
        pause_seconds = DAWDLING_PAUSE_SECONDS if Option.DAWDLES in options else PAUSE_SECONDS

        async def send() -> None:
            for piece in delivery.pieces():
                await client.send(piece)
                await trio.sleep(pause_seconds)
            if Option.RESETS in options:
                client.reset()
            elif Option.ENDS in options:
                await client.send_eof()
            sipping_seconds = 10_000 if Option.SIPS in options else 0
            scope.deadline = trio.current_time() + MOST_SECONDS + sipping_seconds

        async def receive() -> bytes:
            if Option.SIPS not in options:
                return await client.receive_some()
            await trio.sleep(1)
            return await client.connection.transport.input.receive(SIP_BYTES)

        with trio.fail_after(math.inf) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                try:
                    while data := await receive():
                        received += data
                except trio.BrokenResourceError:
                    reset = True
            await client.aclose()
        with trio.fail_after(1):  # there is nothing to wait for now
            while opened.server.connections:  # noqa: ASYNC110  # the server has no event for it
                await trio.sleep(0.1)
    tolerated = any(http1.tolerated.values())
    return Conversation(recorder.served, bytes(received), reset, tolerated)
