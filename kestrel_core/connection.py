"""One connection on its way through the pipeline, whichever transport it came from."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count

import attrs
import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.features import Features, FeatureSource
from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.signals import Signal
from kestrel_core.timers import Deadline, Timers

__all__ = [
    "Address",
    "Connection",
    "ConnectionContext",
    "Failure",
    "MultiplexedConnection",
    "close_within",
    "report_failure",
]

# Connection ids count up from the time of start, in base 32, so that they differ between two runs
# of a server and still fit thirteen characters (as Kestrel's do).
_ID_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_sequence = count(time.time_ns() // 100)


def _pair_of(address: "Address") -> tuple[str, int | None]:
    return (address.host, address.port)


@attrs.frozen
class Address:
    """One end of a connection: a host and port, or a path or name with no port."""

    host: str
    port: int | None = None
    pair: tuple[str, int | None] = attrs.field(
        init=False, eq=False, repr=False, default=attrs.Factory(_pair_of, takes_self=True)
    )
    """Both as a tuple, which is what most interfaces take."""

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen(eq=False)
class Failure:
    """A fault of our own side of a connection: of a handler, of middleware, of an application."""

    connection: "Connection"
    message: str
    """What failed, such as "the application failed on GET /"."""
    error: Exception | None
    """What was raised, if anything was."""


class ConnectionContext:
    """What the connections of one server, or of one client program, have in common.

    What is not given is made: default limits, timers that nobody runs yet, a pool of its own.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        timers: Timers | None = None,
        memory_pool: MemoryPool | None = None,
    ) -> None:
        self.limits: Limits = limits or Limits()
        self.timers: Timers = timers or Timers()
        self.memory_pool: MemoryPool = memory_pool or MemoryPool(self.timers)
        self.upgraded_connections: int = 0
        """How many connections HTTP was upgraded on, now. Read only."""
        self.draining: Signal = Signal()
        """Set when the server begins to drain, before it stops accepting; see `Server.drain`."""
        self.on_failure: Callable[[Failure], None] | None = None
        """Called with each `Failure` on a connection, once it was logged; see `report_failure`."""

    def claim_upgrade(self) -> bool:
        """Count one more upgraded connection, unless `Limits` has no room; tell whether so."""
        most = self.limits.max_upgraded_connections
        if most is not None and self.upgraded_connections >= most:
            return False
        self.upgraded_connections += 1
        return True

    def release_upgrade(self) -> None:
        """Count one upgraded connection less."""
        self.upgraded_connections -= 1


