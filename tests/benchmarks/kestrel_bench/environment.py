"""The virtual environment that holds the benchmarked servers.

It is separate from the development environment so that the peers' dependencies constrain nothing,
and it holds every server, ours included, so that all of them share one interpreter and one version
of each library.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from kestrel_bench.certificate import CertificateFiles, write_certificate
from kestrel_bench.static_files import write_static_files

REQUIREMENTS = (
    "uvicorn[standard]",
    "hypercorn[trio]",
    "granian",
    "h11",
    "uvloop",
    "httptools",
    "trio",
    "anyio",
)
PROJECT = "trio-kestrel"
"""The distribution under test, installed editable so that a run measures the checkout as it is."""

_LIST_VERSIONS = (
    "import json, importlib.metadata as m;"
    "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)


class EnvironmentBuildError(Exception):
    """The environment could not be built; the text says which step failed and how."""


@frozen(kw_only=True)
class Environment:
    """A directory with a Python interpreter and the servers' commands."""

    directory: Path
    project_problem: str | None = None
    """Why the project itself is not installed, if it is not; the peers still are."""

    @property
    def static_files(self) -> Path:
        """The folder of the files that the application serves."""
        return self.directory / "static"

    @property
    def certificate(self) -> CertificateFiles:
        """What the servers show where TLS is spoken; made when it is first asked for."""
        return write_certificate(self.directory / "certificate")

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.directory / "bin" / "python"

    def program(self, name: str) -> Path:
        """The path at which an installed command would be, present or not."""
        return self.directory / "bin" / name

    def versions(self) -> dict[str, str]:
        """The version of every installed distribution, by lower-case name."""
        answer = subprocess.run(
            [self.python, "-c", _LIST_VERSIONS], capture_output=True, text=True, check=True
        )
        versions: dict[str, str] = json.loads(answer.stdout)
        return dict(sorted(versions.items()))


def prepare_environment(directory: Path, project_root: Path) -> Environment:
    """Builds the environment, or reuses it when it was built from the same requirements.

    A project that does not install is not an error here: the environment is returned with the
    reason, and the installation is tried again next time.

    Raises:
        EnvironmentBuildError: the environment or a peer could not be installed.
    """
    environment = Environment(directory=directory)
    stamp = directory / "requirements.sha256"
    wanted = _fingerprint(project_root)
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        problem = _install(environment, project_root)
        if problem is not None:
            environment = evolve(environment, project_problem=problem)
        else:
            stamp.write_text(wanted, encoding="ascii")
    write_static_files(environment.static_files)
    return environment


def _install(environment: Environment, project_root: Path) -> str | None:
    """Installs everything anew; returns why the project does not install, if it does not."""
    directory = environment.directory
    print(f"Preparing the peers' environment in {directory.name}/ ...", file=sys.stderr)
    if not environment.python.exists():
        _run_step("creating the environment", _creation_command(directory))
        (directory / ".gitignore").write_text("*\n", encoding="ascii")
    _run_step("installing the peers", [*_install_command(environment), *REQUIREMENTS])
    try:
        _run_step(
            "installing the project", [*_install_command(environment), "-e", str(project_root)]
        )
    except EnvironmentBuildError as error:
        return str(error)
    return None


def _fingerprint(project_root: Path) -> str:
    # pyproject.toml is part of it because an editable installation copies entry points, so a new
    # plugin is invisible until the project is installed again.
    parts = [*REQUIREMENTS, (project_root / "pyproject.toml").read_text(encoding="utf-8")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _creation_command(directory: Path) -> list[str]:
    uv = shutil.which("uv")
    if uv is None:
        return [sys.executable, "-m", "venv", str(directory)]
    return [uv, "venv", "--python", sys.executable, str(directory)]


def _install_command(environment: Environment) -> list[str]:
    uv = shutil.which("uv")
    if uv is None:
        return [str(environment.python), "-m", "pip", "install", "--quiet"]
    return [uv, "pip", "install", "--quiet", "--python", str(environment.python)]


def _run_step(step: str, command: Sequence[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        lines = (finished.stderr or finished.stdout).strip().splitlines()
        raise EnvironmentBuildError(f"{step} failed: {lines[-1] if lines else 'no output'}")
