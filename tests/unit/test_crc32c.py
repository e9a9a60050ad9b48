"""The checksum, against the numbers of RFC 3720, B.4, and against arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_middleware.proxy_protocol.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_known_checksums(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def by_long_division(data: bytes) -> int:
    """Divide bit by bit, as the definition has it."""
    remainder = 0xFFFFFFFF
    for byte in data:
        for position in range(8):
            bit = byte >> position & 1
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 ^ bit else 0)
    return remainder ^ 0xFFFFFFFF


@given(st.binary(max_size=200))
def test_it_is_the_remainder(data: bytes) -> None:
    assert crc32c(data) == by_long_division(data)


@given(st.binary(min_size=1, max_size=100), st.integers(0, 799))
def test_every_single_bit_matters(data: bytes, position: int) -> None:
    byte, bit = divmod(position % (8 * len(data)), 8)
    changed = bytearray(data)
    changed[byte] ^= 1 << bit
    assert crc32c(bytes(changed)) != crc32c(data)
