"""The processor time that a stretch of a run cost: the server, the load and everybody else."""

import resource
import time

from attrs import frozen

from kestrel_bench.machine import busy_seconds
from kestrel_bench.process_tree import cpu_seconds


@frozen(kw_only=True)
class Cost:
    """Processor time by who used it; the shares are of one core over the elapsed time."""

    server_seconds: float
    server_core_share: float
    load_core_share: float
    foreign_core_share: float


class CostClock:
    """Counts from its creation until `stop`, which may be called again for a longer stretch."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._began = time.monotonic()
        self._machine = busy_seconds()
        self._load = _own_seconds()
        self._server = cpu_seconds(server_pid)

    def stop(self) -> Cost:
        """What was used since the creation."""
        server = cpu_seconds(self._server_pid) - self._server
        load = _own_seconds() - self._load
        machine = busy_seconds() - self._machine
        elapsed = time.monotonic() - self._began
        return Cost(
            server_seconds=server,
            server_core_share=server / elapsed,
            load_core_share=load / elapsed,
            # The machine's count is sampled by ticks, so the remainder can fall below nothing.
            foreign_core_share=max(0.0, machine - server - load) / elapsed,
        )


def _own_seconds() -> float:
    """This process's time and that of its ended children, wrk among them."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (
            resource.getrusage(resource.RUSAGE_SELF),
            resource.getrusage(resource.RUSAGE_CHILDREN),
        )
    )
