"""Runs the simulation of a seed and judges it, so that somebody can tell what went wrong."""

import traceback
from pathlib import Path

import attrs

from tests.simulation.invariants import faults_of
from tests.simulation.simulation import simulate
from tests.simulation.tally import Tally

__all__ = ["Outcome", "run_seed"]


@attrs.frozen
class Outcome:
    """What came of one simulation."""

    seed: int
    faults: list[str]
    """What was wrong, a sentence each."""
    report: str
    """What happened, in full."""
    digest: str
    tally: Tally

    @property
    def text(self) -> str:
        """The faults, how to see them again, and what happened."""
        lines = [f"seed {self.seed}: {fault}" for fault in self.faults]
        replay = f"replay with: make simulate FIRST={self.seed} SEEDS=1"
        return "\n".join([*lines, replay, self.report])


def run_seed(seed: int, directory: Path) -> Outcome:
    """Run one simulation; what it raises is one of its faults. `directory` has the oracle's files."""
    try:
        story = simulate(seed, directory)
    except Exception as error:  # of the server, or of the simulation itself, which is as bad
        text = "".join(traceback.format_exception(error))
        return Outcome(seed, [f"it raised {error!r}"], text, "", Tally())
    faults = faults_of(story)
    return Outcome(seed, faults, f"{story.plan}\n{story.report}", story.digest, Tally.of(story))
