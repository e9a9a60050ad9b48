"""Measures what each layer adds to a plain request, in one process and without a socket.

The requests come from a pipe that has them ready and takes every answer, so nothing ever waits, and
what is left is the time of the protocol, the application and the layers. Prints microseconds per
request: the least of the rounds, which take turns, because noise only ever adds.
"""

import argparse
import time
from collections.abc import Awaitable, Generator, Mapping
from typing import Any

import trio

from applications import app
from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.middleware import Middleware, compose
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_middleware.idle import Idle
from kestrel_middleware.throttle import Throttle
from kestrel_middleware.wiretap import Wiretap
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1
from pass_through import PassThrough

_REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
_HUGE = 1e12

_LAYERS: Mapping[str, tuple[Middleware, ...]] = {
    "none": (),
    "pass through": (PassThrough(),),
    "pass through, twice": (PassThrough(), PassThrough()),
    "wiretap, switched off": (Wiretap(enabled=False),),
    "idle": (Idle(),),
    "throttle, without effect": (
        Throttle(read_bytes_per_second=_HUGE, write_bytes_per_second=_HUGE),
    ),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Measure what layers add to a request.")
    parser.add_argument("--requests", type=int, default=20_000, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    trio.run(_measure, given.requests, given.rounds)


async def _measure(requests: int, rounds: int) -> None:
    handlers = {
        name: compose(layers, Http1(AsgiApplication(app))) for name, layers in _LAYERS.items()
    }
    least = dict.fromkeys(handlers, float("inf"))
    for _ in range(rounds):
        for name, handler in handlers.items():
            connection = Connection(_ReadyPipe(requests), ConnectionContext())
            began = time.process_time()
            await handler(connection)
            spent = time.process_time() - began
            least[name] = min(least[name], spent / requests * 1e6)
    for name, microseconds in least.items():
        added = microseconds - least["none"]
        print(f"{name:26} {microseconds:6.2f} µs {added:+6.2f} µs {added / least['none']:+6.1%}")


class _ReadyReader(PipeReader):
    """Shows one request at a time, and then the end."""

    __slots__ = ("_requests",)

    def __init__(self, requests: int) -> None:
        super().__init__()
        self._requests = requests

    def _fetch(self) -> Awaitable[None]:
        return self

    def __await__(self) -> Generator[Any, Any, None]:
        self._fetch_nowait()
        yield from ()

    def _fetch_nowait(self) -> None:
        if self._requests:
            self._requests -= 1
            self._buffer += _REQUEST
        else:
            self._at_eof = True

    def _wake(self) -> None:
        pass  # nobody ever waits


class _GreedyWriter(PipeWriter):
    """Takes everything at once and forgets it."""

    __slots__ = ()

    async def _transmit(self, data: bytes | memoryview) -> None:
        pass

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return len(data)

    async def _transmit_eof(self) -> None:
        pass


class _ReadyPipe(DuplexPipe):
    """A peer that has asked for everything already."""

    def __init__(self, requests: int) -> None:
        self._reader = _ReadyReader(requests)
        self._writer = _GreedyWriter()

    @property
    def input(self) -> PipeReader:
        return self._reader

    @property
    def output(self) -> PipeWriter:
        return self._writer

    async def aclose(self) -> None:
        pass

    def abort(self) -> None:
        pass


if __name__ == "__main__":
    main()
