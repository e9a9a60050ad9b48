"""Middleware: one shape for everything that wraps a connection."""

from collections.abc import Awaitable, Callable, Sequence
from functools import reduce
from typing import TypeAlias

import attrs

from kestrel_core.connection import Connection

__all__ = ["ConnectionHandler", "Middleware", "compose", "needs_bytes"]

ConnectionHandler: TypeAlias = Callable[[Connection], Awaitable[None]]
"""Serves one connection; when it returns, the connection is over."""

Middleware: TypeAlias = Callable[[Connection, ConnectionHandler], Awaitable[None]]
"""Serves one connection by doing its part and awaiting what follows::

    async def shout(connection, following):
        inner = connection.transport
        connection.transport = Shouting(inner)
        try:
            await following(connection)
        finally:
            connection.transport = inner
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


def compose(middleware: Sequence[Middleware], handler: ConnectionHandler) -> ConnectionHandler:
    """Return `handler` inside all of `middleware`; the first of them is the outermost."""
    return reduce(_wrap, reversed(middleware), handler)


def _wrap(following: ConnectionHandler, outer: Middleware) -> ConnectionHandler:
    async def handle(connection: Connection) -> None:
        await outer(connection, following)

    return handle
