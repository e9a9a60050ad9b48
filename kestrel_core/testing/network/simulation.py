"""A whole run of trio that one seed decides: the network, the schedule and the time."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio.testing

from kestrel_core.testing.network.network import Network
from kestrel_core.testing.network.scheduling import seeded_scheduler

__all__ = ["run_simulation"]

ResultT = TypeVar("ResultT")


def run_simulation(main: Callable[[Network], Awaitable[ResultT]], network: Network) -> ResultT:
    """Run `main(network)` in virtual time, in a schedule that the network's seed decides.

    The same seed gives the same run, if nothing in it asks the real clock, a thread or a socket;
    a run takes a network of its own. What `main` raises has a note that tells the network, which
    names the seed, and what happened on it.
    """
    with seeded_scheduler(network.seed):
        try:
            return trio.run(main, network, clock=trio.testing.MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(network.report())
            raise
