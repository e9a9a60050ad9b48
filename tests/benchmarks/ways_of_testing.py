"""The ways to ask an ASGI application in a test: by client, by wire, and with another server or none."""

import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import httpx
import httpx2
import trio
from attrs import frozen
from starlette.testclient import TestClient

from applications import PLAINTEXT_BODY, app
from kestrel_core.testing import OpenServer, open_server, serve
from kestrel_core.testing.clients.http1_client import Http1Client
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1

MEMORY = "`open_server`, memory, bytes"
"""The wire and nothing else: no client takes the bytes apart, and no transcript holds them."""

TCP_LOOPBACK = "`open_server`, TCP, bytes"
"""The same over a socket."""

CLIENTS = ("bytes", "Http1Client", "httpx", "httpx2")
"""Who asks a server of `serve`; `memory` and `tcp` name these ways."""

_ROOT = Path(__file__).parents[2]
_REQUEST = b"GET / HTTP/1.1\r\nhost: testserver\r\n\r\n"
_TCP = "tcp://127.0.0.1:0"
_WARM_UP_REQUESTS = 50

Ask: TypeAlias = Callable[[], Awaitable[None]]
OpenWay: TypeAlias = Callable[[], AbstractAsyncContextManager[Ask]]
OpenBlockingWay: TypeAlias = Callable[[], AbstractContextManager[Callable[[], None]]]


@frozen(kw_only=True)
class Cost:
    """What something took."""

    cpu_seconds: float
    seconds: float

    def __truediv__(self, number: int) -> "Cost":
        return Cost(cpu_seconds=self.cpu_seconds / number, seconds=self.seconds / number)


class Stopwatch:
    """Counts from its creation."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    def stop(self) -> Cost:
        """Return what was used since."""
        return Cost(
            cpu_seconds=time.process_time() - self._cpu,
            seconds=time.perf_counter() - self._began,
        )


class Way(Protocol):
    """One way to ask an application in a test."""

    def whole_tests(self, count: int) -> Cost:
        """Start everything, ask once, and stop it, `count` times; return the cost of one."""
        ...

    def requests(self, count: int) -> Cost:
        """Ask `count` times; return the cost of one."""
        ...


class TrioWay(Way):
    """A way whose test runs in trio."""

    def __init__(self, opened: OpenWay) -> None:
        self._opened = opened

    def whole_tests(self, count: int) -> Cost:
        async def one() -> None:
            async with self._opened() as ask:
                await ask()

        watch = Stopwatch()
        for _ in range(count):
            trio.run(one)
        return watch.stop() / count

    def requests(self, count: int) -> Cost:
        async def all_of_them() -> Cost:
            async with self._opened() as ask:
                for _ in range(_WARM_UP_REQUESTS):
                    await ask()
                watch = Stopwatch()
                for _ in range(count):
                    await ask()
                return watch.stop() / count

        return trio.run(all_of_them)


class BlockingWay(Way):
    """A way whose test is an ordinary function."""

    def __init__(self, opened: OpenBlockingWay) -> None:
        self._opened = opened

    def whole_tests(self, count: int) -> Cost:
        watch = Stopwatch()
        for _ in range(count):
            with self._opened() as ask:
                ask()
        return watch.stop() / count

    def requests(self, count: int) -> Cost:
        with self._opened() as ask:
            for _ in range(_WARM_UP_REQUESTS):
                ask()
            watch = Stopwatch()
            for _ in range(count):
                ask()
            return watch.stop() / count


def _check(status: int, body: bytes) -> None:
    if (status, body) != (200, PLAINTEXT_BODY):
        raise RuntimeError(f"that is not the answer: {status}, {body!r}")


# serve() ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _bytes(server: OpenServer) -> AsyncGenerator[Ask]:
    pipe = (await server.connect()).transport

    async def ask() -> None:
        await pipe.output.send(_REQUEST)
        answer = await pipe.input.read_until(PLAINTEXT_BODY, 4096)
        _check(int(answer[9:12]), answer[-len(PLAINTEXT_BODY) :])

    yield ask


@asynccontextmanager
async def _http1_client(server: OpenServer) -> AsyncGenerator[Ask]:
    async with Http1Client(await server.connect()) as client:

        async def ask() -> None:
            response = await client.request("GET", "/")
            _check(response.status, await response.read())

        yield ask


def _asking(client: httpx.AsyncClient | httpx2.AsyncClient) -> Ask:
    async def ask() -> None:
        response = await client.get("/")
        _check(response.status_code, response.content)

    return ask


@asynccontextmanager
async def _httpx(server: OpenServer) -> AsyncGenerator[Ask]:
    async with server.httpx_client() as client:
        yield _asking(client)


@asynccontextmanager
async def _httpx2(server: OpenServer) -> AsyncGenerator[Ask]:
    async with server.httpx2_client() as client:
        yield _asking(client)


_ASKING: Mapping[str, Callable[[OpenServer], AbstractAsyncContextManager[Ask]]] = {
    "bytes": _bytes,
    "Http1Client": _http1_client,
    "httpx": _httpx,
    "httpx2": _httpx2,
}


@asynccontextmanager
async def _served(client: str, endpoint: str | None) -> AsyncGenerator[Ask]:
    async with serve(app, endpoint=endpoint) as server, _ASKING[client](server) as ask:
        yield ask


@asynccontextmanager
async def _without_transcript(endpoint: str | None) -> AsyncGenerator[Ask]:
    handler = Http1(AsgiApplication(app))
    async with open_server(handler, endpoint=endpoint) as server, _bytes(server) as ask:
        yield ask


@asynccontextmanager
async def _httpx_of_its_own() -> AsyncGenerator[Ask]:
    async with (
        serve(app, endpoint=_TCP) as server,
        httpx.AsyncClient(base_url=f"http://{server.endpoint.address}", trust_env=False) as client,
    ):
        yield _asking(client)


# Without a server -------------------------------------------------------------------------------


@asynccontextmanager
async def _httpx_asgi() -> AsyncGenerator[Ask]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield _asking(client)


@asynccontextmanager
async def _httpx2_asgi() -> AsyncGenerator[Ask]:
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield _asking(client)


@contextmanager
def _test_client() -> Generator[Callable[[], None]]:
    with TestClient(app) as client:
        yield partial(_ask_test_client, client)


@contextmanager
def _test_client_not_entered() -> Generator[Callable[[], None]]:
    client = TestClient(app)
    yield partial(_ask_test_client, client)
    client.close()


def _ask_test_client(client: TestClient) -> None:
    response = client.get("/")
    _check(response.status_code, response.content)


# A server in a thread ---------------------------------------------------------------------------


def find_uvicorn() -> Any:  # noqa: ANN401  # it need not be installed
    """Return uvicorn, from here or from the environment of `make bench`, or None."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.path.append(str(_ROOT / ".venv-bench" / "lib" / version / "site-packages"))
    try:
        return import_module("uvicorn")
    except ImportError:
        return None


