"""The extensions of version 2: types, lengths and values, some of them with more of these inside."""

from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from typing import TypeAlias

import attrs

__all__ = [
    "MAX_UNIQUE_ID_BYTES",
    "SslClient",
    "SslTlv",
    "Tlv",
    "TlvType",
    "first_of",
    "join_tlvs",
    "split_tlvs",
]

Tlv: TypeAlias = tuple[int, bytes]
"""A type and a value."""

MAX_UNIQUE_ID_BYTES = 128
"""The longest UNIQUE_ID, by the specification (2.2.5)."""

_LARGEST_VALUE_BYTES = 0xFFFF

# The first fields of an SSL value: `client` and `verify`.
_SSL_FIXED_BYTES = 5


class TlvType(IntEnum):
    """The types that the specification names; others may occur and are kept as numbers."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    SSL_GROUP = 0x26
    SSL_SIG_SCHEME = 0x27
    SSL_CLIENT_CERT = 0x28
    NETNS = 0x30


def split_tlvs(data: bytes) -> tuple[Tlv, ...]:
    """Return the TLVs that `data` is made of.

    Raises:
        ValueError: it does not end where a TLV ends.
    """
    tlvs: list[Tlv] = []
    position = 0
    while position < len(data):
        start = position + 3
        end = start + int.from_bytes(data[position + 1 : start])
        if start > len(data) or end > len(data):
            raise ValueError(f"the TLV at byte {position} is cut off")
        tlvs.append((data[position], data[start:end]))
        position = end
    return tuple(tlvs)


def join_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """Return the bytes of `tlvs`.

    Raises:
        ValueError: a type or a value is too large.
    """
    parts: list[bytes] = []
    for kind, value in tlvs:
        if not 0 <= kind <= 0xFF:
            raise ValueError(f"a TLV's type is from 0 to 255, not {kind}")
        if len(value) > _LARGEST_VALUE_BYTES:
            raise ValueError(f"a TLV's value has at most 65535 bytes, not {len(value)}")
        parts += bytes([kind]), len(value).to_bytes(2), value
    return b"".join(parts)


def first_of(tlvs: Iterable[Tlv], wanted: TlvType) -> bytes | None:
    """Return the value of the first TLV of that type, which is the one that HAProxy goes by."""
    for kind, value in tlvs:
        if kind == wanted:
            return value
    return None


class SslClient(IntFlag):
    """What an SSL value says about the client."""

    SSL = 1
    """It came over TLS."""
    CERT_CONN = 2
    """It showed a certificate on this connection."""
    CERT_SESS = 4
    """It showed one at least once in the TLS session that this connection belongs to."""


@attrs.frozen(kw_only=True)
class SslTlv:
    """The value of a TLV of type SSL (2.2.6)."""

    client: SslClient
    verify: int
    """Zero if the client showed a certificate and that was verified."""
    tlvs: Sequence[Tlv] = ()
    """What is inside: SSL_VERSION, SSL_CN and the like."""

    @classmethod
    def parse(cls, value: bytes) -> "SslTlv":
        """Read `value`.

        Raises:
            ValueError: it is cut off.
        """
        if len(value) < _SSL_FIXED_BYTES:
            raise ValueError(f"the value of SSL has only {len(value)} bytes")
        return cls(
            client=SslClient(value[0]),
            verify=int.from_bytes(value[1:_SSL_FIXED_BYTES]),
            tlvs=split_tlvs(value[_SSL_FIXED_BYTES:]),
        )

    def to_bytes(self) -> bytes:
        """Return the value."""
        return bytes([self.client]) + self.verify.to_bytes(4) + join_tlvs(self.tlvs)
