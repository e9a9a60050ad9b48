"""A PROXY header as a value; `wire` has its two forms in bytes."""

import os
from collections.abc import Iterable, Sequence
from enum import Enum
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

import attrs

from kestrel_core.connection import Address
from kestrel_middleware.proxy_protocol.tlv import MAX_UNIQUE_ID_BYTES, Tlv, TlvType, first_of

__all__ = [
    "UNIX_NAME_BYTES",
    "Command",
    "Family",
    "InvalidHeader",
    "ProxyHeader",
    "SocketKind",
    "ip_text",
    "packed_ip",
]

UNIX_NAME_BYTES = 108
"""How much room a Unix socket's name has, as in Linux's `sockaddr_un`."""


class InvalidHeader(Exception):
    """What should be a PROXY header is none; the text says where."""


class Command(Enum):
    """Whom the proxy speaks for; the values are those of version 2."""

    LOCAL = 0
    """For itself, as in a health check: the addresses are those of the connection."""
    PROXY = 1
    """For a client."""


class Family(Enum):
    """What kind the addresses are of; the values are those of version 2."""

    UNSPEC = 0
    """Not known, or none that the protocol knows: there are no addresses."""
    INET = 1
    INET6 = 2
    UNIX = 3


class SocketKind(Enum):
    """What the client talks to the proxy over; the values are those of version 2."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


def _tuple_of(tlvs: Iterable[Tlv]) -> tuple[Tlv, ...]:
    return tuple(tlvs)


@attrs.frozen(kw_only=True)
class ProxyHeader:
    """What a proxy says of the connection that it passes on; `between` makes the usual one.

    Version 1 knows TCP over IPv4 and IPv6, and nothing else: of a header that is anything else it
    says no more than UNKNOWN, and it has no room for `tlvs`.
    """

    version: int = 2
    command: Command = Command.PROXY
    family: Family = Family.UNSPEC
    kind: SocketKind = SocketKind.UNSPEC
    source: Address | None = None
    """The client; None if the family has no addresses, or for a Unix socket without a name."""
    destination: Address | None = None
    """What the client connected to."""
    tlvs: Sequence[Tlv] = attrs.field(default=(), converter=_tuple_of)
    """The extensions of version 2: type and value. The value of a CRC32C is worked out when the
    header is written, whatever is given here."""

    def check(self) -> None:
        """Check that the parts fit together, without which no header can be written.

        Raises:
            ValueError: they do not.
        """
        if self.version not in (1, 2):
            raise ValueError(f"the version must be 1 or 2, not {self.version}")
        if self.version == 1 and self.tlvs:
            raise ValueError("a PROXY header of version 1 has no room for TLVs")
        unique_id = first_of(self.tlvs, TlvType.UNIQUE_ID)
        if unique_id is not None and len(unique_id) > MAX_UNIQUE_ID_BYTES:
            raise ValueError(f"a unique id of {len(unique_id)} bytes is too long")
        if self.family is Family.UNSPEC and (self.source or self.destination):
            raise ValueError("addresses need a family: give one, or use ProxyHeader.between")
        if self.command is Command.LOCAL and (
            self.family is not Family.UNSPEC or self.kind is not SocketKind.UNSPEC
        ):
            raise ValueError("a proxy that speaks for itself (LOCAL) names no family and no kind")
        for end in (self.source, self.destination):
            _check_address(end, self.family)

    @classmethod
    def between(
        cls,
        source: Address | None,
        destination: Address | None,
        *,
        version: int = 2,
        tlvs: Iterable[Tlv] = (),
    ) -> "ProxyHeader":
        """Return the header for a client at `source` that connected to `destination`.

        Where one is IPv4 and the other IPv6, both become IPv6, as HAProxy does it. Names that are
        neither IP addresses with ports nor those of Unix sockets have no place in a header: then it
        says that the proxy speaks for itself (LOCAL), as HAProxy does; that every receiver takes.
        """
        command, kind = Command.PROXY, SocketKind.STREAM
        ends = [_canonical(source), _canonical(destination)]
        if None not in ends:
            family = Family.INET
            if any(end is not None and ":" in end.host for end in ends):
                family = Family.INET6
                ends = [_as_ipv6(end) for end in ends]
        elif _are_unix(source, destination):
            family, ends = Family.UNIX, [source, destination]
        else:
            command, family, kind = Command.LOCAL, Family.UNSPEC, SocketKind.UNSPEC
            ends = [None, None]
        return cls(
            version=version,
            command=command,
            family=family,
            kind=kind,
            source=ends[0],
            destination=ends[1],
            tlvs=tlvs,
        )


def ip_text(packed: bytes) -> str:
    """Return how the four or sixteen bytes of an IP address are written."""
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def packed_ip(host: str) -> bytes:
    """Return the four or sixteen bytes of an IP address, which has no zone.

    Raises:
        ValueError: it is none.
    """
    try:
        return inet_pton(AF_INET6 if ":" in host else AF_INET, host)
    except OSError:
        raise ValueError(f"{host!r} is no IP address") from None


def _check_address(address: Address | None, family: Family) -> None:
    """Check that `address` can be one of `family`.

    Raises:
        ValueError: it cannot.
    """
    match family:
        case Family.UNSPEC:
            pass  # there is none
        case Family.UNIX:
            if address is not None and not _is_unix_name(address):
                raise ValueError(f"{address} is not the name of a Unix socket")
        case Family.INET | Family.INET6:
            wanted = 4 if family is Family.INET else 16
            if (
                address is None
                or address.port is None
                or not 0 <= address.port <= 65535
                or len(packed_ip(address.host)) != wanted
            ):
                raise ValueError(f"{address} is no address of {family.name} with a port")


def _canonical(address: Address | None) -> Address | None:
    """Return the address as a header has it, without a zone; None if it is no IP and port."""
    if address is None or address.port is None:
        return None
    try:
        return Address(ip_text(packed_ip(address.host.partition("%")[0])), address.port)
    except ValueError:
        return None


def _as_ipv6(address: Address | None) -> Address | None:
    if address is None or ":" in address.host:
        return address
    return Address(f"::ffff:{address.host}", address.port)  # RFC 4291, 2.5.5.2


def _are_unix(source: Address | None, destination: Address | None) -> bool:
    """Tell whether these are the two ends of a Unix socket, where clients often have no name."""
    if source is None and destination is None:
        return False
    return all(
        end is None or (end.host[:1] in ("/", "@") and _is_unix_name(end))
        for end in (source, destination)
    )


def _is_unix_name(address: Address) -> bool:
    """Tell whether it is a path, or an abstract name as endpoints spell it: `@name`."""
    name = address.host
    abstract = name.startswith("@")
    if address.port is not None or not name or name == "@":
        return False
    if name.endswith("\0") if abstract else "\0" in name:
        return False
    return len(os.fsencode(name)) <= UNIX_NAME_BYTES
