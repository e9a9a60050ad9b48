"""One simulation from its beginning to its end, and all that is known of it afterwards."""

import hashlib
import logging
import math
import re
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import attrs
import trio
import trio.testing

from kestrel_core.connection import Connection, Failure
from kestrel_core.middleware import Middleware
from kestrel_core.plugin_options import plugin_from_values
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.testing import Metrics, OpenServer, check_no_leaks, serve
from kestrel_core.testing.network import seeded_scheduler
from tests.simulation.client import PATIENCE_SECONDS, Client
from tests.simulation.interfaces import asgi_oracle, native_oracle
from tests.simulation.oracle import Oracle, Sighting
from tests.simulation.plan import Layering, Plan
from tests.simulation.planning import plan_of
from tests.ways import pass_through

__all__ = ["Stopping", "Story", "simulate"]

_DATE = re.compile(rb"\r\ndate: [^\r]+\r\n")

# Looking for what is left goes through all objects of the program, which takes as long as a simulation.
_SEEDS_PER_SEARCH = 10

# How long after the last client a connection may be there: longer than any time limit of the server,
# or stall that ends.
_MOST_SECONDS_ALONE = 1000.0

# When all of it has to be over.
_MOST_SECONDS = PATIENCE_SECONDS + 2 * _MOST_SECONDS_ALONE


@attrs.define
class Stopping:
    """A drain or an abort that the plan has at a moment, and what came of it."""

    began_at: float = math.inf
    ended_at: float = math.inf
    cut: int = 0


@attrs.define(kw_only=True)
class Story:
    """What happened in one simulation."""

    plan: Plan
    clients: list[Client] = attrs.field(factory=list[Client])
    sightings: list[Sighting] = attrs.field(factory=list[Sighting])
    connections: list[Connection] = attrs.field(factory=list[Connection])
    """All that the server accepted."""
    failures: list[Failure] = attrs.field(factory=list[Failure])
    metrics: Metrics | None = None
    records: list[logging.LogRecord] = attrs.field(factory=list[logging.LogRecord])
    """What was logged as a warning or worse."""
    stopping: Stopping = attrs.field(factory=Stopping)
    """What the plan has at a moment."""
    alone: list[str] = attrs.field(factory=list[str])
    """The clients whose connections were still there at the server long after the last client."""
    last_drain: Stopping = attrs.field(factory=Stopping)
    """What comes when all clients are gone."""
    served: bool = False
    """Whether the server came to its end without an exception."""
    seconds: float = 0.0
    """How much virtual time it took."""
    report: str = ""
    traffic: str = ""
    """A digest of all that went over the connections, and when."""

    @property
    def digest(self) -> str:
        """A digest of everything that happened; that of an equal simulation is equal."""
        ends = [
            f"{connection.remote} {connection.end_reason} {connection.closed.is_set}"
            for connection in self.connections
        ]
        sightings = [
            (s.question.id, s.client, s.ended, s.began_at, s.ended_at, bytes(s.body))
            for s in self.sightings
        ]
        clients = [(c.plan.number, c.end, c.connected_at, c.ended_at) for c in self.clients]
        events = [
            str(event)
            for client in self.clients
            if client.network is not None
            for event in client.network.events
        ]
        everything = (ends, sightings, clients, events, self.stopping, self.metrics, self.traffic)
        return hashlib.sha256(repr(everything).encode()).hexdigest()[:16]


def simulate(seed: int, directory: Path) -> Story:
    """Run the simulation that `seed` decides, in virtual time; `directory` has the oracle's files.

    Raises:
        Exception: something in the server, or in the simulation itself; with a note that tells all.
    """
    plan = plan_of(seed)
    story = Story(plan=plan)
    with (
        _in_place_of_threads(),
        _watching_log(story),
        warnings.catch_warnings(),
        seeded_scheduler(seed),
    ):
        warnings.simplefilter("error")
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(_simulate, story, directory, clock=clock)
    return story


