"""What a transport is to the rest: it binds endpoints, accepts connections and makes them."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import ClassVar, TypeVar

import trio

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.endpoint import Endpoint
from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.timers import Timers

__all__ = ["Listener", "Transport", "TransportContext", "open_transport_context"]

SharedT = TypeVar("SharedT")


class TransportContext(ConnectionContext):
    """What a transport may use of the program around it; one for each server, or client.

    `nursery` runs a transport's background tasks and outlives its listeners and connections;
    nothing in it may raise. Each `Connection` is given this context.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        limits: Limits | None = None,
        timers: Timers | None = None,
        memory_pool: MemoryPool | None = None,
    ) -> None:
        super().__init__(limits, timers, memory_pool)
        self.nursery: trio.Nursery = nursery
        self._shared: dict[object, object] = {}

    def shared(self, kind: "Callable[[TransportContext], SharedT]") -> SharedT:
        """Return the one `kind` of this context, made on first use by `kind(context)`.

        For what the listeners and connections of one program share, such as a poller.
        """
        if kind not in self._shared:
            self._shared[kind] = kind(self)
        return self._shared[kind]  # type: ignore[return-value]  # keyed by its own maker


@asynccontextmanager
async def open_transport_context(
    limits: Limits | None = None,
) -> AsyncGenerator[TransportContext]:
    """Open a context to connect with, for programs that are clients only.

    Close the connections before leaving it: their timers, pollers and memory end here.
    """
    async with trio.open_nursery() as nursery:
        context = TransportContext(nursery, limits)
        nursery.start_soon(context.timers.run)
        try:
            yield context
        finally:
            context.memory_pool.close()
        nursery.cancel_scope.cancel()


class Listener(ABC):
    """A bound endpoint that already queues connections. One task accepts at a time."""

    @property
    @abstractmethod
    def endpoint(self) -> Endpoint:
        """What was really bound: where port 0 was asked for, the port that the system chose."""

    @abstractmethod
    async def accept(self) -> Connection:
        """Wait for a connection.

        Failures that mean "full" (no descriptors, no memory) back off and retry inside; those of
        a single connection skip it.

        Raises:
            trio.ClosedResourceError: the listener was unbound or closed.
            OSError: accepting is broken for good; the server stops with this cause.
        """

    @abstractmethod
    async def unbind(self) -> None:
        """Stop accepting, at once; accepted connections go on. A second call does nothing."""

    @abstractmethod
    async def aclose(self) -> None:
        """Unbind and release what is left of the listener."""


class Transport(ABC):
    """Binds and connects endpoints of one scheme; the same class serves both directions.

    `multiplexed` says that its connections are `MultiplexedConnection`s.
    """

    scheme: ClassVar[str]
    multiplexed: ClassVar[bool] = False

    @abstractmethod
    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Bind `endpoint` and start queueing.

        Raises:
            BindError: the system refused; nothing is left bound.
            EndpointError: the endpoint's address or options make no sense to this transport.
        """

    @abstractmethod
    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect to `endpoint`; the caller closes the connection.

        Raises:
            OSError: nobody answers there.
            EndpointError: the endpoint's address or options make no sense to this transport.
        """
