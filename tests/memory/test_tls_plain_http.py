"""Clients that speak HTTP where TLS is spoken."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_middleware.tls import PlainHttp
from tests.raw_client import GET, RawClient, Response, post
from tests.tls_site import TlsSite, serving_tls, tls

REJECT, REDIRECT, CLOSE = PlainHttp

WHY = b"This port speaks TLS: use https://.\n"


async def asked(site: TlsSite, data: bytes, *, byte_by_byte: bool = False) -> Response:
    """Send `data` without TLS; return the answer, after which the server must say no more."""
    client = RawClient(await site.connect(), byte_by_byte=byte_by_byte)
    response = await client.ask(data)
    assert not response.keeps_alive
    with trio.fail_after(1):  # it is over at once, and not when somebody has lost patience
        assert await client.receive_rest() == b""
    await client.aclose()
    assert await site.ended() is EndReason.PLAIN_HTTP_ON_TLS
    return response


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        GET,
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\n\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"NONSENSE /\r\n\r\n",
    ],
)
async def test_rejected(data: bytes, byte_by_byte: bool, autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        response = await asked(site, data, byte_by_byte=byte_by_byte)
        assert (response.status, response.body) == (400, WHY)
        assert response.all(b"content-type") == [b"text/plain"]
        client = await site.client()
        assert (await client.ask(GET)).status == 200


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize(
    ("data", "location"),
    [
        (GET, b"https://a/"),
        (b"GET /x?y=z HTTP/1.1\r\nHost: example.com\r\n\r\n", b"https://example.com/x?y=z"),
        (b"GET / HTTP/1.0\r\nHOST:example.com:8443\r\n\r\n", b"https://example.com:8443/"),
        (b"GET / HTTP/1.1\r\nx: y\r\nhost: [::1]:80 \t\r\n\r\n", b"https://[::1]:80/"),
        (b"GET / HTTP/1.1\nhost: a\n\n", b"https://a/"),
        (b"HEAD //b/c HTTP/1.1\r\nhost: a\r\n\r\n", b"https://a//b/c"),
        (post(b"body"), b"https://a/"),
    ],
)
async def test_redirected(
    data: bytes, location: bytes, byte_by_byte: bool, autojump_clock: MockClock
) -> None:
    async with serving_tls(tls(plain_http=REDIRECT)) as site:
        response = await asked(site, data, byte_by_byte=byte_by_byte)
        assert (response.status, response.body) == (308, b"")
        assert response.all(b"location") == [location]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: \r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\\b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: \xc3\xa4\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: :80\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a:b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a:123456\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: [::1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost : b\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n\r\nhost: a\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        b"GET /\r\nhost: a\r\n\r\n",
    ],
    ids=str,
)
async def test_who_cannot_be_redirected_is_rejected(data: bytes, autojump_clock: MockClock) -> None:
    async with serving_tls(tls(plain_http=REDIRECT)) as site:
        response = await asked(site, data)
        assert (response.status, response.body) == (400, WHY)


pieces = st.sampled_from(
    [
        b"GET ",
        b"/",
        b" HTTP/1.1",
        b"\r\n",
        b"\n",
        b"\r",
        b"host: ",
        b"a",
        b":",
        b"\0",
        b"\x0b",
        b"x: y",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(pieces, max_size=12).map(b"".join))
def test_nothing_can_be_smuggled_into_the_redirection(tail: bytes) -> None:
    async def ask() -> None:
        async with serving_tls(tls(plain_http=REDIRECT)) as site:
            data = b"GET /" + tail + b"\r\nhost: a\r\n\r\n"
            client = RawClient(await site.connect())
            await client.send(data)
            await client.send_eof()
            response = await client.receive()
            assert await client.receive_rest() == b""
            names = [name for name, _ in response.headers]
            if response.status == 400:
                assert names == [b"content-type", b"content-length", b"connection"]
            else:
                assert response.status == 308
                assert names == [b"location", b"content-length", b"connection"]
                (location,) = response.all(b"location")
                assert location.startswith(b"https://")
                assert location.isascii()
                assert location.decode().isprintable()

    trio.run(ask, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("data", [GET, b"G", post(bytes(100_000))])
async def test_closed(data: bytes, autojump_clock: MockClock) -> None:
    async with serving_tls(tls(plain_http=CLOSE)) as site:
        client = RawClient(await site.connect())
        await client.send(data)
        assert await client.receive_rest() == b""
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED


@pytest.mark.parametrize("how", [REJECT, REDIRECT])
async def test_a_body_does_not_lose_the_answer(how: PlainHttp, autojump_clock: MockClock) -> None:
    """It is read and dropped, as far as it comes in a time that is bounded."""
    async with serving_tls(tls(plain_http=how)) as site:
        response = await asked(site, post(bytes(60_000)))
        assert response.status in (400, 308)
        client = RawClient(await site.connect())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, post(bytes(1_000_000)))
            assert (await client.receive()).status in (400, 308)
            assert await client.receive_rest() == b""
        await client.aclose()
        assert await site.ended() is EndReason.PLAIN_HTTP_ON_TLS


async def test_a_client_that_stays(autojump_clock: MockClock) -> None:
    async with serving_tls(limits=Limits(linger_seconds=3)) as site:
        client = RawClient(await site.connect())
        assert (await client.ask(GET)).status == 400
        assert await site.ended() is EndReason.PLAIN_HTTP_ON_TLS
        assert trio.current_time() == pytest.approx(3, abs=0.1)


async def test_a_head_without_end(autojump_clock: MockClock) -> None:
    async with serving_tls(tls(plain_http=REDIRECT)) as site:
        response = await asked(site, b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 2000)
        assert response.status == 400


@pytest.mark.parametrize("part", [b"G", b"GET", b"GET / HTTP/1.1\r\nhost: a\r\n"])
async def test_a_head_that_does_not_come(part: bytes, autojump_clock: MockClock) -> None:
    """The time for the handshake is the time for this."""
    async with serving_tls(tls(handshake_seconds=4)) as site:
        client = RawClient(await site.connect())
        await client.send(part)
        await trio.sleep(3.9)
        assert site.log.ends == []
        assert await client.receive_rest() == b""
        assert await site.ended() is EndReason.PLAIN_HTTP_ON_TLS
        assert trio.current_time() == pytest.approx(4, abs=0.1)


async def test_a_head_that_ends_early(autojump_clock: MockClock) -> None:
    async with serving_tls(tls(plain_http=REDIRECT)) as site:
        client = RawClient(await site.connect())
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n")
        await client.send_eof()
        assert (await client.receive()).status == 400


async def test_a_client_that_is_gone(autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        client = RawClient(await site.connect())
        await client.send(b"GET / HTTP")
        await wait_all_tasks_blocked()
        client.reset()
        assert await site.ended() is EndReason.PLAIN_HTTP_ON_TLS
