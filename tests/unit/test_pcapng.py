"""Captures, read back by a reader that shares nothing with the writer."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kestrel_core.connection import Address
from kestrel_middleware.wiretap.pcapng import (
    PacketDirection,
    enhanced_packet,
    interface_description,
    section_header,
)
from kestrel_middleware.wiretap.tcp_stream import MOST_PAYLOAD_BYTES, SocketPair, TcpStream
from tests.capture_reader import ACK, FIN, PSH, RST, CapturedTcp, read_packets, read_streams

INBOUND, OUTBOUND = PacketDirection.INBOUND, PacketDirection.OUTBOUND

IPV4 = SocketPair(IPv4Address("192.0.2.1"), 80, IPv4Address("198.51.100.7"), 4711)
IPV6 = SocketPair(IPv6Address("2001:db8::1"), 443, IPv6Address("2001:db8::7"), 4712)

ports = st.integers(0, 65535)


def socket_pairs_of(version: Literal[4, 6]) -> st.SearchStrategy[SocketPair]:
    hosts = st.ip_addresses(v=version)
    pairs = st.builds(SocketPair, hosts, ports, hosts, ports)
    return pairs.filter(
        lambda pair: (pair.our_host, pair.our_port) != (pair.peer_host, pair.peer_port)
    )


versions: st.SearchStrategy[Literal[4, 6]] = st.sampled_from((4, 6))
socket_pairs = versions.flatmap(socket_pairs_of)
sequence_numbers = st.integers(0, 2**32 - 1) | st.integers(2**32 - 500, 2**32 - 1)
payloads = st.lists(st.tuples(st.sampled_from(PacketDirection), st.binary(max_size=300)))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


def capture_of(
    sockets: SocketPair,
    first_number: int,
    data: list[tuple[PacketDirection, bytes]],
    name: str = "",
    comment: str = "",
    time_ns: int = 0,
) -> bytes:
    stream = TcpStream(sockets, first_number)
    packets = list(stream.handshake())
    for direction, payload in data:
        packets += [(direction, packet) for packet in stream.data(direction, payload)]
    packets += [(INBOUND, stream.end(INBOUND)), (OUTBOUND, stream.end(OUTBOUND))]
    blocks = [
        enhanced_packet(0, time_ns, packet, direction, comment) for direction, packet in packets
    ]
    return b"".join([section_header("trio-kestrel x"), interface_description(name), *blocks])


def only(data: bytes) -> CapturedTcp:
    (stream,) = read_streams(data)
    return stream


def joined(data: list[tuple[PacketDirection, bytes]], wanted: PacketDirection) -> bytes:
    return b"".join(payload for direction, payload in data if direction is wanted)


@given(socket_pairs, sequence_numbers, payloads, texts, texts, st.integers(0, 2**64 - 1))
@settings(max_examples=200)
def test_streams_come_back_as_they_went(
    sockets: SocketPair,
    first_number: int,
    data: list[tuple[PacketDirection, bytes]],
    name: str,
    comment: str,
    time_ns: int,
) -> None:
    stream = only(capture_of(sockets, first_number, data, name, comment, time_ns))
    assert stream.received == joined(data, INBOUND)
    assert stream.sent == joined(data, OUTBOUND)
    assert stream.local == (str(sockets.our_host), sockets.our_port)
    assert stream.peer == (str(sockets.peer_host), sockets.peer_port)
    assert stream.ending == ["peer FIN", "us FIN"]
    assert stream.packets[0].sequence == stream.packets[1].sequence == first_number
    assert {packet.interface for packet in stream.packets} == {name}
    assert {packet.comment for packet in stream.packets} == {comment}
    assert {packet.time_ns for packet in stream.packets} == {time_ns}


@pytest.mark.parametrize("sockets", [IPV4, IPV6])
@pytest.mark.parametrize("over", [-1, 0, 1, MOST_PAYLOAD_BYTES])
def test_what_is_too_long_for_a_packet_is_split(sockets: SocketPair, over: int) -> None:
    data = bytes(range(251)) * 600
    data = data[: MOST_PAYLOAD_BYTES + over]
    stream = only(capture_of(sockets, 2**32 - 1000, [(OUTBOUND, data), (INBOUND, b"x")]))
    assert stream.sent == data
    sizes = [len(packet.payload) for packet in stream.packets if packet.flags == PSH | ACK]
    assert sizes[:-1] == ([len(data)] if over <= 0 else [MOST_PAYLOAD_BYTES, over])


def test_a_view_is_as_good_as_bytes() -> None:
    view = memoryview(bytearray(b"a view"))
    stream = TcpStream(IPV4, 0)
    (packet,) = stream.data(INBOUND, view)
    assert bytes(packet[1]) == b"a view"
    view.release()


@pytest.mark.parametrize("sockets", [IPV4, IPV6])
def test_words_that_add_up_to_nothing_have_the_checksum_zero(sockets: SocketPair) -> None:
    def checksum(payload: bytes) -> bytes:
        stream = TcpStream(sockets, 7)
        list(stream.handshake())
        (packet,) = stream.data(INBOUND, payload)
        return packet[0][-4:-2]

    complement = checksum(b"\0\0")
    assert complement != b"\0\0"
    assert checksum(complement) == b"\0\0"
    assert only(capture_of(sockets, 7, [(INBOUND, complement)])).received == complement


def test_a_reset_is_told_with_its_sender() -> None:
    for direction, told in ((INBOUND, "peer RST"), (OUTBOUND, "us RST")):
        stream = TcpStream(IPV6, 5)
        packets = [*stream.handshake(), (direction, stream.reset(direction))]
        blocks = [enhanced_packet(0, 1, packet, towards) for towards, packet in packets]
        head = section_header("trio-kestrel x") + interface_description("")
        captured = only(head + b"".join(blocks))
        assert captured.ending == [told]
        assert captured.packets[-1].flags == RST | ACK


def test_a_half_closed_stream_goes_on() -> None:
    stream = TcpStream(IPV4, 2**32 - 2)
    packets = [*stream.handshake(), (INBOUND, stream.end(INBOUND))]
    packets += [(OUTBOUND, packet) for packet in stream.data(OUTBOUND, b"answer")]
    blocks = [enhanced_packet(0, 1, packet, towards) for towards, packet in packets]
    captured = only(
        b"".join([section_header("trio-kestrel x"), interface_description(""), *blocks])
    )
    assert captured.packets[3].flags == FIN | ACK
    assert captured.sent == b"answer"


def test_a_new_section_begins_counting_interfaces_anew() -> None:
    stream = TcpStream(IPV4, 1)
    parts: list[bytes] = []
    for direction, packet in stream.handshake():
        name = f"section {len(parts)}"
        block = enhanced_packet(0, 2, packet, direction)
        parts.append(section_header("trio-kestrel x") + interface_description(name) + block)
    read = [(packet.section, packet.interface) for packet in read_packets(b"".join(parts))]
    assert read == [(0, "section 0"), (1, "section 1"), (2, "section 2")]


def test_an_option_that_is_too_long_is_cut() -> None:
    captured = only(capture_of(IPV4, 0, [], comment="x" * 70_000))
    assert captured.comments[0] == "x" * 65535


# Addresses ----------------------------------------------------------------------------------------

addresses = st.one_of(
    st.none(),
    st.just(Address("server")),
    st.just(Address("/run/app.sock")),
    st.builds(Address, st.ip_addresses().map(str), ports),
)


@given(addresses, addresses, st.integers(0, 2**63))
@example(Address("::ffff:192.0.2.9", 80), Address("2001:db8::5", 5), 0)
@example(Address("fe80::1%eth0", 80), None, 1)
def test_both_ends_always_have_addresses_of_one_family(
    local: Address | None, remote: Address | None, number: int
) -> None:
    pair = SocketPair.of(local, remote, number)
    assert pair.our_host.version == pair.peer_host.version
    for given_, host, port in (
        (local, pair.our_host, pair.our_port),
        (remote, pair.peer_host, pair.peer_port),
    ):
        if given_ is None or given_.port is None:
            assert port >= 49152
        else:
            assert port == given_.port
            assert same(given_.host, str(host))


def same(one: str, other: str) -> bool:
    return plain(one) == plain(other)


def plain(host: str) -> object:
    address = ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def test_real_addresses_are_kept() -> None:
    pair = SocketPair.of(Address("192.0.2.7", 80), Address("198.51.100.1", 5000), 1)
    assert pair == SocketPair(IPv4Address("192.0.2.7"), 80, IPv4Address("198.51.100.1"), 5000)


def test_two_families_become_one() -> None:
    pair = SocketPair.of(Address("192.0.2.7", 80), Address("2001:db8::9", 5000), 1)
    assert pair == SocketPair(IPv6Address("::ffff:192.0.2.7"), 80, IPv6Address("2001:db8::9"), 5000)


@pytest.mark.parametrize("local", [None, Address("::1", 80)])
def test_made_up_addresses_are_for_documentation_and_differ(local: Address | None) -> None:
    numbers = range(2**50, 2**50 + 2**22, 999)
    pairs = {SocketPair.of(local, None, number) for number in numbers}
    assert len(pairs) == len(numbers)
    for pair in pairs:
        assert str(pair.peer_host).startswith(("203.0.113.", "2001:db8:"))
        assert 49152 <= pair.peer_port <= 65535
