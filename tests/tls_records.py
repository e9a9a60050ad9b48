"""Records of TLS 1.3 made by hand, for what a sound library never sends (RFC 8446, 5 and 7)."""

from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.tls_site import TlsPeer

__all__ = ["ALERT", "APPLICATION_DATA", "HANDSHAKE", "ClientRecords", "split_records"]

ALERT, HANDSHAKE, APPLICATION_DATA = 21, 22, 23

_KEY_UPDATE = 24

# TLS_AES_256_GCM_SHA384, which Python's clients agree on with Python's servers.
_KEY_BYTES, _HASH_BYTES, _IV_BYTES, _TAG_BYTES = 32, 48, 12, 16


class ClientRecords:
    """Encrypts what `peer` would, once its handshake is over; then `peer` itself only reads.

    `key_log` is where the peer's context writes its keys.
    """

    def __init__(self, peer: TlsPeer, key_log: Path) -> None:
        cipher = peer.session.cipher()
        assert cipher is not None
        assert cipher[0] == "TLS_AES_256_GCM_SHA384"
        lines = [line.split() for line in key_log.read_text().splitlines()]
        (secret,) = [line[2] for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self._use(bytes.fromhex(secret))

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(_expand(secret, b"key", _KEY_BYTES))
        self._iv = int.from_bytes(_expand(secret, b"iv", _IV_BYTES), "big")
        self._sequence_number = 0

    def record(self, content: bytes, kind: int = APPLICATION_DATA) -> bytes:
        """Return the next record."""
        plain = content + bytes([kind])
        header = b"\x17\x03\x03" + (len(plain) + _TAG_BYTES).to_bytes(2, "big")
        nonce = (self._iv ^ self._sequence_number).to_bytes(_IV_BYTES, "big")
        self._sequence_number += 1
        return header + self._cipher.encrypt(nonce, plain, header)

    def alert(self, level: int, description: int) -> bytes:
        """Return an alert."""
        return self.record(bytes([level, description]), ALERT)

    def key_update(self, *, ask: bool) -> bytes:
        """Return a KeyUpdate, which maybe asks the server for one, and use new keys after it."""
        record = self.record(bytes([_KEY_UPDATE, 0, 0, 1, ask]), HANDSHAKE)
        self._use(_expand(self._secret, b"traffic upd", _HASH_BYTES))
        return record


def split_records(data: bytes) -> list[bytes]:
    """Return the records in `data`, each with its header."""
    records: list[bytes] = []
    while data:
        end = 5 + int.from_bytes(data[3:5], "big")
        records.append(data[:end])
        data = data[end:]
    return records


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label without a context (RFC 8446, 7.1)."""
    label = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)
