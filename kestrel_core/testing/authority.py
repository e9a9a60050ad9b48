"""A certificate authority for tests; it needs the extra `testing`.

All certificates for the same names are of the same length, and so are signatures by their keys.
With it every flight of a handshake has its length, and a simulated network with TLS can be replayed.
"""

import ipaddress
import secrets
from datetime import UTC, datetime

import attrs
import idna
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Identity"]

_NOT_BEFORE, _NOT_AFTER = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)

_ORGANIZATION = "kestrel, for tests"


@attrs.frozen
class Identity:
    """Who somebody is, in PEM: what a server, or a client that is asked, shows and proves."""

    certificate_chain: bytes
    """The certificate, and behind it those of all authorities between it and the root."""
    key: bytes = attrs.field(repr=False)


class Authority:
    """An authority that nobody trusts who is not told to.

    One with an `issuer` is trusted by those who trust that, as what it issues has its certificate
    along. Keys are of Ed25519, which OpenSSL knows and browsers may not. Making an authority, or
    issuing, takes less than half a millisecond, and there is no need to share them::

        authority = Authority()
        identity = authority.issue("testserver")
        server = Tls(certificate=identity.certificate_chain, key=identity.key)
        client = TlsClient(authorities=authority.pem)
    """

    def __init__(self, issuer: "Authority | None" = None) -> None:
        self._key = Ed25519PrivateKey.generate()
        public_key = self._key.public_key()
        # Each has a name of its own: one named like its issuer would pass for self-issued.
        common_name = f"authority {public_key.public_bytes_raw().hex()[:16]}"
        self._name = _distinguished_name(common_name)
        signer = issuer or self
        self._certificate: bytes = signer._sign(
            _builder(self._name, public_key, _NOT_BEFORE, _NOT_AFTER)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(of_authority=True), critical=True)
        )
        # The root, whom one trusts or not, is not shown.
        self._chain: bytes = self._certificate + issuer._chain if issuer else b""

    @property
    def pem(self) -> bytes:
        """Its own certificate, for whoever is to trust it."""
        return self._certificate

    def issue(
        self,
        *names: str,
        common_name: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Identity:
        """Return a new identity that this authority vouches for, for servers and for clients.

        A name is a host's, with a "*" as its first label or without, an IP address, or an e-mail
        address. A client may do with a `common_name` alone. It is good from `not_before`, the year
        2000 unless given, to `not_after`, the year 3000; times without a zone are in UTC.

        Raises:
            ValueError: there is neither a name nor a `common_name`, or a name is none.
        """
        if not names and common_name is None:
            raise ValueError("an identity needs a name or a common_name")
        key = Ed25519PrivateKey.generate()
        subject = _distinguished_name(common_name)
        builder = (
            _builder(subject, key.public_key(), not_before or _NOT_BEFORE, not_after or _NOT_AFTER)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(of_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
        )
        if names:  # RFC 5280, section 4.2.1.6: at least one, or no extension
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(self._sign(builder) + self._chain, pem)

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        """Return the certificate, with the name and the key of this authority as its issuer's."""
        certificate = (
            builder.issuer_name(self._name)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, algorithm=None)  # Ed25519 has its own
        )
        return certificate.public_bytes(Encoding.PEM)


def _builder(
    subject: x509.Name, key: Ed25519PublicKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    """Return what certificates of authorities and of others have in common."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(1 << 126 | secrets.randbits(126))  # DER leaves leading zeros out: have none
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _distinguished_name(common_name: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION)]
    if common_name is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(attributes)


def _key_usage(*, of_authority: bool) -> x509.KeyUsage:
    """Return what a key may do: of what RFC 8410, section 5, allows to Ed25519, what one needs."""
    return x509.KeyUsage(
        digital_signature=not of_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    if "@" in name:
        return x509.RFC822Name(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    wildcard = "*." if name.startswith("*.") else ""
    return x509.DNSName(wildcard + idna.encode(name.removeprefix("*."), uts46=True).decode())
