"""The order of measurements: rounds in which every server has its turn at every workload.

A machine drifts over minutes by more than servers differ, so a server is never measured alone. In
each round all servers are started anew and stay up, idle but for the one whose turn it is; the
turns go through the servers for one workload before the next workload begins. The starting server
moves on with each round, so that none always follows the same neighbour. Ratios are then formed
within a round.

Where it matters what memory a process has used before, it is a new one: obviously where memory is
weighed, but also for large bodies, whose cost can multiply with the page faults that follow from
the state of the heap. After a burst all servers wait together for their last reading.
"""

import contextlib
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Generator
from functools import partial

from attrs import frozen

from kestrel_bench.correctness import wrong_answers
from kestrel_bench.environment import Environment
from kestrel_bench.machine import Cores
from kestrel_bench.measurements import (
    burst,
    measure_connections,
    measure_idle,
    measure_load,
    measure_pair,
    measure_slow_peer,
    measure_transfer,
)
from kestrel_bench.outcomes import Outcome, WorkloadFailedError
from kestrel_bench.samples import Failure, Recording, Sample
from kestrel_bench.server_process import ServerFailedError, ServerProcess
from kestrel_bench.servers import ServerKind, Setup
from kestrel_bench.workloads import (
    BurstWorkload,
    ConnectionsWorkload,
    IdleWorkload,
    LoadWorkload,
    PairedWorkload,
    SlowPeerWorkload,
    TransferWorkload,
    Workload,
    setups,
)


@frozen(kw_only=True)
class Plan:
    """What to measure, how often and for how long."""

    servers: tuple[ServerKind, ...]
    workloads: tuple[Workload, ...]
    rounds: int
    seconds: int
    cores: Cores


