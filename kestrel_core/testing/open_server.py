"""A server under test: how clients come to it, and what it has done."""

import traceback
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, TypedDict, Unpack

import attrs
import trio

from kestrel_core.connection import Address, Connection, Failure, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.server import Server
from kestrel_core.testing.connector import Connector, TlsTrust
from kestrel_core.testing.extra import needing_extra
from kestrel_core.testing.observation import Metrics, Observation
from kestrel_core.testing.transcript import Transcript
from kestrel_core.transport import Transport, TransportContext

if TYPE_CHECKING:
    import httpx
    import httpx2

    from kestrel_core.testing.authority import Authority, Identity
    from kestrel_core.testing.clients.http1_client import Http1Client
    from kestrel_core.testing.network import Network

__all__ = ["ClientOptions", "OpenServer", "Site"]

_CLIENT_HOST = "127.0.0.1"
_FIRST_CLIENT_PORT = 50000

# As Starlette's TestClient calls the server.
_SERVER_NAME = "testserver"


class ClientOptions(TypedDict, total=False):
    """How one client comes to an `OpenServer`."""

    address: str | None
    """The client's own, such as "203.0.113.7:4711"; over the in-memory transport alone."""
    network: "Network | None"
    """What is between it and the server; the one that this was opened with, unless given."""
    server_name: str | None
    """Whom to ask for, with TLS."""
    identity: "Identity | None"
    """What certificate to show, with TLS."""
    alpn: Sequence[str]
    """What protocols to offer, with TLS."""
    options: Mapping[str, str]
    """Of the endpoint, which come before those that were bound."""


@attrs.frozen(kw_only=True)
class Site:
    """What clients of an `OpenServer` have in common; see `open_server`."""

    network: "Network | None" = None
    authority: "Authority | None" = None
    speaks_tls: bool = False
    records: bool = False
    numbers_clients: bool = False
    """Whether clients of an in-memory server that were given no address are on this machine, each
    connection from a port of its own."""


_PLAIN = Site()


