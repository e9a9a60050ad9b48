"""What passes for a number among options, and the sentence for what does not."""

import math

import attrs
import pytest

from kestrel_core.validators import (
    NumberValidator,
    above_zero,
    above_zero_and_finite,
    at_least_one,
    not_negative,
    or_none,
)

LEAST = math.ulp(0)


def check(validator: NumberValidator, value: float) -> None:
    attrs.make_class("Options", {"size": attrs.field(validator=validator)})(value)


@pytest.mark.parametrize(
    ("validator", "passes", "fails", "sentence"),
    [
        (above_zero, [LEAST, 1, math.inf], [0, -LEAST], "above zero"),
        (above_zero_and_finite, [LEAST, 1], [0, -LEAST, math.inf], "above zero and finite"),
        (not_negative, [0, 1, math.inf], [-LEAST], "zero or above"),
        (at_least_one, [1, 2], [0, -1], "at least 1"),
    ],
)
def test_ranges(
    validator: NumberValidator, passes: list[float], fails: list[float], sentence: str
) -> None:
    for value in passes:
        check(validator, value)
    for value in (*fails, -math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"^size must be {sentence}, not {value}$"):
            check(validator, value)


def test_none() -> None:
    @attrs.frozen
    class Options:
        size: int | None = attrs.field(default=1, validator=or_none(at_least_one))

    assert Options(None).size is None
    with pytest.raises(ValueError, match=r"^size must be at least 1, not 0$"):
        Options(0)
