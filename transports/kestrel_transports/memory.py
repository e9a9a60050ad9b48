"""Connections within one program: the real server stack without sockets.

`memory://name` is a name that is free or taken in one run of trio. Nothing is faked above the
wire: back-pressure, half-close, resets, a full accept queue and refused connections are as on a
network, only that they take no time.

Options, for `bind` and `connect` alike, so that a bound endpoint can be connected to as it is:

* `backlog=512`: how many connections may wait to be accepted before the next `connect` waits.
* `pause_at_bytes=65536`: how much each direction holds before the sender waits.
* `client=203.0.113.7:4711` and `server=192.0.2.1:443`: the addresses of the two ends; a text
  without a colon is an address without a port. Unless given, the server's end is called what the
  endpoint is called, and the client's that with `-client`.

What `connect` gives comes before what `bind` gave, except for `backlog`, which is `bind`'s alone.
"""

from collections import deque

import attrs
import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.memory_pipe import DEFAULT_PAUSE_AT_BYTES, MemoryDuplexPipe, duplex_pipe_pair
from kestrel_core.transport import Listener, Transport, TransportContext

__all__ = ["MemoryTransport"]

_DEFAULT_BACKLOG = 512  # Kestrel's, for its sockets


class MemoryTransport(Transport):
    """`memory://name`: binds and connects within one run of trio, whichever instance is asked."""

    scheme = "memory"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Take the name, which is free again once the listener is unbound."""
        options = _Options.of(endpoint)
        await trio.lowlevel.checkpoint()
        listeners = _listeners()
        if endpoint.address in listeners:
            raise BindError(f"{endpoint}: the name {endpoint.address!r} is already bound")
        listener = listeners[endpoint.address] = _MemoryListener(endpoint, options, context)
        return listener

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect to a bound name, waiting while its accept queue is full.

        Raises:
            ConnectionRefusedError: the name is not bound, or ceased to be while this waited.
            EndpointError: an option is unknown or makes no sense.
        """
        options = _Options.of(endpoint)
        await trio.lowlevel.checkpoint()
        listener = _listeners().get(endpoint.address)
        if listener is None:
            raise _refused(endpoint)
        return await listener.connect(endpoint, options, context)


@attrs.frozen
class _Options:
    """An endpoint's options, None where it gives none."""

    backlog: int | None
    pause_at_bytes: int | None
    client: Address | None
    server: Address | None

    @classmethod
    def of(cls, endpoint: Endpoint) -> "_Options":
        endpoint.option_names_within([field.name for field in attrs.fields(cls)])
        return cls(
            backlog=_count(endpoint, "backlog"),
            pause_at_bytes=_count(endpoint, "pause_at_bytes"),
            client=_address(endpoint, "client"),
            server=_address(endpoint, "server"),
        )


def _count(endpoint: Endpoint, name: str) -> int | None:
    if name not in endpoint.options:
        return None
    count = endpoint.integer_option(name, 0)
    if count < 1:
        raise endpoint.error(f"the option {name} must be at least 1")
    return count


def _address(endpoint: Endpoint, name: str) -> Address | None:
    text = endpoint.options.get(name)
    if text is None or ":" not in text:
        return Address(text) if text else None
    try:
        return Address(*Endpoint(endpoint.scheme, text).host_and_port())
    except EndpointError as error:
        raise endpoint.error(f"the option {name}={text}: {error.fault}") from error


class _MemoryListener(Listener):
    """A taken name, and the connections that wait to be accepted on it."""

    def __init__(self, endpoint: Endpoint, options: _Options, context: TransportContext) -> None:
        self._endpoint = endpoint
        self._options = options
        self._context = context
        self._most_queued = options.backlog or _DEFAULT_BACKLOG
        self._queue: deque[Connection] = deque()
        self._filled = trio.lowlevel.ParkingLot()
        self._emptied = trio.lowlevel.ParkingLot()
        self._unbound = False

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    async def connect(
        self, endpoint: Endpoint, options: _Options, context: TransportContext
    ) -> Connection:
        """Queue one end of a new wire as soon as there is room, and return the other."""
        while len(self._queue) >= self._most_queued and not self._unbound:
            await self._emptied.park()
        if self._unbound:
            raise _refused(endpoint)
        bound, name = self._options, self._endpoint.address
        client = options.client or bound.client or Address(f"{name}-client")
        server = options.server or bound.server or Address(name)
        near, far = duplex_pipe_pair(
            options.pause_at_bytes or bound.pause_at_bytes or DEFAULT_PAUSE_AT_BYTES
        )
        self._queue.append(_connection(far, self._context, local=server, remote=client))
        self._filled.unpark()
        return _connection(near, context, local=client, remote=server)

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
            del _listeners()[self._endpoint.address]
            while self._queue:
                self._queue.popleft().abort(EndReason.SHUTDOWN)
            self._filled.unpark_all()
            self._emptied.unpark_all()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.unbind()


_listeners_of_run: trio.lowlevel.RunVar[dict[str, _MemoryListener]] = trio.lowlevel.RunVar(
    "kestrel_transports.memory"
)


def _listeners() -> dict[str, _MemoryListener]:
    """Return the taken names of this run of trio."""
    try:
        return _listeners_of_run.get()
    except LookupError:
        listeners: dict[str, _MemoryListener] = {}
        _listeners_of_run.set(listeners)
        return listeners


def _connection(
    pipe: MemoryDuplexPipe, context: TransportContext, *, local: Address, remote: Address
) -> Connection:
    connection = Connection(pipe, context, local=local, remote=remote)
    pipe.peer_gone.listen(connection.closed.set)
    return connection


def _refused(endpoint: Endpoint) -> ConnectionRefusedError:
    return ConnectionRefusedError(f"{endpoint}: nobody listens on the name {endpoint.address!r}")
