"""Which certificate and which rules a client meets, by the name that it asks for."""

import ssl

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.features import ClientHello
from kestrel_middleware.detect import Detect
from kestrel_middleware.tls import ClientCertificates, Tls, TlsOptions, TlsVersion
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1
from kestrel_protocols.ssh import SshForward
from tests.http1_site import hello
from tests.tls_site import (
    SERVER_NAME,
    Echo,
    Issued,
    TlsSite,
    authority,
    certificate,
    serving_tls,
    tls,
    tls_1_2,
    trusting,
)

ANY_NAME = trusting(any_name=True)


def options(issued: Issued) -> TlsOptions:
    return TlsOptions(certificate=issued.chain, key=issued.key)


async def shown_to(site: TlsSite, name: str | None) -> bytes | None:
    """Ask for `name`; return the certificate that the server shows."""
    peer = await site.peer(ANY_NAME, name)
    await peer.aclose()
    return peer.session.getpeercert(binary_form=True)


async def refused(site: TlsSite, reason: str, name: str | None = SERVER_NAME) -> None:
    """Expect the alert `reason`, and then the end."""
    with pytest.raises(ssl.SSLError) as caught:
        await site.peer(ANY_NAME, name)
    assert caught.value.reason == reason
    assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED


# The map ----------------------------------------------------------------------------------------


