"""The server: it binds endpoints, runs a task for each connection, and ends all of it in order.

Theory of operation. `serve` holds two nurseries. The outer one has what connections rely on: the
timers, and the background tasks of transports. The inner one has a task for each listener, which
accepts and opens a nursery of its own for its connections. Leaving the inner one means that every
connection has ended; then the outer one is cancelled.

Draining unbinds the listeners, so that the accept loops end and their nurseries wait for what is
left; it asks every connection to finish; and at its deadline it aborts those that have not and
cancels the inner nursery. Cancelling `serve` from outside is the same without the asking.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Protocol as Shape
from typing import cast

import attrs
import trio

from kestrel_core.admission import Admission
from kestrel_core.connection import Connection, Failure
from kestrel_core.containment import close_contained, log_end, run_contained
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, KestrelError
from kestrel_core.heap import HeapTrimmer, find_malloc_trim
from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware, compose, needs_bytes
from kestrel_core.protocol import Detection, Protocol, SniffedLayer
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.signals import Signal
from kestrel_core.timers import Timers
from kestrel_core.transport import Listener, Transport, TransportContext

__all__ = ["Server"]

_malloc_trim = find_malloc_trim()

_log = logging.getLogger("kestrel.server")


@attrs.frozen
class _Listen:
    """What `listen` was asked for."""

    endpoint: Endpoint
    handler: ConnectionHandler
    middleware: Sequence[Middleware]


class _MakeDetection(Shape):
    def __call__(self, found: Sequence[Protocol | SniffedLayer]) -> ConnectionHandler: ...


class _Bound:
    """A listener that accepts, and the connections that came from it."""

    __slots__ = ("connections", "cut", "ended", "handler", "listener")

    def __init__(self, listener: Listener, handler: ConnectionHandler) -> None:
        self.listener = listener
        self.handler = handler
        self.connections: dict[Connection, None] = {}
        self.cut = trio.CancelScope()
        """Around everything that serves this listener's connections."""
        self.ended = Signal()
        """Set when it accepts no more and its last connection has ended."""


