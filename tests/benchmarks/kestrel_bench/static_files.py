"""The files that the application serves in the workloads about files."""

from pathlib import Path

from applications import PIECE

STATIC_FILES = {"file-4k": PIECE[:4096], "file-1m": PIECE * 16}
"""What each file holds, by its name, which is its path in the application, too."""


def write_static_files(folder: Path) -> None:
    """Writes those that the folder does not have yet."""
    folder.mkdir(exist_ok=True)
    for name, content in STATIC_FILES.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
