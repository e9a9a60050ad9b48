"""The results as an SVG of grouped bars, written by hand so that it needs no library.

A group is a workload, a bar a server. Each group has its own scale, because workloads differ by
more than servers do; the number at the bar's end is the figure itself.
"""

from html import escape

from attrs import frozen

from kestrel_bench.comparison import median_figure
from kestrel_bench.layouts import layout
from kestrel_bench.run_facts import RunFacts
from kestrel_bench.servers import KESTREL
from kestrel_bench.workloads import Workload, setups

_WIDTH = 860
_MARGIN = 24
_LABEL_WIDTH = 190
_VALUE_WIDTH = 80
_BAR_HEIGHT = 15
_BAR_STEP = 19
_GROUP_GAP = 40
_KESTREL_COLOUR = "#c2410c"
_PEER_COLOUR = "#94a3b8"
_INK = "#1f2937"


@frozen(kw_only=True)
class _Bar:
    label: str
    value: float | None
    colour: str


@frozen(kw_only=True)
class _Group:
    title: str
    bars: list[_Bar]


def render_svg(facts: RunFacts) -> str:
    """The chart of each workload's judged figure."""
    groups = [_group(facts, workload) for workload in facts.plan.workloads]
    top = 2 * _MARGIN + 12
    body: list[str] = []
    for group in groups:
        body += _draw_group(group, top)
        top += _group_height(group)
    heading = "Median of the rounds, shorter is better; each group has its own scale"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
            f'width="{_WIDTH}" height="{top}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>',
            _text(_MARGIN, _MARGIN + 8, heading, size=14),
            *body,
            "</svg>\n",
        ]
    )


def _group(facts: RunFacts, workload: Workload) -> _Group:
    shown = layout(workload)
    bars: list[_Bar] = []
    for kind in facts.plan.servers:
        if not all(kind.offers(setup) for setup in setups(workload)):
            continue
        samples = facts.recording.workload_samples(kind.name, workload.name)
        value = median_figure(samples, shown.judged)
        colour = _KESTREL_COLOUR if kind.name == KESTREL else _PEER_COLOUR
        bars.append(_Bar(label=facts.server_title(kind), value=value, colour=colour))
    return _Group(title=f"{workload.title}: {shown.unit}", bars=bars)


def _group_height(group: _Group) -> int:
    return len(group.bars) * _BAR_STEP + _GROUP_GAP


def _draw_group(group: _Group, top: int) -> list[str]:
    lines = [_text(_MARGIN, top, group.title, weight="bold")]
    longest = max((bar.value for bar in group.bars if bar.value is not None), default=0.0)
    room = _WIDTH - 2 * _MARGIN - _LABEL_WIDTH - _VALUE_WIDTH
    left = _MARGIN + _LABEL_WIDTH
    for index, bar in enumerate(group.bars):
        y = top + 8 + index * _BAR_STEP
        baseline = y + _BAR_HEIGHT - 4
        lines.append(_text(_MARGIN, baseline, bar.label))
        if bar.value is None:
            lines.append(_text(left, baseline, "failed"))
            continue
        length = room * bar.value / longest if longest else 0
        lines.append(
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{_BAR_HEIGHT}" '
            f'fill="{bar.colour}"/>'
        )
        lines.append(
            _text(left + length + 6, baseline, f"{bar.value:.{1 if bar.value >= 10 else 2}f}")
        )
    return lines


def _text(x: float, y: float, text: str, *, size: int = 12, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'fill="{_INK}">{escape(text)}</text>'
    )
