"""The types of ASGI, as loose as the specification has them."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from kestrel_protocols.http.exchange import HttpExchange

__all__ = ["AsgiApp", "DebugHook", "Event", "Receive", "Scope", "Send"]

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
DebugHook: TypeAlias = Callable[[HttpExchange, Mapping[str, Any]], None]
