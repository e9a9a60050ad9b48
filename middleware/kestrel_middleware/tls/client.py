"""TLS for clients: the same pipe, and a server whose certificate is verified."""

import ssl
from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
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
        """Shake hands, and run `following` inside of TLS; raises as `start_tls` does."""
        remote = connection.remote
        pipe = await self.start_tls(
            connection.transport,
            None if remote is None else remote.host,
            record_end=connection.record_end,
        )
        connection.features.publish(
            tls_info(pipe.session, server_name=pipe.server_name, own_certificate=None)
        )
        try:
            await serve_over(pipe, connection, following)
        finally:
            pipe.keep_session()

    async def start_tls(
        self,
        pipe: DuplexPipe,
        server_name: str | None = None,
        *,
        record_end: Callable[[EndReason], None] | None = None,
    ) -> "ClientTlsPipe":
        """Shake hands over `pipe`, and return the pipe inside of TLS; closing it closes `pipe`.

        `server_name` is what the field of that name is, where that is None. If this raises, the
        caller still has to close `pipe`. `record_end` hears why TLS ended if it did not end well.

        Raises:
            ValueError: nobody said whom the certificate must be for, or that is no host name.
            ssl.SSLError: the handshake failed; `ssl.SSLCertVerificationError` says why the server's
                certificate is not good.
            trio.BrokenResourceError: the server is gone.
            trio.TooSlowError: the handshake took longer than `handshake_seconds`.
        """
        server_name = self.server_name or server_name
        if server_name is None and self._context.check_hostname:  # OpenSSL would check no name
            raise ValueError("nobody said whom the certificate must be for: give `server_name`")
        inside = ClientTlsPipe(pipe, self._context, server_name, self._sessions, record_end)
        with trio.fail_after(self.handshake_seconds):
            await inside.do_handshake()
            await inside.output.flush()
        return inside


class ClientTlsPipe(TlsPipe):
    """TLS over `inner`, which keeps its session at the end, for the next one to resume."""

    __slots__ = ("_sessions", "server_name")

    def __init__(
        self,
        inner: DuplexPipe,
        context: ssl.SSLContext,
        server_name: str | None,
        sessions: dict[str | None, ssl.SSLSession],
        record_end: Callable[[EndReason], None] | None,
    ) -> None:
        super().__init__(
            inner,
            context,
            server_side=False,
            server_name=server_name,
            resume=sessions.get(server_name),
            record_end=record_end,
        )
        self._sessions = sessions
        self.server_name: str | None = server_name
        """Whom the certificate was for."""

    def keep_session(self) -> None:
        """Keep what the server has sent to resume by, if it has; the next one needs another."""
        session = self.session.session
        if session is not None and session.has_ticket:
            self._sessions[self.server_name] = session

    async def finish(self) -> None:
        """Keep the session, and end TLS."""
        self.keep_session()
        await super().finish()
