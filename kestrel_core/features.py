"""What is known about a connection, keyed by the class of the knowledge.

A transport or a middleware publishes a frozen instance of a class that this module defines (or
that the publishing package defines); everybody else reads it by that class, typed. There are no
string keys, so a misspelt one is an error of the type checker and not of the night.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import attrs

__all__ = [
    "ClientHello",
    "FeatureSource",
    "Features",
    "PeerCredentials",
    "ProxyInfo",
    "ProxyTls",
    "SocketInfo",
    "TlsInfo",
]

FeatureT = TypeVar("FeatureT")


class FeatureSource(ABC):
    """Somebody who can tell a feature when it is asked for, and need not keep it until then."""

    __slots__ = ()

    @abstractmethod
    def find_feature(self, kind: type[object]) -> object | None:
        """Return an instance of exactly `kind`, or None."""


class Features:
    """A map from a class to the one instance of it that somebody published.

    What nobody published is asked of `source`. Not meant for concurrent use by threads. It costs
    nothing until something is published.
    """

    __slots__ = ("_published", "_source")

    def __init__(self, source: FeatureSource | None = None) -> None:
        self._published: dict[type[object], object] | None = None
        self._source = source

    def publish(self, feature: object) -> None:
        """Make `feature` the instance for its class, replacing an earlier one."""
        if self._published is None:
            self._published = {}
        self._published[type(feature)] = feature

    def publish_later(self, kind: type[FeatureT], make: Callable[[], FeatureT | None]) -> None:
        """Have `make` return the instance of `kind` when somebody asks for it; None is none.

        For what takes time to find out and is seldom asked for. `make` is called once at most.
        """
        if self._published is None:
            self._published = {}
        self._published[kind] = _Later(make)

    def get(self, kind: type[FeatureT]) -> FeatureT | None:
        """Return the published instance of exactly `kind`, or None."""
        feature = None if self._published is None else self._published.get(kind)
        if feature is None:
            if self._source is None:
                return None
            feature = self._source.find_feature(kind)
        elif type(feature) is _Later:
            feature = self._resolve(kind, feature)
        return cast("FeatureT | None", feature)  # as `publish` and `find_feature` have it

    def _resolve(self, kind: type[object], later: "_Later") -> object | None:
        assert self._published is not None
        feature = later.make()
        if feature is None:
            del self._published[kind]
        else:
            self._published[kind] = feature
        return feature

    def __getitem__(self, kind: type[FeatureT]) -> FeatureT:
        """Return the published instance of exactly `kind`.

        Raises:
            KeyError: nobody published one.
        """
        feature = self.get(kind)
        if feature is None:
            raise KeyError(kind)
        return feature

    def __contains__(self, kind: type[object]) -> bool:
        """Tell whether there is one, or will be when it is asked for."""
        if self._published is not None and kind in self._published:
            return True
        return self._source is not None and self._source.find_feature(kind) is not None


@attrs.frozen
class _Later:
    """Stands for a feature that nobody has asked for yet."""

    make: Callable[[], object | None]


@attrs.frozen
class SocketInfo:
    """The operating system's socket under a connection whose pipe still is that socket.

    `fileno` stays owned by the transport: do not close it, and do not read or write through it
    while a pipe is in use.
    """

    fileno: int


@attrs.frozen
class PeerCredentials:
    """Who is at the other end of a Unix socket, as the kernel recorded it at connect time."""

    process_id: int
    user_id: int
    group_id: int


@attrs.frozen(kw_only=True)
class ClientHello:
    """What a TLS client said first, before anything was decided (RFC 8446, 4.1.2).

    Numbers are those of IANA's registries, in the client's order; GREASE values (RFC 8701) are
    left out.
    """

    server_name: str | None
    """The host that it wants to talk to (SNI), in lower case, or None."""
    alpn: Sequence[str]
    """The protocols that it offers."""
    versions: Sequence[int]
    """The versions that it offers, such as 0x0304 for TLS 1.3."""
    cipher_suites: Sequence[int]
    extensions: Sequence[int]
    """The types of its extensions."""
    signature_algorithms: Sequence[int]
    fingerprint: str
    """Its JA4 fingerprint, such as "t13d1516h2_8daaf6152771_e5627efa2ab1"."""
    raw: bytes
    """The handshake message itself, without the records that it came in."""


@attrs.frozen(kw_only=True)
class TlsInfo:
    """What was agreed on in a TLS handshake, and with whom."""

    version: str
    """"TLSv1.3" or "TLSv1.2"."""
    cipher: str
    """The name of the cipher suite, as OpenSSL has it."""
    cipher_suite: int | None
    """Its number in IANA's registry, or None where that cannot be told."""
    alpn: str | None
    """The protocol that was agreed on, or None if none was."""
    server_name: str | None
    """The host that the client asked for, or None."""
    resumed: bool
    """Whether an earlier session was taken up again."""
    peer_certificates: Sequence[bytes]
    """The peer's certificate and then its chain as sent, in DER; empty if it showed none.

    Before Python 3.13 there is no way to the chain, and this has the certificate alone."""
    peer_name: str | None
    """The subject of the peer's certificate (RFC 4514) where it was verified, or None."""
    own_certificate: bytes | None
    """The certificate that we showed, in DER, or None if that is not known."""


@attrs.frozen(kw_only=True)
class ProxyTls:
    """What a PROXY header says of the TLS between the client and the proxy."""

    version: str | None
    """As the proxy wrote it, such as "TLSv1.3"."""
    cipher: str | None
    client_common_name: str | None
    """The common name of the client's certificate."""
    client_certificate_on_connection: bool
    """Whether the client showed a certificate on this very connection."""
    client_certificate_in_session: bool
    """Whether it showed one at least once in its TLS session."""
    verified: bool
    """Whether it showed a certificate and that was verified."""


@attrs.frozen(kw_only=True)
class ProxyInfo:
    """What a PROXY header said, and whom it came from.

    The addresses themselves are in `Connection.local` and `Connection.remote`.
    """

    version: int
    """1 or 2."""
    is_local: bool
    """Whether the proxy speaks for itself, as health checks do; it then names no addresses."""
    alpn: str | None
    authority: str | None
    """The host that the client asked the proxy for (SNI)."""
    unique_id: bytes | None
    tls: ProxyTls | None
    """About the TLS that the proxy ended, or None if it did not."""
    tlvs: Sequence[tuple[int, bytes]]
    """All of the header's extensions: type and value."""
    header: bytes
    """The header itself."""
