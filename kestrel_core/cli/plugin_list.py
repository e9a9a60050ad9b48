"""What `kestrel plugins` prints: every plug-in that is installed, broken ones with their error."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import click

from kestrel_core.application import HTTP1
from kestrel_core.cli.connection_options import DETECT
from kestrel_core.plugin_options import PluginOption, options_of
from kestrel_core.registry import PluginInfo, PluginKind, Registry

__all__ = ["plugin_details", "plugin_lines"]

_HEADINGS = ("KIND", "NAME", "TARGET", "DISTRIBUTION", "VERSION")

# How many parameters of a class the program gives: what it wraps, or chooses among.
_GIVEN = {PluginKind.MIDDLEWARE: 0, PluginKind.PROTOCOL: 0, PluginKind.ASGI_MIDDLEWARE: 1}


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


def plugin_details(registry: Registry, info: PluginInfo, formatter: click.HelpFormatter) -> str:
    """Return what a plug-in is and what options it takes, as `formatter` lays it out."""
    formatter.write(f"{info.kind.noun} {info.name}\n")
    formatter.indent()
    if info.error is not None:
        formatter.write_text(f"broken: {info.error}")
        return formatter.getvalue()
    plugin = registry.load(info.kind, info.name)
    formatter.write_text(_first_paragraph(plugin))
    # A transport has its options in the endpoint's URL, and HTTP/1.1 those of the command.
    if info.kind in _GIVEN and isinstance(plugin, type) and info.name != HTTP1:
        given = 1 if info.name == DETECT else _GIVEN[info.kind]
        options = options_of(cast(Callable[..., object], plugin), given=given)
        rows = [_described(option) for option in options if option.takes_text]
        if rows:
            formatter.write_paragraph()
            formatter.write_dl(rows, col_max=40)
    return formatter.getvalue()


def _first_paragraph(plugin: object) -> str:
    text = inspect.getdoc(plugin) or "It has no documentation."
    return " ".join(text.partition("\n\n")[0].replace("`", "").split())


def _described(option: PluginOption) -> tuple[str, str]:
    notes: list[str] = []
    if option.value_type.container is not None:
        notes.append("may be repeated")
    if option.is_mandatory:
        notes.append("mandatory")
    elif option.default_text:
        notes.append(f"default: {option.default_text}")
    explanation = f"{option.explanation}  [{'; '.join(notes)}]" if notes else option.explanation
    return f"{option.key}={option.value_type.metavar}", explanation.strip()


def _row(plugin: PluginInfo) -> tuple[str, ...]:
    return (
        plugin.kind.noun,
        plugin.name,
        plugin.target,
        plugin.distribution,
        plugin.version,
    )
