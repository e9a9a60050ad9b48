"""Alt-Svc: responses that say where else the application is served (RFC 7838)."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from kestrel_core.testing import open_server
from kestrel_protocols.http import HttpExchange, ResponseError
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog
from tests.raw_client import GET, RawClient, request

H3 = b'h3=":443"; ma=86400'


async def application(exchange: HttpExchange) -> None:
    """Do what the target says."""
    match exchange.target:
        case b"/own":
            await exchange.respond(200, [(b"Alt-Svc", b"clear"), (b"date", b"today")], b"own")
        case b"/pieces":
            await exchange.start(200, [])
            await exchange.write(b"hello")
            await exchange.finish()
        case b"/early":
            await exchange.inform(103, [(b"link", b"</style.css>")])
            await exchange.respond(200, [])
        case b"/fail":
            raise ZeroDivisionError
        case b"/304":
            await exchange.respond(304, [])
        case b"/upgrade":
            await exchange.upgrade([(b"upgrade", b"x")])
        case _:
            await exchange.respond(200, [(b"content-length", b"5")], b"hello")


@asynccontextmanager
async def connected(protocol: Http1) -> AsyncGenerator[RawClient]:
    async with open_server(protocol) as opened:
        yield RawClient(await opened.connect())


def get(target: bytes, method: bytes = b"GET") -> bytes:
    return request(first=b"%b %b HTTP/1.1" % (method, target))


@pytest.mark.parametrize("target", [b"/", b"/pieces", b"/304"])
async def test_every_response_has_it(target: bytes, log: ServerLog) -> None:
    async with connected(Http1(application, alt_svc=H3)) as client:
        for _ in range(2):
            response = await client.ask(get(target))
            assert response.all(b"alt-svc") == [H3]
            assert len(response.all(b"date")) == len(response.all(b"server")) == 1
        response = await client.ask(get(target, b"HEAD"), to_head=True)
        assert response.all(b"alt-svc") == [H3]


async def test_pipelined_responses_have_it(log: ServerLog) -> None:
    async with connected(Http1(application, alt_svc=H3)) as client:
        await client.send(GET * 5)
        for _ in range(5):
            response = await client.receive()
            assert (response.body, response.all(b"alt-svc")) == (b"hello", [H3])


async def test_without_it(log: ServerLog) -> None:
    protocol = Http1(application)
    assert protocol.alt_svc is None
    async with connected(protocol) as client:
        assert (await client.ask(GET)).all(b"alt-svc") == []


async def test_the_applications_own_comes_first(log: ServerLog) -> None:
    """Whatever its case; and so with Date."""
    async with connected(Http1(application, alt_svc=H3)) as client:
        response = await client.ask(get(b"/own"))
        assert response.all(b"alt-svc") == [b"clear"]
        assert response.all(b"date") == [b"today"]
        assert response.all(b"server") == [b"kestrel"]


async def test_informational_responses_have_none(log: ServerLog) -> None:
    async with connected(Http1(application, alt_svc=H3)) as client:
        await client.send(get(b"/early"))
        assert await client.receive_head() == (103, [(b"link", b"</style.css>")])
        assert (await client.receive()).all(b"alt-svc") == [H3]


async def test_the_servers_own_answers_have_it(log: ServerLog, autojump_clock: MockClock) -> None:
    async with connected(Http1(application, alt_svc=H3)) as client:
        response = await client.ask(get(b"/fail"))
        assert (response.status, response.all(b"alt-svc")) == (500, [H3])
        log.take_error(ZeroDivisionError)
        response = await client.ask(b"nonsense\r\n\r\n")
        assert (response.status, response.all(b"alt-svc")) == (400, [H3])


async def test_an_upgrade_has_it(log: ServerLog) -> None:
    async with connected(Http1(application, alt_svc=H3)) as client:
        await client.send(
            request(b"connection: upgrade", b"upgrade: x", first=b"GET /upgrade HTTP/1.1")
        )
        status, headers = await client.receive_head()
        assert status == 101
        assert (b"alt-svc", H3) in headers


async def test_it_may_change(log: ServerLog) -> None:
    """For connections that come later; those that there are keep to what they have said."""
    protocol = Http1(application)
    async with open_server(protocol) as opened:
        clients: list[RawClient] = []
        values = [None, H3, b"clear", None]
        for value in values:
            protocol.alt_svc = value
            assert protocol.alt_svc == value
            clients.append(RawClient(await opened.connect()))
            await clients[-1].ask(GET)
        for client, value in zip(clients, values, strict=True):
            assert (await client.ask(GET)).all(b"alt-svc") == ([] if value is None else [value])


@pytest.mark.parametrize("value", [b"x\r\ny: z", b"x\ny", b"\0", b"x\x7f"])
async def test_what_is_no_field_value_is_refused(value: bytes, log: ServerLog) -> None:
    """It changes nothing."""
    with pytest.raises(ResponseError, match="control character"):
        Http1(application, alt_svc=value)
    protocol = Http1(application, alt_svc=H3)
    with pytest.raises(ResponseError, match="control character"):
        protocol.alt_svc = value
    assert protocol.alt_svc == H3
    async with connected(protocol) as client:
        assert (await client.ask(GET)).all(b"alt-svc") == [H3]


async def test_two_protocols_do_not_share_it(log: ServerLog) -> None:
    first, second = Http1(application, alt_svc=H3), Http1(application, alt_svc=b"clear")
    for protocol, value in ((first, H3), (second, b"clear"), (first, H3)):
        async with connected(protocol) as client:
            assert (await client.ask(GET)).all(b"alt-svc") == [value]
