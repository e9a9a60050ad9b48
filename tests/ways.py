"""The ways that bytes may go between a client and HTTP: straight, or through middleware."""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import cache

import attrs
import trio
import trustme

from kestrel_core.connection import Connection
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.middleware import ConnectionHandler, Middleware, serve_over
from kestrel_middleware.tls import Tls, TlsPipe
from kestrel_middleware.wiretap import Wiretap

__all__ = ["STRAIGHT", "Way", "pass_through", "through_a_layer", "through_a_wiretap", "through_tls"]


async def _nothing(connection: Connection) -> None:
    pass


@attrs.frozen
class Way:
    """What stands around HTTP at the server, and what a client does before it speaks HTTP."""

    middleware: Sequence[Middleware] = ()
    prepare: Callable[[Connection], Awaitable[None]] = _nothing


STRAIGHT = Way()


async def pass_through(connection: Connection, following: ConnectionHandler) -> None:
    """Stand in between and change nothing."""
    inner = connection.transport
    reader, writer = LayerReader(inner.input), LayerWriter(inner.output)
    await serve_over(LayeredPipe(inner, reader, writer), connection, following)


def through_a_layer() -> Way:
    """Return the way through a layer that does nothing."""
    return Way([pass_through])


def through_a_wiretap() -> Way:
    """Return the way through a wiretap that logs."""
    return Way([Wiretap(max_bytes_per_event=16)])


@cache
def _certificates() -> tuple[Tls, ssl.SSLContext]:
    authority = trustme.CA()
    issued = authority.issue_cert("server.example")
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    return Tls(certificate=chain, key=issued.private_key_pem.bytes()), trusting


def through_tls() -> Way:
    """Return the way through TLS, with a client that has shaken hands."""
    tls, trusting = _certificates()

    async def shake_hands(connection: Connection) -> None:
        pipe = TlsPipe(
            connection.transport, trusting, server_side=False, server_name="server.example"
        )
        connection.transport = pipe
        try:
            await pipe.do_handshake()
            await pipe.output.flush()
        except trio.BrokenResourceError:
            pass  # the server has no room, say; the test will see

    return Way([tls], shake_hands)
