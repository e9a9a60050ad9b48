"""Who may come in now: all that is counted, and the decision, without waiting for anything."""

import math
from collections.abc import Callable

import attrs

from kestrel_core.connection import Address
from kestrel_core.end_reason import EndReason
from kestrel_middleware.admission.address_group import AddressGroup, group_of
from kestrel_middleware.admission.token_bucket import TokenBuckets, TokenRate
from kestrel_middleware.networks import IpAddress, ip_of

__all__ = ["Crowds", "Gate", "Visitor"]


@attrs.frozen
class Visitor:
    """For whom a connection counts; None where nothing depends on it."""

    address: AddressGroup | None = None
    prefix: AddressGroup | None = None


# What everybody is where no limit asks for addresses.
_ANYBODY = Visitor()


class Crowds:
    """How many are inside of each group of addresses, of which each may have `most`."""

    def __init__(self, most: int | None, ipv4_bits: int, ipv6_bits: int) -> None:
        self.most: int | None = most
        self._ipv4_bits = ipv4_bits
        self._ipv6_bits = ipv6_bits
        self._inside: dict[AddressGroup, int] = {}

    def __len__(self) -> int:
        """Return how many groups have somebody inside."""
        return len(self._inside)

    def group_of(self, address: IpAddress | None) -> AddressGroup:
        """Return the group that `address` belongs to."""
        return group_of(address, self._ipv4_bits, self._ipv6_bits)

    def is_full(self, group: AddressGroup | None) -> bool:
        """Tell whether no more of `group` may come in."""
        if self.most is None or group is None:
            return False
        return self._inside.get(group, 0) >= self.most

    def enter(self, group: AddressGroup | None) -> None:
        """Count one more of `group`."""
        if self.most is not None and group is not None:
            self._inside[group] = self._inside.get(group, 0) + 1

    def leave(self, group: AddressGroup | None) -> None:
        """Count one less, and forget a group that has nobody inside."""
        if self.most is not None and group is not None:
            left = self._inside.pop(group) - 1
            if left:
                self._inside[group] = left


class Gate:
    """Counts who is inside, and tells who may come in; `is_allowed` knows the lists of addresses."""

    def __init__(
        self,
        *,
        max_inside: int | None,
        rate: TokenRate | None,
        rate_by_address: TokenRate | None,
        by_address: Crowds,
        by_prefix: Crowds,
        is_allowed: Callable[[Address | None], bool],
    ) -> None:
        self._max_inside = max_inside
        self._rate = rate
        self._full_at = -math.inf  # the bucket of all together
        self._buckets: TokenBuckets[AddressGroup] | None = (
            None if rate_by_address is None else TokenBuckets(rate_by_address)
        )
        self._by_address = by_address
        self._by_prefix = by_prefix
        self._is_allowed = is_allowed
        self._asks_addresses = self._buckets is not None or by_address.most or by_prefix.most
        self.inside: int = 0
        """How many are inside. Read only."""

    @property
    def remembered(self) -> int:
        """How many entries its tables have, those of addresses and those of prefixes."""
        buckets = 0 if self._buckets is None else len(self._buckets)
        return len(self._by_address) + len(self._by_prefix) + buckets

    def room_at(self, now: float) -> float:
        """Return when there is room, whoever asks: at `now` or before; later; or when one leaves.

        The last of these is infinity.
        """
        if self._max_inside is not None and self.inside >= self._max_inside:
            return math.inf
        return now if self._rate is None else self._rate.ready_at(self._full_at)

    def visitor(self, remote: Address | None) -> Visitor:
        """Return who comes from `remote`."""
        if not self._asks_addresses:
            return _ANYBODY
        address = None if remote is None else ip_of(remote.host)
        return Visitor(self._by_address.group_of(address), self._by_prefix.group_of(address))

    def refusal(self, visitor: Visitor, remote: Address | None, now: float) -> EndReason | None:
        """Return why `visitor` may not come in now, whether there is room or not."""
        if not self._is_allowed(remote):
            return EndReason.ADDRESS_DENIED
        if self._by_address.is_full(visitor.address) or self._by_prefix.is_full(visitor.prefix):
            return EndReason.MAX_CONNECTIONS_PER_ADDRESS_EXCEEDED
        if (
            self._buckets is not None
            and visitor.address is not None
            and self._buckets.ready_at(visitor.address) > now
        ):
            return EndReason.CONNECTION_RATE_EXCEEDED
        return None

    def enter(self, visitor: Visitor, now: float) -> None:
        """Let `visitor` in, whom nothing speaks against."""
        self.inside += 1
        self._by_address.enter(visitor.address)
        self._by_prefix.enter(visitor.prefix)
        if self._buckets is not None and visitor.address is not None:
            self._buckets.take(visitor.address, now)
        if self._rate is not None:
            self._full_at = self._rate.after_taking(self._full_at, now)

    def leave(self, visitor: Visitor) -> None:
        """Note that `visitor` has left."""
        self.inside -= 1
        self._by_address.leave(visitor.address)
        self._by_prefix.leave(visitor.prefix)
