"""The values that a simulated network is told by."""

import math
import random
from collections.abc import Callable
from typing import TypeVar

import attrs
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from kestrel_core.testing.network import Direction, Network, Stall, Wire
from kestrel_core.testing.network.strategies import directions, networks, wires

ValueT = TypeVar("ValueT")

NAMES = {
    "Direction": Direction,
    "Network": Network,
    "Stall": Stall,
    "Wire": Wire,
    "inf": math.inf,
}


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Direction(latency_seconds=-1), "latency_seconds must be zero or above"),
        (lambda: Direction(latency_seconds=math.inf), "latency_seconds must be .* finite"),
        (lambda: Direction(jitter_seconds=math.nan), "jitter_seconds must be zero or above"),
        (lambda: Direction(bytes_per_second=0), "bytes_per_second must be above zero"),
        (lambda: Direction(segment_bytes=0), "segment_bytes must be a smallest and a largest"),
        (lambda: Direction(segment_bytes=(3, 2)), "segment_bytes must be .* not \\(3, 2\\)"),
        (lambda: Direction(coalesce_seconds=-0.1), "coalesce_seconds must be zero or above"),
        (lambda: Direction(reset_after_bytes=-1), "reset_after_bytes must be zero or above"),
        (lambda: Direction(eof_after_bytes=-1), "eof_after_bytes must be zero or above"),
        (lambda: Direction(eof_after_bytes=1, reset_after_bytes=2), "not both"),
        (lambda: Direction(window_bytes=0), "window_bytes must be at least 1"),
        (lambda: Stall(after_bytes=-1, seconds=1), "after_bytes must be zero or above"),
        (lambda: Stall(after_bytes=0, seconds=0), "seconds must be above zero"),
        (lambda: Wire(connect_seconds=math.inf), "connect_seconds must be zero or above"),
        (lambda: Wire(reset_after_bytes=-1), "reset_after_bytes must be zero or above"),
        (lambda: Network.of([]), "a network needs a wire"),
    ],
)
def test_what_makes_no_sense(make: Callable[[], object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        make()


def test_one_size_is_the_smallest_and_the_largest() -> None:
    assert Direction(segment_bytes=7).segment_bytes == (7, 7)
    assert Direction(segment_bytes=(1, 7)).segment_bytes == (1, 7)


def test_stalls_are_in_their_order() -> None:
    late, early = Stall(after_bytes=5, seconds=1), Stall(after_bytes=1, seconds=2)
    assert Direction(stalls=[late, early]).stalls == (early, late)


def test_what_is_as_usual_is_not_shown() -> None:
    assert repr(Wire()) == "Wire()"
    wire = Wire(down=Direction(stalls=[Stall(after_bytes=0, seconds=math.inf)]), refused=True)
    shown = "Wire(down=Direction(stalls=(Stall(after_bytes=0, seconds=inf),)), refused=True)"
    assert repr(wire) == shown


@given(wires(streams=True))
def test_what_is_shown_makes_an_equal_wire(wire: Wire) -> None:
    assert eval(repr(wire), NAMES) == wire


@given(
    networks(streams=True)
    | st.builds(Network.seeded, st.integers() | st.text(), faults=st.booleans())
)
def test_what_is_shown_makes_an_equal_network(network: Network) -> None:
    again: object = eval(repr(network), NAMES)
    assert isinstance(again, Network)
    assert again.seed == network.seed
    for number in (1, 2, 3, 10):
        assert again.wire_of(number) == network.wire_of(number)


def test_the_last_wire_is_for_all_that_follow() -> None:
    one, two = Wire(connect_seconds=1), Wire(connect_seconds=2)
    network = Network.of([one, two])
    assert [network.wire_of(number) for number in (1, 2, 3, 100)] == [one, two, two, two]
    assert Network.always(one).wire_of(7) == one
    several = Wire(streams=[one, two])
    assert [several.stream_wire(number) for number in (1, 2, 3)] == [one, two, two]


def test_streams_without_wires_of_their_own_get_the_connections_directions() -> None:
    up, down = Direction(latency_seconds=1), Direction(latency_seconds=2)
    wire = Wire(up=up, down=down, connect_seconds=1, reset_after_bytes=7, refused=True)
    assert wire.stream_wire(3) == Wire(up=up, down=down)


def test_a_connection_more_changes_no_other_one() -> None:
    network = Network.seeded(1)
    late = network.wire_of(5)
    assert network.wire_of(1) != late
    assert network.wire_of(5) == late == Network.seeded(1).wire_of(5)
    assert Network.seeded(2).wire_of(5) != late
    dice = network.dice(5, None, "up").random()
    assert dice == Network.seeded(1).dice(5, None, "up").random()
    others = [(4, None, "up"), (5, 1, "up"), (5, None, "down")]
    assert dice not in [network.dice(*other).random() for other in others]


def is_faulty(wire: Wire) -> bool:
    """Tell whether bytes may be missing."""
    ways = [wire.up, wire.down]
    return (
        wire.refused
        or wire.reset_after_bytes is not None
        or any(way.reset_after_bytes is not None for way in ways)
        or any(way.eof_after_bytes is not None for way in ways)
        or any(stall.seconds == math.inf for way in ways for stall in way.stalls)
        or any(map(is_faulty, wire.streams))
    )


def test_seeded_networks_have_faults_only_when_asked_for() -> None:
    numbers = range(1, 301)
    assert not any(is_faulty(Network.seeded(1, faults=False).wire_of(n)) for n in numbers)
    wires = [Network.seeded(1).wire_of(number) for number in numbers]
    assert 60 < sum(is_faulty(attrs.evolve(wire, streams=())) for wire in wires) < 140
    assert any(wire.refused for wire in wires)
    assert any(wire.reset_after_bytes is not None for wire in wires)
    for faulty in (False, True):
        assert any(is_faulty(stream) is faulty for wire in wires for stream in wire.streams)


@given(st.randoms(use_true_random=False))
def test_whatever_falls_makes_a_sound_wire(dice: random.Random) -> None:
    Network.seeded(dice.getrandbits(64)).wire_of(dice.randrange(1, 1000))


@given(wires(faults=False))
def test_wires_without_faults_have_none(wire: Wire) -> None:
    assert not is_faulty(wire)


def smallest(strategy: st.SearchStrategy[ValueT], condition: Callable[[ValueT], bool]) -> ValueT:
    return find(strategy, condition, settings=settings(database=None))


def test_strategies_shrink_towards_a_perfect_wire() -> None:
    assert smallest(wires(), lambda wire: True) == Wire()
    cut = smallest(directions(), lambda direction: direction.reset_after_bytes is not None)
    assert cut == Direction(reset_after_bytes=0)
    network = smallest(networks(), lambda network: network.wire_of(1).refused)
    assert repr(network) == "Network.of([Wire(refused=True)], seed=0)"
