"""Simulations of a fixed set of seeds, and of all that ever showed a bug; `make simulate` runs more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.campaign import Outcome, run_seed
from tests.simulation.found import FOUND
from tests.simulation.oracle import Ended, write_files
from tests.simulation.tally import Tally, missing_from

pytestmark = pytest.mark.same_everywhere

SEEDS = 240
SEEDS_PER_TEST = 20

# What these seeds exercise; a change that loses something of it is to be noticed.
WANTED = {
    "simulations": {"asgi", "native"},
    "connections": {"end of input", "left", "reset", "not connected"},
    "requests": {
        "its whole answer",
        "nothing",
        "the server's own answer",
        "a part of an answer",
    },
    "oracle": {ended.value for ended in Ended} - {Ended.OPEN.value},
    "reasons": {
        "completed",
        "peer_closed",
        "shutdown",
        "max_requests_per_connection_reached",
        "max_connection_age_reached",
        "connection_reset",
        "invalid_request_headers",
        "invalid_body_reader_state",
        "unexpected_end_of_request_content",
        "max_concurrent_connections_exceeded",
        "idle_timeout",
        "keep_alive_timeout",
        "request_headers_timeout",
        "app_shutdown_timeout",
    },
    "statuses": {"200", "204", "304", "400", "408", "500", "503"},
    "network": {
        "refused",
        "reset after bytes",
        "cut off after bytes",
        "stalled for ever after bytes",
    },
    "stops": {"drained at the end", "drained in the middle", "aborted", "connections cut"},
    "layers": {"wiretap", "idle", "throttle", "pass_through", "tls", "admission"},
}

FEWEST_WHOLE_ANSWERS_PER_SEED = 2


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the oracle's files are."""
    directory = tmp_path_factory.mktemp("files")
    write_files(directory)
    return directory


@pytest.fixture(scope="module")
def tallies() -> dict[int, Tally]:
    """Return what the simulations of this module have exercised, by seed."""
    return {}


def run(seed: int, directory: Path) -> Outcome:
    """Run one simulation, which is to show no fault."""
    outcome = run_seed(seed, directory)
    if outcome.faults:
        pytest.fail(outcome.text)
    return outcome


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_seeds(first: int, directory: Path, tallies: dict[int, Tally]) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        tallies[seed] = run(seed, directory).tally


def test_the_seeds_exercise_what_they_should(
    tallies: dict[int, Tally],
) -> None:
    if len(tallies) < SEEDS:
        pytest.skip("not all seeds were run")
    tally = Tally()
    for each in tallies.values():
        tally.add(each)
    assert missing_from(tally, WANTED) == []
    assert tally.counts["requests"]["its whole answer"] > FEWEST_WHOLE_ANSWERS_PER_SEED * SEEDS


@pytest.mark.parametrize("seed", FOUND)
def test_seeds_that_found_something(seed: int, directory: Path) -> None:
    run(seed, directory)


def test_a_seed_always_gives_the_same(directory: Path) -> None:
    for seed in range(0, SEEDS, 30):
        first, second = run(seed, directory), run(seed, directory)
        assert first.digest == second.digest


def test_a_seed_gives_the_same_in_another_process(directory: Path) -> None:
    seeds = 4
    command = [sys.executable, "-m", "tests.simulation.run", "--digests", "--jobs=1"]
    finished = subprocess.run(
        [*command, f"--seeds={seeds}"],
        env=os.environ | {"PYTHONHASHSEED": "1"},  # sets and the like are in another order there
        check=True,
        capture_output=True,
        text=True,
    )
    digests = [f"{seed} {run(seed, directory).digest}" for seed in range(seeds)]
    assert finished.stdout.splitlines() == digests


def test_seeds_differ(directory: Path) -> None:
    assert run(1, directory).digest != run(2, directory).digest
