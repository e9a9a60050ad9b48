"""The names of options in place of those of the fields that they fill."""

import re
from collections.abc import Mapping

__all__ = ["option_name", "with_option_names"]


def option_name(field_name: str) -> str:
    """Return the option for a field that has one of its own name."""
    return f"--{field_name.replace('_', '-')}"


def with_option_names(sentence: str, options: Mapping[str, str]) -> str:
    """Return `sentence` with the option in place of each field name that it speaks of."""
    names = "|".join(rf"\b{name}\b" for name in options)
    return re.sub(names, lambda match: options[match[0]], sentence)