class Measurement:
    """Carries a plan out and keeps what it records, also of a run that is cut short."""

    def __init__(self, plan: Plan, environment: Environment) -> None:
        self.recording: Recording = Recording()
        self._plan = plan
        self._environment = environment
        self._excluded: set[tuple[str, Setup]] = set()
        self._round = 0

    def run(self) -> None:
        """Runs all rounds, from then on without a server that did not start or answered wrongly."""
        plan = self._plan
        loads = [workload for workload in plan.workloads if isinstance(workload, LoadWorkload)]
        for number in range(1, plan.rounds + 1):
            self._round = number
            if loads:
                self._load_everyone(loads)
            for workload in plan.workloads:
                match workload:
                    case PairedWorkload():
                        self._measure_pairs(workload)
                    case ConnectionsWorkload():
                        measure = partial(
                            measure_connections, workload=workload, seconds=plan.seconds
                        )
                        self._measure_alone(workload, measure)
                    case TransferWorkload():
                        self._measure_alone(workload, partial(measure_transfer, workload=workload))
                    case IdleWorkload():
                        self._measure_alone(workload, partial(measure_idle, workload=workload))
                    case SlowPeerWorkload():
                        self._measure_alone(workload, partial(measure_slow_peer, workload=workload))
                    case BurstWorkload():
                        self._burst(workload)
                    case LoadWorkload():
                        pass  # had its turns

    def _load_everyone(self, loads: list[LoadWorkload]) -> None:
        plan = self._plan
        by_setup: defaultdict[Setup, list[LoadWorkload]] = defaultdict(list)
        for load in loads:
            by_setup[load.setup].append(load)
        for setup, alike in by_setup.items():
            paths = {load.path for load in alike}
            with self._running(self._order(setup), paths) as processes:
                for load in alike:
                    measure = partial(
                        measure_load, workload=load, seconds=plan.seconds, core=plan.cores.load
                    )
                    for process in processes:
                        self._record(process, load, partial(measure, process))

    def _measure_pairs(self, workload: PairedWorkload) -> None:
        plan = self._plan
        plain = self._order(Setup.PLAIN)
        for kind, _ in self._order(workload.setup):
            if (kind, Setup.PLAIN) not in plain:
                continue
            pair = [(kind, Setup.PLAIN), (kind, workload.setup)]
            with self._running(pair, {workload.path}) as processes:
                if len(processes) == len(pair):
                    without, layered = processes
                    measure = partial(
                        measure_pair,
                        without,
                        layered,
                        workload,
                        seconds=plan.seconds,
                        core=plan.cores.load,
                    )
                    self._record(layered, workload, measure)

    def _measure_alone(
        self, workload: Workload, measure: Callable[[ServerProcess], Outcome]
    ) -> None:
        (setup,) = setups(workload)
        for server in self._order(setup):
            with self._running([server], {workload.path}) as processes:
                for process in processes:
                    self._record(process, workload, partial(measure, process))

    def _burst(self, workload: BurstWorkload) -> None:
        with self._running(self._order(Setup.PLAIN), {workload.path}) as processes:
            waiting: list[tuple[ServerProcess, Callable[[], Outcome]]] = []
            for process in processes:
                try:
                    waiting.append((process, burst(process, workload)))
                except WorkloadFailedError as error:
                    self._fail(process.kind, workload.name, str(error))
            for process, finish in waiting:
                self._record(process, workload, finish)

    def _order(self, setup: Setup) -> list[tuple[ServerKind, Setup]]:
        servers = self._plan.servers
        first = (self._round - 1) % len(servers)
        turns = (*servers[first:], *servers[:first])
        return [
            (kind, setup)
            for kind in turns
            if kind.offers(setup) and (kind.name, setup) not in self._excluded
        ]

    @contextlib.contextmanager
    def _running(
        self, servers: list[tuple[ServerKind, Setup]], paths: Collection[str]
    ) -> Generator[list[ServerProcess]]:
        """Those servers that start, and that answer the paths rightly."""
        # All exist before the first starts, so that no two have chosen the same port.
        core = self._plan.cores.server
        processes = [
            ServerProcess(kind, self._environment, core=core, setup=setup)
            for kind, setup in servers
        ]
        with contextlib.ExitStack() as running:
            for process in processes:
                running.enter_context(process)
            yield [process for process in processes if self._is_ready(process, paths)]

    def _is_ready(self, process: ServerProcess, paths: Collection[str]) -> bool:
        try:
            process.wait_ready()
            tls = process.setup is Setup.TLS
            problems = list(wrong_answers(process.port, paths, tls=tls))
        except ServerFailedError as error:
            problems = [str(error)]
        if problems:
            self._exclude(process.kind, process.setup, "; ".join(problems))
        return not problems

    def _exclude(self, kind: ServerKind, setup: Setup, reason: str) -> None:
        self._excluded.add((kind.name, setup))
        for workload in self._plan.workloads:
            if setup in setups(workload) and all(map(kind.offers, setups(workload))):
                self._fail(kind, workload.name, reason)

    def _record(
        self,
        process: ServerProcess,
        workload: Workload,
        measure: Callable[[], Outcome],
    ) -> None:
        kind = process.kind
        if not process.alive:
            reason = f"it had died before: {process.last_logged_line()}"
            self._fail(kind, workload.name, reason)
            return
        try:
            outcome = measure()
        except WorkloadFailedError as error:
            self._fail(kind, workload.name, str(error))
            return
        if not process.alive:
            reason = f"it died meanwhile: {process.last_logged_line()}"
            self._fail(kind, workload.name, reason)
            return
        sample = Sample(
            server=kind.name,
            workload=workload.name,
            round_number=self._round,
            figures=outcome.figures,
            errors=outcome.errors,
            foreign_core_share=outcome.cost.foreign_core_share,
        )
        self.recording.samples.append(sample)
        leading = next(iter(outcome.figures))
        value = outcome.figures[leading]
        self._tell(kind, workload.name, f"{leading.value} {value:.{2 if value < 10 else 1}f}")

    def _fail(self, kind: ServerKind, workload: str, reason: str) -> None:
        self.recording.failures.append(
            Failure(server=kind.name, workload=workload, round_number=self._round, reason=reason)
        )
        self._tell(kind, workload, f"FAILED: {reason}")

    def _tell(self, kind: ServerKind, subject: str, outcome: str) -> None:
        rounds = f"round {self._round}/{self._plan.rounds}"
        print(f"{rounds}  {subject:21} {kind.name:18} {outcome}", file=sys.stderr, flush=True)
