"""Which options serve which server name: exact names, wildcards, and everything else."""

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

__all__ = ["ServerNames"]

ValueT = TypeVar("ValueT")

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_PATTERN = re.compile(rf"\*|(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


class ServerNames(Generic[ValueT]):
    """A map from server names to values: an exact name first, then the longest "*.suffix".

    That is Kestrel's order, with "*" for the rest. A wildcard stands for one label or several: "*.example.com" is also
    for a.b.example.com, but not for example.com.

    Raises:
        ValueError: a key is no host name and no wildcard.
    """

    def __init__(self, named: Mapping[str, ValueT]) -> None:
        self._exact: dict[str, ValueT] = {}
        self._suffixes: dict[str, ValueT] = {}
        self.rest: ValueT | None = None
        """What "*" stands for, or None."""
        for name, value in named.items():
            lower = _ascii(name)
            if len(lower) > 253 or not _PATTERN.fullmatch(lower):
                raise ValueError(
                    f"{name!r} is no server name; write www.example.com, *.example.com or *"
                )
            if lower == "*":
                self.rest = value
            elif lower.startswith("*"):
                self._suffixes[lower[1:]] = value
            else:
                self._exact[lower] = value

    def find(self, name: str) -> ValueT | None:
        """Return the value for `name`, which is in lower case; `rest` is left to the caller."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        dot = name.find(".", 1)
        while dot >= 0:
            value = self._suffixes.get(name[dot:])
            if value is not None:
                return value
            dot = name.find(".", dot + 1)
        return None


def _ascii(name: str) -> str:
    """Return `name` as it is on the wire, in lower case."""
    try:
        return name.lower() if name.isascii() else name.lower().encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{name!r} is no server name: {error}") from error