@contextmanager
def _uvicorn_in_a_thread(uvicorn: Any) -> Generator[Callable[[], None]]:  # noqa: ANN401
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        def ask() -> None:
            response = client.get("/")
            _check(response.status_code, response.content)

        yield ask
    server.should_exit = True
    thread.join()


# All of them -------------------------------------------------------------------------------------


def memory(client: str) -> str:
    """Return the name of the way of `client` over memory."""
    return f"`serve`, memory, {client}"


def tcp(client: str) -> str:
    """Return the name of the way of `client` over TCP."""
    return f"`serve`, TCP, {client}"


def all_ways(uvicorn: Any) -> dict[str, Way]:  # noqa: ANN401  # as above
    """Return every way by its name; without uvicorn, if that is None."""
    ways: dict[str, Way] = {
        MEMORY: TrioWay(partial(_without_transcript, None)),
        TCP_LOOPBACK: TrioWay(partial(_without_transcript, _TCP)),
    }
    for client in CLIENTS:
        ways[memory(client)] = TrioWay(partial(_served, client, None))
        ways[tcp(client)] = TrioWay(partial(_served, client, _TCP))
    ways["`serve`, TCP, httpx by itself"] = TrioWay(_httpx_of_its_own)
    ways["httpx with `ASGITransport`"] = TrioWay(_httpx_asgi)
    ways["httpx2 with `ASGITransport`"] = TrioWay(_httpx2_asgi)
    ways["`TestClient`, entered"] = BlockingWay(_test_client)
    ways["`TestClient`, not entered"] = BlockingWay(_test_client_not_entered)
    if uvicorn is not None:
        ways["uvicorn in a thread, httpx"] = BlockingWay(partial(_uvicorn_in_a_thread, uvicorn))
    return ways
