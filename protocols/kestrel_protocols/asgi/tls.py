"""The `tls` extension of ASGI (version 0.2): what an application is told of its connection's TLS."""

import base64
from functools import lru_cache
from typing import Any

import attrs

from kestrel_core.connection import Connection
from kestrel_core.features import TlsInfo

__all__ = ["tls_extension"]

# As in the protocol itself (RFC 8446, 4.2.1), and in the extension's text.
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

_PEM_LINE = 64


@attrs.frozen
class _TlsExtension:
    """The extension, made once for a connection."""

    content: dict[str, Any]


def tls_extension(connection: Connection) -> dict[str, Any] | None:
    """Return the extension for `connection`, or None if it has no TLS with us.

    The same dictionary each time: the specification says that it is not to be changed.
    """
    made = connection.features.get(_TlsExtension)
    if made is None:
        info = connection.features.get(TlsInfo)
        if info is None:
            return None
        made = _TlsExtension(_describe(info))
        connection.features.publish(made)
    return made.content


def _describe(info: TlsInfo) -> dict[str, Any]:
    return {
        "server_cert": None if info.own_certificate is None else _pem(info.own_certificate),
        "client_cert_chain": [_pem(certificate) for certificate in info.peer_certificates],
        "client_cert_name": info.peer_name,
        "client_cert_error": None,  # one that does not verify ends the handshake
        "tls_version": _VERSIONS.get(info.version),
        "cipher_suite": info.cipher_suite,
    }


@lru_cache(maxsize=64)
def _pem(certificate: bytes) -> str:
    """Return a certificate in PEM (RFC 7468)."""
    text = base64.b64encode(certificate).decode("ascii")
    lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
