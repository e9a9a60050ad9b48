"""HTTP Strict Transport Security (RFC 6797): browsers are told to come by https from now on."""

from collections.abc import Iterable
from typing import Any

import attrs

from kestrel_middleware.asgi.host_filter import host_patterns
from kestrel_middleware.asgi.host_value import read_host
from kestrel_middleware.asgi.scope import (
    AsgiApp,
    Event,
    Field,
    Receive,
    Scope,
    Send,
    is_request,
    sole_field,
)

__all__ = ["StrictTransportSecurity"]

_NAME = b"strict-transport-security"

_DAY_SECONDS = 24 * 60 * 60

# What hstspreload.org asks of a site that wants to be on browsers' lists.
_LEAST_PRELOAD_SECONDS = 365 * _DAY_SECONDS

_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")


def _check_max_age(instance: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    if value < 0:
        raise ValueError("max_age_seconds: it is no less than 0, by which browsers forget")


@attrs.define(eq=False)
class StrictTransportSecurity:
    """Adds Strict-Transport-Security to responses that go over https, unless they have it.

    Requests for hosts that are `excluded` get none: a browser that has learned it for localhost keeps
    to it for every program on that machine.
    """

    app: AsgiApp

    max_age_seconds: int = attrs.field(
        default=30 * _DAY_SECONDS, kw_only=True, validator=_check_max_age
    )
    """How long browsers remember it; the default is ASP.NET Core's."""

    include_subdomains: bool = attrs.field(default=False, kw_only=True)
    """Whether it holds for all hosts below this one, too."""

    preload: bool = attrs.field(default=False, kw_only=True)
    """Whether the site agrees to be on the lists that browsers ship."""

    excluded: tuple[str, ...] = attrs.field(
        default=("localhost", "*.localhost", "127.0.0.1", "[::1]"),
        kw_only=True,
        converter=host_patterns,
    )
    """Hosts, written as for `HostFilter`, that get none; ASP.NET Core's and those below localhost."""

    _field: Field = attrs.field(init=False)
    _suffixes: tuple[str, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.preload and not (
            self.include_subdomains and self.max_age_seconds >= _LEAST_PRELOAD_SECONDS
        ):
            raise ValueError(
                "preload: browsers list a site only with include_subdomains, and with"
                f" max_age_seconds no less than {_LEAST_PRELOAD_SECONDS}"
            )
        value = f"max-age={self.max_age_seconds}"
        value += "; includeSubDomains" if self.include_subdomains else ""
        value += "; preload" if self.preload else ""
        self._field = (_NAME, value.encode())
        self._suffixes = tuple(each[1:] for each in self.excluded if each.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; the field is added when its response starts."""
        # RFC 6797, 7.2: none over a transport that is not secure.
        is_secure = is_request(scope) and scope.get("scheme") in ("https", "wss")
        if not is_secure or self._is_excluded(scope):
            await self.app(scope, receive, send)
            return

        async def send_with_field(event: Event) -> None:
            if event["type"] in _STARTS:
                fields: Iterable[Field] = event.get("headers") or ()
                fields = list(fields)
                if all(name.lower() != _NAME for name, _ in fields):
                    event = {**event, "headers": [*fields, self._field]}
            await send(event)

        await self.app(scope, receive, send_with_field)

    def _is_excluded(self, scope: Scope) -> bool:
        host = read_host(sole_field(scope, b"host") or b"")
        if host is None:
            return False
        return host.name in self.excluded or host.name.endswith(self._suffixes)
