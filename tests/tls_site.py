"""Certificates, a server that speaks TLS, and clients of it that know more than is good for it."""

import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TypeAlias, cast

import attrs
import pytest
import trio
import trustme

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.features import ClientHello, TlsInfo
from kestrel_core.limits import Limits
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.testing import DiagnosticMemoryPool, OpenServer, open_server
from kestrel_middleware.tls import Tls, TlsPipe
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, echo, watch_log
from tests.raw_client import RawClient

__all__ = [
    "SERVER_NAME",
    "Echo",
    "Issued",
    "MakeContext",
    "TlsPeer",
    "TlsSite",
    "authority",
    "by_each_version",
    "certificate",
    "expired",
    "handshake",
    "server_context",
    "serving_tls",
    "shaken",
    "shaken_pair",
    "stranger",
    "tls",
    "tls_1_2",
    "trusting",
    "watch_tls_log",
]

SERVER_NAME = "server.example"


# Certificates -----------------------------------------------------------------------------------


@attrs.frozen
class Issued:
    """A certificate with the chain behind it, and its key, all in PEM."""

    chain: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        """The certificate itself, as connections tell it."""
        end = b"-----END CERTIFICATE-----"
        return ssl.PEM_cert_to_DER_cert((self.chain.partition(end)[0] + end).decode())

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have `context` show it."""
        with trustme.Blob(self.key + self.chain).tempfile() as path:
            context.load_cert_chain(path)


@cache
def authority() -> trustme.CA:
    """Return the authority that everybody here trusts."""
    return trustme.CA(organization_name="Authority")


@cache
def stranger() -> trustme.CA:
    """Return an authority that nobody trusts."""
    return trustme.CA(organization_name="Stranger")


@cache
def certificate(
    *names: str, by: Callable[[], trustme.CA] = authority, common_name: str | None = None
) -> Issued:
    """Return the certificate for `names`, the same one whenever it is asked for."""
    return _pem(by().issue_cert(*(names or (SERVER_NAME,)), common_name=common_name))


@cache
def expired(name: str = SERVER_NAME) -> Issued:
    """Return a certificate that was good until yesterday."""
    return _pem(authority().issue_cert(name, not_after=datetime.now(UTC) - timedelta(days=1)))


def _pem(issued: trustme.LeafCert) -> Issued:
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return Issued(chain, issued.private_key_pem.bytes())


def trusting(
    *,
    highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    alpn: Sequence[str] = (),
    client: Issued | None = None,
    any_name: bool = False,
) -> ssl.SSLContext:
    """Return a client's context, which trusts `authority` and shows the certificate `client`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = not any_name
    context.maximum_version = highest
    context.load_verify_locations(cadata=authority().cert_pem.bytes().decode())
    if alpn:
        context.set_alpn_protocols(alpn)
    if client is not None:
        client.load_into(context)
    return context


def tls_1_2() -> ssl.SSLContext:
    """Return a client's context that knows nothing newer."""
    return trusting(highest=ssl.TLSVersion.TLSv1_2)


MakeContext: TypeAlias = Callable[[], ssl.SSLContext]

by_each_version = pytest.mark.parametrize("make_context", [tls_1_2, trusting])
"""Runs a test with a client of TLS 1.2, and with one of TLS 1.3."""


@cache
def server_context() -> ssl.SSLContext:
    """Return a server's context as somebody else would make it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate().load_into(context)
    return context


def handshake(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands without a wire; return the client's and the server's view."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, there, server_hostname=SERVER_NAME)
    server = server_context.wrap_bio(there, back, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for each in {client, server} - done:
            with suppress(ssl.SSLWantReadError):
                each.do_handshake()
                done.add(each)
    return client, server


# The server -------------------------------------------------------------------------------------


def tls(issued: Issued | None = None, **options: object) -> Tls:
    """Return a server's TLS with that certificate, or else the one for `SERVER_NAME`."""
    issued = issued or certificate()
    make = cast("Callable[..., Tls]", Tls)
    return make(certificate=issued.chain, key=issued.key, **options)


@attrs.define
class TlsSite:
    """A server behind TLS, what it logs, and the means to reach it."""

    opened: OpenServer
    log: ServerLog
    connections_made: int = 0

    async def connect(self, **options: str) -> Connection:
        """Connect, and say nothing yet."""
        connection = await self.opened.connect(options=options)
        self.connections_made += 1
        return connection

    async def peer(
        self,
        context: ssl.SSLContext | None = None,
        server_name: str | None = SERVER_NAME,
        session: ssl.SSLSession | None = None,
    ) -> "TlsPeer":
        """Connect, and shake hands."""
        peer = TlsPeer(await self.connect(), context, server_name, session)
        await peer.shake_hands()
        return peer

    async def client(
        self,
        context: ssl.SSLContext | None = None,
        server_name: str | None = SERVER_NAME,
        **options: str,
    ) -> RawClient:
        """Connect, shake hands, and speak HTTP."""
        connection = await self.connect(**options)
        connection.transport = await shaken(connection.transport, context, server_name)
        return RawClient(connection)

    @property
    def connection(self) -> Connection:
        """The server's end of the only connection."""
        (connection,) = self.opened.server.connections
        return connection

    async def ended(self) -> EndReason | None:
        """Wait until each connection that was made has ended; return why the last one did."""
        seconds = 0.001
        while len(self.log.ends) < self.connections_made:
            await trio.sleep(seconds)
            seconds = min(2 * seconds, 0.05)
        return self.log.ends[-1]


