"""Receiving PROXY headers: whom to believe, and what to make of what they say."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import attrs

from kestrel_core.connection import Address, Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.features import ProxyInfo, ProxyTls
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.protocol import Sniff, SniffedLayer
from kestrel_core.validators import above_zero
from kestrel_middleware.networks import Networks, networks
from kestrel_middleware.proxy_protocol.header import (
    Command,
    Family,
    InvalidHeader,
    ProxyHeader,
    SocketKind,
)
from kestrel_middleware.proxy_protocol.tlv import SslClient, SslTlv, TlvType, first_of
from kestrel_middleware.proxy_protocol.wire import LONGEST_LINE_BYTES, decode, sniff

__all__ = ["ProxyProtocol", "proxy_info"]

_log = logging.getLogger("kestrel.connection")

# How an IPv4 address begins that is dressed as one of IPv6 (RFC 4291, 2.5.5.2).
_MAPPED = "::ffff:"

_MORE = Sniff.MORE
_NO = Sniff.NO


def _somebody(_layer: object, _attribute: "attrs.Attribute[Any]", trusted: Networks) -> None:
    if not trusted:
        raise ValueError(
            "trusted must name the proxies that are believed, such as 10.0.0.0/8 or unix"
        )


def _tuple_of(versions: Iterable[int]) -> tuple[int, ...]:
    return tuple(versions)


def _known(_layer: object, _attribute: "attrs.Attribute[Any]", versions: Sequence[int]) -> None:
    if not versions or not {1, 2}.issuperset(versions):
        raise ValueError(f"versions must be 1, 2 or both, not {list(versions)}")


def _holds_a_line(_layer: object, attribute: "attrs.Attribute[Any]", size: int) -> None:
    if size < LONGEST_LINE_BYTES:
        raise ValueError(
            f"{attribute.name} must be at least {LONGEST_LINE_BYTES}, which version 1 needs,"
            f" not {size}"
        )


@attrs.define(kw_only=True, eq=False)
class ProxyProtocol(SniffedLayer):
    """Takes the PROXY header that a trusted proxy puts before a connection's bytes.

    Corrects `Connection.remote` and `Connection.local` to what the header says, and publishes
    `ProxyInfo`; both stay so when what follows has returned. A header without addresses (LOCAL,
    UNKNOWN, UNSPEC) leaves the proxy's. The bytes behind the header are for what follows.

    Raises:
        ValueError: an option makes no sense.
    """

    name: ClassVar[str] = "proxy_protocol"

    trusted: Networks = attrs.field(converter=networks, validator=_somebody)
    """The proxies whose headers are believed: networks, addresses, "unix", or "*" for everybody,
    which is right only where nobody else can connect."""

    versions: Sequence[int] = attrs.field(default=(1, 2), converter=_tuple_of, validator=_known)
    """The versions of the protocol that are taken."""

    required: bool = True
    """Whether there must be a header. If not, a trusted proxy may leave it out, and who is not
    trusted is served as who it is, with all of its bytes. If so, who is not trusted is not served
    at all."""

    header_seconds: float = attrs.field(default=10.0, validator=above_zero)
    """How long a header may take to arrive; the specification wants 3 at least."""

    max_header_bytes: int = attrs.field(default=4096, validator=_holds_a_line)
    """The largest header that is taken (nginx: 4096)."""

    def sniff(self, prefix: bytes) -> Sniff:
        """Recognize the beginning of a header of one of `versions`."""
        return sniff(prefix, self.versions)

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        """Refuse to read a second header, or one inside TLS, where no proxy puts it.

        Raises:
            ConfigurationError: it stands there.
        """
        for layer in outer:
            if isinstance(layer, ProxyProtocol):
                raise ConfigurationError(
                    "proxy_protocol stands there twice, but a connection has one PROXY header;"
                    " leave one of them out"
                )
            if getattr(layer, "name", None) == "tls":
                raise ConfigurationError(
                    "proxy_protocol stands inside of tls, but proxies send the PROXY header before"
                    " the TLS handshake; put it before tls"
                )

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Take the header and serve what follows, or end the connection."""
        if connection.remote in self.trusted:
            if not await self._receive(connection):
                return
        elif self.required:
            connection.abort(EndReason.PROXY_SOURCE_NOT_TRUSTED)
            return
        await following(connection)

    async def _receive(self, connection: Connection) -> bool:
        """Take the header, if there is one; tell whether the connection goes on."""
        reader, deadline = connection.transport.input, connection.deadline

        def expire() -> None:
            connection.record_end(EndReason.PROXY_HEADER_TIMEOUT)
            reader.cancel_pending_read()

        deadline.on_expiry = expire
        deadline.set_after(self.header_seconds)
        connection.close_requested.listen(reader.cancel_pending_read)
        try:
            return await self._read(connection, reader)
        except InvalidHeader as error:
            _log.debug(
                "connection %s from %s: bad PROXY header: %s",
                connection.id,
                connection.remote,
                error,
            )
            connection.abort(EndReason.INVALID_PROXY_HEADER)
            return False
        finally:
            deadline.clear()
            deadline.on_expiry = None
            connection.close_requested.unlisten(reader.cancel_pending_read)

    async def _read(self, connection: Connection, reader: PipeReader) -> bool:
        """Read until it is clear whether there is a header, and take it.

        Raises:
            InvalidHeader: there is a bad one, or none though there must be.
        """
        while True:
            data = await reader.read()
            if reader.read_cancelled:
                if connection.end_reason is not None:  # the deadline's
                    return False
                if not data and connection.close_requested:
                    reader.look()
                    if not reader.buffered:
                        connection.record_end(EndReason.SHUTDOWN)
                        return False
                    continue  # with what had come by then
            found = sniff(data)
            if not self.required and (found is _NO or (found is _MORE and reader.at_eof)):
                return True
            decoded = decode(data, self.max_header_bytes)
            if decoded is not None:
                break
            if reader.at_eof:
                if data:
                    raise InvalidHeader("it is cut off")
                connection.record_end(EndReason.PEER_CLOSED)
                return False
            reader.advance(0, len(data))
        header, size = decoded
        if header.version not in self.versions:
            raise InvalidHeader(f"version {header.version} is not taken here")
        reader.advance(size)
        _apply(header, connection, data[:size])
        return True


