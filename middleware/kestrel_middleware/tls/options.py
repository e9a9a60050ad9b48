"""What one server name is served with: a certificate and the rules of the handshake."""

import ssl
from collections.abc import Sequence
from enum import Enum

import attrs

from kestrel_middleware.tls.certificate import Pem, pem, shown

__all__ = ["ClientCertificates", "TlsOptions", "TlsVersion", "alpn_names"]


class ClientCertificates(Enum):
    """Whether a client is asked for a certificate."""

    NONE = "none"
    ALLOW = "allow"
    """It is asked; one without goes on, one whose certificate does not verify does not."""
    REQUIRE = "require"

    @property
    def verify_mode(self) -> ssl.VerifyMode:
        """What OpenSSL calls it."""
        return _VERIFY_MODES[self]


_VERIFY_MODES = {
    ClientCertificates.NONE: ssl.CERT_NONE,
    ClientCertificates.ALLOW: ssl.CERT_OPTIONAL,
    ClientCertificates.REQUIRE: ssl.CERT_REQUIRED,
}


class TlsVersion(Enum):
    """A version that may be the lowest; what is older is broken (RFC 8996)."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"

    @property
    def number(self) -> ssl.TLSVersion:
        """What OpenSSL calls it."""
        return ssl.TLSVersion.TLSv1_3 if self is TlsVersion.TLS_1_3 else ssl.TLSVersion.TLSv1_2


def alpn_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return `given`, one name or several, for attrs fields.

    Raises:
        ValueError: one cannot be a name (RFC 7301, 3.1).
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if not (name.isascii() and 1 <= len(name) <= 255):
            raise ValueError(
                f"alpn has names of 1 to 255 ASCII characters, such as h2, not {name!r}"
            )
    return names


@attrs.frozen(kw_only=True)
class TlsOptions:
    """Options for one server name; what is None here is as for all names.

    Raises:
        ValueError: a key or a chain without a certificate.
    """

    certificate: Pem | None = attrs.field(
        default=None, converter=attrs.converters.optional(pem), repr=shown
    )
    """The certificate: the path of a PEM file, with the chain behind it; or PEM data, as bytes."""
    key: Pem | None = attrs.field(
        default=None, converter=attrs.converters.optional(pem), repr=shown
    )
    """The private key, likewise; without it, the certificate's file has it."""
    password: str | None = attrs.field(default=None, repr=False)
    """What the key is encrypted with."""
    chain: Pem | None = attrs.field(
        default=None, converter=attrs.converters.optional(pem), repr=shown
    )
    """Intermediate certificates, where the certificate's file lacks them."""
    client_certificates: ClientCertificates | None = None
    """Whether clients are asked for a certificate: none, allow or require."""
    client_authorities: Pem | None = attrs.field(
        default=None, converter=attrs.converters.optional(pem), repr=shown
    )
    """The certificates of those who may certify clients."""
    minimum_version: TlsVersion | None = None
    """The lowest version that is spoken: 1.2 or 1.3."""
    ciphers: str | None = None
    """The cipher suites of TLS 1.2, in OpenSSL's format; those of TLS 1.3 cannot be chosen."""
    alpn: Sequence[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(alpn_names)
    )
    """The protocols that are offered, the most wanted first; without, what the endpoint serves."""

    def __attrs_post_init__(self) -> None:
        if self.certificate is None and (self.key is not None or self.chain is not None):
            raise ValueError("a key, or a chain, needs a certificate")

    def over(self, defaults: "TlsOptions") -> "TlsOptions":
        """Return these, with what is None taken from `defaults`.

        A certificate comes with its own key, password and chain, or with none.
        """
        own = {
            field.name: getattr(self, field.name)
            for field in attrs.fields(TlsOptions)
            if getattr(self, field.name) is not None
        }
        if "certificate" in own:
            own = {"key": None, "password": None, "chain": None} | own
        taken = {field.name: getattr(defaults, field.name) for field in attrs.fields(TlsOptions)}
        return TlsOptions(**(taken | own))
