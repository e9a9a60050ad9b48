"""An HTTP client for tests: httpx, real HTTP bytes, and any transport underneath."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager

import httpcore
import httpx

from kestrel_core.endpoint import Endpoint
from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.registry import Registry
from kestrel_core.testing.clients.network_backend import StartTls, TransportBackend
from kestrel_core.testing.open_server import open_server
from kestrel_core.timers import Timers
from kestrel_core.transport import TransportContext

__all__ = ["HttpTransport", "open_http_client"]

# The most specific first: the first that fits is raised.
_ERRORS: list[tuple[type[Exception], type[httpx.TransportError]]] = [
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
]


class HttpTransport(httpx.AsyncBaseTransport):
    """Carries httpx's requests over connections to `endpoint`, whatever host their URLs name.

    It keeps connections and uses them again as any HTTP client does. `registry` finds the
    transport. For `https` URLs `start_tls` does the handshake. `http2` alone, without `http1`,
    speaks HTTP/2 from the first byte; it needs httpx's extra of that name.

    Closing it closes its connections; do so before `context` ends. Read a body to its end or not at
    all: httpx's iterations are generators, and trio warns of those that are left in the middle.
    """

    def __init__(
        self,
        context: TransportContext,
        endpoint: Endpoint,
        *,
        registry: Registry | None = None,
        start_tls: StartTls | None = None,
        http1: bool = True,
        http2: bool = False,
        max_connections: int | None = None,
    ) -> None:
        transport = (registry or Registry()).transport(endpoint.scheme)
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=max_connections,
            http1=http1,
            http2=http2,
            network_backend=TransportBackend(transport, endpoint, context, start_tls),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; the response's body is still to be read."""
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("this client is asynchronous, so the request's body has to be, too")
        url = request.url
        async with aclosing(_RequestBody(request.stream)) as body:
            with _translated():
                response = await self._pool.handle_async_request(
                    httpcore.Request(
                        method=request.method,
                        url=httpcore.URL(
                            scheme=url.raw_scheme,
                            host=url.raw_host,
                            port=url.port,
                            target=url.raw_path,
                        ),
                        headers=request.headers.raw,
                        content=body,
                        extensions=request.extensions,
                    )
                )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_ResponseBody(response),
            extensions=response.extensions,  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # httpcore's is half typed
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _RequestBody:
    """A request's body whose iterations get closed, which httpcore leaves to the collector."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self._iterations: list[AsyncIterator[bytes]] = []

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._iterations.append(aiter(self._stream))
        return self._iterations[-1]

    async def aclose(self) -> None:
        """Close what was not iterated to its end."""
        for iteration in self._iterations:
            if isinstance(iteration, AsyncGenerator):
                await iteration.aclose()


class _ResponseBody(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()


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
    itself, or several clients, calls that, and gives `HttpTransport` to clients of their own.

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
        httpx.AsyncClient(
            transport=HttpTransport(
                opened.context, opened.endpoint, registry=registry, start_tls=start_tls
            ),
            base_url=base_url,
            timeout=timeout_seconds,
            trust_env=False,
        ) as client,
    ):
        yield client


@contextmanager
def _translated() -> Generator[None]:
    """Raise httpx's errors instead of httpcore's."""
    try:
        yield
    except Exception as error:
        for kind, translated in _ERRORS:
            if isinstance(error, kind):
                raise translated(str(error)) from error
        raise
