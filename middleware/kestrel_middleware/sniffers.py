"""Telling protocols by how they begin, and protocols made of a function and a handler."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from kestrel_core.connection import Connection
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.protocol import Protocol, Sniff

__all__ = [
    "Sniffer",
    "sniff_beginning",
    "sniff_http2_preface",
    "sniff_ssh",
    "sniffed_protocol",
]

Sniffer: TypeAlias = Callable[[bytes], Sniff]
"""Does what `Protocol.sniff` does."""

_YES, _NO, _MORE = Sniff.YES, Sniff.NO, Sniff.MORE


def sniff_beginning(beginning: bytes) -> Sniffer:
    """Return a sniffer for what always begins with `beginning`.

    Raises:
        ValueError: everything does.
    """
    if not beginning:
        raise ValueError("everything begins with b''; give at least one byte")

    def sniff(prefix: bytes) -> Sniff:
        if prefix.startswith(beginning):
            return _YES
        return _MORE if beginning.startswith(prefix) else _NO

    return sniff


sniff_http2_preface: Sniffer = sniff_beginning(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
"""Recognize a client that speaks HTTP/2 without having asked (RFC 9113, 3.4)."""

sniff_ssh: Sniffer = sniff_beginning(b"SSH-")
"""Recognize a client of SSH (RFC 4253, 4.2)."""


def sniffed_protocol(
    name: str, sniff: Sniffer, handler: ConnectionHandler, *, alpn: Iterable[str] = ()
) -> Protocol:
    """Return the protocol that `sniff` recognizes and `handler` serves.

    For a handler that knows nothing of detection; else a subclass of `Protocol` says it as well.
    """
    own_name = name
    own_alpn: Sequence[str] = tuple(alpn)

    class SniffedProtocol(Protocol):
        name = own_name
        alpn = own_alpn

        def sniff(self, prefix: bytes) -> Sniff:
            return sniff(prefix)

        async def __call__(self, connection: Connection) -> None:
            await handler(connection)

    return SniffedProtocol()
