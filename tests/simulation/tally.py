"""What simulations have exercised, counted."""

from collections import Counter
from collections.abc import Mapping
from typing import Self

import attrs

from tests.simulation.case import Case, cases_of
from tests.simulation.client import Told
from tests.simulation.oracle import Ended
from tests.simulation.simulation import Story

__all__ = ["Tally", "missing_from"]

_TITLES = {
    "simulations": "simulations",
    "connections": "connections, by how the client saw them end",
    "reasons": "connections, by the reason that the server gave for their end",
    "requests": "requests, by what the client got",
    "oracle": "requests that reached the application, by how it ended",
    "statuses": "responses, by status",
    "network": "events of the network",
    "stops": "ends of the server",
    "layers": "simulations with a layer",
}


def _counters() -> dict[str, Counter[str]]:
    return {name: Counter() for name in _TITLES}


@attrs.define
class Tally:
    """Counts, by topic; those of several may be added."""

    counts: dict[str, Counter[str]] = attrs.field(factory=_counters)

    @classmethod
    def of(cls, story: Story) -> Self:
        """Count what one simulation did."""
        tally = cls()
        counts = tally.counts
        counts["simulations"][story.plan.interface] += 1
        counts["stops"][_stop_of(story)] += 1
        counts["stops"]["connections cut"] += story.stopping.cut + story.last_drain.cut
        for layer in story.plan.middleware:
            counts["layers"][layer.name] += 1
        if story.plan.speaks_tls:
            counts["layers"]["tls"] += 1
        for sighting in story.sightings:
            counts["oracle"][sighting.ended.value] += 1
        for case in cases_of(story):
            end = case.client.end
            counts["connections"]["unknown" if end is None else end.value] += 1
            if case.reason is not None:
                counts["reasons"][case.reason.value] += 1
            for event in case.events:
                counts["network"][_kind_of(event)] += 1
            for told in case.client.told:
                counts["requests"][_outcome_of(case, told)] += 1
                if told.received is not None and told.received.head is not None:
                    counts["statuses"][str(told.received.head.status)] += 1
        return tally

    def add(self, other: Self) -> None:
        """Add what other simulations did."""
        for name, counts in other.counts.items():
            self.counts[name].update(counts)

    def number_of(self, topic: str) -> int:
        """Return how much there is of a topic in all."""
        return self.counts[topic].total()

    def __str__(self) -> str:
        lines: list[str] = []
        for name, counts in self.counts.items():
            lines.append(f"{counts.total():7} {_TITLES[name]}")
            lines += [f"{number:14}  {kind}" for kind, number in counts.most_common() if number]
        return "\n".join(lines)


def _stop_of(story: Story) -> str:
    if story.stopping.began_at == float("inf"):
        return "drained at the end"
    return "aborted" if story.plan.aborts else "drained in the middle"


def _kind_of(event: str) -> str:
    """Return what kind of event that is, without its numbers."""
    _, _, text = event.rpartition(": ")
    words = [word for word in text.split() if not word.replace(".", "").isdigit()]
    return " ".join(words)


def _outcome_of(case: Case, told: Told) -> str:
    received = told.received
    if received is None or received.head is None:
        sighting = case.sighting_of(told.plan)
        if sighting is not None and sighting.ended is Ended.COMPLETED:
            return "nothing, though the application had answered"
        return "nothing"
    if not received.whole:
        return "a part of an answer"
    if received.request_id is None:
        return "the server's own answer"
    return "its whole answer"


def missing_from(tally: Tally, wanted: Mapping[str, set[str]]) -> list[str]:
    """Return what is wanted and did not happen once."""
    return [
        f"{topic}: {kind}"
        for topic, kinds in wanted.items()
        for kind in sorted(kinds)
        if not tally.counts[topic][kind]
    ]
