"""JA4, a name for a kind of TLS client (FoxIO's technical_details/JA4.md)."""

import hashlib
from collections.abc import Iterable, Sequence

__all__ = ["ja4"]

_SERVER_NAME = 0x0000
_ALPN = 0x0010

_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}
_UNKNOWN_VERSION = "00"

# What stands for a list that is empty, so that it does not look like the hash of something.
_NOTHING = "000000000000"

_HASH_DIGITS = 12
_MOST_COUNTED = 99


def ja4(
    *,
    version: int,
    cipher_suites: Sequence[int],
    extensions: Sequence[int],
    first_alpn: bytes,
    signature_algorithms: Sequence[int],
) -> str:
    """Return the fingerprint of a hello over TCP, such as "t13d1516h2_8daaf6152771_e5627efa2ab1".

    GREASE values have been left out of everything. `version` is the highest one offered;
    `first_alpn` is b"" where ALPN, or its first name, is missing.
    """
    hashed = sorted(kind for kind in extensions if kind not in (_SERVER_NAME, _ALPN))
    parts = [_hexadecimal(hashed)]
    if signature_algorithms:
        parts.append(_hexadecimal(signature_algorithms))
    return (
        f"t{_VERSIONS.get(version, _UNKNOWN_VERSION)}"
        f"{'d' if _SERVER_NAME in extensions else 'i'}"
        f"{min(len(cipher_suites), _MOST_COUNTED):02}{min(len(extensions), _MOST_COUNTED):02}"
        f"{_ends_of(first_alpn)}"
        f"_{_hash(_hexadecimal(sorted(cipher_suites))) if cipher_suites else _NOTHING}"
        f"_{_hash('_'.join(parts)) if hashed else _NOTHING}"
    )


def _ends_of(name: bytes) -> str:
    """Return the first and the last character of `name`, or of its digits if those are odd ones."""
    if not name:
        return "00"
    first, last = name[:1], name[-1:]
    if first.isalnum() and last.isalnum():  # of ASCII alone, as these are bytes
        return (first + last).decode("ascii")
    digits = name.hex()
    return digits[0] + digits[-1]


def _hexadecimal(numbers: Iterable[int]) -> str:
    return ",".join([f"{number:04x}" for number in numbers])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_HASH_DIGITS]
