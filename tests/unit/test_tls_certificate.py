"""Where certificates and keys come from, and the sentence for each that cannot be used."""

import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kestrel_core.errors import ConfigurationError
from kestrel_middleware.tls import ClientCertificates, Tls, TlsClient, TlsOptions
from kestrel_middleware.tls.certificate import Pem
from tests.tls_site import authority, certificate, handshake, trusting

make_tls = cast("Callable[..., Tls]", Tls)
make_options = cast("Callable[..., TlsOptions]", TlsOptions)
make_client = cast("Callable[..., TlsClient]", TlsClient)

CERTIFICATE = "the certificate cert.pem"
NO_KEY = "there is no key in it, or no certificate"
KEYLESS = "has no key with it, and none is given besides"
MISSING = "cannot be read: No such file or directory"


@cache
def encrypted_key() -> bytes:
    """Return the certificate's key, encrypted with a password."""
    key = serialization.load_pem_private_key(certificate().key, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )


@cache
def rsa_key() -> bytes:
    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make files, and be where they are."""
    issued = certificate()
    files = {
        "cert.pem": issued.chain,
        "key.pem": issued.key,
        "both.pem": issued.key + issued.chain,
        "encrypted.pem": encrypted_key(),
        "other.pem": certificate("other.example").key,
        "rsa.pem": rsa_key(),
        "cert.der": issued.der,
        "garbage": b"\x00\xff garbage",
        "half.pem": issued.chain[:200],
        "binary.pem": b"-----BEGIN CERTIFICATE-----\n\xff\xfe\n-----END CERTIFICATE-----\n",
        "empty": b"",
        "commented.pem": "# Főtanúsítvány\n".encode() + authority().cert_pem.bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        {"certificate": "cert.pem", "key": "key.pem"},
        {"certificate": Path("cert.pem"), "key": Path("key.pem")},
        {"certificate": "both.pem"},
        {"certificate": certificate().chain, "key": certificate().key},
        {"certificate": certificate().chain + certificate().key},
        {"certificate": certificate().chain, "key": "key.pem"},
        {"certificate": "cert.pem", "key": "encrypted.pem", "password": "sesame"},
        {"certificate": "cert.pem", "key": encrypted_key(), "password": "sesame"},
        {"certificate": certificate().chain + encrypted_key(), "password": "sesame"},
    ],
    ids=lambda given: ", ".join(f"{name} {type(each).__name__}" for name, each in given.items()),
)
def test_what_can_be_used(given: dict[str, object]) -> None:
    layer = make_tls(**given)
    served = layer.contexts.get(layer, ())
    assert served.certificate == certificate().der
    client, _ = handshake(trusting(), served.context)
    assert client.getpeercert(binary_form=True) == certificate().der


def test_a_chain() -> None:
    """The intermediate certificates are in the certificate's file, or beside it."""
    leaf = authority().create_child_ca().issue_cert("server.example")
    own, intermediate = [each.bytes() for each in leaf.cert_chain_pems]
    key = leaf.private_key_pem.bytes()
    Path("intermediate.pem").write_bytes(intermediate)

    def verified(certificate: Pem, key: Pem | None, chain: Pem | None = None) -> bool:
        layer = Tls(certificate=certificate, key=key, chain=chain)
        try:
            handshake(trusting(), layer.contexts.get(layer, ()).context)
        except ssl.SSLCertVerificationError:
            return False
        return True

    assert verified(own + intermediate, key)
    assert verified(own, key, intermediate)
    assert verified(own + key, None, Path("intermediate.pem"))
    assert not verified(own, key)


