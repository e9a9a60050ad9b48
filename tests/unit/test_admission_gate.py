"""The counting of admission, against a plain model of it."""

import math
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.connection import Address
from kestrel_core.end_reason import EndReason
from kestrel_middleware.admission import Answer, ConnectionAdmission, WhenFull
from kestrel_middleware.admission.address_group import group_of
from kestrel_middleware.admission.gate import Crowds, Gate, Visitor
from kestrel_middleware.admission.token_bucket import TokenRate
from kestrel_middleware.networks import Networks

# Few addresses, in few networks, so that they meet.
ADDRESSES = [
    None,
    Address("/run/a.sock"),
    *(Address(f"192.0.{net}.{host}", 1) for net in (2, 3) for host in (1, 2)),
    Address("::ffff:192.0.2.1", 1),
    *(
        Address(f"2001:db8:{site}:{net}::{host}", 1)
        for site in (1, 2)
        for net in (1, 2)
        for host in (1, 2)
    ),
]


@given(st.ip_addresses(), st.ip_addresses(), st.integers(1, 32), st.integers(1, 128))
def test_a_group_is_a_network(
    one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address, v4_bits: int, v6_bits: int
) -> None:
    bits = v4_bits if one.version == 4 else v6_bits
    network = ip_network((one, bits), strict=False)
    assert (group_of(one, v4_bits, v6_bits) == group_of(other, v4_bits, v6_bits)) == (
        one.version == other.version and other in network
    )
    for end in (network[0], network[-1]):
        assert group_of(end, v4_bits, v6_bits) == group_of(one, v4_bits, v6_bits)


def test_nobody_with_an_address_is_in_the_group_of_those_without() -> None:
    nobody = group_of(None, 32, 64)
    assert nobody not in {group_of(ip_address(each), 1, 1) for each in ("0.0.0.0", "::")}


def names(remote: Address | None) -> tuple[str, str]:
    """Return an address and its prefix in words, by rules of one's own."""
    if remote is None or remote.host.startswith("/"):
        return "unix", "unix"
    host = remote.host.removeprefix("::ffff:")
    if "." in host:
        return host, host.rpartition(".")[0]
    parts = host.split(":")
    return ":".join(parts[:4]), ":".join(parts[:3])


@given(
    st.integers(1, 6) | st.none(),
    st.integers(1, 3) | st.none(),
    st.integers(1, 4) | st.none(),
    st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 3)), max_size=60),
)
def test_it_counts_as_a_model_does(
    most: int | None,
    most_of_address: int | None,
    most_of_prefix: int | None,
    visits: list[tuple[Address | None, int]],
) -> None:
    gate = Gate(
        max_inside=most,
        rate=None,
        rate_by_address=None,
        by_address=Crowds(most_of_address, 32, 64),
        by_prefix=Crowds(most_of_prefix, 24, 48),
        is_allowed=lambda remote: True,
    )
    inside = list[tuple[Address | None, Visitor]]()
    for remote, leaving in visits:
        addresses = Counter(names(each)[0] for each, _ in inside)
        prefixes = Counter(names(each)[1] for each, _ in inside)
        address, prefix = names(remote)
        may = (most_of_address is None or addresses[address] < most_of_address) and (
            most_of_prefix is None or prefixes[prefix] < most_of_prefix
        )
        assert (gate.room_at(0.0) <= 0.0) == (most is None or len(inside) < most)
        visitor = gate.visitor(remote)
        refusal = gate.refusal(visitor, remote, 0.0)
        assert refusal is (None if may else EndReason.MAX_CONNECTIONS_PER_ADDRESS_EXCEEDED)
        if may and gate.room_at(0.0) <= 0.0:
            gate.enter(visitor, 0.0)
            inside.append((remote, visitor))
        assert gate.inside == len(inside)
        assert gate.remembered == (most_of_address is not None) * len(
            {names(each)[0] for each, _ in inside}
        ) + (most_of_prefix is not None) * len({names(each)[1] for each, _ in inside})
        for _ in range(min(leaving, len(inside))):
            gate.leave(inside.pop(leaving % len(inside))[1])
    while inside:
        gate.leave(inside.pop()[1])
    assert (gate.inside, gate.remembered) == (0, 0)


def test_who_is_refused_takes_no_token() -> None:
    gate = Gate(
        max_inside=None,
        rate=TokenRate(1, 2),
        rate_by_address=TokenRate(1, 1),
        by_address=Crowds(None, 32, 64),
        by_prefix=Crowds(None, 24, 48),
        is_allowed=lambda remote: True,
    )
    one, two = Address("192.0.2.1"), Address("192.0.2.2")
    gate.enter(gate.visitor(one), 0.0)
    for _ in range(100):
        refused = gate.refusal(gate.visitor(one), one, 0.0)
        assert refused is EndReason.CONNECTION_RATE_EXCEEDED
    assert gate.room_at(0.0) <= 0.0
    assert gate.refusal(gate.visitor(two), two, 0.0) is None
    gate.enter(gate.visitor(two), 0.0)
    assert 0.0 < gate.room_at(0.0) < math.inf
    assert gate.refusal(gate.visitor(one), one, 1.0) is None


@pytest.mark.parametrize(
    "name",
    [
        "max_connections",
        "connections_per_second",
        "burst",
        "max_connections_per_address",
        "connections_per_second_per_address",
        "burst_per_address",
        "ipv6_address_bits",
        "max_connections_per_prefix",
        "ipv4_prefix_bits",
        "ipv6_prefix_bits",
    ],
)
@pytest.mark.parametrize("value", [0, -1])
def test_options_are_checked(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be "):
        ConnectionAdmission(**{name: value})  # type: ignore[arg-type]  # any of them


def test_a_burst_needs_a_rate() -> None:
    with pytest.raises(ValueError, match=r"^burst is of no use without connections_per_second$"):
        ConnectionAdmission(burst=1, connections_per_second_per_address=1)
    with pytest.raises(ValueError, match=r"^burst_per_address is of no use without "):
        ConnectionAdmission(burst_per_address=1, connections_per_second=1)


def test_options_beyond_the_length_of_an_address() -> None:
    with pytest.raises(ValueError, match=r"^ipv4_prefix_bits must be from 1 to 32, not 33"):
        ConnectionAdmission(ipv4_prefix_bits=33)
    with pytest.raises(ValueError, match="is no network"):
        ConnectionAdmission(deny=["192.0.2.1/24"])


def test_options_as_the_command_line_gives_them() -> None:
    admission = ConnectionAdmission(
        allow="192.0.2.0/24",
        deny=["192.0.2.1", "unix"],
        when_full=WhenFull("wait"),
        answer=Answer("http_503"),
    )
    assert admission.allow == Networks(["192.0.2.0/24"])
    assert admission.deny == Networks(["192.0.2.1", "unix"])
    assert ConnectionAdmission().allow is None
    assert len({ConnectionAdmission(), ConnectionAdmission()}) == 2
