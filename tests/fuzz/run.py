"""Runs one fuzz target for a while: python -m tests.fuzz.run TARGET SECONDS [LIBFUZZER-OPTION...].

New inputs that reach more of the code are collected in `.fuzz/TARGET`, for the next run. An input that
fails is added to the target's corpus, where the ordinary tests find it, too.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

__all__: list[str] = []

COLLECTED = Path(".fuzz")

# Enough for a few requests; shorter inputs are tried more often.
MOST_INPUT_BYTES = 1024


class Instrumenting(Protocol):
    """A context in which what is imported is instrumented."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


class Atheris(Protocol):
    """What is used of atheris, which only those have who fuzz."""

    def instrument_imports(self, *, include: list[str]) -> Instrumenting: ...

    def Setup(self, argv: list[str], test_one_input: Callable[[bytes], None]) -> list[str]: ...

    def Fuzz(self) -> None: ...


def main(target: str, seconds: int, options: list[str]) -> None:
    """Fuzz; the process ends here, with exit code 0 if nothing was found."""
    atheris = cast("Atheris", import_module("atheris"))
    with atheris.instrument_imports(include=["kestrel_protocols"]):
        targets = import_module("tests.fuzz.targets")
    corpus: Path = targets.corpus_of(target)
    collected = COLLECTED / target
    collected.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"fuzz {target}",
        f"-max_total_time={seconds}",
        f"-max_len={MOST_INPUT_BYTES}",
        f"-dict={Path(__file__).with_name('http1.dict')}",
        f"-artifact_prefix={corpus}/",
        "-timeout=10",
        "-print_final_stats=1",
        *options,
        str(collected),
        str(corpus),
    ]
    atheris.Setup(arguments, targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
