"""Paths that are not counted."""

from collections.abc import Iterable
from typing import Any

import attrs

from kestrel_middleware.asgi.scope import Scope, route_path

__all__ = ["check_paths", "is_exempt", "paths"]


def paths(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return one path or several, without slashes at their ends."""
    return tuple(path.rstrip("/") for path in ([given] if isinstance(given, str) else given))


def check_paths(
    instance: object, attribute: "attrs.Attribute[Any]", value: tuple[str, ...]
) -> None:
    """Check that each of `value` is a path, and not the root.

    Raises:
        ValueError: one is not.
    """
    for path in value:
        if not path.startswith("/"):
            raise ValueError(
                f"{attribute.name}: {path!r} is no path below the root, such as /static"
            )


def is_exempt(scope: Scope, exempt: tuple[str, ...]) -> bool:
    """Tell whether the path of `scope` is one of `exempt`, or below one."""
    if not exempt:
        return False
    path = route_path(scope)
    return any(path == each or path.startswith(f"{each}/") for each in exempt)
