"""The order of measurements: rounds in which every server has its turn at every workload.

A machine drifts over minutes by more than servers differ, so a server is never measured alone. In
each round all servers are started anew and stay up, idle but for the one whose turn it is; the
turns go through the servers for one workload before the next workload begins. The starting server
moves on with each round, so that none always follows the same neighbour. Idle connections are
weighed in processes of their own, whose memory no load has stretched. Ratios are then formed within
a round.
"""

import contextlib
import sys
import time

from attrs import frozen

from kestrel_bench.correctness import wrong_answers
from kestrel_bench.cost_clock import Cost, CostClock
from kestrel_bench.environment import Environment
from kestrel_bench.idle_connections import IdleFailedError, measure_idle_connections
from kestrel_bench.machine import Cores
from kestrel_bench.process_tree import peak_resident_kib, reset_peak_resident
from kestrel_bench.samples import Failure, Figure, Recording, Sample
from kestrel_bench.server_process import ServerFailedError, ServerProcess
from kestrel_bench.servers import ServerKind
from kestrel_bench.workloads import IdleWorkload, LoadWorkload
from kestrel_bench.wrk import LoadFailedError, load

_WARM_UP_SECONDS = 1

# Between the client's end and the reading, so that closing its connections is charged to the run
# that opened them and not to the next.
_AFTERMATH_SECONDS = 0.1


@frozen(kw_only=True)
class Plan:
    """What to measure, how often and for how long."""

    servers: tuple[ServerKind, ...]
    load_workloads: tuple[LoadWorkload, ...]
    idle_workload: IdleWorkload | None
    rounds: int
    seconds: int
    cores: Cores


class Measurement:
    """Carries a plan out and keeps what it records, also of a run that is cut short."""

    def __init__(self, plan: Plan, environment: Environment) -> None:
        self.recording: Recording = Recording()
        self._plan = plan
        self._environment = environment
        self._excluded: set[str] = set()
        self._round = 0

    def run(self) -> None:
        """Runs all rounds, from then on without a server that did not start or answered wrongly."""
        for number in range(1, self._plan.rounds + 1):
            self._round = number
            if self._plan.load_workloads:
                self._load_everyone()
            if self._plan.idle_workload is not None:
                for kind in self._turns():
                    self._weigh_idle(kind, self._plan.idle_workload)

    def _turns(self) -> list[ServerKind]:
        servers = self._plan.servers
        first = (self._round - 1) % len(servers)
        turns = (*servers[first:], *servers[:first])
        return [kind for kind in turns if kind.name not in self._excluded]

    def _load_everyone(self) -> None:
        # All exist before the first starts, so that no two have chosen the same port.
        processes = [self._process(kind) for kind in self._turns()]
        with contextlib.ExitStack() as running:
            for process in processes:
                running.enter_context(process)
            ready = [process for process in processes if self._is_ready(process)]
            for workload in self._plan.load_workloads:
                for process in ready:
                    self._load_one(process, workload)

    def _process(self, kind: ServerKind) -> ServerProcess:
        return ServerProcess(kind, self._environment, core=self._plan.cores.server)

    def _is_ready(self, process: ServerProcess) -> bool:
        try:
            process.wait_ready()
            problems = list(wrong_answers(process.port))
        except ServerFailedError as error:
            problems = [str(error)]
        if problems:
            self._excluded.add(process.kind.name)
            self._fail(process.kind, None, "; ".join(problems))
        return not problems

    def _load_one(self, process: ServerProcess, workload: LoadWorkload) -> None:
        if not process.alive:
            reason = f"it had died before: {process.last_logged_line()}"
            self._fail(process.kind, workload.name, reason)
            return
        cores = self._plan.cores
        reset_peak_resident(process.pid)
        try:
            load(workload, port=process.port, seconds=_WARM_UP_SECONDS, core=cores.load)
            clock = CostClock(process.pid)
            report = load(workload, port=process.port, seconds=self._plan.seconds, core=cores.load)
        except LoadFailedError as error:
            self._fail(process.kind, workload.name, str(error))
            return
        time.sleep(_AFTERMATH_SECONDS)
        if not process.alive:
            reason = f"it died under load: {process.last_logged_line()}"
            self._fail(process.kind, workload.name, reason)
            return
        cost = clock.stop()
        figures = {
            Figure.CPU_US: cost.server_seconds / report.requests * 1e6,
            Figure.REQUEST_RATE: report.requests / report.seconds,
            Figure.PEAK_MIB: peak_resident_kib(process.pid) / 1024,
            Figure.SERVER_CORE_SHARE: cost.server_core_share,
            Figure.LOAD_CORE_SHARE: cost.load_core_share,
        }
        if report.p50_ms is not None and report.p99_ms is not None:
            figures |= {Figure.P50_MS: report.p50_ms, Figure.P99_MS: report.p99_ms}
        self._keep(process.kind, workload.name, figures, report.errors, cost)

    def _weigh_idle(self, kind: ServerKind, workload: IdleWorkload) -> None:
        with self._process(kind) as process:
            if not self._is_ready(process):
                return
            clock = CostClock(process.pid)
            try:
                report = measure_idle_connections(
                    port=process.port, pid=process.pid, wanted=workload.connections
                )
            except IdleFailedError as error:
                self._fail(kind, workload.name, str(error))
                return
            cost = clock.stop()
            figures = {
                Figure.IDLE_KIB: report.kib_per_connection,
                Figure.IDLE_BEFORE_MIB: report.before_kib / 1024,
                Figure.IDLE_AFTER_MIB: report.after_kib / 1024,
                Figure.IDLE_CONNECTIONS: report.connections,
            }
            errors = {"lost": report.lost} if report.lost else {}
            self._keep(kind, workload.name, figures, errors, cost)

    def _keep(
        self,
        kind: ServerKind,
        workload: str,
        figures: dict[Figure, float],
        errors: dict[str, int],
        cost: Cost,
    ) -> None:
        sample = Sample(
            server=kind.name,
            workload=workload,
            round_number=self._round,
            figures=figures,
            errors=errors,
            foreign_core_share=cost.foreign_core_share,
        )
        self.recording.samples.append(sample)
        leading = next(iter(figures))
        self._tell(kind, workload, f"{leading.value} {figures[leading]:.1f}")

    def _fail(self, kind: ServerKind, workload: str | None, reason: str) -> None:
        self.recording.failures.append(
            Failure(server=kind.name, workload=workload, round_number=self._round, reason=reason)
        )
        self._tell(kind, workload or "start", f"FAILED: {reason}")

    def _tell(self, kind: ServerKind, subject: str, outcome: str) -> None:
        rounds = f"round {self._round}/{self._plan.rounds}"
        print(f"{rounds}  {subject:14} {kind.name:18} {outcome}", file=sys.stderr, flush=True)
