"""The admission middleware and its options."""

from collections.abc import Callable, Sequence

import attrs

from kestrel_core.admission import Admission
from kestrel_core.connection import Address, Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware
from kestrel_core.transport import Listener
from kestrel_core.validators import above_zero_and_finite, at_least_one, or_none
from kestrel_middleware.admission.answer import Answer
from kestrel_middleware.admission.entrance import (
    AdmissionStatistics,
    Entrance,
    Verdict,
    WhenFull,
)
from kestrel_middleware.admission.gate import Crowds, Gate
from kestrel_middleware.admission.listener import AdmittingListener
from kestrel_middleware.admission.token_bucket import TokenRate
from kestrel_middleware.networks import Networks, networks

__all__ = ["ConnectionAdmission"]

# The layers behind which a connection's address may be another, so that admission may stand there.
_CORRECTS_ADDRESSES = "proxy_protocol"


def _bits(most: int) -> Callable[[object, "attrs.Attribute[int]", int], None]:
    def validate(_admission: object, attribute: "attrs.Attribute[int]", value: int) -> None:
        if not 1 <= value <= most:
            raise ValueError(f"{attribute.name} must be from 1 to {most}, not {value}")

    return validate


def _entrance(options: "ConnectionAdmission") -> Entrance:
    allow, deny = options.allow, options.deny

    def is_allowed(remote: Address | None) -> bool:
        return not (deny and remote in deny) and (allow is None or remote in allow)

    gate = Gate(
        max_inside=options.max_connections,
        rate=TokenRate.of(options.connections_per_second, options.burst),
        rate_by_address=TokenRate.of(
            options.connections_per_second_per_address, options.burst_per_address
        ),
        by_address=Crowds(options.max_connections_per_address, 32, options.ipv6_address_bits),
        by_prefix=Crowds(
            options.max_connections_per_prefix, options.ipv4_prefix_bits, options.ipv6_prefix_bits
        ),
        is_allowed=is_allowed,
    )
    return Entrance(gate, options.when_full, options.answer)


@attrs.frozen(kw_only=True, eq=False)
class ConnectionAdmission(Admission):
    """Takes connections as long as there is room, by address and in all; refuses the others.

    What it counts, it counts for all the endpoints that it was given to. A connection counts until
    its transport is gone, which may be before the handler has ended: how many handlers run at once
    is the business of `Limits.max_connections`. One instance serves one run of trio.

    Peers without an IP address, as those of Unix sockets, count as one address.

    Raises:
        ValueError: a number is out of its range, a burst has no rate, or a text is no network.
    """

    name = "admission"

    max_connections: int | None = attrs.field(default=None, validator=or_none(at_least_one))
    """Connections at once, from everybody."""

    connections_per_second: float | None = attrs.field(
        default=None, validator=or_none(above_zero_and_finite)
    )
    """New connections a second, from everybody, on the average."""

    burst: int | None = attrs.field(default=None, validator=or_none(at_least_one))
    """New connections at once after a quiet time; as many as come in a second unless given."""

    when_full: WhenFull = WhenFull.REFUSE
    """Whether a connection beyond one of these is refused, or waits. The limits below refuse in any
    case: one client that waits would have all others wait behind it."""

    max_connections_per_address: int | None = attrs.field(
        default=None, validator=or_none(at_least_one)
    )
    """Connections at once from one address."""

    connections_per_second_per_address: float | None = attrs.field(
        default=None, validator=or_none(above_zero_and_finite)
    )
    """New connections a second from one address, on the average. One that is refused costs the
    client nothing."""

    burst_per_address: int | None = attrs.field(default=None, validator=or_none(at_least_one))
    """New connections at once from one address after a quiet time; as many as come in a second
    unless given."""

    ipv6_address_bits: int = attrs.field(default=64, validator=_bits(128))
    """How many first bits of an IPv6 address make one address here. A host has all of a /64 to
    choose from (RFC 4291, 2.5.4)."""

    max_connections_per_prefix: int | None = attrs.field(
        default=None, validator=or_none(at_least_one)
    )
    """Connections at once from one network of the two sizes below."""

    ipv4_prefix_bits: int = attrs.field(default=24, validator=_bits(32))
    """How many first bits of an IPv4 address are its network: 256 addresses, unless given."""

    ipv6_prefix_bits: int = attrs.field(default=48, validator=_bits(128))
    """How many first bits of an IPv6 address are its network: one site's /48 (RFC 6177), or 256
    homes of a /56 each, unless given."""

    allow: Networks | None = attrs.field(
        default=None, converter=attrs.converters.optional(networks)
    )
    """Who may come in at all; everybody unless given."""

    deny: Networks = attrs.field(factory=Networks, converter=networks)
    """Who may not, though `allow` has them, too."""

    answer: Answer = Answer.RESET
    """What who is refused gets to see."""

    _entrance: Entrance = attrs.field(
        init=False, default=attrs.Factory(_entrance, takes_self=True), repr=False
    )

    def __attrs_post_init__(self) -> None:
        for burst, rate in (
            ("burst", "connections_per_second"),
            ("burst_per_address", "connections_per_second_per_address"),
        ):
            if getattr(self, burst) is not None and getattr(self, rate) is None:
                raise ValueError(f"{burst} is of no use without {rate}")

    @property
    def statistics(self) -> AdmissionStatistics:
        """What was counted until now, on all endpoints."""
        return self._entrance.statistics

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        """Check that nothing stands outside but other admissions, and what corrects addresses."""
        if any(each is self for each in (*outer, *inner)):
            raise ConfigurationError(
                "the same admission stands twice on one endpoint, and would count each connection"
                " twice; make two of them"
            )
        for each in outer:
            if isinstance(each, Admission):
                continue
            name = each.name if isinstance(each, Layer) else str(each)
            if name != _CORRECTS_ADDRESSES:
                raise ConfigurationError(
                    f"admission stands inside {name}, where a connection has been paid for already;"
                    f" put it first, or behind {_CORRECTS_ADDRESSES} and nothing else"
                )

    def wrap(self, listener: Listener) -> Listener:
        """Return what accepts from `listener` what may come in."""
        return AdmittingListener(listener, self._entrance)

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Serve `connection` if it may come in, by the address that it has by now."""
        entrance = self._entrance
        while (judgement := entrance.judge(connection)) is Verdict.MUST_WAIT:
            await entrance.wait_for_room(connection.close_requested, connection)
            if connection.closed:
                connection.record_end(EndReason.CONNECTION_RESET)
                return
            if connection.close_requested:
                connection.record_end(EndReason.SHUTDOWN)
                return
        if isinstance(judgement, EndReason):
            await entrance.turn_away(connection, judgement)
        else:
            await following(connection)