def _apply(header: ProxyHeader, connection: Connection, raw: bytes) -> None:
    """Let `connection` be what `header` says."""
    if header.family is not Family.UNSPEC and header.kind is not SocketKind.UNSPEC:
        connection.remote = _shown(header.source)
        connection.local = _shown(header.destination)
    connection.features.publish(proxy_info(header, raw))


def _shown(address: Address | None) -> Address | None:
    """Return `address` as transports show it: one of IPv4 is not dressed as one of IPv6."""
    if address is None or "." not in address.host or not address.host.startswith(_MAPPED):
        return address
    return Address(address.host.removeprefix(_MAPPED), address.port)


def proxy_info(header: ProxyHeader, raw: bytes) -> ProxyInfo:
    """Return what `header`, which came as `raw`, says beside the addresses.

    Of several TLVs of one type the first counts. Text that is no UTF-8 has backslashes instead.
    """
    tlvs = header.tlvs
    return ProxyInfo(
        version=header.version,
        is_local=header.command is Command.LOCAL,
        alpn=_text(first_of(tlvs, TlvType.ALPN)) if tlvs else None,
        authority=_text(first_of(tlvs, TlvType.AUTHORITY)) if tlvs else None,
        unique_id=first_of(tlvs, TlvType.UNIQUE_ID) if tlvs else None,
        tls=_proxy_tls(first_of(tlvs, TlvType.SSL)) if tlvs else None,
        tlvs=tlvs,
        header=raw,
    )


def _proxy_tls(value: bytes | None) -> ProxyTls | None:
    ssl = None if value is None else SslTlv.parse(value)
    if ssl is None or SslClient.SSL not in ssl.client:
        return None
    showed = SslClient.CERT_CONN | SslClient.CERT_SESS
    return ProxyTls(
        version=_text(first_of(ssl.tlvs, TlvType.SSL_VERSION)),
        cipher=_text(first_of(ssl.tlvs, TlvType.SSL_CIPHER)),
        client_common_name=_text(first_of(ssl.tlvs, TlvType.SSL_CN)),
        client_certificate_on_connection=SslClient.CERT_CONN in ssl.client,
        client_certificate_in_session=SslClient.CERT_SESS in ssl.client,
        verified=bool(ssl.client & showed) and ssl.verify == 0,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
