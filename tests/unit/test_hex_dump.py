"""Bytes as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_middleware.wiretap.hex_dump import hex_dump


@pytest.mark.parametrize(
    ("data", "offset", "shown"),
    [
        (b"", 0, []),
        (
            b"G",
            0,
            ["00000000  47                                                |G|"],
        ),
        (
            b"GET / H",
            9,
            ["00000009  47 45 54 20 2f 20 48                              |GET / H|"],
        ),
        (
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            0x1F0,
            [
                "000001f0  47 45 54 20 2f 20 48 54  54 50 2f 31 2e 31 0d 0a  |GET / HTTP/1.1..|",
                "00000200  68 6f 73 74 3a 20 61 0d  0a 0d 0a                 |host: a....|",
            ],
        ),
        (
            b"\x00\x1f ~\x7f\x80\xff\xe9",
            0xFFFFFFFF,
            ["ffffffff  00 1f 20 7e 7f 80 ff e9                           |.. ~....|"],
        ),
        (b"x", 0x1_0000_0000, ["100000000  78                                                |x|"]),
    ],
)
def test_lines_look_as_those_of_hexdump(data: bytes, offset: int, shown: list[str]) -> None:
    assert hex_dump(data, offset).splitlines() == shown


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=2**40))
def test_everything_is_in_it(data: bytes, offset: int) -> None:
    read = b""
    for line in hex_dump(data, offset).splitlines():
        start, _, rest = line.partition("  ")
        columns, text = rest[:48], rest[50:]
        assert int(start, 16) == offset + len(read)
        here = bytes.fromhex(columns)
        assert text == "|" + "".join(chr(c) if 32 <= c <= 126 else "." for c in here) + "|"
        read += here
        assert len(here) == 16 or read == data
    assert read == data
