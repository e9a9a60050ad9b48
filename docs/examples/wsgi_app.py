"""A Flask application, which is WSGI: kestrel --interface wsgi wsgi_app:app"""

import hashlib
from collections.abc import Iterator

from flask import Flask, Response, request

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
