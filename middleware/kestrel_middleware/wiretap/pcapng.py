"""The blocks of a pcapng file, as Wireshark writes and reads them.

The format is draft-ietf-opsawg-pcapng; its section numbers are cited here. All numbers are written
in little-endian order, which the section header tells.
"""

import struct
from collections.abc import Iterable
from enum import Enum

__all__ = [
    "LINKTYPE_RAW",
    "PacketDirection",
    "enhanced_packet",
    "interface_description",
    "section_header",
]

LINKTYPE_RAW = 101
"""A packet begins with its IPv4 or IPv6 header (the link types' registry, at tcpdump.org)."""

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_ENHANCED_PACKET = 6

_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_UNKNOWN_LENGTH = -1  # of a section, which then lasts until the next one or the end of the file

# Options of every block (3.5), of section headers (4.1), interfaces (4.2) and packets (4.3).
_OPT_END = 0
_OPT_COMMENT = 1
_SHB_USERAPPL = 4
_IF_NAME = 2
_IF_TSRESOL = 9
_EPB_FLAGS = 2

_NANOSECONDS = b"\x09"  # as a negative power of ten

_ENDS = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_OPTION = struct.Struct("<HH")
_PACKET = struct.Struct("<IIIII")

_MOST_OPTION_BYTES = 65535


class PacketDirection(Enum):
    """Which way a packet went; the values are those of the two lowest bits of epb_flags."""

    INBOUND = 1
    OUTBOUND = 2


def section_header(application: str) -> bytes:
    """Return the block that begins a section, written by `application` (4.1)."""
    fixed = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, _UNKNOWN_LENGTH)
    options = _options([(_SHB_USERAPPL, application.encode())])
    return _block(_SECTION_HEADER, [fixed, *options])


def interface_description(name: str, link_type: int = LINKTYPE_RAW) -> bytes:
    """Return the block that describes the next interface of a section (4.2).

    The first one described has the number 0. Times on it are in nanoseconds, and packets are whole.
    """
    fixed = struct.pack("<HHI", link_type, 0, 0)
    named = [(_IF_NAME, name.encode())] if name else []
    return _block(_INTERFACE_DESCRIPTION, [fixed, *_options([*named, (_IF_TSRESOL, _NANOSECONDS)])])


def enhanced_packet(
    interface: int,
    time_ns: int,
    packet: Iterable[bytes | memoryview],
    direction: PacketDirection,
    comment: str = "",
) -> bytes:
    """Return the block of a packet, given in parts, that was seen at `time_ns` since 1970 (4.3)."""
    content = b"".join(packet)
    options = [(_EPB_FLAGS, _LENGTH.pack(direction.value))]
    if comment:
        options.append((_OPT_COMMENT, comment.encode()))
    fixed = _PACKET.pack(
        interface, time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF, len(content), len(content)
    )
    return _block(_ENHANCED_PACKET, [fixed, content, _padding(content), *_options(options)])


def _options(options: Iterable[tuple[int, bytes]]) -> list[bytes]:
    """Return options and what ends them (3.5); a value that is too long is cut."""
    parts: list[bytes] = []
    for code, value in options:
        cut = value[:_MOST_OPTION_BYTES]
        parts += [_OPTION.pack(code, len(cut)), cut, _padding(cut)]
    return [*parts, _OPTION.pack(_OPT_END, 0)]


def _block(kind: int, parts: list[bytes]) -> bytes:
    length = sum(map(len, parts)) + 12  # with the type and the length itself, twice (3.1)
    return b"".join([_ENDS.pack(kind, length), *parts, _LENGTH.pack(length)])


def _padding(content: bytes) -> bytes:
    return bytes(-len(content) % 4)
