"""A TCP connection that never was: packets that carry given bytes as a network would have.

A capture file holds packets, but a layer sees two streams of bytes. This makes packets of them,
with everything in place that a reader checks: addresses, ports, sequence numbers and checksums
(RFC 9293, RFC 791, RFC 8200). The peer opens the connection, as every connection of a server begins.
"""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import attrs

from kestrel_core.connection import Address
from kestrel_middleware.networks import IpAddress, ip_of
from kestrel_middleware.wiretap.pcapng import PacketDirection

__all__ = ["MOST_PAYLOAD_BYTES", "Packet", "SocketPair", "TcpStream"]

MOST_PAYLOAD_BYTES = 65_495
"""What fits a packet: an IPv4 packet has 65,535 bytes at most, and 40 of them are headers."""

_INBOUND, _OUTBOUND = PacketDirection.INBOUND, PacketDirection.OUTBOUND

_FIN, _SYN, _RST, _PSH, _ACK = 0x01, 0x02, 0x04, 0x08, 0x10

_TCP = 6
_HOPS = 64
_DONT_FRAGMENT = 0x4000

# The widest window there is (RFC 7323, 2.3), or a reader would think that it was often full.
_WINDOW = 65535
_WINDOW_SHIFT = 14

# Of a SYN (RFC 9293, 3.2): maximum segment size, window scale, and one byte of padding.
_SYN_OPTIONS = struct.pack("!BBHBBBB", 2, 4, MOST_PAYLOAD_BYTES, 3, 3, _WINDOW_SHIFT, 1)

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_SEGMENT = struct.Struct("!HHIIBBHHH")
_PSEUDO_IPV4 = struct.Struct("!4s4sBBH")
_PSEUDO_IPV6 = struct.Struct("!16s16sII")

# Addresses for documentation (RFC 5737, RFC 3849) and ports that are nobody's (RFC 6335), so that
# nobody takes them for real and a reader has to look at the bytes to tell the protocol.
_OUR_IPV4 = IPv4Address("192.0.2.1")
_PEERS_IPV4 = int(IPv4Address("203.0.113.0"))
_OUR_IPV6 = IPv6Address("2001:db8::1")
_PEERS_IPV6 = int(IPv6Address("2001:db8:1::"))
_FIRST_PORT = 49152
_PORTS = 16384

Packet = tuple[bytes, bytes | memoryview]
"""Headers, and the payload."""


@attrs.frozen
class SocketPair:
    """The addresses and ports of a TCP connection, both addresses of one family."""

    our_host: IpAddress
    our_port: int
    peer_host: IpAddress
    peer_port: int

    @classmethod
    def of(cls, local: Address | None, remote: Address | None, number: int) -> "SocketPair":
        """Return the real addresses and ports, or made up ones where an end has none.

        What is made up depends on `number`, and differs for any four million successive ones.
        """
        ours, peers = _socket_of(local), _socket_of(remote)
        known = ours or peers
        if ours is None:
            is_ipv6 = known is not None and known[0].version == 6
            ours = (_OUR_IPV6 if is_ipv6 else _OUR_IPV4, _FIRST_PORT)
        if peers is None:
            index, port = divmod(number % (256 * _PORTS), _PORTS)
            host = IPv6Address(_PEERS_IPV6 + index) if ours[0].version == 6 else None
            peers = (host or IPv4Address(_PEERS_IPV4 + index), _FIRST_PORT + port)
        if ours[0].version != peers[0].version:
            return cls(_as_ipv6(ours[0]), ours[1], _as_ipv6(peers[0]), peers[1])
        return cls(*ours, *peers)


def _socket_of(address: Address | None) -> tuple[IpAddress, int] | None:
    if address is None or address.port is None:
        return None
    host = ip_of(address.host)
    return None if host is None else (host, address.port)


def _as_ipv6(host: IpAddress) -> IpAddress:
    return host if host.version == 6 else IPv6Address(f"::ffff:{host}")


