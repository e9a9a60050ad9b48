"""What `kestrel plugins` prints: every plug-in that is installed, broken ones with their error."""

from collections.abc import Iterable, Iterator

from kestrel_core.registry import PluginInfo

__all__ = ["plugin_lines"]

_HEADINGS = ("KIND", "NAME", "TARGET", "DISTRIBUTION", "VERSION")


def plugin_lines(plugins: Iterable[PluginInfo]) -> Iterator[str]:
    """Yield a table with a heading; below a plug-in that does not load stands why."""
    listed = list(plugins)
    rows = [_HEADINGS, *map(_row, listed)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    errors = ["", *(plugin.error or "" for plugin in listed)]
    for row, error in zip(rows, errors, strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
        if error:
            yield f"    broken: {error}"


def _row(plugin: PluginInfo) -> tuple[str, ...]:
    return (
        plugin.kind.noun,
        plugin.name,
        plugin.target,
        plugin.distribution,
        plugin.version,
    )
