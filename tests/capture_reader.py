"""A reader of pcapng files with TCP in them that believes nothing: what is wrong is an assertion.

It shares no code with the writer. It knows as much of the format as captures of ours may use.
"""

import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

import attrs

__all__ = ["CapturedPacket", "CapturedTcp", "read_packets", "read_streams"]

FIN, SYN, RST, PSH, ACK = (1 << bit for bit in range(5))

Socket = tuple[str, int]


@attrs.frozen
class CapturedPacket:
    """One packet, its checksums verified."""

    section: int
    interface: str
    """The name of the interface, or ""."""
    time_ns: int
    inbound: bool
    comment: str
    source: Socket
    destination: Socket
    sequence: int
    acknowledged: int
    flags: int
    payload: bytes


@attrs.define
class CapturedTcp:
    """A TCP connection that was put together from its packets."""

    peer: Socket
    local: Socket
    packets: list[CapturedPacket]
    received: bytes = b""
    sent: bytes = b""

    @property
    def comments(self) -> list[str]:
        """The packets' comments."""
        return [packet.comment for packet in self.packets if packet.comment]

    @property
    def ending(self) -> list[str]:
        """Who ended it, and how, in order."""
        return [
            f"{'peer' if packet.inbound else 'us'} {'FIN' if packet.flags & FIN else 'RST'}"
            for packet in self.packets
            if packet.flags & (FIN | RST)
        ]


def read_streams(data: bytes) -> list[CapturedTcp]:
    """Return the connections in a file, in the order of their beginnings.

    Every number has to be the right one, and a connection has to begin with its handshake.
    """
    found: list[CapturedTcp] = []
    for packet in read_packets(data):
        if packet.flags & SYN and not packet.flags & ACK:
            found.append(CapturedTcp(packet.source, packet.destination, []))
        ends = (packet.source, packet.destination)
        stream = next(s for s in reversed(found) if ends in ((s.peer, s.local), (s.local, s.peer)))
        assert packet.inbound == (packet.source == stream.peer)
        stream.packets.append(packet)
        if packet.inbound:
            stream.received += packet.payload
        else:
            stream.sent += packet.payload
    for stream in found:
        _check_numbers(stream)
    return found


def _check_numbers(stream: CapturedTcp) -> None:
    assert [packet.flags for packet in stream.packets[:3]] == [SYN, SYN | ACK, ACK]
    following: dict[bool, int] = {}
    for packet in stream.packets:
        assert packet.sequence == following.get(packet.inbound, packet.sequence)
        if packet.flags & ACK:
            assert packet.acknowledged == following[not packet.inbound]
        taken = len(packet.payload) + bool(packet.flags & (SYN | FIN))
        following[packet.inbound] = (packet.sequence + taken) % 2**32
    assert all(not packet.flags & SYN for packet in stream.packets[2:])


def read_packets(data: bytes) -> list[CapturedPacket]:
    """Return all packets of a file."""
    packets: list[CapturedPacket] = []
    interfaces: list[str] = []
    section = -1
    for kind, body in _blocks(data):
        if kind == 0x0A0D0D0A:
            section += 1
            interfaces = []
            assert struct.unpack("<IHHq", body[:16]) == (0x1A2B3C4D, 1, 0, -1)
            assert _read_options(body[16:])[4].startswith(b"trio-kestrel ")
        elif kind == 1:
            link_type, reserved, _snap_length = struct.unpack("<HHI", body[:8])
            assert (link_type, reserved) == (101, 0)
            options = _read_options(body[8:])
            assert options[9] == b"\x09"
            interfaces.append(options.get(2, b"").decode())
        else:
            assert kind == 6
            packets.append(_read_packet(body, section, interfaces))
    return packets


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    assert struct.unpack("<I", data[:4]) == (0x0A0D0D0A,)
    while data:
        kind, length = struct.unpack("<II", data[:8])
        assert length % 4 == 0
        assert len(data) >= length >= 12
        assert struct.unpack("<I", data[length - 4 : length]) == (length,)
        yield kind, data[8 : length - 4]
        data = data[length:]


def _read_options(data: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    while True:
        code, length = struct.unpack("<HH", data[:4])
        if code == 0:
            assert (length, data[4:]) == (0, b"")
            return options
        padded = length + -length % 4
        assert not any(data[4 + length : 4 + padded])
        assert code not in options
        options[code] = data[4 : 4 + length]
        data = data[4 + padded :]


def _read_packet(body: bytes, section: int, interfaces: Sequence[str]) -> CapturedPacket:
    interface, high, low, length, original_length = struct.unpack("<IIIII", body[:20])
    assert length == original_length
    padded = length + -length % 4
    options = _read_options(body[20 + padded :])
    (direction,) = struct.unpack("<I", options[2])
    assert direction in (1, 2)
    hosts, segment = _read_ip(body[20 : 20 + length])
    ports, numbers = struct.unpack("!HH", segment[:4]), struct.unpack("!II", segment[4:12])
    offset, flags, window, _checksum, urgent = struct.unpack("!BBHHH", segment[12:20])
    assert (window, urgent) == (65535, 0)
    assert (offset & 15, offset >> 4) == (0, 7 if flags & SYN else 5)
    return CapturedPacket(
        section=section,
        interface=interfaces[interface],
        time_ns=high << 32 | low,
        inbound=direction == 1,
        comment=options.get(1, b"").decode(),
        source=(hosts[0], ports[0]),
        destination=(hosts[1], ports[1]),
        sequence=numbers[0],
        acknowledged=numbers[1],
        flags=flags,
        payload=segment[(offset >> 4) * 4 :],
    )


def _read_ip(packet: bytes) -> tuple[tuple[str, str], bytes]:
    """Return source and destination, and the TCP segment, all checksums verified."""
    version = packet[0] >> 4
    if version == 4:
        assert packet[0] == 0x45
        assert struct.unpack("!H", packet[2:4]) == (len(packet),)
        assert packet[9] == 6
        assert _sum(packet[:20]) == 0xFFFF
        addresses, segment = packet[12:20], packet[20:]
        hosts = (str(IPv4Address(addresses[:4])), str(IPv4Address(addresses[4:])))
        pseudo = addresses + struct.pack("!HH", 6, len(segment))
    else:
        assert version == 6
        assert packet[6] == 6
        addresses, segment = packet[8:40], packet[40:]
        assert struct.unpack("!H", packet[4:6]) == (len(segment),)
        hosts = (str(IPv6Address(addresses[:16])), str(IPv6Address(addresses[16:])))
        pseudo = addresses + struct.pack("!II", len(segment), 6)
    assert _sum(pseudo + segment) == 0xFFFF
    return hosts, segment


def _sum(data: bytes) -> int:
    """Return the one's complement sum of 16-bit words (RFC 1071), by the book."""
    if len(data) % 2:
        data += b"\0"
    total = sum(data[0::2]) * 256 + sum(data[1::2])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
