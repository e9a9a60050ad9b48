"""Trio's scheduling order, decided by a seed.

Trio runs the tasks of one turn in an order that it chooses at random, so that nobody relies on one.
For its own tests under hypothesis it can draw that order from one generator over tasks sorted by
age. This module uses the same two private names of `trio._core._run`.
"""

import importlib
import random
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

import trio

__all__ = ["seeded_scheduler"]

_SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"
_GENERATOR = "_r"


@contextmanager
def seeded_scheduler(seed: int | str) -> Generator[None]:
    """Have `seed` decide in which order trio runs its tasks, while the block runs.

    Around `trio.run` the order depends on nothing else. Within a running program it does so from
    the next turn of trio's loop on; so enter it while no other task is about to run, as in a test
    that has just begun, and mind that tasks which threads or sockets wake come when they come. Trio
    has one such order for all threads of the process: no other run of trio may be going on.

    Raises:
        RuntimeError: this version of trio is made differently inside.
    """
    scheduler, generator = _scheduler()
    switched_on: object = getattr(scheduler, _SWITCH)
    state = generator.getstate()
    setattr(scheduler, _SWITCH, True)
    generator.seed(f"{seed}/scheduler")
    try:
        yield
    finally:
        setattr(scheduler, _SWITCH, switched_on)
        generator.setstate(state)


def _scheduler() -> tuple[ModuleType, random.Random]:
    scheduler = importlib.import_module("trio._core._run")
    generator: object = getattr(scheduler, _GENERATOR, None)
    if not isinstance(generator, random.Random) or not isinstance(
        getattr(scheduler, _SWITCH, None), bool
    ):
        raise RuntimeError(
            f"trio {trio.__version__} has no {_SWITCH} and {_GENERATOR} in trio._core._run,"
            " so its scheduling order cannot be seeded; use another version of trio"
        )
    return scheduler, generator
