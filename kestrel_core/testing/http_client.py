"""A server and an HTTP client of it, in one step."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx

from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.registry import Registry
from kestrel_core.testing.clients.httpx_client import make_client
from kestrel_core.testing.clients.network_backend import StartTls
from kestrel_core.testing.serving import open_server
from kestrel_core.timers import Timers

__all__ = ["open_http_client"]


@asynccontextmanager
async def open_http_client(
    handler: ConnectionHandler,
    *,
    base_url: str = "http://testserver",
    middleware: Sequence[Middleware] = (),
    limits: Limits | None = None,
    registry: Registry | None = None,
    endpoint: str | None = None,
    lifespan: AbstractAsyncContextManager[object] | None = None,
    start_tls: StartTls | None = None,
    timeout_seconds: float | None = 30.0,
    drain_seconds: float = 1.0,
    memory_pool: Callable[[Timers], MemoryPool] = MemoryPool,
) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve `handler`, a protocol say, and yield a client whose requests it gets.

    The server is real, bytes go over the in-memory transport, time is trio's: under an autojump
    clock no timeout takes time. See `open_server` for the parameters. Whoever needs the server
    itself, or several clients, calls that, and makes clients of what it yields.

    The client's addresses are options of the endpoint:
    `endpoint="memory://test?client=203.0.113.7:4711"`.
    """
    async with (
        open_server(
            handler,
            middleware=middleware,
            limits=limits,
            registry=registry,
            endpoint=endpoint,
            lifespan=lifespan,
            drain_seconds=drain_seconds,
            memory_pool=memory_pool,
        ) as opened,
        make_client(
            opened.connect,
            opened.context,
            base_url=base_url,
            start_tls=start_tls,
            timeout_seconds=timeout_seconds,
        ) as client,
    ):
        yield client
