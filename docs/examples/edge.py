"""An application behind a proxy, with all that belongs to the edge: kestrel edge:app, or python edge.py

It believes a proxy on this machine. So does curl play one:
curl -H 'x-forwarded-for: 203.0.113.7' -H 'x-forwarded-proto: https' http://127.0.0.1:8000/
"""

import signal
import sys

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from kestrel_core import Server
from kestrel_middleware.asgi import (
    ForwardedHeaders,
    Health,
    HostFilter,
    HttpsRedirect,
    RateLimit,
    Strategy,
    StrictTransportSecurity,
)
from kestrel_middleware.asgi.scope import AsgiApp
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1


async def hello(request: Request) -> PlainTextResponse:
    assert request.client is not None
    return PlainTextResponse(f"Hello, {request.client.host}, by {request.url.scheme}\n")


async def check_disk() -> bool:
    return await trio.Path(__file__).exists()


app: AsgiApp = Starlette(routes=[Route("/", hello)])
app = RateLimit(app, limit=["5/second", "100/minute"], strategy=Strategy.TOKEN_BUCKET)
app = StrictTransportSecurity(app)
app = HttpsRedirect(app)
app = HostFilter(app, allowed=["example.com", "*.example.com", "127.0.0.1"])
app = ForwardedHeaders(app, trusted=["127.0.0.1", "::1", "unix"])
app = Health(app, checks={"disk": check_disk})  # the outermost


async def drain_on_sigterm(server: Server) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            # For so long the server still accepts, and /readyz says 503.
            await server.drain(seconds=10, notice_seconds=1)
            break


async def main(endpoint: str) -> None:
    application = AsgiApplication(app)
    server = Server()
    server.listen(endpoint, Http1(application))
    async with application.lifespan(), trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)
        await drain_on_sigterm(server)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8000")
