"""JA4, against the worked examples of its specification."""

from collections.abc import Sequence

import pytest

from kestrel_middleware.client_hello import ja4

SUITES = "1301 1302 1303 c02b c02f c02c c030 cca9 cca8 c013 c014 009c 009d 002f 0035"
EXTENSIONS = "001b 0000 0033 0010 4469 0017 002d 000d 0005 0023 0012 002b ff01 000b 000a 0015"
ALGORITHMS = "0403 0804 0401 0503 0805 0501 0806 0601"


def numbers(text: str) -> list[int]:
    return [int(number, 16) for number in text.split()]


def fingerprint(
    *,
    version: int = 0x0304,
    suites: str = SUITES,
    extensions: str = EXTENSIONS,
    alpn: bytes = b"h2",
    algorithms: str = ALGORITHMS,
) -> str:
    return ja4(
        version=version,
        cipher_suites=numbers(suites),
        extensions=numbers(extensions),
        first_alpn=alpn,
        signature_algorithms=numbers(algorithms),
    )


def test_the_worked_example() -> None:
    assert fingerprint() == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_the_order_counts_for_signature_algorithms_alone() -> None:
    turned = " ".join(reversed(ALGORITHMS.split()))
    assert fingerprint(suites=" ".join(reversed(SUITES.split()))) == fingerprint()
    assert fingerprint(extensions=" ".join(sorted(EXTENSIONS.split()))) == fingerprint()
    assert fingerprint(algorithms=turned)[:23] == fingerprint()[:23]
    assert fingerprint(algorithms=turned) != fingerprint()


def test_without_signature_algorithms() -> None:
    assert fingerprint(algorithms="") == "t13d1516h2_8daaf6152771_6d807ffa2a79"


def test_with_nothing() -> None:
    empty = fingerprint(suites="", extensions="", alpn=b"", algorithms="")
    assert empty == "t13i000000_000000000000_000000000000"
    assert fingerprint(extensions="0000 0010", algorithms="")[4:] == (
        "1502h2_8daaf6152771_000000000000"
    )


def test_a_server_that_is_not_named() -> None:
    without = EXTENSIONS.replace("0000", "")
    assert fingerprint(extensions=without) == "t13i1515h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("version", "digits"),
    [
        (0x0304, "13"),
        (0x0303, "12"),
        (0x0302, "11"),
        (0x0301, "10"),
        (0x0300, "s3"),
        (0x0002, "s2"),
        (0x0305, "00"),
        (0, "00"),
    ],
)
def test_versions(version: int, digits: str) -> None:
    assert fingerprint(version=version)[1:3] == digits


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"", "00"),
        (b"\xab", "ab"),
        (b"\x20", "20"),
        (b"\xab\xcd", "ad"),
        (b"\x20\x61", "21"),
        (b"\x30\xab", "3b"),
        (b"\x61\x20", "60"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
    ],
)
def test_alpn(name: bytes, ends: str) -> None:
    assert fingerprint(alpn=name)[8:10] == ends


def many(count: int) -> str:
    values: Sequence[int] = range(0x2000, 0x2000 + count)
    return " ".join(f"{value:04x}" for value in values)


def test_counts_have_two_digits() -> None:
    assert fingerprint(suites=many(99), extensions=many(100))[4:8] == "9999"
    assert fingerprint(suites=many(250), extensions=many(9))[4:8] == "9909"
