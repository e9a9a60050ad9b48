"""What numbers among options may be: attrs validators, whose sentences name the field.

A NaN passes none of them, and None only where `or_none` says so.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

__all__ = [
    "NumberValidator",
    "OptionalNumberValidator",
    "above_zero",
    "above_zero_and_finite",
    "at_least_one",
    "not_negative",
    "or_none",
]

NumberValidator: TypeAlias = Callable[[object, "attrs.Attribute[Any]", float], None]
OptionalNumberValidator: TypeAlias = Callable[[object, "attrs.Attribute[Any]", float | None], None]


def above_zero(_instance: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """Check that `value` is above zero; it may be infinite.

    Raises:
        ValueError: it is not.
    """
    if not value > 0:
        raise ValueError(f"{attribute.name} must be above zero, not {value}")


def above_zero_and_finite(
    _instance: object, attribute: "attrs.Attribute[Any]", value: float
) -> None:
    """Check that `value` is above zero, and not infinite.

    Raises:
        ValueError: it is not.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{attribute.name} must be above zero and finite, not {value}")


def not_negative(_instance: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """Check that `value` is zero or above; it may be infinite.

    Raises:
        ValueError: it is not.
    """
    if not value >= 0:
        raise ValueError(f"{attribute.name} must be zero or above, not {value}")


def at_least_one(_instance: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """Check that `value`, a count, is 1 or above.

    Raises:
        ValueError: it is not.
    """
    if not value >= 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value}")


def or_none(validator: NumberValidator) -> OptionalNumberValidator:
    """Return a validator that None passes, and `validator` judges any other value.

    That is `attrs.validators.optional`, which mypy does not take where the default is a number.
    """
    return attrs.validators.optional(validator)
