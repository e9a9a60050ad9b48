"""Use the package of plug-ins in docs/examples/plugin_package as its author would.

    .ci/example_package.py dist/trio_kestrel-1.0-py3-none-any.whl

Its wheel and the given one go into an environment of their own, where the command has to list what the
package brings, and the package's own tests have to pass; they include what the command does with it.
"""

import os
import shutil
import sys
import tempfile
import venv
from pathlib import Path

from commands import run

PROJECT = Path(__file__).parents[1] / "docs" / "examples" / "plugin_package"
DISTRIBUTION = "kestrel-plugin-example"


def main(kestrel_wheel: Path) -> None:
    """Build, install, list, test."""
    with tempfile.TemporaryDirectory(prefix="kestrel-example-") as name:
        folder = Path(name)
        unbuilt = shutil.ignore_patterns("__pycache__", ".*")
        project = shutil.copytree(PROJECT, folder / "project", ignore=unbuilt)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, project, folder=folder)
        [wheel] = folder.glob("*.whl")

        home = folder / "environment"
        venv.create(home, with_pip=True)
        python, kestrel = home / "bin" / "python", home / "bin" / "kestrel"
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-qq")
        run(*pip, kestrel_wheel, f"{wheel}[testing]", folder=folder)

        listed = run(kestrel, "plugins", folder=folder)
        names = [line.split()[1] for line in listed.splitlines() if DISTRIBUTION in line]
        if names != ["mptcp", "deflate", "git"]:
            raise SystemExit(f"of {DISTRIBUTION}, kestrel plugins lists {names}:\n{listed}")

        tested = run(python, "-m", "pytest", "-q", "-rs", folder=project)
        if "skipped" in tested and os.environ.get("KESTREL_REQUIRE_PROGRAMS"):
            raise SystemExit(f"tests were skipped:\n{tested}")
        print(f"{wheel.name}: installed beside {kestrel_wheel.name}, listed, tested:")
        print(tested.splitlines()[-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
