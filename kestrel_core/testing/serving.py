"""A real server for the length of a block, over the in-memory transport unless told otherwise."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import trio

from kestrel_core.admission import Admission, place_of_tls
from kestrel_core.application import adapt, make_http
from kestrel_core.connection import Failure
from kestrel_core.errors import KestrelError
from kestrel_core.interface import Interface
from kestrel_core.limits import Limits
from kestrel_core.memory import MemoryPool
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.plugin_options import plugin_from_values
from kestrel_core.protocol import Protocol, SniffedLayer
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.testing.diagnostic_memory_pool import DiagnosticMemoryPool
from kestrel_core.testing.extra import needing_extra
from kestrel_core.testing.observation import Observation
from kestrel_core.testing.open_server import OpenServer, Site
from kestrel_core.timers import Timers
from kestrel_core.transport import open_transport_context

if TYPE_CHECKING:
    from kestrel_core.testing.authority import Authority
    from kestrel_core.testing.network import Network

__all__ = ["ApplicationFailed", "LeftOpen", "Serve", "open_server", "serve"]

Serve: TypeAlias = Callable[..., AbstractAsyncContextManager[OpenServer]]
"""The type of pytest's fixture `kestrel_serve`, which takes what `serve` takes."""

# Names for the endpoints that were given none; no two in one process are the same.
_numbers = count(1)

# Whom the certificate of a server with TLS is for, unless its options say otherwise.
_CERTIFIED_NAMES = ("testserver", "localhost", "127.0.0.1", "::1")


class ApplicationFailed(AssertionError):
    """The application did something wrong without raising anything."""


class LeftOpen(AssertionError):
    """Connections went on after their clients had gone, until they were cut."""


@asynccontextmanager
async def open_server(
    handler: ConnectionHandler | Sequence[Protocol | SniffedLayer],
    *,
    middleware: Sequence[Middleware] = (),
    limits: Limits | None = None,
    registry: Registry | None = None,
    endpoint: str | None = None,
    lifespan: AbstractAsyncContextManager[object] | None = None,
    network: "Network | None" = None,
    authority: "Authority | None" = None,
    speaks_tls: bool = False,
    records: bool = False,
    numbers_clients: bool = False,
    drain_seconds: float = 1.0,
    memory_pool: Callable[[Timers], MemoryPool] = MemoryPool,
    observation: Observation | None = None,
) -> AsyncGenerator[OpenServer]:
    """Serve `handler`, inside `middleware`, while the block runs.

    What `serve` does for an application, for handlers and protocols of any kind. `endpoint` is
    `memory://` with a name of its own, unless given. `lifespan` is entered before the server binds,
    and left when it has ended. Clients go over `network`, as those of `serve` do, trust `authority` and, if it
    `speaks_tls`, speak TLS, which `middleware` or a protocol has to bring; `records` has their
    transcripts written, `numbers_clients` gives addresses on this machine to those without one. `memory_pool` is for example `DiagnosticMemoryPool`. `observation` sees
    what the server does; there is one in any case.

    When the block ends, the clients are closed and the server drains for `drain_seconds`; when the
    block raises, the server is aborted. Either way nothing is left open. The block's exception comes
    out as it is, and so does a single one that stops the server.

    Raises:
        BindError: the endpoint could not be bound.
        EndpointError, PluginError: the endpoint makes no sense, or its transport cannot load.
    """
    observation = observation or Observation()

    def make_pool(timers: Timers) -> MemoryPool:
        observation.memory_pool = memory_pool(timers)
        return observation.memory_pool

    server = Server(
        limits=limits,
        registry=registry,
        memory_pool=make_pool,
        on_failure=observation.failures.append,
    )
    server.listen(
        endpoint or _new_name(),
        handler,
        middleware=_with(observation, middleware),
    )
    site = Site(
        network=network,
        authority=authority,
        speaks_tls=speaks_tls,
        records=records,
        numbers_clients=numbers_clients,
    )
    failure: Exception | None = None
    async with AsyncExitStack() as around:
        around.enter_context(_scheduler(network))
        await around.enter_async_context(lifespan or nullcontext())
        try:
            async with trio.open_nursery() as nursery:
                try:
                    (bound,) = await nursery.start(server.serve)
                    async with open_transport_context(limits) as context:
                        opened = OpenServer(server, bound, context, observation, site)
                        try:
                            yield opened
                        except Exception as error:  # raised below, where no nursery wraps it
                            failure = error
                        finally:
                            await opened.close_clients()
                    if failure is None:
                        opened.cut_connections = await server.drain(drain_seconds)
                    else:
                        server.abort()
                except (KestrelError, OSError) as error:  # of binding
                    failure = error
        except ExceptionGroup as group:
            stopped_by = _only_one(group)
            if failure is None:
                failure = stopped_by
            else:
                failure.add_note(f"besides, the server was stopped by {stopped_by!r}")
        if failure is not None:
            raise failure


