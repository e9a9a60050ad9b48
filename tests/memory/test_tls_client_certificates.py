"""Clients that are asked who they are."""

import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_middleware.tls import ClientCertificates, Tls
from tests.tls_site import (
    Echo,
    Issued,
    TlsPeer,
    TlsSite,
    authority,
    certificate,
    expired,
    serving_tls,
    stranger,
    tls,
    trusting,
)

NONE, ALLOW, REQUIRE = ClientCertificates

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

by_each_version = pytest.mark.parametrize("version", VERSIONS)


def alice() -> Issued:
    return certificate("alice.example", common_name="Alice, of Example")


def asking(how: ClientCertificates) -> Tls:
    return tls(client_certificates=how, client_authorities=authority().cert_pem.bytes())


async def speak(
    site: TlsSite, version: ssl.TLSVersion, client: Issued | None
) -> tuple[TlsPeer, bytes | str]:
    """Shake hands and say something; return what comes back, which may be an alert's name."""
    peer = TlsPeer(await site.connect(), trusting(highest=version, client=client))
    try:
        await peer.shake_hands()
        return peer, await peer.ask(b"hello")
    except ssl.SSLError as error:
        return peer, error.reason


@by_each_version
@pytest.mark.parametrize("how", [NONE, ALLOW])
async def test_one_without(
    how: ClientCertificates, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    echo = Echo()
    async with serving_tls(asking(how), echo) as site:
        _, answer = await speak(site, version, None)
        assert answer == b"hello"
    assert [(info.peer_certificates, info.peer_name) for info in echo.infos] == [((), None)]


@by_each_version
async def test_one_that_nobody_asks(version: ssl.TLSVersion, autojump_clock: MockClock) -> None:
    echo = Echo()
    async with serving_tls(asking(NONE), echo) as site:
        _, answer = await speak(site, version, alice())
        assert answer == b"hello"
    assert [(info.peer_certificates, info.peer_name) for info in echo.infos] == [((), None)]


@by_each_version
@pytest.mark.parametrize("how", [ALLOW, REQUIRE])
async def test_one_with_a_good_certificate(
    how: ClientCertificates, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    echo = Echo()
    async with serving_tls(asking(how), echo) as site:
        _, answer = await speak(site, version, alice())
        assert answer == b"hello"
    (info,) = echo.infos
    assert info.peer_certificates[0] == alice().der
    assert info.peer_name is not None
    assert info.peer_name.startswith("CN=Alice\\, of Example,OU=Testing cert #")


@by_each_version
async def test_one_without_where_it_is_required(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    echo = Echo()
    async with serving_tls(asking(REQUIRE), echo) as site:
        _, answer = await speak(site, version, None)
        old = version is ssl.TLSVersion.TLSv1_2
        assert answer == (
            "SSLV3_ALERT_HANDSHAKE_FAILURE" if old else "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        )
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        _, answer = await speak(site, version, alice())
        assert answer == b"hello"
    assert len(echo.infos) == 1  # what came along with the handshake was shown to nobody


@by_each_version
@pytest.mark.parametrize("how", [ALLOW, REQUIRE])
@pytest.mark.parametrize(
    ("client", "alert"),
    [
        (lambda: certificate("alice.example", by=stranger), "TLSV1_ALERT_UNKNOWN_CA"),
        (lambda: expired("alice.example"), "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
    ],
    ids=["of another authority", "expired"],
)
async def test_one_with_a_bad_certificate(
    client: Callable[[], Issued],
    alert: str,
    how: ClientCertificates,
    version: ssl.TLSVersion,
    autojump_clock: MockClock,
) -> None:
    """Allowed or required: what is shown must be good."""
    echo = Echo()
    async with serving_tls(asking(how), echo) as site:
        _, answer = await speak(site, version, client())
        assert answer == alert
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        _, answer = await speak(site, version, alice())
        assert answer == b"hello"
    assert len(echo.infos) == 1


@by_each_version
async def test_a_resumed_session_still_knows_who_it_is(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    echo = Echo()
    async with serving_tls(asking(REQUIRE), echo) as site:
        context = trusting(highest=version, client=alice())
        first = await site.peer(context)
        assert await first.ask(b"x") == b"x"
        second = await site.peer(context, session=first.session.session)
        assert await second.ask(b"x") == b"x"
    assert [info.resumed for info in echo.infos] == [False, True]
    assert echo.infos[0].peer_name == echo.infos[1].peer_name is not None
    assert echo.infos[0].peer_certificates[:1] == echo.infos[1].peer_certificates[:1] != ()


@by_each_version
async def test_a_chain(version: ssl.TLSVersion, autojump_clock: MockClock) -> None:
    """Which Python tells of from 3.13 on; before, there is the certificate alone."""
    leaf = authority().create_child_ca().issue_cert("alice.example")
    own, intermediate = [each.bytes() for each in leaf.cert_chain_pems]
    client = Issued(own + intermediate, leaf.private_key_pem.bytes())
    echo = Echo()
    async with serving_tls(asking(REQUIRE), echo) as site:
        _, answer = await speak(site, version, client)
        assert answer == b"hello"
    expected = [ssl.PEM_cert_to_DER_cert(each.decode()) for each in (own, intermediate)]
    known = 2 if sys.version_info >= (3, 13) else 1
    assert list(echo.infos[0].peer_certificates) == expected[:known]


async def test_authorities_in_a_file(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Several of them, as they are put together with cat."""
    path = tmp_path / "ca.pem"
    path.write_bytes(stranger().cert_pem.bytes() + authority().cert_pem.bytes())
    layer = tls(client_certificates=REQUIRE, client_authorities=path)
    async with serving_tls(layer, Echo()) as site:
        for client in (alice(), certificate("alice.example", by=stranger)):
            _, answer = await speak(site, ssl.TLSVersion.TLSv1_3, client)
            assert answer == b"hello"
