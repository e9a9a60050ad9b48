"""Bytes become lines that a person can read, few enough for a report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.testing.readable_bytes import readable_lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"Hello", ["Hello"]),
        (b"one\r\ntwo\n\r\nthree", [r"one\r\n", r"two\n", r"\r\n", "three"]),
        (b"one\rtwo\r\r\n", [r"one\rtwo\r\r\n"]),
        ("Grüße, 世界\n".encode(), [r"Grüße, 世界\n"]),
        (b"a header with a \x00 and a \xff\r\n", [r"a header with a \x00 and a \xff\r\n"]),
        (b"a\tb\n", [r"a\tb\n"]),
        (b"\tx\n", [r"\tx\n"]),
    ],
)
def test_text_is_shown_as_text_with_its_line_ends(data: bytes, lines: list[str]) -> None:
    assert readable_lines(data) == lines


def test_a_few_other_bytes_stand_on_one_line() -> None:
    assert readable_lines(b"\x16\x03\x01A.") == ["16 03 01 41 2e  |...A.|"]


def test_many_other_bytes_are_shown_with_their_length_and_not_all() -> None:
    assert readable_lines(bytes(range(128, 208))) == [
        "80 bytes:",
        "80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f  |................|",
        "90 91 92 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f  |................|",
        "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 aa ab ac ad ae af  |................|",
        "b0 b1 b2 b3 b4 b5 b6 b7 b8 b9 ba bb bc bd be bf  |................|",
        "... 16 bytes more",
    ]


def test_other_bytes_behind_text_begin_a_line_of_their_own() -> None:
    assert readable_lines(b"head\r\n\r\n\x00\x01\n\nA\xff\n") == [
        r"head\r\n",
        r"\r\n",
        "00 01 0a 0a 41 ff 0a  |....A..|",
    ]


def test_a_long_line_is_cut() -> None:
    assert readable_lines(b"x" * 1000 + b"\r\n") == ["x" * 400 + r"... 600 characters more \r\n"]


def test_many_lines_are_cut() -> None:
    lines = readable_lines(b"line\n" * 42)
    assert lines == [r"line\n"] * 40 + ["... 10 bytes more"]


@given(data=st.binary(max_size=300))
def test_whatever_comes_the_lines_are_printable(data: bytes) -> None:
    lines = readable_lines(data)
    assert all(line.isprintable() for line in lines)
    assert bool(lines) == bool(data)


@given(text=st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=300))
def test_no_printable_character_is_changed(text: str) -> None:
    assert readable_lines(text.encode()) == ([text] if text else [])