@asynccontextmanager
async def serve(
    app: object,
    *,
    interface: Literal["asgi", "wsgi", "native"] = "asgi",
    root_path: str = "",
    beside: Sequence[Protocol] = (),
    middleware: Sequence[Middleware] = (),
    tls: bool | Mapping[str, object] = False,
    authority: "Authority | None" = None,
    limits: Limits | None = None,
    registry: Registry | None = None,
    endpoint: str | None = None,
    network: "Network | None" = None,
    drain_seconds: float = 5.0,
    memory_pool: Callable[[Timers], MemoryPool] = DiagnosticMemoryPool,
    raises_failures: bool = True,
    adds_notes: bool = True,
) -> AsyncGenerator[OpenServer]:
    """Serve the application `app` as the server would in production, while the block runs.

    Everything is real, but for the wire, which is in memory unless `endpoint` says otherwise, and
    for time under a `trio.testing.MockClock`. The application's lifespan is around it. `beside` are
    other protocols on the same endpoint; `middleware`, `limits` and `endpoint` are what
    `Server.listen` takes. `root_path` is as in ASGI.

    `tls` has the server speak TLS with a certificate from `authority`, or from one of its own, which
    may certify clients, too; options of the middleware "tls" may stand there instead of True. Over a
    `network` there are no session tickets, unless the options say so. A middleware of your own that
    speaks TLS needs `authority` for its clients to trust.

    `network` is what bytes go over between clients and server. Its seed decides trio's scheduling
    order, too, while the block runs, so that with an equal network everything happens again.

    At the end of the block the clients are closed, and the server drains for `drain_seconds`. When
    the block raises, a note at its exception tells what went over each connection, unless
    `adds_notes` is False.

    Raises:
        Exception: what the application, a handler or a middleware raised, if that was one
            exception; several are in an `ExceptionGroup`. Not when the block raised something, or
            `raises_failures` is False: `OpenServer.failures` has them in any case.
        ApplicationFailed: an application returned without finishing its response.
        LeftOpen: connections went on though their clients had gone, and were cut; the text says
            which.
        AssertionError: blocks of the memory pool have not been given back, or were misused.
        LifespanFailed: the application could not start, or not stop.
        BindError, EndpointError, PluginError, ConfigurationError: what is asked for cannot be
            served.
        MissingExtraError: `tls` needs a library that is not installed.
    """
    registry = registry or Registry()
    observation = Observation()
    adapted = adapt(registry, app, Interface.of(interface), root_path=root_path, must_start=True)
    http = make_http(registry, adapted.application, on_exchange_end=observation.note_exchange)
    if tls and authority is None:
        with needing_extra("a server's own certificate"):
            from kestrel_core.testing.authority import Authority
        authority = Authority()
    if tls and authority is not None:
        middleware = _with_tls(registry, authority, tls, middleware, network)
    async with open_server(
        [cast(Protocol, http), *beside] if beside else http,
        middleware=middleware,
        limits=limits,
        registry=registry,
        endpoint=endpoint or _endpoint(speaks_tls=bool(tls)),
        lifespan=adapted.lifespan,
        network=network,
        authority=authority,
        speaks_tls=bool(tls),
        records=True,
        numbers_clients=True,
        drain_seconds=drain_seconds,
        memory_pool=memory_pool,
        observation=observation,
    ) as opened:
        try:
            yield opened
        except Exception as error:
            if adds_notes:
                error.add_note(opened.report())
            raise
    if opened.cut_connections:
        raise LeftOpen(_what_was_cut(opened, drain_seconds))
    if raises_failures:
        _raise(opened.failures)


def _new_name() -> str:
    return f"memory://server-{next(_numbers)}"


def _endpoint(*, speaks_tls: bool) -> str:
    return f"{_new_name()}?server={_CERTIFIED_NAMES[0]}:{443 if speaks_tls else 80}"


def _with(observation: Observation, middleware: Sequence[Middleware]) -> list[Middleware]:
    """Return `middleware` with `observation` inside of the admissions that wrap accepting."""
    place = 0
    while place < len(middleware) and isinstance(middleware[place], Admission):
        place += 1
    return [*middleware[:place], observation, *middleware[place:]]


def _with_tls(
    registry: Registry,
    authority: "Authority",
    options: bool | Mapping[str, object],
    middleware: Sequence[Middleware],
    network: "Network | None",
) -> Sequence[Middleware]:
    """Return `middleware` with TLS where the command line has it: inside of admissions and PROXY."""
    identity = authority.issue(*_CERTIFIED_NAMES)
    values: dict[str, object] = {"certificate": identity.certificate_chain, "key": identity.key}
    if network is not None:
        # OpenSSL writes a number of varying length into tickets, so that they may take more or less
        # room on the network from one time to the next.
        values["session_tickets"] = 0
    if not isinstance(options, bool):
        if "client_certificates" in options:
            values["client_authorities"] = authority.pem
        values |= options
    kind = cast(type, registry.load(PluginKind.MIDDLEWARE, "tls"))
    made = cast(Middleware, plugin_from_values(kind, "tls", values))
    place = place_of_tls(middleware)
    return [*middleware[:place], made, *middleware[place:]]


def _scheduler(network: "Network | None") -> AbstractContextManager[None]:
    if network is None:
        return nullcontext()
    from kestrel_core.testing.network import seeded_scheduler

    return seeded_scheduler(network.seed)


def _only_one(group: ExceptionGroup[Exception]) -> Exception:
    """Return the exception in `group`, if there is only one, and else the group."""
    leaves = list(_leaves(group))
    return leaves[0] if len(leaves) == 1 else group


def _leaves(error: Exception) -> Iterator[Exception]:
    match error:
        case ExceptionGroup(exceptions=parts):
            for part in parts:
                yield from _leaves(part)
        case _:
            yield error


def _what_was_cut(opened: OpenServer, drain_seconds: float) -> str:
    cut = opened.cut_connections
    return (
        f"{cut} connection{'s' if cut > 1 else ''} did not end within {drain_seconds:g} s after the"
        f" clients had gone, and had to be cut; what happened:\n{opened.report()}"
    )


def _raise(failures: Sequence[Failure]) -> None:
    errors = [failure.error or ApplicationFailed(failure.message) for failure in failures]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("the application failed several times", errors)
