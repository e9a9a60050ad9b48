"""The TLS records that a ClientHello comes in (RFC 8446, 5.1): one, or as many as the client likes."""

from kestrel_core.features import ClientHello
from kestrel_core.protocol import Sniff
from kestrel_middleware.client_hello._message import (
    HEADER_BYTES,
    BadClientHello,
    parse_client_hello,
)

__all__ = ["ClientHelloReader", "read_client_hello", "sniff_tls"]

# What a record is, the version, and in two bytes how much follows.
_RECORD_HEADER_BYTES = 5
# Nothing is encrypted yet, so there is no room for what encryption adds.
_MOST_RECORD_BYTES = 16384

_HANDSHAKE = 22
_MAJOR_VERSION = 3  # of everything since SSL 3.0; the minor one has to be ignored
_CLIENT_HELLO = 1

# As Go (maxHandshake in crypto/tls) and rustls have it for every handshake message; OpenSSL takes
# a ClientHello of twice the size. Real ones have less than two thousand bytes.
_MOST_MESSAGE_BYTES = 65536

_BEGINNING = bytes([_HANDSHAKE, _MAJOR_VERSION])
_HIGHEST_LENGTH = _MOST_RECORD_BYTES.to_bytes(2, "big")

_YES, _NO, _MORE = Sniff.YES, Sniff.NO, Sniff.MORE


def sniff_tls(prefix: bytes) -> Sniff:
    """Tell whether `prefix` begins a TLS record with a ClientHello in it; six bytes decide."""
    if prefix[:2] != _BEGINNING[: len(prefix)]:
        return _NO
    length = prefix[3:5]
    if length > _HIGHEST_LENGTH or length == b"\0\0":
        return _NO
    if len(prefix) <= _RECORD_HEADER_BYTES:
        return _MORE
    return _YES if prefix[_RECORD_HEADER_BYTES] == _CLIENT_HELLO else _NO


def read_client_hello(prefix: bytes) -> ClientHello | None:
    """Return the ClientHello that `prefix` begins with, or None while that takes more bytes.

    It is whole before anything inside of it is looked at. What follows it does not matter.

    Raises:
        BadClientHello: no bytes that follow can make one of it.
    """
    return ClientHelloReader().read(prefix)


class ClientHelloReader:
    """Reads one ClientHello from a prefix that grows, looking at every byte of it once."""

    __slots__ = ("_message", "_position")

    def __init__(self) -> None:
        self._message = bytearray()
        self._position = 0

    def read(self, prefix: bytes) -> ClientHello | None:
        """Do what `read_client_hello` does, with a `prefix` that begins with those before it.

        Raises:
            BadClientHello: as `read_client_hello` does; do not call it again, then.
        """
        raw = self.read_message(prefix)
        return None if raw is None else parse_client_hello(raw)

    def read_message(self, prefix: bytes) -> bytes | None:
        """Return the message as `ClientHello.raw` has it, not looked into; otherwise as `read`."""
        while True:
            start = self._position + _RECORD_HEADER_BYTES
            record = prefix[self._position : start]
            if record[:2] != _BEGINNING[: len(record)]:
                raise BadClientHello(f"{record[:2].hex(' ')} begins no TLS record of a handshake")
            if len(record) < _RECORD_HEADER_BYTES:
                return None
            length = int.from_bytes(record[3:], "big")
            if not 0 < length <= _MOST_RECORD_BYTES:
                raise BadClientHello(
                    f"a TLS record of a handshake has 1 to {_MOST_RECORD_BYTES} bytes, not {length}"
                )
            if len(prefix) < start + length:
                _message_bytes(self._message[:HEADER_BYTES] + prefix[start : start + HEADER_BYTES])
                return None
            self._message += prefix[start : start + length]
            self._position = start + length
            needed = _message_bytes(self._message)
            if needed is not None and len(self._message) >= needed:
                return bytes(self._message[:needed])


def _message_bytes(message: bytes | bytearray) -> int | None:
    """Return how many bytes the whole message has, or None if that has not come yet.

    Raises:
        BadClientHello: it is another message, or too long.
    """
    if message and message[0] != _CLIENT_HELLO:
        raise BadClientHello(f"the handshake begins with message {message[0]}, no ClientHello")
    if len(message) < HEADER_BYTES:
        return None
    needed = HEADER_BYTES + int.from_bytes(message[1:HEADER_BYTES], "big")
    if needed > _MOST_MESSAGE_BYTES:
        raise BadClientHello(f"a ClientHello has {_MOST_MESSAGE_BYTES} bytes at most, not {needed}")
    return needed
