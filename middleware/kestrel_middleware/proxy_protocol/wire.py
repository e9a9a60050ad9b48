"""PROXY headers in bytes, both ways: the line of version 1 and the binary block of version 2.

Section numbers are those of HAProxy's proxy-protocol.txt, which defines both.
"""

import os
import re
from collections.abc import Collection, Sequence

from kestrel_core.connection import Address
from kestrel_core.protocol import Sniff
from kestrel_middleware.networks import ip_of
from kestrel_middleware.proxy_protocol.crc32c import crc32c
from kestrel_middleware.proxy_protocol.header import (
    UNIX_NAME_BYTES,
    Command,
    Family,
    InvalidHeader,
    ProxyHeader,
    SocketKind,
    ip_text,
    packed_ip,
)
from kestrel_middleware.proxy_protocol.tlv import (
    MAX_UNIQUE_ID_BYTES,
    SslTlv,
    Tlv,
    TlvType,
    first_of,
    join_tlvs,
    split_tlvs,
)

__all__ = ["LARGEST_HEADER_BYTES", "LONGEST_LINE_BYTES", "decode", "encode", "sniff"]

LONGEST_LINE_BYTES = 107
"""What a header of version 1 has at most, CR LF included (2.1)."""

_FIXED_BYTES = 16  # of version 2, before addresses and TLVs

LARGEST_HEADER_BYTES = _FIXED_BYTES + 0xFFFF
"""What a header of version 2 has at most."""

# Long enough that no request of HTTP begins so, whatever its method.
_LINE_BEGINNINGS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r")

_PORT = rb"(0|[1-9][0-9]{0,4})"
_TCP_LINE = re.compile(rb"PROXY TCP[46] ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b" % (_PORT, _PORT))
_TCP_LINE_SO_FAR = re.compile(rb"PROXY TCP[46] [0-9A-Fa-f:. ]*\r?")

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

_ADDRESS_BYTES = {
    Family.UNSPEC: 0,
    Family.INET: 4 + 4 + 2 + 2,
    Family.INET6: 16 + 16 + 2 + 2,
    Family.UNIX: 2 * UNIX_NAME_BYTES,
}


def sniff(prefix: bytes, versions: Collection[int] = (1, 2)) -> Sniff:
    """Tell whether `prefix` is how a header of one of `versions` begins."""
    of_block = 2 in versions
    if of_block and prefix.startswith(_SIGNATURE) and len(prefix) > len(_SIGNATURE):
        return Sniff.YES if prefix[len(_SIGNATURE)] >> 4 == 2 else Sniff.NO
    of_line = 1 in versions
    if of_line and prefix.startswith(_LINE_BEGINNINGS):
        return Sniff.YES
    if of_block and _SIGNATURE.startswith(prefix):
        return Sniff.MORE
    if of_line and any(beginning.startswith(prefix) for beginning in _LINE_BEGINNINGS):
        return Sniff.MORE
    return Sniff.NO


def decode(
    data: bytes, max_header_bytes: int = LARGEST_HEADER_BYTES
) -> tuple[ProxyHeader, int] | None:
    """Return the header that `data` begins with and its length, or None as long as more must come.

    What a proxy that speaks for itself (LOCAL), or that has no addresses (UNSPEC), puts in their
    place is to be skipped whatever it is (2.2): TLVs if it can be read as such, else nothing.

    Raises:
        InvalidHeader: no header begins so, or a larger one than `max_header_bytes`.
    """
    match sniff(data):
        case Sniff.MORE:
            return None
        case Sniff.NO:
            raise InvalidHeader("no PROXY header begins like this")
        case Sniff.YES:
            try:
                if data.startswith(_SIGNATURE):
                    return _decode_block(data, max_header_bytes)
                return _decode_line(data)
            except ValueError as error:
                raise InvalidHeader(str(error)) from error


def encode(header: ProxyHeader) -> bytes:
    """Return the bytes of `header`; see there for what version 1 cannot say.

    Raises:
        ValueError: its parts do not fit together, or into a header.
    """
    header.check()
    return _encode_line(header) if header.version == 1 else _encode_block(header)


