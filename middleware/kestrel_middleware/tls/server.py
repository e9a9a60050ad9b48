"""TLS for servers: a layer that reads who is asked for, shakes hands, and wraps the pipe.

Theory of operation. The ClientHello is read without consuming it and published. It says which
server name is wanted, so the context is known before OpenSSL sees the first byte: by the map of
names, or by the user's own callback, which may take its time. Then OpenSSL gets the same bytes.
All of it, with the wait for a turn where handshakes are bounded, has one deadline.

What the client does wrong ends the connection with a reason; what follows is then not called.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeAlias

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.features import ClientHello, TlsInfo
from kestrel_core.middleware import ConnectionHandler, Middleware, alpn_of, serve_over
from kestrel_core.protocol import Sniff, SniffedLayer
from kestrel_core.validators import above_zero, not_negative, or_none
from kestrel_middleware.client_hello import (
    BadClientHello,
    ClientHelloReader,
    parse_client_hello,
    server_name_of,
    sniff_tls,
)
from kestrel_middleware.tls.contexts import ServerContext, ServerContexts
from kestrel_middleware.tls.information import tls_info
from kestrel_middleware.tls.options import TlsOptions
from kestrel_middleware.tls.pipe import TlsPipe
from kestrel_middleware.tls.plain_http import PlainHttp, answer_plain_http, is_http
from kestrel_middleware.tls.server_names import ServerNames

__all__ = ["ChooseTls", "Tls"]

ChooseTls: TypeAlias = Callable[
    [ClientHello, Connection], Awaitable["ssl.SSLContext | TlsOptions | None"]
]
"""Returns what to serve a client with: a context, or options; None is no opinion."""

_log = logging.getLogger("kestrel.tls")

# Kestrel's.
DEFAULT_HANDSHAKE_SECONDS = 10.0

# OpenSSL's own number for TLS 1.3.
DEFAULT_SESSION_TICKETS = 2

# Looking costs some microseconds; a renewed certificate can wait so long.
DEFAULT_RELOAD_SECONDS: float | None = 1.0

# A fatal alert: unrecognized_name (RFC 6066, 3).
_UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"


def _contexts_of(tls: "Tls") -> ServerContexts:
    attrs.validate(tls)  # which by itself would come after this, and after OpenSSL's own words
    return ServerContexts(
        session_tickets=tls.session_tickets,
        key_log_file=tls.key_log_file,
        check_seconds=tls.reload_seconds,
    )


def _names_of(tls: "Tls") -> ServerNames[TlsOptions]:
    named = {name: options.over(tls) for name, options in tls.hosts.items()}
    if tls.certificate is not None:
        named.setdefault("*", TlsOptions().over(tls))
    for options in named.values():  # whatever is wrong with them is told now
        tls.contexts.get(options, ())
    return ServerNames(named)


def _turns_of(tls: "Tls") -> trio.CapacityLimiter | None:
    return None if tls.max_handshakes is None else trio.CapacityLimiter(tls.max_handshakes)


def _own_of(tls: "Tls") -> ServerContext | None:
    return None if tls.context is None else ServerContext(tls.context, None)


@attrs.frozen(kw_only=True, eq=False)
class Tls(TlsOptions, SniffedLayer):
    """Speaks TLS with clients, and gives what follows the plain bytes.

    The options that it has from `TlsOptions` hold for every server name that `hosts` says nothing
    else of. Files are read when this is made, and again when they change. It publishes
    `ClientHello` before the handshake and `TlsInfo` after it. One instance may serve any number of
    endpoints; handshakes are then bounded, and sessions resumed, across all of them.

    Raises:
        ConfigurationError: there is no certificate, or a file cannot be used.
        ValueError: a number is out of range, or a server name is none.
    """

    name: ClassVar[str] = "tls"

    hosts: Mapping[str, TlsOptions] = attrs.field(factory=dict[str, TlsOptions])
    """Options by server name: exact names, "*.example.com", and "*" for all others, which the
    options here else are for. If there is neither, clients that name no known host are refused."""
    context: ssl.SSLContext | None = None
    """Your own context instead of a certificate; it is used as it is, ALPN included."""
    choose: ChooseTls | None = None
    """Asked for each client that names none of `hosts`; it may take its time to fetch a certificate."""
    handshake_seconds: float = attrs.field(default=DEFAULT_HANDSHAKE_SECONDS, validator=above_zero)
    """How long a handshake may take, from the first wait to its end."""
    max_handshakes: int | None = attrs.field(default=None, validator=or_none(above_zero))
    """How many handshakes may be under way at the same time; the others wait for their turn."""
    session_tickets: int = attrs.field(default=DEFAULT_SESSION_TICKETS, validator=not_negative)
    """How many tickets a client gets to resume its session with. With 0 there is no resumption in
    TLS 1.3; that of TLS 1.2 then needs no tickets, but the server's memory."""
    key_log_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Where to append the keys of every session, for Wireshark; who has them can read it all."""
    plain_http: PlainHttp = PlainHttp.REJECT
    """What clients get that speak HTTP without TLS: reject (400), redirect (308) or close."""
    reload_seconds: float | None = attrs.field(
        default=DEFAULT_RELOAD_SECONDS, validator=or_none(above_zero)
    )
    """How old the last look at the files may be when a client comes; None does not look."""
    contexts: ServerContexts = attrs.field(
        init=False, repr=False, default=attrs.Factory(_contexts_of, takes_self=True)
    )
    """What is made of the options and the files."""
    _names: ServerNames[TlsOptions] = attrs.field(
        init=False, repr=False, default=attrs.Factory(_names_of, takes_self=True)
    )
    _turns: trio.CapacityLimiter | None = attrs.field(
        init=False, repr=False, default=attrs.Factory(_turns_of, takes_self=True)
    )
    _own: ServerContext | None = attrs.field(
        init=False, repr=False, default=attrs.Factory(_own_of, takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if not (self.certificate or self.hosts or self.context or self.choose):
            raise ConfigurationError("tls needs a certificate")
        if self.context is not None and (self.certificate or self.choose):
            raise ConfigurationError(
                "tls takes either a context, or a certificate and a callback, not both"
            )

    def __eq__(self, other: object) -> bool:
        return self is other  # unlike options, this one has a life

    def __hash__(self) -> int:
        return id(self)

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        """Refuse TLS inside of TLS.

        Raises:
            ConfigurationError: it is inside of TLS already.
        """
        detected = getattr(inner[-1], "entries", ()) if inner else ()
        if any(isinstance(each, Tls) for each in (*outer, *detected)):
            raise ConfigurationError(
                "tls stands inside of tls, where no client expects it; take one away"
            )

    def sniff(self, prefix: bytes) -> Sniff:
        """Recognize a ClientHello."""
        return sniff_tls(prefix)

    def reload(self) -> None:
        """Read all certificates and keys again, now; connections that are there go on.

        Raises:
            ConfigurationError: one cannot be used; everything stays as it was.
        """
        self.contexts.reload()

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Shake hands, and serve `following` inside of TLS.

        Steps aside where the transport brings TLS with it, as QUIC does.
        """
        if connection.features.get(TlsInfo) is not None:
            await following(connection)
            return
        pipe: TlsPipe | None = None
        with trio.move_on_after(self.handshake_seconds) as scope:
            pipe = await self._shake_hands(connection, alpn_of(following))
        if scope.cancelled_caught:
            connection.record_end(EndReason.TLS_HANDSHAKE_TIMEOUT)
        if pipe is None:
            return
        await serve_over(pipe, connection, following)

    async def _shake_hands(self, connection: Connection, alpn: tuple[str, ...]) -> TlsPipe | None:
        """Return a pipe whose handshake is over, or None where the client has lost its chance."""
        hello = await self._read_hello(connection)
        if hello is None:
            return None
        raw, server_name = hello
        connection.features.publish_later(ClientHello, partial(_parsed, raw))
        chosen = await self._choose(server_name, connection, alpn)
        if chosen is None:
            connection.record_end(EndReason.TLS_HANDSHAKE_FAILED)
            _log.debug("connection %s: no certificate for %s", connection.id, server_name)
            await connection.transport.output.send(_UNRECOGNIZED_NAME)
            return None
        pipe = TlsPipe(
            connection.transport,
            chosen.context,
            server_side=True,
            record_end=connection.record_end,
        )
        try:
            async with self._turns or nullcontext():
                await pipe.do_handshake()
        except ssl.SSLError as error:
            connection.record_end(EndReason.TLS_HANDSHAKE_FAILED)
            _log.debug("connection %s: the TLS handshake failed: %s", connection.id, error)
            return None
        except trio.BrokenResourceError:
            connection.record_end(EndReason.TLS_HANDSHAKE_FAILED)
            raise
        connection.features.publish(
            tls_info(
                pipe.session,
                server_name=server_name,
                own_certificate=chosen.certificate,
            )
        )
        return pipe

    async def _read_hello(self, connection: Connection) -> tuple[bytes, str | None] | None:
        """Return the ClientHello, without consuming it, and the server name in it.

        None if there is none, and never will be.

        A client that has not begun to speak is let go when the server drains.
        """
        wake = connection.transport.input.cancel_pending_read
        connection.close_requested.listen(wake)
        try:
            return await self._grow_hello(connection)
        finally:
            connection.close_requested.unlisten(wake)

    async def _grow_hello(self, connection: Connection) -> tuple[bytes, str | None] | None:
        reader = connection.transport.input
        reader.advance(0)
        hello_reader = ClientHelloReader()
        while True:
            data = await reader.read()
            if connection.close_requested.is_set and not data:
                connection.record_end(EndReason.SHUTDOWN)
                return None
            try:
                raw = hello_reader.read_message(data)
                hello = None if raw is None else (raw, server_name_of(raw))
            except BadClientHello as error:
                await self._refuse(connection, data, str(error))
                return None
            if hello is not None:
                reader.advance(0)
                return hello
            if reader.at_eof:
                if data:
                    await self._refuse(connection, data, "the ClientHello is not complete")
                else:
                    connection.record_end(EndReason.PEER_CLOSED)
                return None
            reader.advance(0, len(data))

    async def _refuse(self, connection: Connection, data: bytes, why: str) -> None:
        if self.plain_http is not PlainHttp.CLOSE and is_http(data):
            connection.record_end(EndReason.PLAIN_HTTP_ON_TLS)
            await answer_plain_http(connection, self.plain_http)
            return
        connection.record_end(EndReason.TLS_HANDSHAKE_FAILED)
        _log.debug("connection %s: the TLS handshake failed: %s", connection.id, why)

    async def _choose(
        self, server_name: str | None, connection: Connection, alpn: tuple[str, ...]
    ) -> ServerContext | None:
        names = self._names
        options = names.find(server_name) if server_name is not None else None
        if options is None and self.choose is not None:
            hello = connection.features.get(ClientHello)
            if hello is None:
                return None
            chosen = await self.choose(hello, connection)
            if isinstance(chosen, ssl.SSLContext):
                return ServerContext(chosen, None)
            options = chosen.over(self) if chosen is not None else None
        options = options or names.rest
        return self.contexts.get(options, alpn) if options is not None else self._own


def _parsed(raw: bytes) -> ClientHello | None:
    """Return all of a ClientHello whose server name could be read; None if the rest cannot be."""
    try:
        return parse_client_hello(raw)
    except BadClientHello:  # on which OpenSSL has an opinion of its own
        return None