@asynccontextmanager
async def serving_tls(
    layer: Middleware | None = None,
    handler: ConnectionHandler | None = None,
    *,
    middleware: Sequence[Middleware] | None = None,
    limits: Limits | None = None,
    endpoint: str | None = None,
) -> AsyncGenerator[TlsSite]:
    """Serve `handler`, HTTP unless given, behind `layer`; nothing but DEBUG may be logged.

    `middleware` is for what does not consist of that one layer.
    """
    with watch_tls_log() as log:
        async with open_server(
            handler or Http1(AsgiApplication(echo)),
            middleware=[layer or tls()] if middleware is None else middleware,
            limits=limits,
            endpoint=endpoint,
            memory_pool=DiagnosticMemoryPool,
        ) as opened:
            yield TlsSite(opened, log)
        assert not opened.server.connections


@contextmanager
def watch_tls_log() -> Generator[ServerLog]:
    """Watch what is logged, and expect nothing above DEBUG that the test did not take."""
    with watch_log() as log:
        yield log
        log.records[:] = [each for each in log.records if each.levelno > logging.DEBUG]


class Echo:
    """Notes what is known of each connection, and sends everything back, and the end."""

    def __init__(self, alpn: Sequence[str] = ()) -> None:
        self.alpn = alpn
        self.hellos: list[ClientHello] = []
        self.infos: list[TlsInfo] = []

    async def __call__(self, connection: Connection) -> None:
        """Serve a connection."""
        self.hellos.append(connection.features[ClientHello])
        self.infos.append(connection.features[TlsInfo])
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk)
        await connection.transport.output.send_eof()


# Clients ----------------------------------------------------------------------------------------


async def shaken_pair(
    near: DuplexPipe, far: DuplexPipe, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> tuple[TlsPipe, TlsPipe]:
    """Return TLS over the two ends of a wire; the client is the near one."""
    one = TlsPipe(near, trusting(highest=highest), server_side=False, server_name=SERVER_NAME)
    other = TlsPipe(far, server_context(), server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.do_handshake)
        nursery.start_soon(other.do_handshake)
    await one.output.flush()
    other.output.flush_nowait()  # tickets, which a narrow wire has no room for
    return one, other


async def shaken(
    inner: DuplexPipe,
    context: ssl.SSLContext | None = None,
    server_name: str | None = SERVER_NAME,
) -> TlsPipe:
    """Return our own pipe over `inner`, as a client's, after the handshake."""
    pipe = TlsPipe(inner, context or trusting(), server_side=False, server_name=server_name)
    await pipe.do_handshake()
    await pipe.output.flush()
    return pipe


class TlsPeer:
    """A client of OpenSSL's own making, over a connection whose bytes a test can see and change."""

    def __init__(
        self,
        connection: Connection,
        context: ssl.SSLContext | None = None,
        server_name: str | None = SERVER_NAME,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.connection = connection
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.session = (context or trusting()).wrap_bio(
            self.incoming, self.outgoing, server_hostname=server_name, session=session
        )
        self.wire_ended = False
        """Whether the server has ended its side below TLS."""

    async def shake_hands(self) -> None:
        """Shake hands; `ssl.SSLError` if the server will not."""
        while not self.step():
            await self.transmit()
            await self.take()
        await self.transmit()

    def step(self) -> bool:
        """Take the handshake as far as it goes without more from the server; tell if it is done."""
        try:
            self.session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def take(self) -> None:
        """Wait for something from the wire, and give it to OpenSSL."""
        data = await self.connection.transport.input.receive()
        if data:
            self.incoming.write(data)
        else:
            self.wire_ended = True
            self.incoming.write_eof()

    async def transmit(self) -> None:
        """Send what OpenSSL has to say, if that is anything."""
        if self.outgoing.pending:
            await self.send_raw(self.outgoing.read())

    async def send_raw(self, data: bytes) -> None:
        """Send bytes below TLS."""
        await self.connection.transport.output.send(data)

    async def send(self, data: bytes) -> None:
        """Send bytes inside of TLS."""
        await self.send_raw(self.encrypted(data))

    async def ask(self, data: bytes) -> bytes:
        """Send bytes inside of TLS, and receive some."""
        await self.send(data)
        return await self.receive()

    def encrypted(self, data: bytes) -> bytes:
        """Return the records that `data` goes in."""
        self.session.write(data)
        return self.outgoing.read()

    def close_notify(self) -> bytes:
        """Return the record that ends our side."""
        with suppress(ssl.SSLWantReadError):
            self.session.unwrap()
        return self.outgoing.read()

    async def receive(self) -> bytes:
        """Receive something; b"" is a close_notify, `ssl.SSLEOFError` an end without one."""
        while True:
            try:
                return self.session.read(1 << 20)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self.transmit()
                await self.take()

    async def receive_alert(self) -> str:
        """Listen, and say nothing, until the server's fatal alert; return OpenSSL's name for it."""
        try:
            while not self.step():
                await self.take()
            self.outgoing.read()  # the server would not read it
            while True:
                assert await self.receive(), "the server ended TLS in peace"
        except ssl.SSLError as error:
            return error.reason

    async def receive_all(self) -> bytes:
        """Receive until close_notify."""
        parts: list[bytes] = []
        while part := await self.receive():
            parts.append(part)
        return b"".join(parts)

    async def aclose(self) -> None:
        """Close the connection, without a word."""
        await self.connection.aclose()
