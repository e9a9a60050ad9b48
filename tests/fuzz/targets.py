"""The fuzz targets by name, and where their corpora are."""

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import chunked_bodies, heads, server

__all__ = ["TARGETS", "corpus_of"]

TARGETS: dict[str, Callable[[bytes], None]] = {
    "chunked_bodies": chunked_bodies.check,
    "heads": heads.check,
    "server": server.check,
}
"""Each raises whatever is raised by the code under test, or AssertionError."""


def corpus_of(target: str) -> Path:
    """Return the folder of a target's inputs."""
    return Path(__file__).with_name("corpus") / target