class Connection:
    """A peer, the bytes to and from it, and what is known about both.

    Made by transports. `transport` may be replaced by middleware for the span of what follows;
    that is how bytes get wrapped. `local`, `remote` may be corrected by middleware that knows
    better, such as one that reads a PROXY header.

    Its task is the one that the server started for it; other tasks may call `abort`,
    `request_close` and the two signals' `wait`.
    """

    __slots__ = (
        "_base",
        "_sequence_number",
        "close_requested",
        "closed",
        "context",
        "deadline",
        "end_reason",
        "features",
        "local",
        "remote",
        "transport",
    )

    def __init__(
        self,
        transport: DuplexPipe,
        context: ConnectionContext,
        *,
        local: Address | None = None,
        remote: Address | None = None,
    ) -> None:
        self._base = transport
        self._sequence_number = next(_sequence)
        self.transport: DuplexPipe = transport
        """The bytes. A middleware that replaces it puts the old one back in a `finally`."""
        self.context: ConnectionContext = context
        """What it shares with other connections."""
        self.local: Address | None = local
        """Our end, or None where the transport has no name for it."""
        self.remote: Address | None = remote
        """The peer's end, or None where it has no name, as most clients of Unix sockets."""
        self.features: Features = Features(
            transport if isinstance(transport, FeatureSource) else None
        )
        self.deadline: Deadline = context.timers.deadline()
        """The one deadline of this connection; whoever is serving it at the moment sets it."""
        self.close_requested: Signal = Signal()
        """Please finish soon: the server is draining, or somebody called `request_close`."""
        self.closed: Signal = Signal()
        """The transport is gone: reset by the peer, aborted, or closed by us. A peer that merely
        ended its own side has not closed the connection."""
        self.end_reason: EndReason | None = None
        """Why the connection ended, once that is known; see `record_end`."""

    @property
    def limits(self) -> Limits:
        """What this connection may have; those of its server."""
        return self.context.limits

    @property
    def memory_pool(self) -> MemoryPool:
        """Where to rent buffers; that of its server."""
        return self.context.memory_pool

    @property
    def id(self) -> str:
        """A name for logs, unique in this process: thirteen characters of base 32."""
        number, digits = self._sequence_number, ""
        for _ in range(13):
            digits = _ID_DIGITS[number & 31] + digits
            number >>= 5
        return digits

    def record_end(self, reason: EndReason) -> None:
        """Note why the connection ends; the first reason wins."""
        if self.end_reason is None:
            self.end_reason = reason

    def request_close(self) -> None:
        """Ask whoever serves the connection to finish what is under way and then end it."""
        self.close_requested.set()

    def abort(self, reason: EndReason) -> None:
        """End the transport now, for `reason`; unsent bytes are lost.

        Pending reads and flushes raise `trio.BrokenResourceError`. Code that is waiting for
        something else is not interrupted.
        """
        self.record_end(reason)
        self._base.abort()
        self.closed.set()

    async def aclose(self) -> None:
        """Flush and close the transport, whatever wraps it; closed afterwards in any case.

        The server does this when the pipeline returns; a client does it itself.
        """
        self.deadline.close()
        try:
            await self._base.aclose()
        finally:
            self.closed.set()

    def close_nowait(self) -> bool:
        """Do what `aclose()` does, if that takes no waiting; tell whether the connection is closed.

        A subclass with an `aclose` of its own is never closed so.
        """
        if type(self).aclose is not Connection.aclose or not self._base.close_nowait():
            return False
        self.deadline.close()
        self.closed.set()
        return True

    async def wait_closed(self) -> None:
        """Wait until the transport is gone."""
        await self.closed.wait()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.local} <- {self.remote}>"


class MultiplexedConnection(Connection, ABC):
    """A connection that carries streams, each of them again a `Connection`.

    Its own `transport` carries no bytes: reading or writing it raises
    `trio.ClosedResourceError`. What needs bytes cannot be composed over it.

    A stream has the connection's context and addresses. `request_close` asks its streams, too.
    Any number of tasks may open and accept streams; cancelling either loses nothing.
    """

    __slots__ = ()

    @abstractmethod
    async def accept_stream(self) -> Connection:
        """Wait for the peer to open a stream.

        Raises:
            trio.EndOfChannel: the connection ended; there will be no more.
        """

    @abstractmethod
    async def open_stream(self) -> Connection:
        """Open a stream to the peer, waiting while the peer allows no more of them.

        Raises:
            trio.BrokenResourceError: the connection is gone.
        """


def report_failure(log: logging.Logger, failure: Failure) -> None:
    """Log `failure` as an error, and tell `ConnectionContext.on_failure`.

    Protocols call it for what a peer has no part in; what a handler raises is reported by whoever
    runs it. What `on_failure` raises is logged, and not raised.
    """
    connection = failure.connection
    log.error(
        "%s",
        failure.message,
        exc_info=failure.error,
        extra={"connection_id": connection.id},
    )
    if connection.context.on_failure is not None:
        try:
            connection.context.on_failure(failure)
        except Exception:  # somebody else's code, and no reason to end anything
            log.exception("`on_failure` raised")


async def close_within(connection: Connection, seconds: float) -> None:
    """Close `connection` even if the peer does not read, in `seconds` at most.

    Runs to its end under cancellation too: it is shielded, and the deadline bounds it.
    """
    if not connection.close_nowait():
        with trio.move_on_after(seconds, shield=True):
            await connection.aclose()
