"""Runs commands as a stranger's shell would, for the programs beside this file."""

import os
import subprocess
from pathlib import Path


def environment() -> dict[str, str]:
    """Return the environment variables, without this program's packages."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(*command: Path | str, folder: Path) -> str:
    """Run `command` in `folder`; return what it printed, or exit with that if it fails."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        words = " ".join(str(word) for word in command)
        raise SystemExit(f"{words} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout
