"""Makes the connections of one client: over the network there is, written down, and in TLS."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, cast

import attrs

from kestrel_core.connection import Connection, MultiplexedConnection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.layered_pipe import LayeredPipe
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.testing.transcript import Transcript
from kestrel_core.transport import Transport, TransportContext

__all__ = ["Connector", "TlsTrust"]


class _TlsClient(Protocol):
    def start_tls(self, pipe: DuplexPipe, server_name: str | None) -> Awaitable[DuplexPipe]: ...


class _MakeTlsClient(Protocol):
    def __call__(
        self,
        *,
        authorities: bytes,
        certificate: bytes | None,
        key: bytes | None,
        server_name: str | None,
        alpn: Sequence[str],
    ) -> _TlsClient: ...


@attrs.frozen(kw_only=True)
class TlsTrust:
    """Whom a client trusts, and what it shows; all of it is PEM."""

    authorities: bytes = attrs.field(repr=False)
    certificate_chain: bytes | None = attrs.field(default=None, repr=False)
    key: bytes | None = attrs.field(default=None, repr=False)
    server_name: str | None = None
    """Whom to ask for, instead of the host that an URL or the caller names."""
    alpn: Sequence[str] = ()


class Connector:
    """How one client comes by its connections: `connect`, and `start_tls` on what that made.

    `endpoint` is asked for each connection. With `transcripts`, each connection gets one there,
    whose times count from `began_at`; those of TLS hold what is inside of it.
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: Callable[[], Endpoint],
        context: TransportContext,
        *,
        registry: Registry,
        tls: TlsTrust | None,
        transcripts: list[Transcript] | None,
        began_at: float,
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._context = context
        self._transcripts = transcripts
        self._began_at = began_at
        self._recorded: dict[DuplexPipe, tuple[LayeredPipe, Transcript]] = {}
        self._tls: _TlsClient | None = None
        if tls is not None:
            found = registry.load(PluginKind.MIDDLEWARE, "kestrel_middleware.tls:TlsClient")
            self._tls = cast(_MakeTlsClient, found)(
                authorities=tls.authorities,
                certificate=tls.certificate_chain,
                key=tls.key,
                server_name=tls.server_name,
                alpn=tls.alpn,
            )

    async def connect(self) -> Connection:
        """Connect; the caller closes the connection.

        Raises:
            OSError: nobody listens, or the network refuses.
        """
        if self._transcripts is None:
            return await self._transport.connect(self._endpoint(), self._context)
        transcript = Transcript(f"connection {len(self._transcripts) + 1}", began_at=self._began_at)
        self._transcripts.append(transcript)
        try:
            connection = await self._transport.connect(self._endpoint(), self._context)
        except OSError as error:
            transcript.note(f"not connected: {error}")
            raise
        transcript.name += f" from {connection.local}"
        if isinstance(connection, MultiplexedConnection):
            transcript.note("connected; streams are not written down")
            return connection
        recorded = transcript.wrap(connection.transport)
        self._recorded[recorded] = (recorded, transcript)
        connection.transport = recorded
        return connection

    async def start_tls(self, pipe: DuplexPipe, server_name: str | None) -> DuplexPipe:
        """Shake hands over `pipe`; return the pipe inside of TLS, closing which closes `pipe`.

        Raises:
            RuntimeError: this client trusts nobody.
            ssl.SSLError: the handshake failed.
            trio.BrokenResourceError: the server is gone.
            trio.TooSlowError: the handshake took too long.
        """
        if self._tls is None:
            raise RuntimeError(
                "this client trusts no authority: serve with `tls=True`, or give `authority`"
            )
        recorded = self._recorded.pop(pipe, None)
        if recorded is None:
            return await self._tls.start_tls(pipe, server_name)
        layer, transcript = (
            recorded  # whose place is inside of TLS, where there is something to read
        )
        return transcript.wrap(await self._tls.start_tls(layer.inner, server_name))
