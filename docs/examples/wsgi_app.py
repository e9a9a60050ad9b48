"""A Flask application, which is WSGI: kestrel --interface wsgi wsgi_app:app, or python wsgi_app.py"""

import hashlib
import sys
from collections.abc import Iterator

import trio
from flask import Flask, Response, request

from kestrel_core import Server
from kestrel_protocols.http1 import Http1
from kestrel_protocols.wsgi import WsgiApplication

app = Flask(__name__)


@app.get("/")
def front() -> str:
    return "Hello from a thread\n"


@app.post("/sha256")
def sha256() -> str:
    digest = hashlib.sha256()
    while data := request.stream.read(64 * 1024):  # as it arrives: an upload of any size
        digest.update(data)
    return f"{digest.hexdigest()}\n"


@app.get("/squares")
def squares() -> Response:
    def lines() -> Iterator[str]:
        for number in range(1000):
            yield f"{number**2}\n"  # waits while the client does not read

    return Response(lines(), mimetype="text/plain")


async def main(endpoint: str) -> None:
    server = Server()
    server.listen(endpoint, Http1(WsgiApplication(app, threads=100)))
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8000")