class _Side:
    """One end of the connection, as the sender of segments."""

    __slots__ = ("_build", "_from", "_ports", "_to", "next_number", "packets")

    def __init__(
        self, host: IpAddress, port: int, to_host: IpAddress, to_port: int, next_number: int
    ) -> None:
        self._from, self._to = host.packed, to_host.packed
        self._ports = (port, to_port)
        self._build = self._ipv4 if host.version == 4 else self._ipv6
        self.next_number = next_number
        self.packets = 0

    def segment(
        self,
        flags: int,
        acknowledged: int,
        payload: bytes | memoryview = b"",
        options: bytes = b"",
    ) -> Packet:
        """Return a packet, and count what it takes of the sequence numbers."""
        number = self.next_number
        taken = len(payload) + bool(flags & (_SYN | _FIN))
        self.next_number = (number + taken) & 0xFFFFFFFF
        self.packets += 1
        offset = (_SEGMENT.size + len(options)) << 2  # in words, in the upper half of its byte
        fields = (*self._ports, number, acknowledged, offset, flags, _WINDOW)
        length = _SEGMENT.size + len(options) + len(payload)
        ip_header, pseudo_header = self._build(length)
        checksum = _checksum(pseudo_header + _SEGMENT.pack(*fields, 0, 0) + options, payload)
        return ip_header + _SEGMENT.pack(*fields, checksum, 0) + options, payload

    def _ipv4(self, length: int) -> tuple[bytes, bytes]:
        identification = self.packets & 0xFFFF
        before = (0x45, 0, 20 + length, identification, _DONT_FRAGMENT, _HOPS, _TCP)
        checksum = _checksum(_IPV4.pack(*before, 0, self._from, self._to))
        header = _IPV4.pack(*before, checksum, self._from, self._to)
        return header, _PSEUDO_IPV4.pack(self._from, self._to, 0, _TCP, length)

    def _ipv6(self, length: int) -> tuple[bytes, bytes]:
        header = _IPV6.pack(6 << 28, length, _TCP, _HOPS, self._from, self._to)
        return header, _PSEUDO_IPV6.pack(self._from, self._to, length, _TCP)


def _checksum(header: bytes, payload: bytes | memoryview = b"") -> int:
    """Return the Internet checksum (RFC 1071) of a header of even length and a payload.

    As 2**16 is 1 modulo 65535, the sum of 16-bit words is the whole number modulo 65535: for a full
    packet that is five times as fast as adding them up.
    """
    padded = int.from_bytes(payload, "big") << (len(payload) % 2 * 8)
    return -(int.from_bytes(header, "big") + padded) % 65535


class TcpStream:
    """The packets of one connection, in order, as its bytes come to be known.

    `first_number` is the first sequence number of either side. A reader takes connections of the
    same addresses and ports apart by these, so no two successive ones should be the same.
    """

    def __init__(self, sockets: SocketPair, first_number: int) -> None:
        ours = (sockets.our_host, sockets.our_port)
        peers = (sockets.peer_host, sockets.peer_port)
        number = first_number & 0xFFFFFFFF
        self._us = _Side(*ours, *peers, number)
        self._peer = _Side(*peers, *ours, number)

    def handshake(self) -> Iterator[tuple[PacketDirection, Packet]]:
        """Yield the three packets that open the connection."""
        yield _INBOUND, self._peer.segment(_SYN, 0, options=_SYN_OPTIONS)
        yield _OUTBOUND, self._send(_OUTBOUND, _SYN | _ACK, options=_SYN_OPTIONS)
        yield _INBOUND, self._send(_INBOUND, _ACK)

    def data(self, direction: PacketDirection, payload: bytes | memoryview) -> Iterator[Packet]:
        """Yield packets that carry `payload`."""
        view = memoryview(payload)
        for start in range(0, len(view), MOST_PAYLOAD_BYTES):
            part = view[start : start + MOST_PAYLOAD_BYTES]
            yield self._send(direction, _PSH | _ACK, part)

    def end(self, direction: PacketDirection) -> Packet:
        """Return the packet that says that no more bytes will come in `direction`."""
        return self._send(direction, _FIN | _ACK)

    def reset(self, direction: PacketDirection) -> Packet:
        """Return the packet that ends both directions at once."""
        return self._send(direction, _RST | _ACK)

    def _send(
        self,
        direction: PacketDirection,
        flags: int,
        payload: bytes | memoryview = b"",
        options: bytes = b"",
    ) -> Packet:
        inbound = direction is _INBOUND
        sender, receiver = (self._peer, self._us) if inbound else (self._us, self._peer)
        return sender.segment(flags, receiver.next_number, payload, options)
