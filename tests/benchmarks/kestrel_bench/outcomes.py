"""What one measurement of one server comes to: figures, or the reason why there are none."""

from attrs import field, frozen

from kestrel_bench.cost_clock import Cost
from kestrel_bench.samples import Figure


class WorkloadFailedError(Exception):
    """The server did not do what the workload asks for; the text is the reason for the table."""


@frozen(kw_only=True)
class Outcome:
    """The figures, the most telling first, with what went wrong and what it all cost."""

    figures: dict[Figure, float]
    cost: Cost
    errors: dict[str, int] = field(factory=dict[str, int])
