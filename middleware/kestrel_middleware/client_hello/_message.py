"""The ClientHello message itself (RFC 8446, 4.1.2), out of the records that it came in."""

import re
import struct
from collections.abc import Iterable, Sequence

from kestrel_core.features import ClientHello
from kestrel_middleware.client_hello._fingerprint import ja4

__all__ = ["HEADER_BYTES", "BadClientHello", "parse_client_hello", "server_name_of"]

# One byte that says which message it is, and three with the length of what follows.
HEADER_BYTES = 4

_VERSION_BYTES = 2
_RANDOM_BYTES = 32
_MOST_SESSION_ID_BYTES = 32

_SERVER_NAME = 0
_SIGNATURE_ALGORITHMS = 13
_ALPN = 16
_SUPPORTED_VERSIONS = 43

_HOST_NAME = 0
# OpenSSL's TLSEXT_MAXLEN_host_name; DNS allows less.
_MOST_HOST_NAME_BYTES = 255

# Letters, digits and hyphens in labels, and the underscore that some names have. What is left out
# has no place in a name that ends up in logs and in look-ups of certificates.
_HOST = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")

# Values that clients offer so that servers stay used to unknown ones (RFC 8701, section 2).
_GREASE = frozenset(0x0A0A + 0x1010 * step for step in range(16))


class BadClientHello(ValueError):
    """What a TLS client sent is no ClientHello; the text says what is wrong with it."""


def parse_client_hello(raw: bytes) -> ClientHello:
    """Return what the whole message `raw` says.

    Raises:
        BadClientHello: it is malformed.
    """
    body = _Fields(raw, HEADER_BYTES)
    version = body.number(2, "version")
    body.take(_RANDOM_BYTES, "random")
    if len(body.vector(1, "session id")) > _MOST_SESSION_ID_BYTES:
        raise BadClientHello("the session id of the ClientHello is longer than 32 bytes")
    suites = _numbers(body.vector(2, "cipher suites"), "cipher suites")
    if not body.vector(1, "compression methods"):
        raise BadClientHello("the ClientHello offers no compression method, not even none")
    extensions = _extensions(body)

    names = _alpn(extensions[_ALPN]) if _ALPN in extensions else []
    versions: Sequence[int] = (version,)
    if _SUPPORTED_VERSIONS in extensions:
        offered = _only_vector(extensions[_SUPPORTED_VERSIONS], 1, "supported versions")
        versions = _numbers(offered, "supported versions")
    algorithms: Sequence[int] = ()
    if _SIGNATURE_ALGORITHMS in extensions:
        offered = _only_vector(extensions[_SIGNATURE_ALGORITHMS], 2, "signature algorithms")
        algorithms = _numbers(offered, "signature algorithms")
    kinds = _without_grease(extensions)
    return ClientHello(
        server_name=_server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None,
        alpn=tuple(name.decode("latin-1") for name in names),
        versions=versions,
        cipher_suites=suites,
        extensions=kinds,
        signature_algorithms=algorithms,
        fingerprint=ja4(
            version=max(versions, default=0),
            cipher_suites=suites,
            extensions=kinds,
            first_alpn=names[0] if names else b"",
            signature_algorithms=algorithms,
        ),
        raw=raw,
    )


def server_name_of(raw: bytes) -> str | None:
    """Return only the server name of the whole message `raw`, at a fraction of the cost.

    Raises:
        BadClientHello: it is malformed as far as this looks.
    """
    body = _Fields(raw, HEADER_BYTES + _VERSION_BYTES + _RANDOM_BYTES)
    body.vector(1, "session id")
    body.vector(2, "cipher suites")
    body.vector(1, "compression methods")
    if body.at_end:
        return None
    content = _Fields(body.vector(2, "extensions"))
    while not content.at_end:
        kind = content.number(2, "extensions")
        extension = content.vector(2, "extensions")
        if kind == _SERVER_NAME:
            return _server_name(extension)
    return None


class _Fields:
    """The fields of a structure, taken one after the other."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self._position = position

    @property
    def at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, count: int, what: str) -> bytes:
        start, self._position = self._position, self._position + count
        if self._position > len(self._data):
            raise BadClientHello(f"the ClientHello ends within its {what}")
        return self._data[start : self._position]

    def number(self, width: int, what: str) -> int:
        return int.from_bytes(self.take(width, what), "big")

    def vector(self, width: int, what: str) -> bytes:
        """Take what has its length, in `width` bytes, before it (RFC 8446, 3.4)."""
        return self.take(self.number(width, what), what)


def _only_vector(data: bytes, width: int, what: str) -> bytes:
    fields = _Fields(data)
    content = fields.vector(width, what)
    if not fields.at_end:
        raise BadClientHello(f"bytes follow the {what} of the ClientHello")
    return content


def _numbers(data: bytes, what: str) -> tuple[int, ...]:
    if not data or len(data) % 2:
        raise BadClientHello(
            f"the {what} of the ClientHello have {len(data)} bytes, not some pairs"
        )
    return _without_grease(struct.unpack(f">{len(data) // 2}H", data))


def _without_grease(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple([number for number in numbers if number not in _GREASE])


def _extensions(body: _Fields) -> dict[int, bytes]:
    """Return the contents of the extensions by type, in order."""
    found: dict[int, bytes] = {}
    if body.at_end:  # as clients of TLS 1.2 and before may
        return found
    content = _Fields(body.vector(2, "extensions"))
    if not body.at_end:
        raise BadClientHello("bytes follow the extensions of the ClientHello")
    while not content.at_end:
        kind = content.number(2, "extensions")
        if kind in found:
            raise BadClientHello(f"the ClientHello has the extension {kind} twice")
        found[kind] = content.vector(2, "extensions")
    return found


def _server_name(extension: bytes) -> str | None:
    """Return the host that the extension names (RFC 6066, section 3)."""
    names = _Fields(_only_vector(extension, 2, "server name"))
    if names.at_end:
        raise BadClientHello("the server name of the ClientHello is an empty list")
    host: str | None = None
    while not names.at_end:
        kind = names.number(1, "server name")
        name = names.vector(2, "server name")
        if kind == _HOST_NAME:
            if host is not None:
                raise BadClientHello("the ClientHello names two servers")
            host = _host(name)
    return host


def _host(name: bytes) -> str:
    host = name.lower().removesuffix(b".")  # which some clients send, though they must not
    if len(host) > _MOST_HOST_NAME_BYTES or _HOST.fullmatch(host) is None:
        raise BadClientHello(f"the server name {name!r} of the ClientHello is no host name")
    return host.decode("ascii")


def _alpn(extension: bytes) -> list[bytes]:
    """Return the names in the extension (RFC 7301, 3.1)."""
    fields = _Fields(_only_vector(extension, 2, "ALPN"))
    names: list[bytes] = []
    while not fields.at_end:
        names.append(fields.vector(1, "ALPN"))
    if not names or b"" in names:
        raise BadClientHello("the ALPN of the ClientHello has no name, or an empty one")
    return names
