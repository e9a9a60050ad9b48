"""The limit of a body, as a handler sets it for its own request."""

import pytest

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.http import HttpExchange
from tests.http1_site import ServerLog, Serving
from tests.raw_client import GET, post, post_chunked

LIMITS = Limits(max_request_body_bytes=10)

by_length = post(b"x" * 20)
chunked = post_chunked(b"14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n")
both = pytest.mark.parametrize("sent", [by_length, chunked], ids=["by length", "chunked"])


async def read(exchange: HttpExchange) -> int:
    count = 0
    while piece := await exchange.receive():
        count += len(piece)
    return count


@both
@pytest.mark.parametrize("most", [None, 100])
async def test_it_may_be_raised(
    most: int | None, sent: bytes, serving: Serving, log: ServerLog
) -> None:
    async def handler(exchange: HttpExchange) -> None:
        assert exchange.max_body_bytes == 10
        exchange.max_body_bytes = most
        assert exchange.max_body_bytes == most
        await exchange.respond(200, body=b"%d" % await read(exchange))

    async with serving(native=handler, limits=LIMITS) as site:
        client = await site.connect()
        for _ in range(2):
            assert (await client.ask(sent)).body == b"20"


@both
async def test_it_may_be_lowered(sent: bytes, serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        exchange.max_body_bytes = 19
        await exchange.respond(200, body=b"%d" % await read(exchange))

    async with serving(native=handler) as site:
        client = await site.connect()
        response = await client.ask(sent)
        assert (response.status, response.keeps_alive) == (413, False)
        await client.aclose()
        await site.all_ended()
    assert log.ends == [EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED]


async def test_it_holds_for_one_request(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        if exchange.query == b"more":
            exchange.max_body_bytes = None
        await exchange.respond(200, body=b"%d" % await read(exchange))

    async with serving(native=handler, limits=LIMITS) as site:
        client = await site.connect()
        more = post(b"x" * 20).replace(b" / ", b" /?more ")
        assert (await client.ask(more)).body == b"20"
        assert (await client.ask(post(b"x" * 20))).status == 413


async def test_it_is_set_before_the_body_is_asked_for(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        await exchange.receive()
        with pytest.raises(RuntimeError, match=r"before the first receive\(\)"):
            exchange.max_body_bytes = 100
        assert exchange.max_body_bytes == 10
        await exchange.respond(204)

    async with serving(native=handler, limits=LIMITS) as site:
        client = await site.connect()
        assert (await client.ask(post(b"x" * 5))).status == 204


async def test_what_is_no_limit(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        with pytest.raises(ValueError, match="zero or above, or None, not -1"):
            exchange.max_body_bytes = -1
        await exchange.respond(204)

    async with serving(native=handler) as site:
        client = await site.connect()
        for sent in (GET, post(b"x")):
            assert (await client.ask(sent)).status == 204


async def test_where_there_is_no_body_it_is_the_servers(serving: Serving, log: ServerLog) -> None:
    async def handler(exchange: HttpExchange) -> None:
        exchange.max_body_bytes = 100
        assert exchange.max_body_bytes == 10
        await exchange.respond(204)

    async with serving(native=handler, limits=LIMITS) as site:
        client = await site.connect()
        assert (await client.ask(GET)).status == 204
