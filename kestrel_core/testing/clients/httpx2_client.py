"""httpx2, the successor of httpx, over any transport; see `httpx_client`, which is alike."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import ClassVar

import httpcore2
import httpx2

from kestrel_core.testing.clients.network_backend import (
    CoreErrors,
    PipeNetworkBackend,
    PipeNetworkStream,
    StartTls,
    translated_errors,
)
from kestrel_core.testing.connect import Connect

__all__ = ["HttpTransport", "make_client"]


class HttpTransport(httpx2.AsyncBaseTransport):
    """Carries httpx2's requests over what `connect` returns; see httpx's `HttpTransport`.

    Its WebSockets and server-sent events go over it, too; WebSockets need httpx2's extra `ws`.
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
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=max_connections,
            http1=http1,
            http2=http2,
            network_backend=_NetworkBackend(_NetworkStream, connect, start_tls),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request`; the response's body is still to be read."""
        if not isinstance(request.stream, httpx2.AsyncByteStream):
            raise TypeError("this client is asynchronous, so the request's body has to be, too")
        url = request.url
        with translated_errors(httpcore2, httpx2):
            response = await self._pool.handle_async_request(
                httpcore2.Request(
                    request.method,
                    httpcore2.URL(
                        scheme=url.raw_scheme,
                        host=url.raw_host,
                        port=url.port,
                        target=url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx2.Response(
            response.status,
            headers=response.headers,
            stream=_ResponseBody(response),
            extensions=response.extensions,  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # httpcore2's is half typed
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _NetworkStream(PipeNetworkStream, httpcore2.AsyncNetworkStream):  # pyright: ignore[reportIncompatibleMethodOverride]  # `Self` is this class
    errors: ClassVar[CoreErrors] = httpcore2


class _NetworkBackend(PipeNetworkBackend[_NetworkStream], httpcore2.AsyncNetworkBackend):
    pass


class _ResponseBody(httpx2.AsyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with translated_errors(httpcore2, httpx2):
            async with aclosing(self._response.aiter_stream()) as parts:
                async for part in parts:
                    yield part

    async def aclose(self) -> None:
        await self._response.aclose()


def make_client(
    connect: Connect,
    *,
    base_url: str,
    start_tls: StartTls | None = None,
    timeout_seconds: float | None = 30.0,
) -> httpx2.AsyncClient:
    """Return a client with an `HttpTransport`, which no variable of the environment concerns."""
    return httpx2.AsyncClient(
        transport=HttpTransport(connect, start_tls=start_tls),
        base_url=base_url,
        timeout=timeout_seconds,
        trust_env=False,
    )