class Server:
    """Serves connections on any number of endpoints; see `serve`.

    It takes no signals and touches nothing global, so a program may run several. `limits` hold
    for all endpoints together; `registry` finds transports by scheme; `memory_pool` makes the pool
    that all connections rent from, which the server closes. `on_failure` is called with each fault
    of a handler or an application, once it was logged; it must not wait. A server serves once.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        registry: Registry | None = None,
        memory_pool: Callable[[Timers], MemoryPool] = MemoryPool,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        self.limits: Limits = limits or Limits()
        self.registry: Registry = registry or Registry()
        self._make_memory_pool = memory_pool
        self._on_failure = on_failure
        self._listens: list[_Listen] = []
        self._bound: list[_Bound] = []
        self._connections: dict[Connection, None] = {}
        self._context: TransportContext | None = None
        self._heap: HeapTrimmer | None = None
        self._serving: trio.Nursery | None = None
        self._finished = Signal()
        self._draining = False
        self._failure: KestrelError | OSError | None = None

    @property
    def connections(self) -> Collection[Connection]:
        """The connections there are now: a live view, in the order in which they were accepted."""
        return self._connections.keys()

    @property
    def endpoints(self) -> list[Endpoint]:
        """What is bound now, in the order in which it was bound."""
        return [bound.listener.endpoint for bound in self._bound]

    def listen(
        self,
        endpoint: Endpoint | str,
        handler: ConnectionHandler | Sequence[Protocol | SniffedLayer],
        *,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        """Have `serve` bind `endpoint` and run `handler`, inside `middleware`, on its connections.

        A `Protocol` is such a handler. Of several, the middleware that is called "detect" chooses
        by ALPN and by the first bytes. The first middleware is the outermost.

        Raises:
            EndpointError: the text is no endpoint, or its scheme is unknown.
            PluginError: there are several protocols, and nothing is installed that detects them.
        """
        self._listens.append(self._listen(endpoint, handler, middleware))

    async def serve(
        self, *, task_status: trio.TaskStatus[list[Endpoint]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind every endpoint, accept and serve until `drain` or `abort` has ended it all.

        `await nursery.start(server.serve)` returns the bound endpoints, in the order in which they
        were given, once connections can be made. If one cannot be bound, none is. Cancelling it
        aborts every connection.

        Raises:
            BindError: an endpoint could not be bound.
            EndpointError, PluginError: an endpoint makes no sense, or its transport cannot load.
            OSError: accepting failed for good; the server has stopped.
            RuntimeError: this server has served before.
        """
        if self._context is not None:
            raise RuntimeError("a server serves once; make another")
        timers = Timers()
        memory_pool = self._make_memory_pool(timers)
        async with trio.open_nursery() as background:
            self._context = TransportContext(background, self.limits, timers, memory_pool)
            self._context.on_failure = self._on_failure
            if _malloc_trim is not None:
                self._heap = HeapTrimmer(background, timers, _malloc_trim)
            background.start_soon(timers.run)
            try:
                async with trio.open_nursery() as listeners:
                    self._serving = listeners
                    if await self._bind_all():
                        task_status.started(self.endpoints)
                        await self._finished.wait()
            finally:
                self._serving = None
                memory_pool.close()
            background.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def bind(
        self,
        endpoint: Endpoint | str,
        handler: ConnectionHandler | Sequence[Protocol | SniffedLayer],
        *,
        middleware: Sequence[Middleware] = (),
    ) -> Endpoint:
        """Bind one more endpoint while the server serves; return what was really bound.

        Raises as `listen` and `serve` do, and:

        Raises:
            RuntimeError: the server is not serving, or is draining.
        """
        return await self._bind(self._listen(endpoint, handler, middleware))

    async def unbind(self, endpoint: Endpoint, seconds: float) -> int:
        """Stop listening on `endpoint`, as `endpoints` has it; drain its connections.

        Returns how many had to be cut after `seconds`.

        Raises:
            LookupError: it is not bound.
        """
        for bound in self._bound:
            if bound.listener.endpoint == endpoint:
                await bound.listener.unbind()
                return await self._drain([bound], seconds)
        raise LookupError(f"{endpoint} is not bound")

    async def drain(self, seconds: float, *, notice_seconds: float = 0.0) -> int:
        """Stop accepting, let what is under way finish, and cut what is left after `seconds`.

        Before that it goes on accepting for `notice_seconds`, in which health checks that ask
        `ConnectionContext.draining` say so, and load balancers look elsewhere. Always ends, and
        `serve` with it. Returns how many connections were cut. It may be called by several tasks:
        each waits as long as it asked for.
        """
        if self._serving is None:
            return 0
        if self._context is not None:
            self._context.draining.set()
        if notice_seconds:
            await trio.sleep(notice_seconds)
        self._draining = True
        bound = list(self._bound)  # which shrinks by itself as accept loops end
        for each in bound:
            await each.listener.unbind()
        cut = await self._drain(bound, seconds)
        self._finished.set()
        return cut

    def abort(self) -> None:
        """Stop at once: unsent bytes are lost, handlers are cancelled, and `serve` ends."""
        self._draining = True
        for connection in list(self._connections):
            connection.abort(EndReason.APP_SHUTDOWN_TIMEOUT)
        if self._serving is not None:
            self._serving.cancel_scope.cancel()

    async def _drain(self, those: Sequence[_Bound], seconds: float) -> int:
        for bound in those:
            for connection in list(bound.connections):
                connection.request_close()
        with trio.move_on_after(seconds):
            for bound in those:
                await bound.ended.wait()
        cut = [connection for bound in those for connection in bound.connections]
        for connection in cut:
            connection.abort(EndReason.APP_SHUTDOWN_TIMEOUT)
        if cut:
            _log.warning("%d connections did not finish in %g s and were cut", len(cut), seconds)
            for bound in those:
                bound.cut.cancel()
        for bound in those:
            await bound.ended.wait()
        return len(cut)

    def _listen(
        self,
        endpoint: Endpoint | str,
        handler: ConnectionHandler | Sequence[Protocol | SniffedLayer],
        middleware: Sequence[Middleware],
    ) -> _Listen:
        if not callable(handler):
            found = self.registry.load(PluginKind.MIDDLEWARE, "detect")
            handler = cast(_MakeDetection, found)(handler)
        return _Listen(self._parse(endpoint), handler, tuple(middleware))

    def _parse(self, endpoint: Endpoint | str) -> Endpoint:
        if isinstance(endpoint, Endpoint):
            return endpoint
        return Endpoint.parse(endpoint, self.registry.names(PluginKind.TRANSPORT))

    async def _bind_all(self) -> bool:
        """Bind all endpoints or none; tell whether they are bound."""
        try:
            for listen in self._listens:
                await self._bind(listen)
        except (KestrelError, OSError) as error:
            # Raised by `serve` itself, after its nurseries, which would wrap it in a group.
            self._fail(error)
        except RuntimeError:
            if not self._draining:
                raise
        return not self._draining

    async def _bind(self, listen: _Listen) -> Endpoint:
        if self._serving is None or self._context is None or self._draining:
            raise RuntimeError("the server is not serving")
        transport = self.registry.transport(listen.endpoint.scheme)
        _check_stack(transport, listen)
        listener = await transport.bind(listen.endpoint, self._context)
        if self._draining:  # since then, and whoever drains does not know this listener
            await listener.aclose()
            raise RuntimeError("the server is no longer serving")
        admissions = _admissions(listen.middleware)
        for admission in reversed(admissions):  # so that the first is the outermost
            listener = admission.wrap(listener)
        middleware = listen.middleware[len(admissions) :]
        bound = _Bound(listener, compose(middleware, listen.handler))
        self._bound.append(bound)
        self._serving.start_soon(self._accept, bound)
        return listener.endpoint

    async def _accept(self, bound: _Bound) -> None:
        failure: OSError | None = None
        try:
            with bound.cut:
                async with trio.open_nursery() as connections:
                    try:
                        while True:
                            connection = await bound.listener.accept()
                            if self._is_full():
                                connections.start_soon(self._refuse, connection)
                            else:
                                self._connections[connection] = None
                                self._note_connections()
                                bound.connections[connection] = None
                                connections.start_soon(self._run, bound, connection)
                    except trio.ClosedResourceError:
                        pass  # unbound: what was accepted goes on
                    except OSError as error:
                        failure = error
                        connections.cancel_scope.cancel()
        finally:
            self._bound.remove(bound)
            bound.ended.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await bound.listener.aclose()
        if failure is not None:
            _log.error("accepting on %s failed: %s", bound.listener.endpoint, failure)
            self._fail(failure)

    def _note_connections(self) -> None:
        if self._heap is not None:
            self._heap.note(len(self._connections))

    def _is_full(self) -> bool:
        most = self.limits.max_connections
        if most is None or self._context is None:
            return False
        return len(self._connections) - self._context.upgraded_connections >= most

    def _fail(self, error: KestrelError | OSError) -> None:
        """Stop serving; `serve` will raise `error`, unless there was an earlier one."""
        self._failure = self._failure or error
        self.abort()

    async def _run(self, bound: _Bound, connection: Connection) -> None:
        """Serve one connection from accept to close; the boundary that no error crosses."""
        try:
            await run_contained(connection, bound.handler)
            connection.record_end(EndReason.COMPLETED)
        except BaseException:  # cancelled, by `abort` or by the drain's deadline
            connection.abort(EndReason.APP_SHUTDOWN_TIMEOUT)
            raise
        finally:
            await close_contained(connection, self.limits.linger_seconds)
            del self._connections[connection], bound.connections[connection]
            self._note_connections()
            log_end(connection)

    async def _refuse(self, connection: Connection) -> None:
        connection.abort(EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED)
        await close_contained(connection, self.limits.linger_seconds)
        log_end(connection)


