"""What a process and all its descendants cost, read from /proc.

Several peers keep a supervisor above the worker, so a single process id would miss the work. Every
function takes the root of a tree and tolerates processes that end while they are being read.
"""

import contextlib
import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")

# Writing 5 resets the high-water mark of resident memory: proc(5), "/proc/pid/clear_refs".
_RESET_PEAK = "5"


def tree_pids(root: int) -> list[int]:
    """The ids of the root and of its descendants, the root first."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    pids = [root]
    for pid in pids:
        pids.extend(children.get(pid, ()))
    return pids


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, with that of descendants already reaped."""
    ticks = 0
    for pid in tree_pids(root):
        # Counted from the state, the third field of proc(5): utime, stime, cutime, cstime.
        ticks += sum(int(field) for field in _stat_fields(pid)[11:15])
    return ticks / _TICKS_PER_SECOND


def resident_kib(root: int) -> int:
    """Resident memory of the tree now; pages that two processes share are counted twice."""
    return sum(_status_kib(pid, "VmRSS") for pid in tree_pids(root))


def peak_resident_kib(root: int) -> int:
    """The sum of each process's highest resident memory since its start or the last reset."""
    return sum(_status_kib(pid, "VmHWM") for pid in tree_pids(root))


def reset_peak_resident(root: int) -> None:
    """Makes the peak start anew; where the kernel forbids it, the peak goes on since the start."""
    for pid in tree_pids(root):
        with contextlib.suppress(OSError):
            (_PROC / str(pid) / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, or nothing if the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # The name, in parentheses, may itself hold spaces and parentheses.
    return text.rpartition(")")[2].split()


def _status_kib(pid: int, key: str) -> int:
    try:
        text = (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    return 0
