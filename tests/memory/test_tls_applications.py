"""What applications are told of TLS: ASGI's scheme and `tls` extension, WSGI's variables."""

import ssl
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.features import ProxyInfo, ProxyTls
from kestrel_core.middleware import ConnectionHandler
from kestrel_middleware.detect import Detect
from kestrel_middleware.tls import ClientCertificates, Tls
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from kestrel_protocols.wsgi import WsgiApplication
from tests.http1_site import answer
from tests.raw_client import GET, RawClient
from tests.tls_site import (
    authority,
    certificate,
    server_context,
    serving_tls,
    tls,
    tls_1_2,
    trusting,
)


class Scopes:
    """An ASGI application that notes how it is called."""

    def __init__(self) -> None:
        self.all: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        self.all.append(scope)
        await answer(send)

    @property
    def http1(self) -> Http1:
        return Http1(AsgiApplication(self))

    @property
    def extension(self) -> dict[str, Any] | None:
        """What the only request was told of TLS."""
        (scope,) = self.all
        extension: dict[str, Any] | None = scope["extensions"].get("tls")
        return extension


def der(pem: str) -> bytes:
    """Return what is in a PEM text, as somebody else reads it."""
    loaded = x509.load_pem_x509_certificate(pem.encode())
    assert pem == loaded.public_bytes(serialization.Encoding.PEM).decode()
    return loaded.public_bytes(serialization.Encoding.DER)


# ASGI -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_context", "version", "cipher_suite"),
    [(tls_1_2, 0x0303, 0xC02C), (trusting, 0x0304, 0x1302)],
)
async def test_the_extension_without_a_client_certificate(
    make_context: Callable[[], ssl.SSLContext],
    version: int,
    cipher_suite: int,
    autojump_clock: MockClock,
) -> None:
    scopes = Scopes()
    async with serving_tls(handler=scopes.http1) as site:
        await (await site.client(make_context())).ask(GET)
    assert scopes.all[0]["scheme"] == "https"
    extension = scopes.extension
    assert extension is not None
    assert der(extension.pop("server_cert")) == certificate().der
    assert extension == {
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": version,
        "cipher_suite": cipher_suite,
    }


async def test_the_extension_with_a_client_certificate(autojump_clock: MockClock) -> None:
    scopes = Scopes()
    layer = tls(
        client_certificates=ClientCertificates.REQUIRE,
        client_authorities=authority().cert_pem.bytes(),
    )
    alice = certificate("alice", common_name="Alice")
    async with serving_tls(layer, scopes.http1) as site:
        await (await site.client(trusting(client=alice))).ask(GET)
    extension = scopes.extension
    assert extension is not None
    assert der(extension["client_cert_chain"][0]) == alice.der
    assert extension["client_cert_name"].startswith("CN=Alice,OU=")
    assert extension["client_cert_error"] is None


async def test_the_extension_is_made_once_for_a_connection(autojump_clock: MockClock) -> None:
    scopes = Scopes()
    async with serving_tls(handler=scopes.http1) as site:
        one, other = await site.client(), await site.client()
        await one.ask(GET)
        await one.ask(GET)
        await other.ask(GET)
    first, second, third = [scope["extensions"]["tls"] for scope in scopes.all]
    assert first is second
    assert first is not third


async def test_a_certificate_that_we_do_not_know(autojump_clock: MockClock) -> None:
    scopes = Scopes()
    async with serving_tls(Tls(context=server_context()), scopes.http1) as site:
        await (await site.client()).ask(GET)
    assert scopes.extension is not None
    assert scopes.extension["server_cert"] is None


async def test_both_on_one_port(autojump_clock: MockClock) -> None:
    scopes = Scopes()
    async with serving_tls(handler=Detect([tls(), scopes.http1]), middleware=()) as site:
        await (await site.client()).ask(GET)
        await RawClient(await site.connect()).ask(GET)
    assert [scope["scheme"] for scope in scopes.all] == ["https", "http"]
    assert ["tls" in scope["extensions"] for scope in scopes.all] == [True, False]


@pytest.mark.parametrize("spoken", [False, True])
async def test_a_proxy_that_speaks_tls(spoken: bool, autojump_clock: MockClock) -> None:
    """It is no TLS of ours, so there is nothing to tell but that."""
    about_tls = ProxyTls(
        version="TLSv1.3",
        cipher=None,
        client_common_name=None,
        client_certificate_on_connection=False,
        client_certificate_in_session=False,
        verified=False,
    )

    async def proxy(connection: Connection, following: ConnectionHandler) -> None:
        connection.features.publish(
            ProxyInfo(
                version=2,
                is_local=False,
                alpn=None,
                authority=None,
                unique_id=None,
                tls=about_tls if spoken else None,
                tlvs=(),
                header=b"",
            )
        )
        await following(connection)

    scopes = Scopes()
    async with serving_tls(handler=scopes.http1, middleware=[proxy]) as site:
        await RawClient(await site.connect()).ask(GET)
    assert scopes.all[0]["scheme"] == ("https" if spoken else "http")
    assert scopes.extension is None


# The others -------------------------------------------------------------------------------------


async def test_a_native_handler(autojump_clock: MockClock) -> None:
    async def tell(exchange: HttpExchange) -> None:
        await exchange.respond(200, [], exchange.scheme.encode())

    async with serving_tls(handler=Http1(tell)) as site:
        assert (await (await site.client()).ask(GET)).body == b"https"


async def test_wsgi() -> None:
    seen: list[tuple[object, ...]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        names = ("wsgi.url_scheme", "HTTPS", "SERVER_NAME", "SERVER_PORT")
        seen.append(tuple(environ.get(name) for name in names))
        start_response("200 OK", [("content-length", "0")])
        return []

    async with serving_tls(handler=Http1(WsgiApplication(application))) as site:
        await (await site.client()).ask(GET)
        await (await site.client()).ask(GET.replace(b"host: a", b"host: a:8443"))
    async with serving_tls(handler=Http1(WsgiApplication(application)), middleware=()) as site:
        await RawClient(await site.connect()).ask(GET)
    assert seen == [
        ("https", "on", "a", "443"),
        ("https", "on", "a", "8443"),
        ("http", None, "a", "80"),
    ]
