"""Readings of a server's resident memory that wait until it rests, or catch its peak."""

import time

from kestrel_bench.process_tree import peak_resident_kib, reset_peak_resident, resident_kib

_SETTLE_SECONDS = 0.5
_SETTLE_TRIES = 6
_SETTLED_SHARE = 0.001


def settled_resident_kib(pid: int) -> int:
    """The resident memory of the process tree, once it no longer moves or has had time enough."""
    resident = resident_kib(pid)
    for _ in range(_SETTLE_TRIES):
        time.sleep(_SETTLE_SECONDS)
        previous, resident = resident, resident_kib(pid)
        if abs(resident - previous) <= _SETTLED_SHARE * resident:
            break
    return resident


class PeakGrowth:
    """How far resident memory rises above what it is when this is created."""

    def __init__(self, pid: int) -> None:
        self.before_kib: int = settled_resident_kib(pid)
        self._pid = pid
        reset_peak_resident(pid)

    def peak_kib(self) -> int:
        """The highest so far."""
        return peak_resident_kib(self._pid)

    def mib(self) -> float:
        """The growth so far, from the state before to the highest."""
        return max(0, self.peak_kib() - self.before_kib) / 1024
