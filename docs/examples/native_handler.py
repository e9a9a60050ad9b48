"""Native handlers of HTTP exchanges, without a framework: python native_handler.py [ENDPOINT]

curl http://127.0.0.1:8000/
curl -T native_handler.py http://127.0.0.1:8000/digest
"""

import hashlib
import os
import sys

import trio

from kestrel_core import Server
from kestrel_protocols.http import HttpApplication, HttpExchange
from kestrel_protocols.http1 import Http1

TEXT = (b"content-type", b"text/plain; charset=utf-8")


async def hello(exchange: HttpExchange) -> None:
    await exchange.respond(200, [TEXT], f"Hello from {exchange.path}\n".encode())


async def digest(exchange: HttpExchange) -> None:
    exchange.max_body_bytes = 10 * 2**30  # before the first receive()
    exchange.min_body_bytes_per_second = 10
    digest = hashlib.sha256()
    while piece := await exchange.receive():
        digest.update(piece)
    await exchange.respond(200, [TEXT], f"{digest.hexdigest()}\n".encode())


async def countdown(exchange: HttpExchange) -> None:
    await exchange.start(200, [TEXT])
    for number in (3, 2, 1):
        await exchange.write(b"%d\n" % number)
        await trio.sleep(0.1)
    await exchange.finish()


async def source(exchange: HttpExchange) -> None:
    async with await trio.open_file(__file__, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        await exchange.start(200, [TEXT, (b"content-length", b"%d" % size)])
        await exchange.write_file(file.fileno(), 0, size)
        await exchange.finish()


async def copy(exchange: HttpExchange) -> None:
    """Send the body back while it comes, with its digest behind it."""
    digest = hashlib.sha256()
    await exchange.start(200, [TEXT, (b"trailer", b"x-sha256")])
    while piece := await exchange.receive():
        digest.update(piece)
        await exchange.write(piece)
    found = digest.hexdigest().encode()
    if dict(exchange.trailers).get(b"x-sha256", found) != found:
        raise ValueError("this is not what was sent")  # the client sees that no end comes
    await exchange.finish([(b"x-sha256", found)])


async def page(exchange: HttpExchange) -> None:
    await exchange.inform(103, [(b"link", b"</style.css>; rel=preload; as=style")])
    await trio.sleep(0.1)  # while the client fetches that, work out what to say
    await exchange.respond(200, [(b"content-type", b"text/html")], b"<p>Styled.</p>\n")


async def watched(exchange: HttpExchange) -> None:
    """Work for as long as the client is there."""
    async with trio.open_nursery() as nursery:

        async def stop_with_the_client() -> None:
            await exchange.wait_disconnected()
            if not exchange.response_finished:  # which is the other thing that ends the wait
                nursery.cancel_scope.cancel()

        nursery.start_soon(stop_with_the_client)
        await trio.sleep(0.1)  # the work
        await exchange.respond(200, [TEXT], b"Done.\n")


ROUTES: dict[str, HttpApplication] = {
    "/digest": digest,
    "/countdown": countdown,
    "/source": source,
    "/copy": copy,
    "/page": page,
    "/watched": watched,
}


async def site(exchange: HttpExchange) -> None:
    await ROUTES.get(exchange.resolved_path, hello)(exchange)


async def main(endpoint: str) -> None:
    server = Server()
    server.listen(endpoint, Http1(site))
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8000")
