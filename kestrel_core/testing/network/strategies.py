"""Networks for hypothesis, which shrink towards a perfect wire; needs the package hypothesis.

Each value is written out in full, so that a failing example says what it takes to fail; one of
`Network.seeded` could only be kept or given up as a whole.
"""

import math

import attrs
from hypothesis import strategies as st

from kestrel_core.testing.network.conditions import Direction, Stall, Wire
from kestrel_core.testing.network.network import Network

__all__ = ["directions", "networks", "wires"]

# Larger numbers find nothing that these do not, and take longer.
_MOST_SECONDS = 10.0
_MOST_SEGMENT_BYTES = 2000
_MOST_WINDOW_BYTES = 65536
_MOST_STREAMS = 4
_MOST_WIRES = 4

_SECONDS = st.just(0.0) | st.floats(0.0, _MOST_SECONDS)


@st.composite
def _segments(draw: st.DrawFn) -> tuple[int, int]:
    largest = draw(st.integers(1, _MOST_SEGMENT_BYTES))
    return draw(st.integers(1, largest)), largest


def directions(*, faults: bool = True, most_bytes: int = 5000) -> st.SearchStrategy[Direction]:
    """Return a strategy for one direction; without `faults` every byte arrives in the end.

    Stalls and faults come within `most_bytes`.
    """
    positions = st.integers(0, most_bytes)
    durations = st.floats(0.001, _MOST_SECONDS)
    stalls = st.builds(
        Stall, after_bytes=positions, seconds=durations | st.just(math.inf) if faults else durations
    )
    sound = st.builds(
        Direction,
        latency_seconds=_SECONDS,
        jitter_seconds=_SECONDS,
        bytes_per_second=st.none() | st.floats(1000.0, 1e9),
        segment_bytes=st.none() | _segments(),
        coalesce_seconds=_SECONDS,
        stalls=st.lists(stalls, max_size=2),
        window_bytes=st.just(_MOST_WINDOW_BYTES) | st.integers(1, _MOST_WINDOW_BYTES),
    )
    perfect = st.just(Direction())
    if not faults:
        return perfect | sound
    return (
        perfect | sound | st.builds(_reset, sound, positions) | st.builds(_ended, sound, positions)
    )


def wires(
    *, faults: bool = True, streams: bool = False, most_bytes: int = 5000
) -> st.SearchStrategy[Wire]:
    """Return a strategy for the wire of one connection; see `directions`.

    With `streams` it may have conditions of their own for those of a multiplexed connection.
    """
    ways = directions(faults=faults, most_bytes=most_bytes)
    one = st.builds(
        Wire,
        up=ways,
        down=ways,
        refused=st.booleans() if faults else st.just(False),
        connect_seconds=_SECONDS,
        reset_after_bytes=st.none() | st.integers(0, most_bytes) if faults else st.none(),
    )
    if streams:
        one = st.builds(_with_streams, one, st.lists(one, max_size=_MOST_STREAMS))
    return st.just(Wire()) | one


def networks(
    *, faults: bool = True, streams: bool = False, most_bytes: int = 5000
) -> st.SearchStrategy[Network]:
    """Return a strategy for a network of few wires; see `wires`."""
    some = wires(faults=faults, streams=streams, most_bytes=most_bytes)
    several = st.lists(some, min_size=1, max_size=_MOST_WIRES)
    return st.builds(_network, several, st.integers(0, 2**32 - 1))


def _reset(direction: Direction, after_bytes: int) -> Direction:
    return attrs.evolve(direction, reset_after_bytes=after_bytes)


def _ended(direction: Direction, after_bytes: int) -> Direction:
    return attrs.evolve(direction, eof_after_bytes=after_bytes)


def _with_streams(wire: Wire, streams: list[Wire]) -> Wire:
    return attrs.evolve(wire, streams=streams)


def _network(wires: list[Wire], seed: int) -> Network:
    return Network.of(wires, seed=seed)
