"""Runs simulations: python -m tests.simulation.run [--first N] [--seeds N] [--jobs N].

Prints each fault with the seed that shows it and the command that shows it again, and what the
simulations have exercised. One seed alone is shown with all that happened.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tests.simulation.campaign import Outcome, run_seed
from tests.simulation.oracle import write_files
from tests.simulation.tally import Tally

__all__: list[str] = []

_SECONDS_PER_LINE = 20.0


def main() -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="Simulate servers, clients and networks.")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    parser.add_argument("--digests", action="store_true", help="print a digest of each simulation")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    tally, faulty = Tally(), 0
    began_at = told_at = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_files(directory)
        for outcome in _outcomes(seeds, directory, given.jobs):
            tally.add(outcome.tally)
            if outcome.faults:
                faulty += 1
                _tell(outcome.text)
            if given.digests:
                _tell(f"{outcome.seed} {outcome.digest}")
            if time.monotonic() - told_at > _SECONDS_PER_LINE:
                told_at = time.monotonic()
                done = tally.number_of("simulations")
                _tell(f"... {done} of {given.seeds} simulations, {faulty} with faults")
        if given.seeds == 1 and not faulty and not given.digests:
            _tell(run_seed(given.first, directory).report)
    seconds = time.monotonic() - began_at
    if not given.digests:
        _tell(str(tally))
        _tell(f"{given.seeds / seconds:.1f} simulations a second")
        _tell(f"{faulty} of {given.seeds} simulations have faults")
    return 1 if faulty else 0


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _outcomes(seeds: range, directory: Path, jobs: int) -> Iterable[Outcome]:
    """Run simulations, several at once; the outcomes come in the order of their seeds."""
    if jobs == 1 or len(seeds) == 1:
        yield from (run_seed(seed, directory) for seed in seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs) as pool:
        yield from pool.imap(partial(run_seed, directory=directory), seeds, chunksize=10)


if __name__ == "__main__":
    sys.exit(main())
