"""The types of ASGI, as loose as the specification has them, and what a scope says."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = [
    "AsgiApp",
    "Event",
    "Field",
    "Receive",
    "Scope",
    "Send",
    "is_request",
    "route_path",
    "sole_field",
]

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Field: TypeAlias = tuple[bytes, bytes]


def is_request(scope: Scope) -> bool:
    """Tell whether `scope` is a request or asks for a WebSocket; else it is a lifespan."""
    kind: str = scope["type"]
    return kind == "http" or kind == "websocket"


def route_path(scope: Scope) -> str:
    """Return the path below the application's root, which is what its routes are named by."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def sole_field(scope: Scope, name: bytes) -> bytes | None:
    """Return the value of the field `name`, or None if there is none, or more than one."""
    found: bytes | None = None
    for field_name, value in scope["headers"]:
        if field_name == name:
            if found is not None:
                return None
            found = value
    return found
