"""Serves HTTP, and shows the bytes of its connections when told to: python wiretap.py FILE [ENDPOINT]

kill -USR1 PID switches the wiretap on, for connections that there are and for those to come; and off.
Open FILE with Wireshark.
"""

import logging
import signal
import sys
from pathlib import Path

import trio

from kestrel_core import Server
from kestrel_middleware.wiretap import Wiretap
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1


async def hello(exchange: HttpExchange) -> None:
    await exchange.respond(200, [(b"content-type", b"text/plain")], b"Hello\n")


async def switch_when_told(wiretap: Wiretap) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            wiretap.enabled = not wiretap.enabled
            for connection in wiretap.connections:
                if wiretap.enabled:
                    wiretap.enable(connection)
                else:
                    wiretap.disable(connection)
            print("the wiretap is", "on" if wiretap.enabled else "off", flush=True)


async def main(file: Path, endpoint: str) -> None:
    wiretap = Wiretap(capture_file=file, label="plain", enabled=False)
    server = Server()
    server.listen(endpoint, Http1(hello), middleware=[wiretap])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(switch_when_told, wiretap)
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    endpoint = sys.argv[2] if len(sys.argv) > 2 else "tcp://127.0.0.1:8000"
    trio.run(main, Path(sys.argv[1]), endpoint)
