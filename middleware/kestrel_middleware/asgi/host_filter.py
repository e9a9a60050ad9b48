"""Which hosts are served: requests for others get 400 before the application sees them.

An application that makes links out of the Host field would otherwise make them for whatever host a
client names, into mails and caches too.
"""

from collections.abc import Iterable
from ipaddress import ip_address

import attrs

from kestrel_middleware.asgi.answer import Answer
from kestrel_middleware.asgi.host_value import HostValue, read_host
from kestrel_middleware.asgi.scope import AsgiApp, Receive, Scope, Send, is_request, sole_field

__all__ = ["HostFilter", "host_patterns"]

_EVERY_HOST = "*"
_REFUSAL = Answer(400, b"This host is not served here.\n")


def host_patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return patterns of hosts as they are compared: in lower case, without brackets, in ASCII.

    Raises:
        ValueError: one is no host, or has its asterisk elsewhere than in "*" and "*.example.com".
    """
    return tuple(map(_pattern, [given] if isinstance(given, str) else given))


def _pattern(text: str) -> str:
    if text == _EVERY_HOST:
        return text
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if not name.isascii():
        name = name.encode("idna").decode()
    if ":" in name and "[" not in name:
        name = f"[{name}]"
    host = read_host(name)
    if host is None or host.port is not None or (wildcard and _is_address(host.name)):
        raise ValueError(
            f"{text!r} is no pattern of hosts: write a host without its port, *.example.com for all"
            " below it, or *"
        )
    return wildcard + host.name


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@attrs.define(eq=False)
class HostFilter:
    """Answers 400 unless the Host field names one of the hosts that are `allowed`.

    Ports are not compared. A WebSocket is denied with the same status where the server can do so.
    """

    app: AsgiApp

    allowed: tuple[str, ...] = attrs.field(kw_only=True, converter=host_patterns)
    """Hosts: "example.com", "[::1]"; "*.example.com" for all below it but not itself; "*" for all."""

    allow_missing: bool = attrs.field(default=False, kw_only=True)
    """Whether a request without a host is served, such as one of HTTP/1.0."""

    _names: frozenset[str] = attrs.field(init=False)
    _suffixes: tuple[str, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if not self.allowed:
            raise ValueError("allowed: it is empty, and so no host would be served")
        self._names = frozenset(self.allowed)
        self._suffixes = tuple(each[1:] for each in self.allowed if each.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, or answer in its place."""
        if not is_request(scope) or self._is_allowed(scope):
            await self.app(scope, receive, send)
        else:
            await _REFUSAL.send(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        value = sole_field(scope, b"host")
        if not value:
            return self.allow_missing and not any(
                name == b"host" and text for name, text in scope["headers"]
            )
        host = read_host(value)
        return host is not None and self._matches(host)

    def _matches(self, host: HostValue) -> bool:
        names = self._names
        return host.name in names or _EVERY_HOST in names or host.name.endswith(self._suffixes)
