"""The page about ASGI middleware has each of them, and each option of theirs."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from kestrel_core.plugin_options import options_of

PAGE = (Path(__file__).parents[2] / "docs" / "asgi-middleware.md").read_text()
NAMES = sorted(entry.name for entry in entry_points(group="kestrel.asgi_middleware"))


def test_there_are_seven() -> None:
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_each_option_has_a_row(name: str) -> None:
    (entry,) = entry_points(group="kestrel.asgi_middleware", name=name)
    kind: type = entry.load()
    assert f"`{name}`" in PAGE
    assert f"`{kind.__name__}`" in PAGE
    (table,) = [
        table
        for section in PAGE.split("\n## ")
        if f"`{kind.__name__}`" in section.splitlines()[0]
        for table in section.split("\n\n")
        if table.startswith(("| option |", f"| option of `{kind.__name__}` |"))
    ]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    options = options_of(kind, given=1)
    assert told == [option.parameter for option in options]
    assert all(option.explanation for option in options)