async def _simulate(story: Story, directory: Path) -> None:
    plan = story.plan
    registry = Registry()
    oracle = Oracle(directory)
    story.sightings = oracle.sightings
    began_at = trio.current_time()
    opened: OpenServer | None = None
    interface = plan.interface
    leaks: AbstractAsyncContextManager[None] = nullcontext()
    if plan.seed % _SEEDS_PER_SEARCH == 0:
        leaks = check_no_leaks()
    try:
        with trio.fail_after(_MOST_SECONDS):
            async with (
                leaks,
                serve(
                    asgi_oracle(oracle) if interface == "asgi" else native_oracle(oracle),
                    interface="asgi" if interface == "asgi" else "native",
                    middleware=[_middleware(registry, layer) for layer in plan.middleware],
                    tls=plan.speaks_tls,
                    limits=plan.limits,
                    registry=registry,
                    endpoint=f"memory://simulation-{plan.seed}",
                    raises_failures=False,
                    adds_notes=False,
                ) as opened,
            ):
                await _play(story, opened)
            story.served = True
    finally:
        story.seconds = trio.current_time() - began_at
        if opened is not None:
            story.connections = list(opened.connections)
            story.failures = list(opened.failures)
            story.metrics = opened.metrics()
            story.report = opened.report()
            story.traffic = _traffic(opened)


async def _play(story: Story, opened: OpenServer) -> None:
    plan = story.plan
    story.clients = [Client(client, plan.seed) for client in plan.clients]
    async with trio.open_nursery() as stopper:
        if plan.stops_at < math.inf:
            stopper.start_soon(_stop, story, opened)
        async with trio.open_nursery() as nursery:
            for client in story.clients:
                nursery.start_soon(client.run, opened)
        if story.stopping.began_at == math.inf:
            stopper.cancel_scope.cancel()
    with trio.move_on_after(_MOST_SECONDS_ALONE):
        while opened.server.connections:  # noqa: ASYNC110  # the server has no event for it
            await trio.sleep(1.0)
    story.alone = [str(connection.remote) for connection in opened.server.connections]
    await _drain(story.last_drain, opened, plan.drain_seconds, 0.0)


async def _stop(story: Story, opened: OpenServer) -> None:
    plan = story.plan
    await trio.sleep(plan.stops_at)
    if plan.aborts:
        story.stopping.began_at = trio.current_time()
        opened.server.abort()
        story.stopping.ended_at = trio.current_time()
    else:
        await _drain(story.stopping, opened, plan.drain_seconds, plan.notice_seconds)


async def _drain(
    stopping: Stopping, opened: OpenServer, seconds: float, notice_seconds: float
) -> None:
    stopping.began_at = trio.current_time()
    stopping.cut = await opened.server.drain(seconds, notice_seconds=notice_seconds)
    stopping.ended_at = trio.current_time()


def _middleware(registry: Registry, layer: Layering) -> Middleware:
    if layer.name == "pass_through":
        return pass_through
    kind = cast(type, registry.load(PluginKind.MIDDLEWARE, layer.name))
    return cast(Middleware, plugin_from_values(kind, layer.name, layer.options))


def _traffic(opened: OpenServer) -> str:
    digest = hashlib.sha256()
    for transcript in opened.transcripts:
        events = transcript.events
        for kind in {event.kind.value: event.kind for event in events}.values():
            own = [event for event in events if event.kind is kind]
            data = _DATE.sub(b"", b"".join(event.data for event in own))
            digest.update(data)
            digest.update(repr([(e.at_seconds, len(e.data), e.text) for e in own]).encode())
    return digest.hexdigest()


# What is around a simulation --------------------------------------------------------------------


class _Keeping(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.DEBUG)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()  # which has to be sound at any level
        if record.levelno >= logging.WARNING:
            self._records.append(record)


@contextmanager
def _watching_log(story: Story) -> Generator[None]:
    logger = logging.getLogger("kestrel")
    handler = _Keeping(story.records)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


@contextmanager
def _in_place_of_threads() -> Generator[None]:
    """Have what would run in a worker thread run at once: threads know no virtual time."""

    async def run_sync(
        call: Callable[..., object], *arguments: object, **_options: object
    ) -> object:
        await trio.lowlevel.checkpoint()
        return call(*arguments)

    threads = cast(Any, trio.to_thread)
    kept = threads.run_sync
    threads.run_sync = run_sync
    try:
        yield
    finally:
        threads.run_sync = kept
