"""A network: what each of its connections gets, and what happened to them."""

import random
from collections.abc import Callable, Iterable

import attrs
import trio

from kestrel_core.testing.network.conditions import Wire
from kestrel_core.testing.network.seeded_wire import seeded_wire

__all__ = ["Network", "NetworkEvent"]


@attrs.frozen
class NetworkEvent:
    """Something that the network did, and did by itself or carried to the other end."""

    seconds: float
    """When, in trio's time."""
    connection: int
    """Which of the network's connections, counted from 1."""
    stream: int | None
    """Which of the connection's streams, counted from 1, if it is multiplexed."""
    text: str
    """What happened, in words; it begins with the direction, "up" or "down", if it has one."""

    def __str__(self) -> str:
        stream = "" if self.stream is None else f", stream {self.stream}"
        return f"{self.seconds:.6f} s, connection {self.connection}{stream}: {self.text}"


class Network:
    """Decides what happens to each connection, and keeps what happened.

    Made by `always`, `of` and `seeded`. It counts connections over all transports that stand on
    it, so one network may serve a whole test; to replay, make another one. `wire_of` gives the
    conditions of a connection by its number, from 1; `seed` is what the sizes and delays within
    the conditions' bounds are drawn from, for each connection on its own. `name` is the expression
    that makes an equal network.
    """

    def __init__(self, wire_of: Callable[[int], Wire], *, seed: int | str, name: str) -> None:
        self.wire_of: Callable[[int], Wire] = wire_of
        """What the connection of a number gets, from 1; always the same for the same number."""
        self.seed: int | str = seed
        """What everything random in this network comes from."""
        self.events: list[NetworkEvent] = []
        """What happened, in that order."""
        self.on_event: Callable[[NetworkEvent], None] | None = None
        """Called with each event when it happens; must not wait and must not raise."""
        self.connections_begun: int = 0
        """How many connections were asked for. Read only."""
        self._name = name

    @classmethod
    def always(cls, wire: Wire, *, seed: int | str = 0) -> "Network":
        """Give `wire` to every connection."""
        return cls(lambda _number: wire, seed=seed, name=f"Network.always({wire!r}, seed={seed!r})")

    @classmethod
    def of(cls, wires: Iterable[Wire], *, seed: int | str = 0) -> "Network":
        """Give the first connection the first of `wires`, and so on; the last to all that follow.

        Raises:
            ValueError: there is none.
        """
        known = list(wires)
        if not known:
            raise ValueError("a network needs a wire for its first connection")
        return cls(
            lambda number: known[min(number, len(known)) - 1],
            seed=seed,
            name=f"Network.of({known!r}, seed={seed!r})",
        )

    @classmethod
    def seeded(cls, seed: int | str, *, faults: bool = True) -> "Network":
        """Give every connection conditions that follow from `seed` and its number alone.

        With `faults` about a third of them are refused, cut, reset or silent for long. Without,
        every byte arrives, in order and in the end.
        """
        return cls(
            lambda number: seeded_wire(random.Random(f"{seed}/{number}"), faults=faults),
            seed=seed,
            name=f"Network.seeded({seed!r}, faults={faults})",
        )

    def begin(self) -> int:
        """Count one more connection, and return its number."""
        self.connections_begun += 1
        return self.connections_begun

    def dice(self, connection: int, stream: int | None, direction: str) -> random.Random:
        """Return what decides the sizes and delays of one direction, and of no other."""
        return random.Random(f"{self.seed}/{connection}/{stream}/{direction}")

    def note(self, connection: int, stream: int | None, text: str) -> None:
        """Keep an event of now, and tell of it."""
        event = NetworkEvent(trio.current_time(), connection, stream, text)
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def report(self) -> str:
        """Tell how to replay, what each connection got, and what happened: lines of text."""
        multiplexed = {event.connection for event in self.events if event.stream is not None}
        wires: list[str] = []
        for number in range(1, self.connections_begun + 1):
            wire = self.wire_of(number)
            if number not in multiplexed:  # and so has no use for those
                wire = attrs.evolve(wire, streams=())
            wires.append(f"connection {number} has {wire!r}")
        return "\n".join([f"replay with {self!r}", *wires, *map(str, self.events)])

    def __repr__(self) -> str:
        return self._name
