"""Addresses that count as one client."""

from typing import TypeAlias

from kestrel_middleware.networks import IpAddress

__all__ = ["AddressGroup", "group_of"]

AddressGroup: TypeAlias = tuple[int, int]
"""An IP version and the first bits of an address of it; cheap to make, to compare and to keep."""

# Who has no IP address, as the peers of Unix sockets: all of them are one.
_NO_ADDRESS: AddressGroup = (0, 0)


def group_of(address: IpAddress | None, ipv4_bits: int, ipv6_bits: int) -> AddressGroup:
    """Return the group of those who share that many first bits with `address`."""
    if address is None:
        return _NO_ADDRESS
    bits = ipv4_bits if address.version == 4 else ipv6_bits
    return (address.version, int(address) >> (address.max_prefixlen - bits))
