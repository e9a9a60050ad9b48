"""Which figures a kind of workload shows, in which order, and by which one servers are judged."""

from attrs import frozen

from kestrel_bench.samples import Figure
from kestrel_bench.workloads import (
    BurstWorkload,
    ConnectionsWorkload,
    IdleWorkload,
    LoadWorkload,
    PairedWorkload,
    SlowPeerWorkload,
    TransferWorkload,
    Workload,
)


@frozen
class Column:
    """A figure under a title that has its unit."""

    title: str
    figure: Figure
    decimals: int


@frozen
class RatioColumn:
    """The ratio of Kestrel's figure to that of the server in the row."""

    title: str
    figure: Figure


@frozen(kw_only=True)
class Layout:
    """The table of a workload."""

    judged: Figure
    """The figure by which the servers are judged; less of it is better."""
    columns: tuple[Column, ...]
    ratios: tuple[RatioColumn, ...]
    unit: str
    """Of the judged figure, in words."""


_LOAD = Layout(
    judged=Figure.CPU_US,
    columns=(
        Column("CPU µs/request", Figure.CPU_US, 1),
        Column("requests/s", Figure.REQUEST_RATE, 0),
        Column("p50 ms", Figure.P50_MS, 2),
        Column("p99 ms", Figure.P99_MS, 2),
        Column("peak RSS MiB", Figure.PEAK_MIB, 0),
    ),
    ratios=(
        RatioColumn("kestrel ÷ server: CPU", Figure.CPU_US),
        RatioColumn("÷ requests/s", Figure.REQUEST_RATE),
        RatioColumn("÷ p99", Figure.P99_MS),
    ),
    unit="CPU µs per request",
)
_PAIR = Layout(
    judged=Figure.CPU_WITH_TO_WITHOUT,
    columns=(
        Column("with ÷ without: CPU", Figure.CPU_WITH_TO_WITHOUT, 3),
        Column("requests/s", Figure.RATE_WITH_TO_WITHOUT, 3),
        Column("CPU µs/request with", Figure.CPU_US, 2),
        Column("without", Figure.CPU_US_WITHOUT, 2),
        Column("requests/s with", Figure.REQUEST_RATE, 0),
        Column("without", Figure.RATE_WITHOUT, 0),
    ),
    ratios=(),
    unit="CPU with it ÷ without",
)
_CONNECTIONS = Layout(
    judged=Figure.CPU_US_PER_CONNECTION,
    columns=(
        Column("CPU µs/connection", Figure.CPU_US_PER_CONNECTION, 1),
        Column("connections/s", Figure.CONNECTION_RATE, 0),
        Column("server's core", Figure.SERVER_CORE_SHARE, 2),
        Column("load's core", Figure.LOAD_CORE_SHARE, 2),
    ),
    ratios=(
        RatioColumn("kestrel ÷ server: CPU", Figure.CPU_US_PER_CONNECTION),
        RatioColumn("÷ connections/s", Figure.CONNECTION_RATE),
    ),
    unit="CPU µs per connection",
)
_TRANSFER = Layout(
    judged=Figure.CPU_SECONDS_PER_GIB,
    columns=(
        Column("CPU s/GiB", Figure.CPU_SECONDS_PER_GIB, 2),
        Column("MiB/s", Figure.MIB_RATE, 0),
        Column("growth MiB", Figure.PEAK_GROWTH_MIB, 1),
        Column("server's core", Figure.SERVER_CORE_SHARE, 2),
        Column("load's core", Figure.LOAD_CORE_SHARE, 2),
    ),
    ratios=(
        RatioColumn("kestrel ÷ server: CPU", Figure.CPU_SECONDS_PER_GIB),
        RatioColumn("÷ MiB/s", Figure.MIB_RATE),
    ),
    unit="CPU s per GiB",
)
_IDLE = Layout(
    judged=Figure.IDLE_KIB,
    columns=(
        Column("KiB/connection", Figure.IDLE_KIB, 2),
        Column("RSS MiB before", Figure.BEFORE_MIB, 1),
        Column("RSS MiB after", Figure.AFTER_MIB, 1),
        Column("connections", Figure.IDLE_CONNECTIONS, 0),
    ),
    ratios=(RatioColumn("kestrel ÷ server", Figure.IDLE_KIB),),
    unit="KiB per connection",
)
_SLOW_PEER = Layout(
    judged=Figure.PEAK_GROWTH_MIB,
    columns=(
        Column("growth MiB", Figure.PEAK_GROWTH_MIB, 1),
        Column("RSS MiB before", Figure.BEFORE_MIB, 1),
        Column("moved MiB", Figure.MOVED_MIB, 1),
    ),
    ratios=(RatioColumn("kestrel ÷ server: growth", Figure.PEAK_GROWTH_MIB),),
    unit="MiB of growth",
)
_BURST = Layout(
    judged=Figure.LEFT_MIB,
    columns=(
        Column("RSS MiB before", Figure.BEFORE_MIB, 1),
        Column("peak", Figure.PEAK_MIB, 1),
        Column("after 1 s", Figure.AFTER_1S_MIB, 1),
        Column("after 15 s", Figure.AFTER_15S_MIB, 1),
        Column("left MiB", Figure.LEFT_MIB, 1),
    ),
    ratios=(
        RatioColumn("kestrel ÷ server: left", Figure.LEFT_MIB),
        RatioColumn("÷ peak", Figure.PEAK_MIB),
    ),
    unit="MiB left behind",
)


def layout(workload: Workload) -> Layout:
    """The layout of the workload's kind."""
    match workload:
        case LoadWorkload():
            return _LOAD
        case PairedWorkload():
            return _PAIR
        case ConnectionsWorkload():
            return _CONNECTIONS
        case TransferWorkload():
            return _TRANSFER
        case IdleWorkload():
            return _IDLE
        case SlowPeerWorkload():
            return _SLOW_PEER
        case BurstWorkload():
            return _BURST
