"""A server inside a trio program, which asks it something and then ends it: python embed.py"""

import httpx
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from kestrel_core import Server
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("Hello from inside")


async def main() -> None:
    application = AsgiApplication(Starlette(routes=[Route("/", hello)]))
    server = Server()
    server.listen("tcp://127.0.0.1:0", Http1(application))
    async with application.lifespan(), trio.open_nursery() as nursery:
        [endpoint] = await nursery.start(server.serve)  # bound now, and the port is known
        print("listening on", endpoint)

        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"http://{endpoint.address}/")
            print(response.status_code, response.text)
            print("connections:", len(server.connections))

        cut = await server.drain(seconds=5)
        print("drained; connections cut:", cut)


if __name__ == "__main__":
    trio.run(main)
