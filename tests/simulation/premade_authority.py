"""An authority whose certificates are always the same, to the byte.

Ed25519 signs a text always alike, and the keys are made of a text that stands here. So all flights
of a handshake are always of the same size, and a simulated network cuts them at the same places.
"""

import hashlib
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kestrel_core.testing.authority import Authority, Identity

__all__ = ["PremadeAuthority"]

_FROM, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


class PremadeAuthority(Authority):
    """Issues certificates for servers."""

    def __init__(self) -> None:
        pass  # what is made of chance is left out

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return _root().public_bytes(Encoding.PEM)

    def issue(
        self,
        *names: str,
        common_name: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Identity:
        """Return the identity of somebody with these names."""
        return _issue(names)


def _key(of: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(of.encode()).digest())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@cache
def _root() -> x509.Certificate:
    key = _key("the authority of simulations")
    return (
        x509.CertificateBuilder(_named("root"), _named("root"), key.public_key(), 1, _FROM, _UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )


@cache
def _issue(names: tuple[str, ...]) -> Identity:
    key = _key("a server of simulations")
    authority = _key("the authority of simulations")
    certificate = (
        x509.CertificateBuilder(
            _named("root"), _named("server"), key.public_key(), 2, _FROM, _UNTIL
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
        .sign(authority, None)
    )
    return Identity(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