UNUSABLE: list[tuple[dict[str, object], str]] = [
    ({"certificate": "none.pem", "key": "key.pem"}, f"the certificate none.pem {MISSING}"),
    ({"certificate": "cert.pem", "key": "none.pem"}, f"the key none.pem {MISSING}"),
    ({"certificate": "both.pem", "chain": "none.pem"}, f"the certificate chain none.pem {MISSING}"),
    ({"certificate": "folder"}, "the certificate folder cannot be read: Is a directory"),
    ({"certificate": "cert.pem"}, f"{CERTIFICATE} {KEYLESS}"),
    ({"certificate": certificate().chain}, f"the certificate {KEYLESS}"),
    (
        {"certificate": "cert.pem", "key": "encrypted.pem"},
        f"{CERTIFICATE} with the key encrypted.pem cannot be used: the key is encrypted;"
        " give its password",
    ),
    (
        {"certificate": "cert.pem", "key": "encrypted.pem", "password": "open"},
        f"{CERTIFICATE} with the key encrypted.pem cannot be used: the password is wrong",
    ),
    (
        {"certificate": "cert.pem", "key": encrypted_key(), "password": ""},
        f"{CERTIFICATE} cannot be used: the password is wrong",
    ),
    (
        {"certificate": "cert.pem", "key": "encrypted.pem", "password": "x" * 2000},
        f"{CERTIFICATE} with the key encrypted.pem cannot be used: password cannot be longer than"
        " 1024 bytes",
    ),
    (
        {"certificate": "cert.pem", "key": "other.pem"},
        f"{CERTIFICATE} with the key other.pem cannot be used: the key belongs to another"
        " certificate",
    ),
    (
        {"certificate": "cert.pem", "key": "rsa.pem"},
        f"{CERTIFICATE} with the key rsa.pem cannot be used: the key belongs to another certificate",
    ),
    (
        {"certificate": "garbage", "key": "key.pem"},
        "there is no certificate in garbage; it is to be PEM",
    ),
    ({"certificate": "empty"}, "there is no certificate in empty; it is to be PEM"),
    (
        {"certificate": "cert.der"},
        "there is no certificate in cert.der; it is to be PEM",
    ),
    (
        {"certificate": "half.pem"},
        "there is no certificate in half.pem; it is to be PEM",
    ),
    (
        {"certificate": "binary.pem", "key": certificate().key},
        f"the certificate binary.pem cannot be used: {NO_KEY}",
    ),
    (
        {"certificate": "cert.pem", "key": "garbage"},
        f"{CERTIFICATE} with the key garbage cannot be used: {NO_KEY}",
    ),
    (
        {"certificate": "both.pem", "chain": "garbage"},
        "there is no certificate in the chain of the certificate both.pem",
    ),
]


@pytest.mark.parametrize(("given", "sentence"), UNUSABLE, ids=[each[1] for each in UNUSABLE])
def test_what_cannot_be_used(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_tls(**given)
    assert str(caught.value) == sentence
    with pytest.raises(ConfigurationError) as caught:
        Tls(certificate=Path("both.pem"), hosts={"a.example": make_options(**given)})
    assert str(caught.value) == sentence
    if "chain" not in given:
        with pytest.raises(ConfigurationError) as caught:
            make_client(**given)
        assert str(caught.value) == sentence


AUTHORITIES: list[tuple[object, str]] = [
    ("none.pem", f"the file of %s none.pem {MISSING}"),
    ("garbage", "there is no certificate in %s garbage; it is to be PEM"),
    (b"garbage", "there is no certificate in %s; it is to be PEM"),
    ("key.pem", "there is no certificate in %s key.pem; it is to be PEM"),
]


@pytest.mark.parametrize(("given", "sentence"), AUTHORITIES, ids=[each[1] for each in AUTHORITIES])
def test_authorities_that_cannot_be_used(given: object, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_client(authorities=given)
    assert str(caught.value) == sentence % "authorities"
    with pytest.raises(ConfigurationError) as caught:
        make_tls(
            certificate="both.pem",
            client_certificates=ClientCertificates.REQUIRE,
            client_authorities=given,
        )
    assert str(caught.value) == sentence % "client_authorities"


def test_names_of_authorities_need_not_be_ascii() -> None:
    """They stand in comments, as in the list of Mozilla's authorities that curl publishes."""
    TlsClient(authorities=Path("commented.pem"))
    layer = Tls(
        certificate=Path("both.pem"),
        client_certificates=ClientCertificates.REQUIRE,
        client_authorities=Path("commented.pem"),
    )
    assert layer.contexts.get(layer, ()).context.cert_store_stats()["x509_ca"] == 1
