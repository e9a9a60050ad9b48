"""The page about admission, idle and throttle has every option, with its default."""

import re
from enum import Enum
from pathlib import Path

import attrs
import pytest

from kestrel_core.end_reason import EndReason
from kestrel_middleware.admission import Answer, ConnectionAdmission, WhenFull
from kestrel_middleware.idle import Idle
from kestrel_middleware.throttle import Throttle

PAGE = (Path(__file__).parents[2] / "docs" / "admission.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """Return the first two cells of the rows of the table below a heading."""
    [part] = [part for part in re.split("^## ", PAGE, flags=re.M) if part.startswith(heading)]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", part, re.M))


def options(kind: type[attrs.AttrsInstance]) -> dict[str, object]:
    return {field.name: field.default for field in attrs.fields(kind) if field.init}


@pytest.mark.parametrize(
    ("heading", "kind"), [("Admission", ConnectionAdmission), ("Throttle", Throttle)]
)
def test_each_option_has_a_row_with_its_default(
    heading: str, kind: type[attrs.AttrsInstance]
) -> None:
    told = rows(heading)
    assert list(told) == list(options(kind))
    for name, default in options(kind).items():
        if isinstance(default, Enum):
            assert told[name] == f"`{default.value}`"
        elif isinstance(default, int):
            assert told[name] == str(default)
        else:
            assert told[name] in {"none", "a second's", "everybody", "nobody"}


def test_the_only_option_of_idle_is_told() -> None:
    assert options(Idle) == {"seconds": 600.0}
    assert "`Idle(seconds=600)`" in PAGE


def test_each_choice_is_told() -> None:
    for choice in (*Answer, *WhenFull):
        assert f"`{choice.value}`" in PAGE


def test_the_end_reasons_are_told() -> None:
    for reason in (
        EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED,
        EndReason.MAX_CONNECTIONS_PER_ADDRESS_EXCEEDED,
        EndReason.CONNECTION_RATE_EXCEEDED,
        EndReason.ADDRESS_DENIED,
        EndReason.IDLE_TIMEOUT,
    ):
        assert f"`{reason.value}`" in PAGE
