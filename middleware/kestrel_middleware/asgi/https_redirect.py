"""Sends who comes by http to the same place by https."""

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import attrs

from kestrel_middleware.asgi.answer import Answer
from kestrel_middleware.asgi.host_value import HostValue, read_host
from kestrel_middleware.asgi.scope import AsgiApp, Receive, Scope, Send, is_request, sole_field

__all__ = ["HttpsRedirect"]

# RFC 3986, 3.3 and 3.4. "%" stays, as what stands behind it was escaped by the client.
_IN_TARGET = "/%?:@!$&'()*+,;=~"

_NO_HOST = Answer(400, b"A request has to name its host.\n")

_STATUSES = {
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
}


def _check_status(instance: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    if value not in _STATUSES:
        raise ValueError("status: a redirect is 301, 302, 307 or 308")


def _check_port(instance: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    if not 0 < value < 65536:
        raise ValueError("port: it is between 1 and 65535")


@attrs.define(eq=False)
class HttpsRedirect:
    """Answers a request whose scheme is http, or ws, with a redirect to https, or wss.

    The place is that of the Host field, so a `HostFilter` belongs in front; without a host the
    answer is 400. What clients do with a redirect of a WebSocket is up to them: browsers fail.
    """

    app: AsgiApp

    status: int = attrs.field(
        default=HTTPStatus.PERMANENT_REDIRECT.value, kw_only=True, validator=_check_status
    )
    """308 and 301 are remembered by browsers, 307 and 302 are not; 307 and 308 keep the method."""

    port: int = attrs.field(default=443, kw_only=True, validator=_check_port)
    """The port on which https is reached."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, or redirect."""
        if not is_request(scope) or scope.get("scheme", "http") in ("https", "wss"):
            await self.app(scope, receive, send)
            return
        host = read_host(sole_field(scope, b"host") or b"")
        answer = _NO_HOST if host is None else self._redirect(scope, host)
        await answer.send(scope, receive, send)

    def _redirect(self, scope: Scope, host: HostValue) -> Answer:
        scheme = "wss" if scope["type"] == "websocket" else "https"
        place = str(HostValue(host.name, None if self.port == 443 else self.port))
        raw_path: bytes | None = scope.get("raw_path")
        path = quote(raw_path or scope["path"], safe=_IN_TARGET if raw_path else "/")
        if not path.startswith("/"):  # "*" of OPTIONS
            path = "/"
        query = scope.get("query_string", b"")
        target = f"{scheme}://{place}{path}" + (
            f"?{quote(query, safe=_IN_TARGET)}" if query else ""
        )
        return Answer(self.status, b"", ((b"location", target.encode("ascii")),))