class OpenServer:
    """A server that serves, and the means to connect to it; see `open_server` and `serve`."""

    def __init__(
        self,
        server: Server,
        endpoint: Endpoint,
        context: TransportContext,
        observation: Observation | None = None,
        site: Site = _PLAIN,
    ) -> None:
        self.server: Server = server
        self.endpoint: Endpoint = endpoint
        """What the server has bound."""
        self.context: TransportContext = context
        """What clients connect with; it ends before the server does."""
        self.authority: Authority | None = site.authority
        """Whom clients trust that speak TLS, and who issues their certificates."""
        self.transcripts: list[Transcript] = []
        """What went over each connection that clients made here, if that is written down."""
        self.cut_connections: int = 0
        """How many connections did not finish at the end of the block; known after it."""
        self._began_at = trio.current_time()
        self._observation = observation or Observation()
        self._site = site
        self._connected: list[Connection] = []
        self._ports = count(_FIRST_CLIENT_PORT)
        self._networks: list[Network] = []

    @property
    def connections(self) -> Sequence[Connection]:
        """All connections that were ever accepted, as the server has them, in that order.

        Those of now are `server.connections`.
        """
        return self._observation.connections

    @property
    def failures(self) -> Sequence[Failure]:
        """The faults of applications, handlers and middleware so far."""
        return self._observation.failures

    def metrics(self) -> Metrics:
        """Return what the server has done so far, in numbers."""
        return self._observation.metrics()

    async def connect(
        self, *, tls: bool | None = None, **client: Unpack[ClientOptions]
    ) -> Connection:
        """Connect to the server; the end of the block aborts the connection, unless it is closed.

        With TLS, which is used if the server was opened with it unless `tls` says otherwise,
        `connection.transport` is inside of it; closing that says good-bye.

        Raises:
            OSError: the server has ceased to listen, or the network refuses.
            ssl.SSLError, trio.BrokenResourceError: the handshake failed.
        """
        connector = self.connector(**client)
        connection = await connector.connect()
        self._connected.append(connection)
        if self._site.speaks_tls if tls is None else tls:
            connection.transport = await connector.start_tls(
                connection.transport, client.get("server_name") or _SERVER_NAME
            )
        return connection

    def connector(self, **client: Unpack[ClientOptions]) -> Connector:
        """Return what makes the connections of a client."""
        identity = client.get("identity")
        tls: TlsTrust | None = None
        if self.authority is not None:
            tls = TlsTrust(
                authorities=self.authority.pem,
                certificate_chain=None if identity is None else identity.certificate_chain,
                key=None if identity is None else identity.key,
                server_name=client.get("server_name"),
                alpn=client.get("alpn", ()),
            )
        options = dict(client.get("options", {}))
        address = client.get("address")
        if address is not None:
            options["client"] = address
        return Connector(
            self._transport(client.get("network") or self._site.network),
            lambda: self._endpoint_of_a_client(options),
            self.context,
            registry=self.server.registry,
            tls=tls,
            transcripts=self.transcripts if self._site.records else None,
            began_at=self._began_at,
        )

    def httpx_client(
        self,
        *,
        base_url: str | None = None,
        timeout_seconds: float | None = 30.0,
        **client: Unpack[ClientOptions],
    ) -> "httpx.AsyncClient":
        """Return a client of httpx; leave it before the block ends.

        Its URLs begin with `base_url`, or with that of the server; whatever host they name, this
        server gets the request.

        Raises:
            MissingExtraError: the library is not installed.
        """
        with needing_extra("httpx_client"):
            from kestrel_core.testing.clients.httpx_client import make_client
        connector = self.connector(**client)
        return make_client(
            connector.connect,
            base_url=base_url or self.base_url,
            start_tls=connector.start_tls,
            timeout_seconds=timeout_seconds,
        )

    def httpx2_client(
        self,
        *,
        base_url: str | None = None,
        timeout_seconds: float | None = 30.0,
        **client: Unpack[ClientOptions],
    ) -> "httpx2.AsyncClient":
        """Return a client of httpx2; like `httpx_client` in all else."""
        with needing_extra("httpx2_client"):
            from kestrel_core.testing.clients.httpx2_client import make_client
        connector = self.connector(**client)
        return make_client(
            connector.connect,
            base_url=base_url or self.base_url,
            start_tls=connector.start_tls,
            timeout_seconds=timeout_seconds,
        )

    @asynccontextmanager
    async def http1_client(
        self, *, tls: bool | None = None, **client: Unpack[ClientOptions]
    ) -> AsyncGenerator["Http1Client"]:
        """Connect, and yield a client that shows all of HTTP/1.1 on this one connection.

        `tls` and the errors are as with `connect`.
        """
        from kestrel_core.testing.clients.http1_client import Http1Client

        connection = await self.connect(tls=tls, **client)
        async with Http1Client(connection, host=_SERVER_NAME) as http1_client:
            yield http1_client

    @property
    def base_url(self) -> str:
        """How the URLs of its HTTP clients begin: "http://testserver", or https with TLS."""
        return f"{'https' if self._site.speaks_tls else 'http'}://{_SERVER_NAME}"

    async def close_clients(self) -> None:
        """Abort what `connect` returned and nobody has closed."""
        for connection in self._connected:
            connection.abort(EndReason.ABORTED_BY_APP)
            await close_within(connection, 1.0)

    def report(self) -> str:
        """Tell what happened, for somebody who wants to know why a test has failed."""
        lines = [f"server on {self.endpoint}: {self.metrics()}"]
        lines += [network.report() for network in self._networks]
        for failure in self.failures:
            lines.append(_text_of(failure))
        lines += [str(transcript) for transcript in self.transcripts]
        for connection in self.connections:
            reason = connection.end_reason.value if connection.end_reason else "open"
            lines.append(f"the server's end of {connection.remote}: {reason}")
        return "\n".join(lines)

    def _transport(self, network: "Network | None") -> Transport:
        transport = self.server.registry.transport(self.endpoint.scheme)
        if network is None:
            return transport
        from kestrel_core.testing.network import SimulatedTransport

        if network not in self._networks:
            self._networks.append(network)
        return SimulatedTransport(transport, network)

    def _endpoint_of_a_client(self, options: Mapping[str, str]) -> Endpoint:
        bound = self.endpoint
        given = {**bound.options, **options}
        if self._site.numbers_clients and bound.scheme == "memory" and "client" not in given:
            given["client"] = str(Address(_CLIENT_HOST, next(self._ports)))
        return Endpoint(bound.scheme, bound.address, given)


def _text_of(failure: Failure) -> str:
    """Say in a line what failed and where; the log has the whole traceback."""
    if failure.error is None:
        return failure.message
    text = traceback.format_exception_only(failure.error)[-1].strip()
    frames = traceback.extract_tb(failure.error.__traceback__)
    place = f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{failure.message}: {text}{place}"
