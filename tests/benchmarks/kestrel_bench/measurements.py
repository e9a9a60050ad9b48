"""One measurement of each kind: a running server and a workload in, an outcome out.

Each raises `WorkloadFailedError` when the server does not do what the workload asks for.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from attrs import evolve

from kestrel_bench.burst import upload_all_at_once
from kestrel_bench.cost_clock import Cost, CostClock
from kestrel_bench.fresh_connections import crowd, visit
from kestrel_bench.idle_connections import measure_idle_connections
from kestrel_bench.large_body import transfer
from kestrel_bench.outcomes import Outcome
from kestrel_bench.process_tree import peak_resident_kib, reset_peak_resident, resident_kib
from kestrel_bench.resident_memory import PeakGrowth
from kestrel_bench.samples import Figure
from kestrel_bench.server_process import ServerProcess
from kestrel_bench.servers import Setup
from kestrel_bench.slow_peer import exchange_slowly
from kestrel_bench.workloads import (
    BurstWorkload,
    ConnectionsWorkload,
    IdleWorkload,
    LoadWorkload,
    PairedWorkload,
    SlowPeerWorkload,
    Transfer,
    TransferWorkload,
)
from kestrel_bench.wrk import load

_MIB = 1024 * 1024
_GIB = 1024 * _MIB

_LOAD_WARM_UP_SECONDS = 1
_SLICE_SECONDS = 1
_TRANSFER_WARM_UP_BYTES = 64 * _MIB
_MEMORY_WARM_UP_UPLOADS = 20

# Between the client's end and the reading, so that closing its connections is charged to the run
# that opened them and not to the next.
_AFTERMATH_SECONDS = 0.1

_BURST_SOON_SECONDS = 1.0
_BURST_LATE_SECONDS = 15.0


def measure_load(
    process: ServerProcess, workload: LoadWorkload, *, seconds: int, core: int
) -> Outcome:
    """Requests from wrk on that core: the time each costs the server, the rate, the latencies."""
    reset_peak_resident(process.pid)
    load(workload, port=process.port, seconds=_LOAD_WARM_UP_SECONDS, core=core)
    clock = CostClock(process.pid)
    report = load(workload, port=process.port, seconds=seconds, core=core)
    time.sleep(_AFTERMATH_SECONDS)
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
    return Outcome(figures=figures, errors=report.errors, cost=cost)


def measure_pair(
    without: ServerProcess,
    layered: ServerProcess,
    workload: PairedWorkload,
    *,
    seconds: int,
    core: int,
) -> Outcome:
    """The same load on both, for so many seconds each, in slices that take turns.

    A machine's speed may change within seconds by more than a layer costs, so slices are short, and
    the one that begins is the other one in each turn.
    """
    plain, other = _Slices(without, workload.load), _Slices(layered, workload.load)
    for both in (plain, other):
        both.warm_up(core)
    for turn in range(0, seconds, _SLICE_SECONDS):
        for slices in (plain, other) if turn % 2 else (other, plain):
            slices.run(core)
    figures = {
        Figure.CPU_WITH_TO_WITHOUT: other.cpu_us / plain.cpu_us,
        Figure.RATE_WITH_TO_WITHOUT: other.rate / plain.rate,
        Figure.CPU_US: other.cpu_us,
        Figure.CPU_US_WITHOUT: plain.cpu_us,
        Figure.REQUEST_RATE: other.rate,
        Figure.RATE_WITHOUT: plain.rate,
    }
    return Outcome(
        figures=figures, errors=dict(plain.errors + other.errors), cost=other.noisiest_cost
    )


class _Slices:
    """One load on one server with interruptions, and what all of it came to."""

    def __init__(self, process: ServerProcess, workload: LoadWorkload) -> None:
        self._process = process
        self._workload = evolve(workload, setup=process.setup)
        self._costs: list[Cost] = []
        self._requests = 0
        self._seconds = 0.0
        self.errors: Counter[str] = Counter()

    def warm_up(self, core: int) -> None:
        """Load the server for nothing."""
        load(self._workload, port=self._process.port, seconds=_LOAD_WARM_UP_SECONDS, core=core)

    def run(self, core: int) -> None:
        """Go on for one slice."""
        clock = CostClock(self._process.pid)
        report = load(self._workload, port=self._process.port, seconds=_SLICE_SECONDS, core=core)
        time.sleep(_AFTERMATH_SECONDS)
        self._costs.append(clock.stop())
        self._requests += report.requests
        self._seconds += report.seconds
        self.errors.update(report.errors)

    @property
    def cpu_us(self) -> float:
        """What a request cost the server."""
        return sum(cost.server_seconds for cost in self._costs) / self._requests * 1e6

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self._requests / self._seconds

    @property
    def noisiest_cost(self) -> Cost:
        """The cost of the slice that others disturbed most."""
        return max(self._costs, key=lambda cost: cost.foreign_core_share)


def measure_connections(
    process: ServerProcess, workload: ConnectionsWorkload, *, seconds: int
) -> Outcome:
    """Short connections: the time each costs the server, and how many there are in a second."""
    with crowd(workload, port=process.port):
        visit(workload, port=process.port, seconds=_LOAD_WARM_UP_SECONDS)
        clock = CostClock(process.pid)
        report = visit(workload, port=process.port, seconds=seconds)
        time.sleep(_AFTERMATH_SECONDS)
        cost = clock.stop()
    figures = {
        Figure.CPU_US_PER_CONNECTION: cost.server_seconds / report.connections * 1e6,
        Figure.CONNECTION_RATE: report.connections / report.seconds,
        Figure.SERVER_CORE_SHARE: cost.server_core_share,
        Figure.LOAD_CORE_SHARE: cost.load_core_share,
    }
    return Outcome(figures=figures, errors=report.errors, cost=cost)


def measure_transfer(process: ServerProcess, workload: TransferWorkload) -> Outcome:
    """One large body: the time that a GiB costs the server, the rate, and the memory it takes."""
    move = partial(
        transfer,
        workload.transfer,
        port=process.port,
        path=workload.path,
        tls=workload.setup is Setup.TLS,
    )
    move(body_bytes=_TRANSFER_WARM_UP_BYTES)
    growth = PeakGrowth(process.pid)
    clock = CostClock(process.pid)
    seconds = move(body_bytes=workload.body_bytes)
    cost = clock.stop()
    figures = {
        Figure.CPU_SECONDS_PER_GIB: cost.server_seconds / workload.body_bytes * _GIB,
        Figure.MIB_RATE: workload.body_bytes / _MIB / seconds,
        Figure.PEAK_GROWTH_MIB: growth.mib(),
        Figure.SERVER_CORE_SHARE: cost.server_core_share,
        Figure.LOAD_CORE_SHARE: cost.load_core_share,
    }
    return Outcome(figures=figures, cost=cost)


def measure_idle(process: ServerProcess, workload: IdleWorkload) -> Outcome:
    """Resident memory of each of many idle connections."""
    clock = CostClock(process.pid)
    report = measure_idle_connections(
        port=process.port, pid=process.pid, wanted=workload.connections
    )
    figures = {
        Figure.IDLE_KIB: report.kib_per_connection,
        Figure.BEFORE_MIB: report.before_kib / 1024,
        Figure.AFTER_MIB: report.after_kib / 1024,
        Figure.IDLE_CONNECTIONS: report.connections,
    }
    errors = {"lost": report.lost} if report.lost else {}
    return Outcome(figures=figures, errors=errors, cost=clock.stop())


def measure_slow_peer(process: ServerProcess, workload: SlowPeerWorkload) -> Outcome:
    """The highest resident memory while a body is taken slowly."""
    _warm_up_memory(process, workload.path, workload.transfer)
    growth = PeakGrowth(process.pid)
    clock = CostClock(process.pid)
    moved = exchange_slowly(workload, port=process.port)
    figures = {
        Figure.PEAK_GROWTH_MIB: growth.mib(),
        Figure.BEFORE_MIB: growth.before_kib / 1024,
        Figure.MOVED_MIB: moved / _MIB,
    }
    return Outcome(figures=figures, cost=clock.stop())


def burst(process: ServerProcess, workload: BurstWorkload) -> Callable[[], Outcome]:
    """Goes through the bursts; the function returned waits for the last reading and has the figures.

    Several servers can wait at once: all they do is nothing.
    """
    _warm_up_memory(process, workload.path, Transfer.UPLOAD)
    growth = PeakGrowth(process.pid)
    clock = CostClock(process.pid)
    for _ in range(workload.bursts):
        upload_all_at_once(workload, port=process.port)
    ended = time.monotonic()
    cost = clock.stop()
    peak_kib = growth.peak_kib()

    def resident_kib_after(seconds: float) -> int:
        time.sleep(max(0.0, ended + seconds - time.monotonic()))
        return resident_kib(process.pid)

    soon_kib = resident_kib_after(_BURST_SOON_SECONDS)

    def finish() -> Outcome:
        late_kib = resident_kib_after(_BURST_LATE_SECONDS)
        figures = {
            Figure.LEFT_MIB: max(0, late_kib - growth.before_kib) / 1024,
            Figure.BEFORE_MIB: growth.before_kib / 1024,
            Figure.PEAK_MIB: peak_kib / 1024,
            Figure.AFTER_1S_MIB: soon_kib / 1024,
            Figure.AFTER_15S_MIB: late_kib / 1024,
        }
        return Outcome(figures=figures, cost=cost)

    return finish


def _warm_up_memory(process: ServerProcess, path: str, kind: Transfer) -> None:
    # What a server allocates once, it shall have allocated before its memory is read.
    for _ in range(_MEMORY_WARM_UP_UPLOADS):
        transfer(kind, port=process.port, path=path, body_bytes=64 * 1024)
