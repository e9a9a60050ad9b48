"""A real server for the length of a block, over the in-memory transport unless told otherwise."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from itertools import count

import trio

from kestrel_core.connection import Connection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import KestrelError
from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.registry import Registry
from kestrel_core.server import Server
from kestrel_core.timers import Timers
from kestrel_core.transport import TransportContext, open_transport_context

__all__ = ["OpenServer", "open_server"]

# Names for the endpoints that were given none; no two in one process are the same.
_numbers = count(1)


class OpenServer:
    """A server that serves, and the means to connect to it; see `open_server`."""

    def __init__(self, server: Server, endpoint: Endpoint, context: TransportContext) -> None:
        self.server = server
        self.endpoint = endpoint
        """What the server has bound."""
        self.context = context
        """What clients connect with; it ends before the server does."""
        self._connected: list[Connection] = []

    async def connect(self, **options: str) -> Connection:
        """Connect to the server; `options` are the endpoint's and come before what it has.

        Over the in-memory transport `client="203.0.113.7:4711"` chooses the client's address. The
        end of the block aborts the connection unless the caller has closed it.

        Raises:
            OSError: the server has ceased to listen.
        """
        bound = self.endpoint
        endpoint = Endpoint(bound.scheme, bound.address, {**bound.options, **options})
        transport = self.server.registry.transport(endpoint.scheme)
        connection = await transport.connect(endpoint, self.context)
        self._connected.append(connection)
        return connection

    async def close_clients(self) -> None:
        """Abort what `connect` returned and nobody has closed."""
        for connection in self._connected:
            connection.abort(EndReason.ABORTED_BY_APP)
            await close_within(connection, 1.0)


@asynccontextmanager
async def open_server(
    handler: ConnectionHandler,
    *,
    middleware: Sequence[Middleware] = (),
    limits: Limits | None = None,
    registry: Registry | None = None,
    endpoint: str | None = None,
    lifespan: AbstractAsyncContextManager[object] | None = None,
    drain_seconds: float = 1.0,
    memory_pool: Callable[[Timers], MemoryPool] = MemoryPool,
) -> AsyncGenerator[OpenServer]:
    """Serve `handler`, inside `middleware`, while the block runs.

    `memory_pool` is for example `DiagnosticMemoryPool`. `endpoint` is `memory://` with a name of its own, unless given. `lifespan` is entered before
    the server binds, and left when it has ended. When the block ends the server drains for
    `drain_seconds`; when the block raises, the server is aborted. Either way nothing is left open.

    The block's exception comes out as it is; one that stops the server, in an `ExceptionGroup`.

    Raises:
        BindError: the endpoint could not be bound.
        EndpointError, PluginError: the endpoint makes no sense, or its transport cannot load.
    """
    server = Server(limits=limits, registry=registry, memory_pool=memory_pool)
    server.listen(endpoint or f"memory://server-{next(_numbers)}", handler, middleware=middleware)
    failure: Exception | None = None
    async with lifespan or nullcontext():
        async with trio.open_nursery() as nursery:
            try:
                (bound,) = await nursery.start(server.serve)
                async with open_transport_context(limits) as context:
                    opened = OpenServer(server, bound, context)
                    try:
                        yield opened
                    except Exception as error:  # raised below, where no nursery wraps it
                        failure = error
                    finally:
                        await opened.close_clients()
                if failure is None:
                    await server.drain(drain_seconds)
                else:
                    server.abort()
            except (KestrelError, OSError) as error:  # of binding
                failure = error
        if failure is not None:
            raise failure