# Version 1 --------------------------------------------------------------------------------------


def _decode_line(data: bytes) -> tuple[ProxyHeader, int] | None:
    end = data.find(b"\r\n", 0, LONGEST_LINE_BYTES)
    of_tcp = data.startswith(b"PROXY TCP")
    if end < 0:
        if len(data) >= LONGEST_LINE_BYTES:
            raise ValueError(f"the line does not end within {LONGEST_LINE_BYTES} bytes")
        if of_tcp and not _TCP_LINE_SO_FAR.fullmatch(data):
            raise ValueError("the line has a character that has no place there")
        return None
    if not of_tcp:  # and what may follow is to be ignored (2.1)
        return ProxyHeader(version=1), end + 2
    match = _TCP_LINE.fullmatch(data, 0, end)
    if match is None:
        raise ValueError("the line is not two addresses and two ports")
    version_4 = data.startswith(b"PROXY TCP4")
    packed = [packed_ip(match[number].decode()) for number in (1, 2)]
    if any(len(ip) != (4 if version_4 else 16) for ip in packed):
        raise ValueError("the addresses are not of the family that the line names")
    ports = [int(match[number]) for number in (3, 4)]
    if max(ports) > 0xFFFF:
        raise ValueError("a port is above 65535")
    return ProxyHeader(
        version=1,
        family=Family.INET if version_4 else Family.INET6,
        kind=SocketKind.STREAM,
        source=Address(ip_text(packed[0]), ports[0]),
        destination=Address(ip_text(packed[1]), ports[1]),
    ), end + 2


def _encode_line(header: ProxyHeader) -> bytes:
    source, destination = header.source, header.destination
    over_ip = header.family in (Family.INET, Family.INET6)
    if not over_ip or header.kind is not SocketKind.STREAM or not (source and destination):
        return b"PROXY UNKNOWN\r\n"
    name = "TCP4" if header.family is Family.INET else "TCP6"
    hosts = f"{source.host} {destination.host}"
    return f"PROXY {name} {hosts} {source.port} {destination.port}\r\n".encode("ascii")


# Version 2 --------------------------------------------------------------------------------------


def _decode_block(data: bytes, max_header_bytes: int) -> tuple[ProxyHeader, int] | None:
    if len(data) < _FIXED_BYTES:
        return None
    size = _FIXED_BYTES + int.from_bytes(data[14:16])
    if size > max_header_bytes:
        raise ValueError(f"the header has {size} bytes, and {max_header_bytes} are allowed")
    command = Command(data[12] & 0xF)
    family_and_kind = data[13]
    if command is Command.LOCAL and family_and_kind >> 4 > Family.UNIX.value:
        family_and_kind = 0  # which is ignored then
    family = Family(family_and_kind >> 4)
    address_bytes = _ADDRESS_BYTES[family]
    skips = command is Command.LOCAL or family is Family.UNSPEC
    kind = SocketKind.UNSPEC if command is Command.LOCAL else SocketKind(family_and_kind & 0xF)
    if _FIXED_BYTES + address_bytes > size:
        if not skips:
            raise ValueError(f"{address_bytes} bytes of addresses do not fit in a header of {size}")
        address_bytes = 0
    if len(data) < size:
        return None
    block = data[:size]
    start = _FIXED_BYTES + address_bytes
    try:
        tlvs = split_tlvs(block[start:])
    except ValueError:
        if not skips:
            raise
        tlvs = ()
    if tlvs:
        _check_tlvs(tlvs, block, start)
    if skips:
        return ProxyHeader(command=command, kind=kind, tlvs=tlvs), size
    source, destination = _decode_addresses(block[_FIXED_BYTES:start], family)
    header = ProxyHeader(
        command=command,
        family=family,
        kind=kind,
        source=source,
        destination=destination,
        tlvs=tlvs,
    )
    if family is Family.UNIX:  # whose names can be anything
        header.check()
    return header, size


