"""The examples of docs/testing.md, as a stranger's pytest runs them: without this project's settings."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.server_process import running

DOCS = Path(__file__).parents[2] / "docs"

# What is another one each time: addresses of objects, the date, how long the tests took.
VARYING = (r"0x[0-9a-f]+", r"date: .* GMT", r"in \d+\.\d+s")


def run_pytest(folder: Path, name: str, *options: str) -> tuple[int, list[str]]:
    """Run one example in an empty folder; return the exit code and the lines."""
    shutil.copy(DOCS / "examples" / name, folder)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, name)
    with running(*command, folder=folder) as program:
        return program.wait(), program.lines


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        ("unit_test_fastapi.py", 6),
        ("unit_test_anyio.py", 1),
        ("unit_test_bad_network.py", 54),
        ("unit_test_with_httpx.py", 3),
    ],
)
def test_they_pass_without_warnings(name: str, tests: int, tmp_path: Path) -> None:
    exit_code, lines = run_pytest(tmp_path, name, "-W", "error")
    assert exit_code == 0, lines
    assert f"{tests} passed" in lines[-1]


def test_a_failing_test_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CI", "BUILD_NUMBER"):  # by which pytest prints a longer summary
        monkeypatch.delenv(variable, raising=False)
    page = (DOCS / "testing.md").read_text()
    command = "$ pytest -q unit_test_that_fails.py\n"
    [shown] = re.findall(rf"^```console\n{re.escape(command)}(.*?)^```", page, re.S | re.M)
    exit_code, lines = run_pytest(tmp_path, "unit_test_that_fails.py")
    assert exit_code == 1
    assert [same_each_time(line) for line in lines] == [
        same_each_time(line) for line in shown.splitlines()
    ]


def same_each_time(line: str) -> str:
    """Return a line without what is another one each time."""
    for pattern in VARYING:
        line = re.sub(pattern, "...", line)
    return line
