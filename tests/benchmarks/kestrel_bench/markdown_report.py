"""The results as Markdown: one summary of ratios, then one table for each workload."""

import statistics
from collections.abc import Iterable

from kestrel_bench.comparison import Ratio, kestrel_ratio, median_figure, total_errors
from kestrel_bench.run_facts import RunFacts
from kestrel_bench.samples import Figure, Sample
from kestrel_bench.servers import KESTREL, ServerKind
from kestrel_bench.workloads import IdleWorkload, LoadWorkload

_NOTHING = "-"

_ERRORS = "errors"
_LOAD_HEAD = (
    "server",
    "CPU µs/request",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "peak RSS MiB",
    _ERRORS,
    "kestrel ÷ server: CPU",
    "÷ requests/s",
    "÷ p99",
)
_IDLE_HEAD = (
    "server",
    "KiB/connection",
    "RSS MiB before",
    "RSS MiB after",
    "connections",
    _ERRORS,
    "kestrel ÷ server",
)


def render_markdown(facts: RunFacts) -> str:
    """The whole report, ending in a newline."""
    parts = [*_heading(facts), *_summary(facts)]
    for workload in facts.plan.load_workloads:
        parts += ["", f"## {workload.title} (`{workload.name}`)", ""]
        rows = [_load_row(facts, kind, workload) for kind in facts.plan.servers]
        parts += _table(_LOAD_HEAD, rows)
    idle = facts.plan.idle_workload
    if idle is not None:
        parts += ["", f"## {idle.title} (`{idle.name}`)", ""]
        rows = [_idle_row(facts, kind, idle) for kind in facts.plan.servers]
        parts += _table(_IDLE_HEAD, rows)
    return "\n".join(parts) + "\n"


def _heading(facts: RunFacts) -> Iterable[str]:
    machine, plan = facts.machine, facts.plan
    yield "# Benchmark results"
    yield ""
    yield (
        f"Started {facts.started}. Rounds: {plan.rounds}, of {plan.seconds} s a run; figures are "
        "medians over the rounds; a ratio is the median of the ratios within each round, with the "
        "lowest and highest round in parentheses. CPU per request is the judged figure: below 1, "
        "kestrel needs less than the server in that row."
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
    figures = [(workload.name, Figure.CPU_US) for workload in facts.plan.load_workloads]
    if facts.plan.idle_workload is not None:
        figures.append((facts.plan.idle_workload.name, Figure.IDLE_KIB))
    rows = [
        [
            f"`{workload}`",
            *(_ratio(kestrel_ratio(facts.recording, workload, p.name, figure)) for p in peers),
        ]
        for workload, figure in figures
    ]
    title = "## Summary: kestrel ÷ server, CPU per request (memory for idle connections)"
    return ["", title, "", *_table(["workload", *map(facts.server_title, peers)], rows)]


def _load_row(facts: RunFacts, kind: ServerKind, workload: LoadWorkload) -> list[str]:
    samples = facts.recording.workload_samples(kind.name, workload.name)
    if not samples:
        return _failed_row(facts, kind, workload.name, _LOAD_HEAD)
    ratios = (
        _row_ratio(facts, kind, workload.name, figure)
        for figure in (Figure.CPU_US, Figure.REQUEST_RATE, Figure.P99_MS)
    )
    return [
        facts.server_title(kind),
        _median(samples, Figure.CPU_US, 1),
        _median(samples, Figure.REQUEST_RATE, 0),
        _median(samples, Figure.P50_MS, 2),
        _median(samples, Figure.P99_MS, 2),
        _median(samples, Figure.PEAK_MIB, 0),
        _errors(facts, kind, workload.name, samples),
        *ratios,
    ]


def _idle_row(facts: RunFacts, kind: ServerKind, workload: IdleWorkload) -> list[str]:
    samples = facts.recording.workload_samples(kind.name, workload.name)
    if not samples:
        return _failed_row(facts, kind, workload.name, _IDLE_HEAD)
    return [
        facts.server_title(kind),
        _median(samples, Figure.IDLE_KIB, 2),
        _median(samples, Figure.IDLE_BEFORE_MIB, 1),
        _median(samples, Figure.IDLE_AFTER_MIB, 1),
        _median(samples, Figure.IDLE_CONNECTIONS, 0),
        _errors(facts, kind, workload.name, samples),
        _row_ratio(facts, kind, workload.name, Figure.IDLE_KIB),
    ]


def _failed_row(
    facts: RunFacts, kind: ServerKind, workload: str, head: tuple[str, ...]
) -> list[str]:
    reason = facts.recording.failure_reason(kind.name, workload) or "the run was cut short"
    row = [facts.server_title(kind), *[_NOTHING] * (len(head) - 1)]
    row[head.index(_ERRORS)] = f"failed: {reason}"
    return row


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


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return _NOTHING
    if ratio.rounds == 1:
        return f"{ratio.median:.2f}"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


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
