"""Reduces samples to what the tables show: medians over rounds, and ratios formed within rounds.

A ratio is taken between two samples of the same round, a minute or less apart, and only then
reduced to the median of the rounds. The median of one server divided by the median of another would
compare a quiet minute with a busy one.
"""

import statistics
from collections import Counter
from collections.abc import Iterable

from attrs import frozen

from kestrel_bench.samples import Figure, Recording, Sample
from kestrel_bench.servers import KESTREL


@frozen(kw_only=True)
class Ratio:
    """One figure divided by another: the median of the rounds, the lowest, the highest."""

    median: float
    low: float
    high: float
    rounds: int


def median_figure(samples: list[Sample], figure: Figure) -> float | None:
    """The median of one figure over the rounds, or nothing when no round has it."""
    values = [sample.figures[figure] for sample in samples if figure in sample.figures]
    return statistics.median(values) if values else None


def kestrel_ratio(recording: Recording, workload: str, peer: str, figure: Figure) -> Ratio | None:
    """Kestrel's figure ÷ a peer's, or nothing when no round has a usable sample of both."""
    return _ratio(
        recording.workload_samples(KESTREL, workload),
        recording.workload_samples(peer, workload),
        figure,
    )


def workload_ratio(
    recording: Recording, server: str, workload: str, other: str, figure: Figure
) -> Ratio | None:
    """A server's figure in one workload ÷ its own in another, or nothing likewise."""
    return _ratio(
        recording.workload_samples(server, workload),
        recording.workload_samples(server, other),
        figure,
    )


def spread(samples: list[Sample], figure: Figure) -> Ratio | None:
    """A figure that is a ratio already, over the rounds, or nothing when no round has it."""
    return _spread([sample.figures[figure] for sample in samples if figure in sample.figures])


def total_errors(samples: list[Sample]) -> dict[str, int]:
    """Errors of all rounds by kind."""
    total: Counter[str] = Counter()
    for sample in samples:
        total.update(sample.errors)
    return dict(total)


def _ratio(above: Iterable[Sample], below: Iterable[Sample], figure: Figure) -> Ratio | None:
    dividends = {
        sample.round_number: sample.figures[figure] for sample in above if figure in sample.figures
    }
    ratios = [
        dividends[sample.round_number] / sample.figures[figure]
        for sample in below
        if sample.round_number in dividends and sample.figures.get(figure, 0) > 0
    ]
    return _spread(ratios)


def _spread(ratios: list[float]) -> Ratio | None:
    if not ratios:
        return None
    return Ratio(
        median=statistics.median(ratios), low=min(ratios), high=max(ratios), rounds=len(ratios)
    )
