import random
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one repository, `project.git`: a clone of `../work`, which has one `file`."""
    folder = tmp_path_factory.mktemp("repositories")

    def git(*arguments: str, folder: Path = folder) -> None:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)

    git("init", "--quiet", "work")
    (folder / "work" / "file").write_bytes(random.Random(0).randbytes(8_000_000))
    git("add", "file", folder=folder / "work")
    git("commit", "--quiet", "--message", "The first", folder=folder / "work")
    git("clone", "--quiet", "--bare", "--no-local", "work", "root/project.git")
    return folder / "root"
