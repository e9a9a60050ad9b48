"""A seed decides all that happens between clients and a server, to the byte and the microsecond."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.network import (
    Direction,
    Network,
    SimulatedTransport,
    Wire,
    run_simulation,
    seeded_scheduler,
)
from kestrel_core.transport import open_transport_context
from kestrel_transports.memory import MemoryTransport
from tests.simulated_scenario import story
from tests.simulated_tls_scenario import tls_story

ROOT = Path(__file__).parents[2]


def first_difference(one: list[str], other: list[str]) -> tuple[str, str] | None:
    """Return the first two lines that differ, if any; a failure that shows all is unreadable."""
    if len(one) != len(other):
        return f"{len(one)} lines", f"{len(other)} lines"
    return next((pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]), None)


def told_elsewhere(module: str, seed: str, *, hash_seed: str) -> list[str]:
    """Return the story that this program tells in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", module, seed],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return process.stdout.splitlines()


def test_the_same_seed_gives_the_same_story_here_and_elsewhere() -> None:
    here = story(1)
    assert len(here) > 500
    assert first_difference(here, story(1)) is None
    for hash_seed in ("1", "2"):
        elsewhere = told_elsewhere("tests.simulated_scenario", "1", hash_seed=hash_seed)
        assert first_difference(here, elsewhere) is None


def test_another_seed_gives_another_story() -> None:
    assert first_difference(story(1), story(2)) is not None


def test_the_same_seed_gives_the_same_story_with_tls_here_and_elsewhere() -> None:
    here = tls_story("38")
    assert len(here) > 30
    assert first_difference(here, tls_story("38")) is None
    elsewhere = told_elsewhere("tests.simulated_tls_scenario", "38", hash_seed="1")
    assert first_difference(here, elsewhere) is None
    assert first_difference(here, tls_story("29")) is not None


def race() -> list[int]:
    """Return the order in which tasks that all can run do run."""
    order: list[int] = []

    async def run(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(run, number)

    trio.run(main)
    return order


def in_schedule(seed: int | str, run: Callable[[], list[int]]) -> list[int]:
    with seeded_scheduler(seed):
        return run()


def test_the_schedule_follows_from_the_seed() -> None:
    assert in_schedule(1, race) == in_schedule(1, race)
    assert in_schedule("a word", race) == in_schedule("a word", race)
    assert len({tuple(in_schedule(seed, race)) for seed in range(10)}) == 10


async def test_the_schedule_can_begin_within_a_program(autojump_clock: MockClock) -> None:
    async def order() -> list[int]:
        ran: list[int] = []

        async def run(number: int) -> None:
            await trio.sleep(1)
            ran.append(number)

        with seeded_scheduler(7):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(run, number)
        return ran

    assert await order() == await order()


def test_everything_is_as_before_after_a_seeded_schedule() -> None:
    scheduler = importlib.import_module("trio._core._run")

    generator = vars(scheduler)["_r"]
    switched_on = vars(scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"]
    state = generator.getstate()
    with pytest.raises(ZeroDivisionError), seeded_scheduler(1):  # noqa: PT012  # the block is what is tested
        assert vars(scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] is True
        outer_state = generator.getstate()
        with seeded_scheduler(2):
            assert generator.getstate() != outer_state
        assert generator.getstate() == outer_state != state
        raise ZeroDivisionError
    assert generator.getstate() == state
    assert vars(scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] is switched_on


@pytest.mark.parametrize("name", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"])
def test_a_trio_that_is_made_differently(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(f"trio._core._run.{name}")
    with (
        pytest.raises(RuntimeError, match=f"trio {trio.__version__} has no .*{name}"),
        seeded_scheduler(1),
    ):
        raise AssertionError("this cannot be seeded")


def test_a_simulation_runs_in_virtual_time_and_returns_what_comes_of_it() -> None:
    async def main(network: Network) -> tuple[Network, float]:
        await trio.sleep(3600)
        return network, trio.current_time()

    network = Network.seeded(3)
    assert run_simulation(main, network) == (network, 3600)


def test_a_failure_tells_how_to_replay_it() -> None:
    async def main(network: Network) -> None:
        async with open_transport_context() as context:
            transport = SimulatedTransport(MemoryTransport(), network)
            listener = await transport.bind(Endpoint("memory", "name"), context)
            connection = await transport.connect(listener.endpoint, context)
            await connection.transport.output.send(b"abc")
            await connection.transport.input.read()

    wire = Wire(up=Direction(latency_seconds=1.5, reset_after_bytes=2))
    with pytest.raises(ExceptionGroup) as caught:
        run_simulation(main, Network.always(wire, seed="five"))
    assert caught.group_contains(trio.BrokenResourceError)
    told = (
        "up=Direction(latency_seconds=1.5, reset_after_bytes=2)",
        "replay with Network.always(Wire(up=",
        "seed='five')",
        "1.500001 s, connection 1: up: reset after 2 bytes",
    )
    (note,) = caught.value.__notes__
    assert [text for text in told if text not in note] == []
