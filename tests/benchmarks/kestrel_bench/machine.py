"""The machine of a run: which cores are used, what it is, and how busy others keep it."""

import os
import platform
from pathlib import Path

from attrs import frozen

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@frozen(kw_only=True)
class Cores:
    """The core for the servers and the one for whatever loads them."""

    server: int
    load: int


@frozen(kw_only=True)
class Machine:
    """What a reader needs to judge whether two runs can be compared at all."""

    python: str
    kernel: str
    processor: str
    cores: int
    wrk: str


def choose_cores() -> Cores:
    """The last allowed core for servers, the first for load; on one core, both share it.

    The first core is left to the load because it also tends to serve the machine's interrupts.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(server=allowed[-1], load=allowed[0])


def describe_machine(*, wrk: str) -> Machine:
    """Reads the machine's description; a run changes none of it."""
    return Machine(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        kernel=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        wrk=wrk,
    )


def busy_seconds() -> float:
    """Processor time that the whole machine has spent on work, or lost to its host, since boot."""
    first_line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, first_line.split()[1:])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_SECOND


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
