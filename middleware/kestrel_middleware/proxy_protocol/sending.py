"""Sending PROXY headers: on behalf of whom, and before everything else."""

import re
from typing import ClassVar

import attrs

from kestrel_core.connection import Connection
from kestrel_core.features import ProxyInfo, TlsInfo
from kestrel_core.middleware import ConnectionHandler, Layer
from kestrel_middleware.proxy_protocol.header import ProxyHeader
from kestrel_middleware.proxy_protocol.tlv import SslClient, SslTlv, Tlv, TlvType
from kestrel_middleware.proxy_protocol.wire import encode

__all__ = ["SendProxyHeader", "common_name_of", "header_for"]

# What is worked out anew for each header, or means nothing.
_NOT_PASSED_ON = {TlvType.CRC32C, TlvType.NOOP}

# What TLS of our own knows better than a proxy before us.
_KNOWN_FROM_TLS = {TlvType.ALPN, TlvType.AUTHORITY, TlvType.SSL}

# OpenSSL's X509_V_ERR_UNSPECIFIED.
_NOT_VERIFIED = 1

# An attribute of a subject as RFC 4514 writes it, up to what ends it there.
_ATTRIBUTE = re.compile(r"((?:[^\\,+]|\\.)+)(?:[,+]|$)", re.DOTALL)
_ESCAPES = re.compile(r"(?:\\[0-9A-Fa-f]{2})+|\\(.)", re.DOTALL)


@attrs.define(eq=False)
class SendProxyHeader(Layer):
    """Sends `header` before anything else; for the connections that a client or a proxy makes.

    It goes out at once, in one piece, also if what follows begins by reading. `connection` is as
    it was for what follows. `header_for` makes the header that passes a client's connection on::

        header = header_for(client)
        await SendProxyHeader(header)(upstream, talk)

    Raises:
        ValueError: `header` cannot be written.
    """

    name: ClassVar[str] = "send_proxy_header"

    header: ProxyHeader = attrs.field(on_setattr=attrs.setters.frozen)
    _raw: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._raw = encode(self.header)

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Send the header, and go on."""
        await connection.transport.output.send(self._raw)
        await following(connection)


def header_for(
    connection: Connection,
    *,
    version: int = 2,
    checksum: bool = False,
    unique_id: bytes | None = None,
) -> ProxyHeader:
    """Return the header that tells the next server whose connection `connection` is.

    The addresses are those of `connection`. Version 2 has in its TLVs what `TlsInfo` knows, and
    what a proxy before us said in `ProxyInfo`, as far as that is not the same; `checksum` adds a
    CRC-32C, and `unique_id`, of at most 128 bytes, replaces the one of a proxy before us.

    Raises:
        ValueError: version 1 has no room for a checksum or an id, or the id is too long.
    """
    tlvs: list[Tlv] = [(TlvType.CRC32C, bytes(4))] if checksum else []
    if unique_id is not None:
        tlvs.append((TlvType.UNIQUE_ID, unique_id))
    if version != 1:
        tls, told = connection.features.get(TlsInfo), connection.features.get(ProxyInfo)
        if tls is not None:
            tlvs += _tls_tlvs(tls)
        if told is not None:
            known = {*_NOT_PASSED_ON, *(_KNOWN_FROM_TLS if tls else ())}
            known.update({TlvType.UNIQUE_ID} if unique_id is not None else ())
            tlvs += [(kind, value) for kind, value in told.tlvs if kind not in known]
    header = ProxyHeader.between(connection.remote, connection.local, version=version, tlvs=tlvs)
    header.check()
    return header


def _tls_tlvs(tls: TlsInfo) -> list[Tlv]:
    """Return what is known about a client's TLS, as HAProxy's `proxy-v2-options` would send it."""
    client, verify = SslClient.SSL, _NOT_VERIFIED
    inside: list[Tlv] = [
        (TlvType.SSL_VERSION, tls.version.encode()),
        (TlvType.SSL_CIPHER, tls.cipher.encode()),
    ]
    if tls.peer_certificates:
        client |= SslClient.CERT_SESS if tls.resumed else SslClient.CERT_CONN | SslClient.CERT_SESS
        if tls.peer_name is not None:
            verify = 0
            common_name = common_name_of(tls.peer_name)
            if common_name is not None:
                inside.append((TlvType.SSL_CN, common_name.encode("utf-8", "surrogateescape")))
    tlvs: list[Tlv] = []
    if tls.alpn is not None:
        tlvs.append((TlvType.ALPN, tls.alpn.encode()))
    if tls.server_name is not None:
        tlvs.append((TlvType.AUTHORITY, tls.server_name.encode()))
    ssl = SslTlv(client=client, verify=verify, tlvs=inside)
    return [*tlvs, (TlvType.SSL, ssl.to_bytes())]


def common_name_of(subject: str) -> str | None:
    """Return the common name in a subject that RFC 4514 writes, or None if it has none.

    Of several it is the one that comes last there, and so first in the certificate.
    """
    attributes = [written.partition("=") for written in _ATTRIBUTE.findall(subject)]
    values = [value for name, _, value in attributes if name.strip().upper() == "CN"]
    if not values or values[-1].startswith("#"):  # in hexadecimal: no text
        return None
    return _ESCAPES.sub(_unescape, values[-1])


def _unescape(match: re.Match[str]) -> str:
    if match[1] is not None:
        return match[1]
    return bytes.fromhex(match[0].replace("\\", "")).decode("utf-8", "replace")
