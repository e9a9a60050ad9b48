"""What TLS may be told, and the sentence for what it may not. No file, no handshake."""

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import attrs
import pytest

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.features import ClientHello
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.protocol import Sniff
from kestrel_core.server import Server
from kestrel_middleware.detect import Detect
from kestrel_middleware.tls import ClientCertificates, Tls, TlsClient, TlsOptions, TlsVersion
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1
from tests.http1_site import hello
from tests.tls_site import certificate, server_context, tls

make_tls = cast("Callable[..., Tls]", Tls)
make_client = cast("Callable[..., TlsClient]", TlsClient)


async def choose(hello: ClientHello, connection: Connection) -> None:
    """Have no opinion."""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"handshake_seconds": 0}, "handshake_seconds must be above zero, not 0"),
        ({"max_handshakes": 0}, "max_handshakes must be above zero, not 0"),
        ({"session_tickets": -1}, "session_tickets must be zero or above, not -1"),
        ({"reload_seconds": 0}, "reload_seconds must be above zero, not 0"),
        ({"hosts": {"a b": TlsOptions()}}, "'a b' is no server name; write"),
        ({"alpn": [""]}, "alpn has names of 1 to 255 ASCII characters, such as h2, not ''"),
        ({"alpn": ["h2", "x" * 256]}, "alpn has names of 1 to 255 ASCII characters"),
        ({"alpn": "hä"}, "alpn has names of 1 to 255 ASCII characters, such as h2, not 'hä'"),
    ],
)
def test_values_that_make_no_sense(given: dict[str, object], sentence: str) -> None:
    issued = certificate()
    with pytest.raises(ValueError, match=f"^{sentence}") as caught:
        make_tls(certificate=issued.chain, key=issued.key, **given)
    assert not isinstance(caught.value, ConfigurationError)
    if "alpn" in given:
        with pytest.raises(ValueError, match=f"^{sentence}"):
            make_client(**given)


@pytest.mark.parametrize("given", [{"key": b""}, {"chain": b""}])
def test_a_key_without_a_certificate(given: dict[str, bytes]) -> None:
    for make in (make_tls, cast("Callable[..., TlsOptions]", TlsOptions)):
        with pytest.raises(ValueError, match=r"^a key, or a chain, needs a certificate$"):
            make(**given)


ISSUED = {"certificate": certificate().chain, "key": certificate().key}
EITHER = "tls takes either a context, or a certificate and a callback, not both"
ASKED = (
    "clients are asked for certificates, but client_authorities, which says who may certify them,"
    " is not given"
)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "tls needs a certificate"),
        ({"hosts": {"a": TlsOptions()}}, "TLS needs a certificate; give it as `certificate`"),
        ({"context": server_context(), **ISSUED}, EITHER),
        ({"context": server_context(), "choose": choose}, EITHER),
        ({"ciphers": "NONSENSE", **ISSUED}, "OpenSSL knows no cipher in 'NONSENSE'"),
        ({"client_certificates": ClientCertificates.REQUIRE, **ISSUED}, ASKED),
        ({"client_certificates": ClientCertificates.ALLOW, **ISSUED}, ASKED),
        (
            {"key_log_file": "/nowhere/keys", **ISSUED},
            "the key log file /nowhere/keys cannot be written: No such file or directory",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_tls(**given)
    assert str(caught.value) == sentence


def test_one_name_takes_from_all_others_what_it_does_not_say() -> None:
    everybody = TlsOptions(
        certificate=Path("a.pem"),
        key=Path("a.key"),
        password="secret",
        chain=Path("a.chain"),
        client_certificates=ClientCertificates.ALLOW,
        client_authorities=Path("ca.pem"),
        minimum_version=TlsVersion.TLS_1_3,
        ciphers="AES",
        alpn=["h2", "http/1.1"],
    )
    assert TlsOptions().over(everybody) == everybody
    own = TlsOptions(
        certificate=Path("b.pem"),
        client_certificates=ClientCertificates.NONE,
        minimum_version=TlsVersion.TLS_1_2,
        alpn=(),
    ).over(everybody)
    assert own == TlsOptions(
        certificate=Path("b.pem"),  # with its own key, in its own file
        client_certificates=ClientCertificates.NONE,
        client_authorities=Path("ca.pem"),
        minimum_version=TlsVersion.TLS_1_2,
        ciphers="AES",
        alpn=(),
    )
    assert TlsOptions(alpn="h2").alpn == ("h2",)


def test_secrets_are_not_shown() -> None:
    issued = certificate()
    options = TlsOptions(certificate=issued.chain, key=issued.key, password="secret")
    client = TlsClient(certificate=issued.chain, key=issued.key, password="secret")
    for shown in (repr(options), repr(client), repr(tls(hosts={"a": options}))):
        assert "secret" not in shown
        assert "PRIVATE KEY" not in shown
    assert "key=PosixPath('a.key')" in repr(TlsOptions(certificate=b"", key=Path("a.key")))


def test_each_is_one_of_its_kind() -> None:
    """Options are values; a layer has a life, and stands in sets and dictionaries."""
    assert TlsOptions(alpn="h2") == TlsOptions(alpn=["h2"])
    one, other = tls(), tls()
    assert one != other
    assert len({one, other}) == 2


def test_it_recognizes_a_client_hello() -> None:
    layer = tls()
    assert layer.sniff(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") is Sniff.YES
    assert layer.sniff(b"\x16") is Sniff.MORE
    assert layer.sniff(b"GET / HTTP/1.1\r\n") is Sniff.NO


async def pass_through(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)


@pytest.mark.parametrize(
    "stack",
    [
        lambda: ([tls(), tls()], http1()),
        lambda: ([tls(), pass_through, tls()], http1()),
        lambda: ([tls()], Detect([tls(), http1()])),
        lambda: ([tls(), pass_through], Detect([http1(), tls()])),
    ],
)
async def test_tls_inside_of_tls_is_refused(
    stack: Callable[[], tuple[Sequence[Middleware], Callable[[Connection], Awaitable[None]]]],
) -> None:
    middleware, handler = stack()
    server = Server()
    server.listen("memory://tls-in-tls", handler, middleware=middleware)
    with pytest.raises(
        ConfigurationError,
        match=r"^tls stands inside of tls, where no client expects it; take one away$",
    ):
        await server.serve()


def http1() -> Http1:
    return Http1(AsgiApplication(hello))


def test_the_documentation_has_each_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert rows[: len(attrs.fields(TlsOptions))] == [each.name for each in attrs.fields(TlsOptions)]
    assert set(rows) == {each.name for each in attrs.fields(Tls) if each.init}


def test_the_documentation_has_the_end_reasons() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
    named = set(re.findall(r"\| `(\w+)` \|$", page, re.MULTILINE))
    assert named <= {reason.value for reason in EndReason}
    assert {reason.value for reason in EndReason if "TLS" in reason.name} - named == {
        EndReason.TLS_NOT_SUPPORTED.value
    }
