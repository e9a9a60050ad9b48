"""Sets of addresses, written as networks: whom to trust, whom to let in."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from kestrel_core.connection import Address

__all__ = ["IpAddress", "Networks", "ip_of", "networks"]

IpAddress: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

# Answers that are remembered. Proxies are few; clients come again soon or not at all.
_MOST_REMEMBERED = 1024

_EVERYBODY = "*"
_UNIX = "unix"


class Networks:
    """A set of addresses: networks such as "10.0.0.0/8", single addresses, "unix" and "*".

    "unix" stands for peers that have no IP address, as those of Unix sockets; "*" for everybody.
    An IPv4 address that an IPv6 socket shows as ::ffff:a.b.c.d is that IPv4 address.

    Raises:
        ValueError: a text is none of these, or has bits set outside of its network's prefix.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts: tuple[str, ...] = tuple(texts)
        """What it was made from."""
        named = {text for text in self.texts if text in (_EVERYBODY, _UNIX)}
        self._everybody = _EVERYBODY in named
        self._unix = self._everybody or _UNIX in named
        self._networks = [_parse(text) for text in self.texts if text not in named]
        self._remembered: dict[str, bool] = {}

    def __contains__(self, address: Address | IpAddress | str | None) -> bool:
        """Tell whether `address` belongs to it; None is a peer without a name."""
        if self._everybody:
            return True
        if address is None:
            return self._unix
        host = address.host if isinstance(address, Address) else str(address)
        known = self._remembered.get(host)
        if known is None:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            known = self._remembered[host] = self._decide(host)
        return known

    def _decide(self, host: str) -> bool:
        address = ip_of(host)
        if address is None:
            return self._unix
        return any(address in network for network in self._networks)

    def __bool__(self) -> bool:
        """Tell whether anybody can belong to it."""
        return bool(self.texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    def __repr__(self) -> str:
        return f"Networks({list(self.texts)!r})"


def networks(given: "Networks | str | Iterable[str]") -> Networks:
    """Return `given` as `Networks`, for attrs fields: one text or several.

    Raises:
        ValueError: as `Networks` does.
    """
    if isinstance(given, Networks):
        return given
    return Networks([given] if isinstance(given, str) else given)


def ip_of(host: str) -> IpAddress | None:
    """Return the IP address that `host` is written as, or None if it is none.

    A zone (fe80::1%eth0) does not count; an IPv4 address in IPv6's clothes comes without them.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _parse(text: str) -> _Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no network: {error}; write 10.0.0.0/8, 2001:db8::/32, a single address,"
            f' "{_UNIX}" or "{_EVERYBODY}"'
        ) from error
