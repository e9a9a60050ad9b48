"""Names that are bound within one run of trio, and the connections that wait there to be accepted."""

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, ClassVar, Self

import attrs
import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.memory_pipe import DEFAULT_PAUSE_AT_BYTES
from kestrel_core.transport import Listener, Transport, TransportContext

__all__ = ["NamedTransport", "Wire"]


@attrs.frozen
class Wire(ABC):
    """How a connection is to be made; its fields are an endpoint's options."""

    backlog: int = 512  # Kestrel's, for its sockets
    pause_at_bytes: int = DEFAULT_PAUSE_AT_BYTES
    client: Address | None = None
    server: Address | None = None

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        """Read the options of `endpoint`.

        Raises:
            EndpointError: one is unknown or makes no sense.
        """
        endpoint.option_names_within([field.name for field in attrs.fields(cls)])
        given: dict[str, Any] = {}
        for name in endpoint.options:
            read = _address if name in ("client", "server") else _count
            given[name] = read(endpoint, name)
        return cls(**given)

    def addresses(self, name: str) -> tuple[Address, Address]:
        """Return the client's and the server's address on an endpoint called `name`."""
        return self.client or Address(f"{name}-client"), self.server or Address(name)

    @abstractmethod
    def join(
        self, name: str, client: TransportContext, server: TransportContext
    ) -> tuple[Connection, Connection]:
        """Return a new connection's two ends, the client's first, in their contexts."""


class NamedTransport(Transport):
    """Binds names and connects to them, whichever instance is asked; `wire` makes the connections.

    Each scheme has names of its own.
    """

    wire: ClassVar[type[Wire]]

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Take the name, which is free again once the listener is unbound."""
        most_queued = self.wire.of(endpoint).backlog
        await trio.lowlevel.checkpoint()
        listeners = _listeners()
        if _key(endpoint) in listeners:
            raise BindError(f"{endpoint}: the name {endpoint.address!r} is already bound")
        listener = listeners[_key(endpoint)] = _NamedListener(
            endpoint, self.wire, most_queued, context
        )
        return listener

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect to a bound name, waiting while its accept queue is full.

        Raises:
            ConnectionRefusedError: the name is not bound, or ceased to be while this waited.
            EndpointError: an option is unknown or makes no sense.
        """
        self.wire.of(endpoint)
        await trio.lowlevel.checkpoint()
        listener = _listeners().get(_key(endpoint))
        if listener is None:
            raise _refused(endpoint)
        return await listener.connect(endpoint, context)


class _NamedListener(Listener):
    """A taken name, and the connections that wait to be accepted on it."""

    def __init__(
        self, endpoint: Endpoint, wire: type[Wire], most_queued: int, context: TransportContext
    ) -> None:
        self._endpoint = endpoint
        self._wire = wire
        self._most_queued = most_queued
        self._context = context
        self._queue: deque[Connection] = deque()
        self._filled = trio.lowlevel.ParkingLot()
        self._emptied = trio.lowlevel.ParkingLot()
        self._unbound = False

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Queue one end of a new wire as soon as there is room, and return the other."""
        while len(self._queue) >= self._most_queued and not self._unbound:
            await self._emptied.park()
        if self._unbound:
            raise _refused(endpoint)
        options = {**self._endpoint.options, **endpoint.options}
        wire = self._wire.of(Endpoint(endpoint.scheme, endpoint.address, options))
        client, server = wire.join(endpoint.address, context, self._context)
        self._queue.append(server)
        self._filled.unpark()
        return client

    async def accept(self) -> Connection:
        await trio.lowlevel.checkpoint()
        while not self._queue and not self._unbound:
            await self._filled.park()
        if self._unbound:
            raise trio.ClosedResourceError(f"{self._endpoint} is no longer bound")
        self._emptied.unpark()
        return self._queue.popleft()

    async def unbind(self) -> None:
        """Free the name; who still waits in the queue is reset, as a kernel does it."""
        if not self._unbound:
            self._unbound = True
            del _listeners()[_key(self._endpoint)]
            while self._queue:
                self._queue.popleft().abort(EndReason.SHUTDOWN)
            self._filled.unpark_all()
            self._emptied.unpark_all()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.unbind()


_listeners_of_run: trio.lowlevel.RunVar[dict[tuple[str, str], _NamedListener]] = (
    trio.lowlevel.RunVar("kestrel_transports.memory")
)


def _listeners() -> dict[tuple[str, str], _NamedListener]:
    """Return the taken names of this run of trio."""
    try:
        return _listeners_of_run.get()
    except LookupError:
        listeners: dict[tuple[str, str], _NamedListener] = {}
        _listeners_of_run.set(listeners)
        return listeners


def _key(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.scheme, endpoint.address


def _count(endpoint: Endpoint, name: str) -> int:
    count = endpoint.integer_option(name, 0)
    if count < 1:
        raise endpoint.error(f"the option {name} must be at least 1")
    return count


def _address(endpoint: Endpoint, name: str) -> Address | None:
    text = endpoint.options[name]
    if ":" not in text:
        return Address(text) if text else None
    try:
        return Address(*Endpoint(endpoint.scheme, text).host_and_port())
    except EndpointError as error:
        raise endpoint.error(f"the option {name}={text}: {error.fault}") from error


def _refused(endpoint: Endpoint) -> ConnectionRefusedError:
    return ConnectionRefusedError(f"{endpoint}: nobody listens on the name {endpoint.address!r}")
