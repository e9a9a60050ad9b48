"""TLS for clients: the same pipe, and a server whose certificate is verified."""

import ssl
from collections.abc import Sequence
from typing import ClassVar

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.middleware import ConnectionHandler, Layer, serve_over
from kestrel_core.validators import above_zero
from kestrel_middleware.tls.certificate import Certificate, Pem, load_authorities, pem, shown
from kestrel_middleware.tls.information import tls_info
from kestrel_middleware.tls.options import TlsVersion, alpn_names
from kestrel_middleware.tls.pipe import TlsPipe

__all__ = ["TlsClient"]

# As for servers.
_HANDSHAKE_SECONDS = 10.0


def _context_of(client: "TlsClient") -> ssl.SSLContext:
    if client.context is not None:
        return client.context
    if client.authorities is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_authorities(context, client.authorities, "authorities")
    context.minimum_version = client.minimum_version.number
    if client.certificate is not None:
        Certificate(client.certificate, client.key, client.password, None).load_into(context)
    if client.alpn:
        context.set_alpn_protocols(client.alpn)
    return context


@attrs.frozen(kw_only=True, eq=False)
class TlsClient(Layer):
    """Speaks TLS with a server whose certificate it verifies, and publishes `TlsInfo`.

    Sessions are resumed where the server lets it, among the connections of one instance.

    Raises:
        ConfigurationError: a file cannot be used.
    """

    name: ClassVar[str] = "tls client"

    server_name: str | None = None
    """Whom the certificate must be for, and who is asked for; else the host that `Connection.remote`
    has."""
    authorities: Pem | None = attrs.field(
        default=None, converter=attrs.converters.optional(pem), repr=shown
    )
    """Who may certify the server, instead of those that the system trusts."""
    certificate: Pem | None = attrs.field(
        default=None, converter=attrs.converters.optional(pem), repr=shown
    )
    """What to show to a server that asks for a certificate."""
    key: Pem | None = attrs.field(
        default=None, converter=attrs.converters.optional(pem), repr=shown
    )
    password: str | None = attrs.field(default=None, repr=False)
    alpn: Sequence[str] = attrs.field(default=(), converter=alpn_names)
    """The protocols to offer, the most wanted first."""
    minimum_version: TlsVersion = TlsVersion.TLS_1_2
    context: ssl.SSLContext | None = None
    """Your own context instead of all these but `server_name`."""
    handshake_seconds: float = attrs.field(default=_HANDSHAKE_SECONDS, validator=above_zero)
    _context: ssl.SSLContext = attrs.field(
        init=False, repr=False, default=attrs.Factory(_context_of, takes_self=True)
    )
    _sessions: dict[str | None, ssl.SSLSession] = attrs.field(
        init=False, repr=False, factory=dict[str | None, ssl.SSLSession]
    )

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Shake hands, and run `following` inside of TLS.

        Raises:
            ssl.SSLError: the handshake failed; `ssl.SSLCertVerificationError` says why the server's
                certificate is not good.
            trio.BrokenResourceError: the server is gone.
            trio.TooSlowError: the handshake took longer than `handshake_seconds`.
        """
        server_name = self.server_name
        if server_name is None and connection.remote is not None:
            server_name = connection.remote.host
        pipe = TlsPipe(
            connection.transport,
            self._context,
            server_side=False,
            server_name=server_name,
            resume=self._sessions.get(server_name),
            record_end=connection.record_end,
        )
        with trio.fail_after(self.handshake_seconds):
            await pipe.do_handshake()
            await pipe.output.flush()
        connection.features.publish(
            tls_info(pipe.session, server_name=server_name, own_certificate=None)
        )
        try:
            await serve_over(pipe, connection, following)
        finally:
            session = pipe.session.session
            if session is not None and session.has_ticket:
                self._sessions[server_name] = session
