"""The package of plug-ins in docs/examples passes its own tests. In a process, so in real time.

`make package` has it installed, and so runs those of the command line, too.
"""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "docs" / "examples" / "plugin_package"


def test_its_own_tests_pass() -> None:
    tested = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            "--ignore=tests/test_command_line.py",
        ],
        cwd=PACKAGE,
        env={**os.environ, "PYTHONPATH": str(PACKAGE / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout
