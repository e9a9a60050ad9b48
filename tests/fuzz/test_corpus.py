"""Every input of the fuzz targets' corpora, through the same checks, without a fuzzer.

`make fuzz` looks for more of them; what fails there is kept in its corpus, and fails here until the
fault is gone.
"""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, corpus_of

INPUTS = [
    pytest.param(target, path, id=f"{target}/{path.name}")
    for target in TARGETS
    for path in sorted(corpus_of(target).iterdir())
]


@pytest.mark.parametrize(("target", "path"), INPUTS)
def test_input(target: str, path: Path) -> None:
    TARGETS[target](path.read_bytes())


def test_every_target_has_a_corpus() -> None:
    folders = {path.name for path in corpus_of("server").parent.iterdir()}
    assert folders == set(TARGETS)
