"""The page about virtual time names all that there is, with its default."""

import inspect
import math
from pathlib import Path

import attrs

from tests.virtual_time.proofs import options_of_time, proven

DOCS = Path(__file__).parents[2] / "docs"

# Those that nothing waits for are on no page about time.
OPTIONS = {name: default for name, default in options_of_time().items() if name in proven()}


def rows() -> dict[str, str]:
    """Return the defaults that the page has, by option."""
    lines = (DOCS / "virtual-time.md").read_text().splitlines()
    cells = [line.split("|")[1:3] for line in lines if line.startswith("| `")]
    return {name.strip(" `"): default.strip() for name, default in cells}


def as_written(name: str, default: object) -> str:
    """Return a default as the page has it."""
    if name.startswith("HttpExchange."):
        return "that of `Limits`"
    if default in (attrs.NOTHING, inspect.Parameter.empty):
        return ""
    if default is None or default == math.inf:
        return "none"
    assert isinstance(default, (int, float))
    return f"{default:g}"


def test_the_page_has_each_option_with_its_default() -> None:
    assert rows() == {name: as_written(name, default) for name, default in OPTIONS.items()}
