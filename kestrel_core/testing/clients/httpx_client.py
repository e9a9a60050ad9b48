"""An HTTP client for tests: httpx, real HTTP bytes, and any transport underneath."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import ClassVar

import httpcore
import httpx

from kestrel_core.testing.clients.network_backend import (
    CoreErrors,
    PipeNetworkBackend,
    PipeNetworkStream,
    StartTls,
    translated_errors,
)
from kestrel_core.testing.connect import Connect

__all__ = ["HttpTransport", "make_client"]


class HttpTransport(httpx.AsyncBaseTransport):
    """Carries httpx's requests over what `connect` returns, whatever host their URLs name.

    It keeps connections and uses them again as any HTTP client does. For `https` URLs `start_tls`
    does the handshake. `http2` alone, without `http1`, speaks HTTP/2 from the first byte; it needs
    httpx's extra of that name. With `max_connections` requests wait for one of those.

    Closing it closes its connections; do so before the context of these ends. Read a body to its
    end or not at all: httpx's iterations are generators, and trio warns of those that are left in
    the middle.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        start_tls: StartTls | None = None,
        http1: bool = True,
        http2: bool = False,
        max_connections: int | None = None,
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=max_connections,
            http1=http1,
            http2=http2,
            network_backend=_NetworkBackend(_NetworkStream, connect, start_tls),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; the response's body is still to be read."""
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("this client is asynchronous, so the request's body has to be, too")
        url = request.url
        async with aclosing(_RequestBody(request.stream)) as body:
            with translated_errors(httpcore, httpx):
                response = await self._pool.handle_async_request(
                    httpcore.Request(
                        request.method,
                        httpcore.URL(
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
            response.status,
            headers=response.headers,
            stream=_ResponseBody(response),
            extensions=response.extensions,  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # httpcore's is half typed
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _NetworkStream(PipeNetworkStream, httpcore.AsyncNetworkStream):  # pyright: ignore[reportIncompatibleMethodOverride]  # `Self` is this class
    errors: ClassVar[CoreErrors] = httpcore


class _NetworkBackend(PipeNetworkBackend[_NetworkStream], httpcore.AsyncNetworkBackend):
    pass


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
        with translated_errors(httpcore, httpx):
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()


def make_client(
    connect: Connect,
    *,
    base_url: str,
    start_tls: StartTls | None = None,
    timeout_seconds: float | None = 30.0,
) -> httpx.AsyncClient:
    """Return a client with an `HttpTransport`, which no variable of the environment concerns."""
    return httpx.AsyncClient(
        transport=HttpTransport(connect, start_tls=start_tls),
        base_url=base_url,
        timeout=timeout_seconds,
        trust_env=False,
    )
