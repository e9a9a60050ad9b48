"""Wires that a seed decides: what goes wrong on real networks, in sizes that a test can bear."""

import math
import random
from collections.abc import Callable

import attrs

from kestrel_core.testing.network.conditions import Direction, Stall, Wire

__all__ = ["seeded_wire"]

# How many of a connection's streams get conditions of their own, before the last is used again.
_STREAMS = 4

# Of so many connections one has a fault, if there are to be any.
_CONNECTIONS_PER_FAULT = 3

# Where a fault or a stall happens: in the first bytes, in a head, in a body.
_MOST_BYTES = (4, 300, 5000, 100_000)

# Longer than any time limit that a server has by itself.
_LONG_SECONDS = 600.0


def seeded_wire(dice: random.Random, *, faults: bool) -> Wire:
    """Return a wire as `dice` fall; every byte arrives, unless there are to be `faults`."""
    wire = _sound_wire(dice)
    faulty = dice.randrange(_CONNECTIONS_PER_FAULT) == 0
    if faults and faulty:
        wire = dice.choice(_FAULTS)(wire, dice)
    streams = [_sound_wire(dice) for _ in range(_STREAMS)]
    which = dice.randrange(2 * _STREAMS)
    if faults and which < _STREAMS:
        streams[which] = dice.choice(_FAULTS)(streams[which], dice)
    return attrs.evolve(wire, streams=streams)


def _sound_wire(dice: random.Random) -> Wire:
    return Wire(
        up=_direction(dice), down=_direction(dice), connect_seconds=dice.choice((0.0, 0.05, 1.0))
    )


def _direction(dice: random.Random) -> Direction:
    latency_seconds = dice.choice((0.0, 0.0005, 0.02, 0.15))
    return Direction(
        latency_seconds=latency_seconds,
        jitter_seconds=latency_seconds * dice.choice((0.0, 0.1, 1.0)),
        bytes_per_second=dice.choice((None, None, 50_000.0, 1_000_000.0)),
        segment_bytes=dice.choice((None, None, 1, (1, 20), (1, 1460), 1460)),
        coalesce_seconds=dice.choice((0.0, 0.0, 0.0, 0.04)),
        stalls=[
            Stall(after_bytes=_position(dice), seconds=dice.choice((0.2, 1.0, 3.0)))
            for _ in range(dice.choice((0, 0, 1, 2)))
        ],
        window_bytes=dice.choice((65536, 65536, 4096, 100)),
    )


def _position(dice: random.Random) -> int:
    return dice.randrange(dice.choice(_MOST_BYTES))


def _changed(wire: Wire, dice: random.Random, change: Callable[[Direction], Direction]) -> Wire:
    """Return `wire` with `change` made in one of its directions."""
    if dice.random() < 0.5:
        return attrs.evolve(wire, up=change(wire.up))
    return attrs.evolve(wire, down=change(wire.down))


def _refused(wire: Wire, dice: random.Random) -> Wire:
    return attrs.evolve(wire, refused=True)


def _reset(wire: Wire, dice: random.Random) -> Wire:
    at = _position(dice)
    return _changed(wire, dice, lambda old: attrs.evolve(old, reset_after_bytes=at))


def _reset_in_all(wire: Wire, dice: random.Random) -> Wire:
    return attrs.evolve(wire, reset_after_bytes=_position(dice))


def _ended(wire: Wire, dice: random.Random) -> Wire:
    at = _position(dice)
    return _changed(wire, dice, lambda old: attrs.evolve(old, eof_after_bytes=at))


def _silent(wire: Wire, dice: random.Random) -> Wire:
    stall = Stall(after_bytes=_position(dice), seconds=dice.choice((_LONG_SECONDS, math.inf)))
    return _changed(wire, dice, lambda old: attrs.evolve(old, stalls=[*old.stalls, stall]))


_FAULTS: list[Callable[[Wire, random.Random], Wire]] = [
    _refused,
    _reset,
    _reset_in_all,
    _ended,
    _silent,
]
