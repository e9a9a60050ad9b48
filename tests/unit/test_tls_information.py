"""What is told of a finished handshake."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kestrel_core.features import TlsInfo
from kestrel_middleware.tls import ClientCertificates
from kestrel_middleware.tls.information import tls_info
from tests.tls_site import Issued, authority, certificate, handshake, tls, tls_1_2, trusting

# The attributes that both sides call the same; RFC 4514, 3.
NAMED = [
    NameOID.COMMON_NAME,
    NameOID.LOCALITY_NAME,
    NameOID.STATE_OR_PROVINCE_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.STREET_ADDRESS,
    NameOID.USER_ID,
]

# What a name may hold, and above all what must be escaped in one.
characters = st.one_of(
    st.sampled_from(' "#+,;<=>\\\0\n'), st.characters(exclude_categories=["Cs", "Cn"])
)
attributes = st.builds(
    x509.NameAttribute,
    st.sampled_from(NAMED),
    st.text(characters, min_size=1, max_size=12),
)
parts = st.lists(attributes, min_size=1, max_size=2, unique_by=lambda each: each.oid).map(
    x509.RelativeDistinguishedName
)
subjects = st.lists(parts, max_size=3).map(x509.Name)


@cache
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def issue(subject: x509.Name) -> Issued:
    """Have the authority certify a client that is called so."""
    ca_key = serialization.load_pem_private_key(authority().private_key_pem.bytes(), None)
    ca = x509.load_pem_x509_certificate(authority().cert_pem.bytes())
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject)
        .public_key(key().public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(ca_key, hashes.SHA256())
    )
    return Issued(
        made.public_bytes(serialization.Encoding.PEM),
        key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


@cache
def asking() -> ssl.SSLContext:
    """Return a server's context that asks clients for certificates."""
    layer = tls(
        client_certificates=ClientCertificates.REQUIRE,
        client_authorities=authority().cert_pem.bytes(),
    )
    return layer.contexts.get(layer, ()).context


def learned(client: ssl.SSLContext, server: ssl.SSLContext) -> TlsInfo:
    """Return what the server learns from a handshake."""
    _, session = handshake(client, server)
    return tls_info(session, server_name="a", own_certificate=b"own")


@settings(max_examples=60, deadline=None)
@given(subjects)
@example(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, " ")]))
@example(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "  ")]))
@example(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "#")]))
@example(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "\\ ")]))
@example(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a\0b")]))
@example(x509.Name([]))
def test_names_are_written_as_rfc_4514_says(subject: x509.Name) -> None:
    issued = issue(subject)
    info = learned(trusting(client=issued), asking())
    expected = x509.load_der_x509_certificate(issued.der).subject.rfc4514_string()
    assert info.peer_name == expected
    assert info.peer_certificates[0] == issued.der


def test_a_usual_name() -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Salt, Pepper & Co."),
            x509.NameAttribute(NameOID.COMMON_NAME, "door 7"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "door@example.com"),
        ]
    )
    info = learned(trusting(client=issue(subject)), asking())
    assert info.peer_name == ("emailAddress=door@example.com,CN=door 7,O=Salt\\, Pepper & Co.,C=DE")


def test_all_of_it() -> None:
    info = learned(trusting(), asked_nothing())
    assert info == TlsInfo(
        version="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        cipher_suite=0x1302,
        alpn=None,
        server_name="a",
        resumed=False,
        peer_certificates=(),
        peer_name=None,
        own_certificate=b"own",
    )
    info = learned(tls_1_2(), asked_nothing())
    assert (info.version, info.cipher, info.cipher_suite) == (
        "TLSv1.2",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        0xC02C,
    )


def asked_nothing() -> ssl.SSLContext:
    layer = tls()
    return layer.contexts.get(layer, ()).context


@pytest.mark.parametrize("client", [trusting, tls_1_2])
def test_a_client_learns_the_servers_certificate(client: Callable[[], ssl.SSLContext]) -> None:
    session, _ = handshake(client(), asked_nothing())
    info = tls_info(session, server_name=None, own_certificate=None)
    assert info.peer_certificates[0] == certificate().der
    assert info.peer_name is not None


def test_a_certificate_that_was_not_verified_has_no_name() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session, _ = handshake(context, asked_nothing())
    info = tls_info(session, server_name=None, own_certificate=None)
    assert info.peer_certificates[0] == certificate().der
    assert info.peer_name is None
