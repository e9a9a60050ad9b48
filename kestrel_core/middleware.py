"""Middleware: one shape for everything that wraps a connection."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import reduce
from typing import ClassVar, TypeAlias

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.layered_pipe import LayeredPipe

__all__ = [
    "ConnectionHandler",
    "Layer",
    "Middleware",
    "alpn_of",
    "compose",
    "needs_bytes",
    "serve_over",
]

ConnectionHandler: TypeAlias = Callable[[Connection], Awaitable[None]]
"""Serves one connection; when it returns, the connection is over."""

Middleware: TypeAlias = Callable[[Connection, ConnectionHandler], Awaitable[None]]
"""Serves one connection by doing its part and awaiting what follows::

    async def shout(connection, following):
        await serve_over(Shouting(connection.transport), connection, following)
"""


@attrs.frozen
class needs_bytes:  # named as the decorator it is
    """Mark a middleware that reads or writes the connection's own bytes.

    Listening with one of these on a multiplexed transport is an error at bind time.
    """

    middleware: Middleware

    def __call__(self, connection: Connection, following: ConnectionHandler) -> Awaitable[None]:
        """Be the middleware."""
        return self.middleware(connection, following)


class Layer(ABC):
    """A middleware that is an object, with options and a say in where it stands.

    One instance may serve any number of endpoints, so what it counts, it counts for all of them.
    """

    name: ClassVar[str]
    """What to call it in sentences, such as "tls"."""

    needs_bytes: ClassVar[bool] = True
    """Whether it reads or writes bytes, and so cannot stand on a multiplexed transport."""

    def check_place(  # noqa: B027  # most may stand anywhere
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        """Check that it may stand between `outer`, outermost first, and `inner`.

        The last of `inner` is the handler. Called before anything is bound.

        Raises:
            ConfigurationError: it may not; the text says why, and what to do.
        """

    @abstractmethod
    def __call__(self, connection: Connection, following: ConnectionHandler) -> Awaitable[None]:
        """Serve `connection`, as every middleware does."""


async def serve_over(
    pipe: LayeredPipe, connection: Connection, following: ConnectionHandler
) -> None:
    """Serve `connection` by `following` with `pipe`, which stands on its transport, in its place.

    What nearly every middleware ends with. Behind `following` it sends what is left unsent, for
    `Limits.linger_seconds` at most, and puts the transport back; if `following` raises, it only
    does that.
    """
    connection.transport = pipe
    try:
        await following(connection)
        if not pipe.finish_nowait():
            with trio.move_on_after(connection.limits.linger_seconds) as scope:
                await pipe.finish()
            if scope.cancelled_caught:  # the peer must not take what it has for all of it
                connection.abort(EndReason.REQUEST_BODY_DRAIN_TIMEOUT)
    finally:
        connection.transport = pipe.inner


class _Wrapped:
    """A middleware and what follows it, as one handler."""

    __slots__ = ("_following", "_outer", "alpn")

    def __init__(self, outer: Middleware, following: ConnectionHandler) -> None:
        self._outer = outer
        self._following = following
        self.alpn = alpn_of(following)

    def __call__(self, connection: Connection) -> Awaitable[None]:
        return self._outer(connection, self._following)


def compose(middleware: Sequence[Middleware], handler: ConnectionHandler) -> ConnectionHandler:
    """Return `handler` inside all of `middleware`; the first of them is the outermost."""
    return reduce(_wrap, reversed(middleware), handler)


def alpn_of(handler: ConnectionHandler) -> tuple[str, ...]:
    """Return the ALPN names of what `handler` serves, the most wanted first.

    Those are its attribute `alpn`, as a `Protocol` has it; a composition has that of its end. A
    handler without one has none.
    """
    return tuple(getattr(handler, "alpn", ()))


def _wrap(following: ConnectionHandler, outer: Middleware) -> ConnectionHandler:
    return _Wrapped(outer, following)