async def test_the_best_name_wins(autojump_clock: MockClock) -> None:
    exact, wildcard, rest = certificate("a.example"), certificate("*.example"), certificate("rest")
    layer = Tls(hosts={"a.example": options(exact), "*.example": options(wildcard)})
    async with serving_tls(layer) as site:
        assert await shown_to(site, "a.example") == exact.der
        assert await shown_to(site, "A.EXAMPLE") == exact.der
        assert await shown_to(site, "b.example") == wildcard.der
        await refused(site, "TLSV1_UNRECOGNIZED_NAME", "example")
        await refused(site, "TLSV1_UNRECOGNIZED_NAME", None)
        assert await shown_to(site, "b.example") == wildcard.der
    for layer in (
        Tls(hosts={"a.example": options(exact), "*": options(rest)}),
        tls(rest, hosts={"a.example": options(exact)}),
    ):
        async with serving_tls(layer) as site:
            assert await shown_to(site, "a.example") == exact.der
            assert await shown_to(site, "unknown") == rest.der
            assert await shown_to(site, None) == rest.der


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_unknown_name_by_each_version(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    async with serving_tls(Tls(hosts={"a.example": options(certificate())})) as site:
        with pytest.raises(ssl.SSLError) as caught:
            await site.peer(trusting(highest=version))
        assert caught.value.reason == "TLSV1_UNRECOGNIZED_NAME"
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED


async def test_a_name_can_be_stricter_than_the_rest(autojump_clock: MockClock) -> None:
    layer = tls(
        hosts={
            "new.example": TlsOptions(minimum_version=TlsVersion.TLS_1_3),
            "members.example": TlsOptions(
                client_certificates=ClientCertificates.REQUIRE,
                client_authorities=authority().cert_pem.bytes(),
            ),
            "other.example": TlsOptions(alpn=["b"]),
        },
        alpn=["a"],
    )
    echo = Echo()
    async with serving_tls(layer, echo) as site:
        old, new = tls_1_2(), trusting(alpn=["a", "b"])
        for context in (old, new):
            context.check_hostname = False
        await (await site.peer(old, "any.example")).aclose()
        await (await site.peer(new, "new.example")).aclose()
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await site.peer(old, "new.example")
        await (await site.peer(new, "other.example")).aclose()
        member = trusting(client=certificate("member"), any_name=True)
        await (await site.peer(member, "members.example")).aclose()
        await (await site.peer(member, "any.example")).aclose()
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            await (await site.peer(new, "members.example")).receive()
        await site.ended()
    assert [info.alpn for info in echo.infos] == [None, "a", "b", None, None]
    assert [bool(info.peer_certificates) for info in echo.infos] == [False] * 3 + [True, False]


# Versions, ciphers and protocols ----------------------------------------------------------------


async def test_the_lowest_version(autojump_clock: MockClock) -> None:
    async with serving_tls(tls(minimum_version=TlsVersion.TLS_1_3)) as site:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await site.peer(tls_1_2())
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        assert (await site.peer()).session.version() == "TLSv1.3"
    async with serving_tls() as site:
        assert (await site.peer(tls_1_2())).session.version() == "TLSv1.2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_what_is_older_is_refused(autojump_clock: MockClock) -> None:
    context = trusting(highest=ssl.TLSVersion.TLSv1_1)
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with serving_tls() as site:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await site.peer(context)
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED


async def test_ciphers(autojump_clock: MockClock) -> None:
    chosen = "ECDHE-ECDSA-AES128-GCM-SHA256"
    echo = Echo()
    async with serving_tls(tls(ciphers=chosen), echo) as site:
        await (await site.peer(tls_1_2())).aclose()
        assert await site.ended() is not None
        without = tls_1_2()
        without.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await site.peer(without)
        await site.ended()
    assert [(info.cipher, info.cipher_suite) for info in echo.infos] == [(chosen, 0xC02B)]


async def agreed_on(site: TlsSite, *offered: str) -> str | None:
    """Offer these protocols, and return the one that the server takes."""
    peer = await site.peer(trusting(alpn=offered))
    await peer.aclose()
    return peer.session.selected_alpn_protocol()


async def test_the_protocols_are_those_that_are_served(autojump_clock: MockClock) -> None:
    http1 = Http1(AsgiApplication(hello))
    async with serving_tls(handler=http1) as site:
        assert await agreed_on(site, "h2", "http/1.1") == "http/1.1"
        assert await agreed_on(site, "h2") is None
        assert await agreed_on(site) is None
    async with serving_tls(handler=Echo(["x", "y"])) as site:
        assert await agreed_on(site, "y", "x") == "x"  # the server's order
    async with serving_tls(handler=Detect([SshForward("tcp://127.0.0.1:22"), http1])) as site:
        assert await agreed_on(site, "h2", "http/1.1") == "http/1.1"
    async with serving_tls(tls(alpn=["mine"]), http1) as site:
        assert await agreed_on(site, "http/1.1", "mine") == "mine"
    async with serving_tls(tls(alpn=()), http1) as site:
        assert await agreed_on(site, "http/1.1") is None


async def test_tls_that_is_detected_knows_the_protocols(autojump_clock: MockClock) -> None:
    detect = Detect([tls(), Http1(AsgiApplication(hello))])
    async with serving_tls(handler=detect, middleware=()) as site:
        assert await agreed_on(site, "h2", "http/1.1") == "http/1.1"
        client = await site.client(trusting(alpn=["http/1.1"]))
        assert (await client.ask(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")).body == b"hello"


# Somebody else decides --------------------------------------------------------------------------


async def test_a_context_of_your_own(autojump_clock: MockClock) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate("own.example").load_into(own)
    own.set_alpn_protocols(["own"])
    named = certificate("named.example")
    echo = Echo(["x"])
    async with serving_tls(Tls(context=own, hosts={"a": options(named)}), echo) as site:
        assert await shown_to(site, "unknown") == certificate("own.example").der
        assert await shown_to(site, None) == certificate("own.example").der
        assert await shown_to(site, "a") == named.der
        assert await (await site.peer(trusting(alpn=["x", "own"], any_name=True))).ask(b"x") == b"x"
    assert [info.own_certificate for info in echo.infos] == [None, None, named.der, None]
    assert [info.alpn for info in echo.infos] == [None, None, None, "own"]


async def test_a_callback(autojump_clock: MockClock) -> None:
    """It may take its time, and is asked only for names that nobody else knows."""
    fetched = certificate("fetched.example")
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate("own.example").load_into(own)
    asked: list[tuple[str | None, bytes]] = []

    async def choose(
        hello: ClientHello, connection: Connection
    ) -> ssl.SSLContext | TlsOptions | None:
        asked.append((hello.server_name, connection.transport.input.buffered[:1]))
        await trio.sleep(5)
        match hello.server_name:
            case "fetched.example":
                return options(fetched)
            case "own.example":
                return own
            case _:
                return None

    layer = tls(choose=choose, hosts={"known.example": TlsOptions()}, alpn=["x"])
    async with serving_tls(layer) as site:
        assert await shown_to(site, "known.example") == certificate().der
        assert trio.current_time() == pytest.approx(0, abs=1)
        assert await shown_to(site, "fetched.example") == fetched.der
        assert trio.current_time() == pytest.approx(5, abs=1)
        assert await shown_to(site, "own.example") == certificate("own.example").der
        assert await shown_to(site, "unknown") == certificate().der
        assert await shown_to(site, None) == certificate().der
        peer = await site.peer(trusting(alpn=["x"], any_name=True), "fetched.example")
        assert peer.session.selected_alpn_protocol() == "x"
    names = ["fetched.example", "own.example", "unknown", None, "fetched.example"]
    assert asked == [(name, b"\x16") for name in names]


async def test_a_callback_alone(autojump_clock: MockClock) -> None:
    async def choose(hello: ClientHello, connection: Connection) -> TlsOptions | None:
        return options(certificate()) if hello.server_name == "a" else None

    async with serving_tls(Tls(choose=choose)) as site:
        assert await shown_to(site, "a") == certificate().der
        await refused(site, "TLSV1_UNRECOGNIZED_NAME", "b")


async def test_a_callback_that_fails(autojump_clock: MockClock) -> None:
    async def choose(hello: ClientHello, connection: Connection) -> None:
        if hello.server_name == "raises":
            raise LookupError("no such certificate")

    async with serving_tls(tls(choose=choose)) as site:
        with pytest.raises(trio.BrokenResourceError):
            await site.peer(ANY_NAME, "raises")
        assert await site.ended() is EndReason.OTHER_ERROR
        record = site.log.take()
        assert record.getMessage().endswith(": its handler raised")
        assert record.exc_info is not None
        assert record.exc_info[0] is LookupError
        assert await shown_to(site, "fine") == certificate().der


async def test_a_callback_that_takes_too_long(autojump_clock: MockClock) -> None:
    async def choose(hello: ClientHello, connection: Connection) -> None:
        await trio.sleep_forever()

    async with serving_tls(tls(choose=choose, handshake_seconds=3)) as site:
        with pytest.raises(ssl.SSLEOFError):
            await site.peer()
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        assert await site.ended() is EndReason.TLS_HANDSHAKE_TIMEOUT


async def test_options_that_a_callback_returns_are_kept(autojump_clock: MockClock) -> None:
    """Equal ones make one context, so that a session can be resumed."""

    async def choose(hello: ClientHello, connection: Connection) -> TlsOptions:
        return TlsOptions(minimum_version=TlsVersion.TLS_1_3)

    echo = Echo()
    async with serving_tls(tls(choose=choose), echo) as site:
        context = trusting()
        first = await site.peer(context)
        assert await first.ask(b"x") == b"x"
        second = await site.peer(context, session=first.session.session)
        assert await second.ask(b"x") == b"x"
    assert [info.resumed for info in echo.infos] == [False, True]
