"""The results as Markdown: first a summary of ratios, then one table for each workload."""

import statistics
from collections.abc import Iterable

from kestrel_bench.comparison import (
    Ratio,
    kestrel_ratio,
    median_figure,
    spread,
    total_errors,
    workload_ratio,
)
from kestrel_bench.layouts import layout
from kestrel_bench.run_facts import RunFacts
from kestrel_bench.samples import Figure, Sample
from kestrel_bench.servers import KESTREL, ServerKind
from kestrel_bench.workloads import (
    ConnectionsWorkload,
    LoadWorkload,
    PairedWorkload,
    Workload,
    setups,
)

_NOTHING = "-"
_ERRORS = "errors"


def render_markdown(facts: RunFacts) -> str:
    """The whole report, ending in a newline."""
    parts = [*_heading(facts), *_summary(facts), *_rejected_summary(facts), *_pairs(facts)]
    for workload in facts.plan.workloads:
        parts += ["", f"## {workload.title} (`{workload.name}`)", "", *_details(facts, workload)]
    return "\n".join(parts) + "\n"


def _heading(facts: RunFacts) -> Iterable[str]:
    machine, plan = facts.machine, facts.plan
    yield "# Benchmark results"
    yield ""
    yield (
        f"Started {facts.started}. Rounds: {plan.rounds}, of {plan.seconds} s a run; figures are "
        "medians over the rounds; a ratio is the median of the ratios within each round, with the "
        "lowest and highest round in parentheses. CPU time or memory is the judged figure: below "
        "1, kestrel needs less than the server in that row."
    )
    yield ""
    yield (
        f"- Machine: {machine.processor}, {machine.cores} cores; server on core "
        f"{plan.cores.server}, load on core {plan.cores.load}"
        + ("; **they share one core**" if plan.cores.server == plan.cores.load else "")
    )
    yield f"- {machine.python}, {machine.kernel}, wrk {machine.wrk}"
    yield "- " + ", ".join(f"{name} {version}" for name, version in facts.named_versions().items())
    noise = [sample.foreign_core_share for sample in facts.recording.samples]
    if noise:
        yield (
            f"- Other processes used {statistics.median(noise):.0%} of a core in the median run "
            f"and {max(noise):.0%} in the noisiest"
        )


def _summary(facts: RunFacts) -> list[str]:
    peers = [kind for kind in facts.plan.servers if kind.name != KESTREL]
    if len(peers) == len(facts.plan.servers) or not peers:
        return []
    rows: list[list[str]] = []
    for workload in facts.plan.workloads:
        shown = layout(workload)
        if not any(_takes_part(peer, workload) for peer in peers):
            continue
        ratios = (
            _ratio(kestrel_ratio(facts.recording, workload.name, peer.name, shown.judged))
            for peer in peers
        )
        rows.append([f"`{workload.name}`", shown.unit, *ratios])
    head = ["workload", "judged", *map(facts.server_title, peers)]
    return ["", "## Summary: kestrel ÷ server", "", *_table(head, rows)]


def _rejected_summary(facts: RunFacts) -> list[str]:
    """How much a refusal costs a server in comparison with its own answers."""
    planned = {workload.name for workload in facts.plan.workloads}
    rows: list[list[str]] = []
    for load in facts.plan.workloads:
        if isinstance(load, LoadWorkload | ConnectionsWorkload) and load.served in planned:
            judged = layout(load).judged
            ratios = (
                workload_ratio(facts.recording, kind.name, load.name, load.served, judged)
                for kind in facts.plan.servers
            )
            rows.append([f"`{load.name}`", f"`{load.served}`", *map(_ratio, ratios)])
    if not rows:
        return []
    title = "## Rejected ÷ served by the same server: CPU per request or connection"
    head = ["rejected", "served", *map(facts.server_title, facts.plan.servers)]
    return ["", title, "", *_table(head, rows)]


def _pairs(facts: RunFacts) -> list[str]:
    """What each layer costs the server that has it, in comparison with the same without it."""
    rows: list[list[str]] = []
    for workload in facts.plan.workloads:
        if not isinstance(workload, PairedWorkload):
            continue
        for kind in facts.plan.servers:
            samples = facts.recording.workload_samples(kind.name, workload.name)
            if samples:
                ratios = (
                    spread(samples, Figure.CPU_WITH_TO_WITHOUT),
                    spread(samples, Figure.RATE_WITH_TO_WITHOUT),
                )
                rows.append(
                    [
                        f"`{workload.name}`",
                        facts.server_title(kind),
                        *(_ratio(ratio, decimals=3) for ratio in ratios),
                    ]
                )
    if not rows:
        return []
    head = ["workload", "server", "CPU per request", "requests/s"]
    return ["", "## With a layer ÷ without, on the same server", "", *_table(head, rows)]


def _takes_part(kind: ServerKind, workload: Workload) -> bool:
    return all(kind.offers(setup) for setup in setups(workload))


def _details(facts: RunFacts, workload: Workload) -> list[str]:
    shown = layout(workload)
    head = [
        "server",
        *(column.title for column in shown.columns),
        _ERRORS,
        *(column.title for column in shown.ratios),
    ]
    rows: list[list[str]] = []
    for kind in facts.plan.servers:
        if not _takes_part(kind, workload):
            continue
        title = facts.server_title(kind)
        samples = facts.recording.workload_samples(kind.name, workload.name)
        if samples:
            medians = (_median(samples, c.figure, c.decimals) for c in shown.columns)
            errors = _errors(facts, kind, workload.name, samples)
            ratios = (_row_ratio(facts, kind, workload.name, c.figure) for c in shown.ratios)
            rows.append([title, *medians, errors, *ratios])
        else:
            reason = facts.recording.failure_reason(kind.name, workload.name)
            row = [title, *[_NOTHING] * (len(head) - 1)]
            row[head.index(_ERRORS)] = f"failed: {reason or 'the run was cut short'}"
            rows.append(row)
    return _table(head, rows)


def _median(samples: list[Sample], figure: Figure, decimals: int) -> str:
    value = median_figure(samples, figure)
    return _NOTHING if value is None else f"{value:.{decimals}f}"


def _errors(facts: RunFacts, kind: ServerKind, workload: str, samples: list[Sample]) -> str:
    """Errors by kind, and the reason if the server failed in another round than these."""
    parts = [f"{count} {name}" for name, count in total_errors(samples).items()]
    reason = facts.recording.failure_reason(kind.name, workload)
    if reason is not None:
        parts.append(f"failed in a round: {reason}")
    return ", ".join(parts) or "0"


def _row_ratio(facts: RunFacts, kind: ServerKind, workload: str, figure: Figure) -> str:
    if kind.name == KESTREL:
        return "1"
    return _ratio(kestrel_ratio(facts.recording, workload, kind.name, figure))


def _ratio(ratio: Ratio | None, *, decimals: int = 2) -> str:
    if ratio is None:
        return _NOTHING
    median, low, high = (f"{v:.{decimals}f}" for v in (ratio.median, ratio.low, ratio.high))
    return median if ratio.rounds == 1 else f"{median} ({low} to {high})"


def _table(head: Iterable[str], rows: Iterable[list[str]]) -> list[str]:
    """A table aligned for readers of the source; the first column is text, the others numbers."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (list(head), *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    widths = [min(width, 40) for width in widths]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]
        for row in (cells[0], rule, *cells[1:])
    ]
    return ["| " + " | ".join(line) + " |" for line in lines]