def _decode_addresses(data: bytes, family: Family) -> tuple[Address | None, Address | None]:
    if family is Family.UNIX:
        return _unix_address(data[:UNIX_NAME_BYTES]), _unix_address(data[UNIX_NAME_BYTES:])
    size = 4 if family is Family.INET else 16
    return (
        Address(ip_text(data[:size]), int.from_bytes(data[-4:-2])),
        Address(ip_text(data[size : 2 * size]), int.from_bytes(data[-2:])),
    )


def _unix_address(padded: bytes) -> Address | None:
    """Return the address of a name, spelt as endpoints spell it."""
    if padded[0] == 0:  # abstract, as on Linux, unless there is none at all
        name = padded.rstrip(b"\0")
        return Address("@" + os.fsdecode(name[1:])) if name else None
    path = os.fsdecode(padded.partition(b"\0")[0])
    if path.startswith("@") or ip_of(path) is not None:
        path = f"./{path}"  # so that nobody takes it for a name of another kind
    return Address(path)


def _check_tlvs(tlvs: Sequence[Tlv], block: bytes, start: int) -> None:
    """Check what certain types ask for; they begin at `start` of the header.

    Raises:
        ValueError: one is wrong.
    """
    unique_id = first_of(tlvs, TlvType.UNIQUE_ID)
    if unique_id is not None and len(unique_id) > MAX_UNIQUE_ID_BYTES:
        raise ValueError(f"a unique id of {len(unique_id)} bytes is too long")
    ssl = first_of(tlvs, TlvType.SSL)
    if ssl is not None:
        SslTlv.parse(ssl)
    position = _checksum_position(tlvs)
    if position is not None:
        position += start
        told = int.from_bytes(block[position : position + 4])
        if crc32c(block[:position] + bytes(4) + block[position + 4 :]) != told:
            raise ValueError("the checksum is wrong")


def _checksum_position(tlvs: Sequence[Tlv]) -> int | None:
    """Return where in the bytes of `tlvs` the value of the checksum is, if there is one.

    Raises:
        ValueError: there are two, or it is not as long as it must be.
    """
    position, found = 0, None
    for kind, value in tlvs:
        position += 3
        if kind == TlvType.CRC32C:
            if found is not None or len(value) != 4:
                raise ValueError("there may be one checksum, of four bytes")
            found = position
        position += len(value)
    return found


def _encode_block(header: ProxyHeader) -> bytes:
    family, addresses = header.family, _encode_addresses(header)
    tlvs = [(kind, bytes(4) if kind == TlvType.CRC32C else value) for kind, value in header.tlvs]
    rest = addresses + join_tlvs(tlvs)
    if len(rest) > 0xFFFF:
        raise ValueError(f"a PROXY header has room for 65535 bytes, and not for {len(rest)}")
    block = b"%b%c%c%b%b" % (
        _SIGNATURE,
        0x20 | header.command.value,
        family.value << 4 | header.kind.value,
        len(rest).to_bytes(2),
        rest,
    )
    position = _checksum_position(tlvs)
    if position is None:
        return block
    position += _FIXED_BYTES + len(addresses)
    return block[:position] + crc32c(block).to_bytes(4) + block[position + 4 :]


def _encode_addresses(header: ProxyHeader) -> bytes:
    ends = (header.source, header.destination)
    match header.family:
        case Family.UNSPEC:
            return b""
        case Family.UNIX:
            return b"".join(_unix_name(end).ljust(UNIX_NAME_BYTES, b"\0") for end in ends)
        case Family.INET | Family.INET6:
            hosts = [packed_ip(end.host) for end in ends if end is not None]
            ports = [(end.port or 0).to_bytes(2) for end in ends if end is not None]
            return b"".join([*hosts, *ports])


def _unix_name(address: Address | None) -> bytes:
    if address is None:
        return b""
    name = os.fsencode(address.host)
    return b"\0" + name[1:] if name.startswith(b"@") else name