def _check_stack(transport: Transport, listen: _Listen) -> None:
    """Check that everything may stand where it stands.

    Raises:
        ConfigurationError: something may not.
    """
    stack: list[Middleware | ConnectionHandler] = [*listen.middleware, listen.handler]
    for position, each in enumerate(stack):
        if transport.multiplexed and _needs_bytes(each):
            raise ConfigurationError(
                f"{_name_of(each)} reads the bytes of a connection, but a connection on"
                f" {listen.endpoint} carries streams; leave it out there"
            )
        if isinstance(each, Layer | Detection):
            each.check_place(listen.middleware[:position], stack[position + 1 :])


def _needs_bytes(each: Middleware | ConnectionHandler) -> bool:
    if isinstance(each, Layer | Protocol):
        return each.needs_bytes
    return isinstance(each, needs_bytes | Detection)


def _name_of(each: Middleware | ConnectionHandler) -> str:
    if isinstance(each, Layer | Protocol):
        return each.name
    if isinstance(each, Detection):
        return "detection"
    return str(each.middleware if isinstance(each, needs_bytes) else each)


def _admissions(stack: Sequence[Middleware]) -> list[Admission]:
    """Return those that wrap accepting: the ones with nothing else outside of them."""
    return [each for each in takewhile(_is_admission, stack) if isinstance(each, Admission)]


def _is_admission(middleware: Middleware) -> bool:
    return isinstance(middleware, Admission)
