"""The pages of the documentation name all that there is, by its right name and with its default."""

import re
from pathlib import Path

import attrs
import click
import pytest

from kestrel_core import EndReason, Limits
from kestrel_core.cli.serve_options import serve_options
from kestrel_protocols.http import HttpExchange, Rejection
from kestrel_protocols.http1 import Leniency

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str) -> list[list[str]]:
    """Return the cells of every row of every table on a page."""
    lines = (DOCS / page).read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]


def first_cell(option: click.Option) -> str:
    """Return an option as the page has it."""
    if option.is_flag:
        return " / ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return f"`{option.opts[0]} {option.metavar}`"


def test_the_command_line_has_a_row_for_each_option_and_no_other() -> None:
    documented = [row[0] for row in rows("command-line.md") if row[0].startswith("`--")]
    documented.remove("`--version`, `--help`")
    options = [option for option in serve_options() if option.name != "version"]
    assert sorted(documented) == sorted(map(first_cell, options))


def defaults() -> list[tuple[str, str]]:
    """Return the first cell and the default of each option that has one to tell."""
    found: list[tuple[str, str]] = []
    for option in serve_options():
        match option.default:
            case str(text) | (str(text),) if text:
                found.append((first_cell(option), text))
            case float(number):
                found.append((first_cell(option), f"{number:g}"))
            case _:
                pass
    return found


@pytest.mark.parametrize(("cell", "default"), defaults())
def test_the_command_line_has_the_defaults(cell: str, default: str) -> None:
    assert [row[1].strip("`") for row in rows("command-line.md") if row[0] == cell] == [default]


def as_written(default: float | None) -> str:
    """Return a default as the page has it."""
    if default is None or default == float("inf"):
        return "none"
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if default >= size and default % size == 0:
            return f"{default // size:g} {unit}"
    return f"{default:,g}" if default < 1_000_000 else f"{default:,d}"


@pytest.mark.parametrize("field", attrs.fields(Limits), ids=lambda field: str(field.name))
def test_each_limit_has_a_row_with_its_default(field: "attrs.Attribute[float | None]") -> None:
    found = [row[1] for row in rows("limits.md") if row[0] == f"`{field.name}`"]
    assert found == [as_written(field.default)]


def test_the_end_reasons_exist() -> None:
    named = {
        name
        for row in rows("limits.md")
        if len(row) == 4
        for name in re.findall(r"`(\w+)`", row[3])
    }
    assert named
    assert named <= {reason.value for reason in EndReason}


def test_each_status_of_a_rejection_is_told() -> None:
    told = {int(status) for row in rows("http1.md") for status in re.findall(r"\d{3}", row[0])}
    assert told == {rejection.status for rejection in Rejection}


def test_each_leniency_has_a_row() -> None:
    names = [row[:2] for row in rows("http1.md") if row[0].startswith("`") and len(row) == 3]
    expected = [[f"`{each.value.replace('_', '-')}`", f"`{each.name}`"] for each in Leniency]
    assert [row for row in names if row[1].isupper()] == expected


def test_the_names_of_the_exchange_are_right() -> None:
    [table] = [
        part.split("\n\n")[1]
        for part in re.split("^## ", (DOCS / "http-handlers.md").read_text(), flags=re.M)
        if part.startswith("The request\n")
    ]
    named = re.findall(r"^\| `(\w+)` \|", table, re.M)
    assert len(named) > 5
    assert [name for name in named if not hasattr(HttpExchange, name)] == []
