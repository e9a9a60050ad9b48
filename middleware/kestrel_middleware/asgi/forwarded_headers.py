"""Who the client is and what it asked for, as proxies in front tell it.

The connection's peer is a fact; all the rest is hearsay. A proxy that is trusted vouches for one more
step: for the address that it names, and for what was asked of it. So the chain is walked from its
right end, where the nearest proxy wrote, until somebody is not trusted: that is the client. What
stands further left the client may have written itself.
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import product
from typing import Any
from urllib.parse import unquote

import attrs

from kestrel_middleware.asgi.forwarded_value import (
    Node,
    elements_from_right,
    read_element,
    read_node,
)
from kestrel_middleware.asgi.host_value import HostValue, read_host
from kestrel_middleware.asgi.scope import AsgiApp, Field, Receive, Scope, Send, is_request
from kestrel_middleware.networks import Networks, networks

__all__ = ["ForwardedField", "ForwardedHeaders", "Removal"]


class ForwardedField(Enum):
    """The fields in which proxies tell what they received; the value is the field's name."""

    FORWARDED = "forwarded"
    """RFC 7239: address, scheme and host in one."""
    X_FORWARDED_FOR = "x-forwarded-for"
    X_FORWARDED_PROTO = "x-forwarded-proto"
    X_FORWARDED_HOST = "x-forwarded-host"
    X_FORWARDED_PORT = "x-forwarded-port"
    X_FORWARDED_PREFIX = "x-forwarded-prefix"


class Removal(Enum):
    """Which fields are kept from the application."""

    ALL = "all"
    """All of `ForwardedField`, and of a peer that is not trusted whatever begins with X-Forwarded,
    and X-Real-IP."""
    UNBELIEVED = "unbelieved"
    """The same, but not those that are believed of the peer."""
    NOTHING = "nothing"


# As scopes have them. Members of an Enum are slow as keys.
_FORWARDED, _FOR, _PROTO, _HOST, _PORT, _PREFIX = (field.value.encode() for field in ForwardedField)

# By what was said: what a request has then, and what a WebSocket has.
_SCHEMES = {
    "http": ("http", "ws"),
    "ws": ("http", "ws"),
    "https": ("https", "wss"),
    "wss": ("https", "wss"),
}
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

# A path as a URL has it, of segments that are not empty. Without those, "//evil.example" is none.
_PREFIX_VALUE = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)+")
_PORT_VALUE = re.compile(r"[0-9]{1,5}")


def _spellings(name: str) -> Iterable[bytes]:
    """Return `name` with all that frameworks take for it, which mix up "-" and "_"."""
    parts = name.split("-")
    for separators in product("-_", repeat=len(parts) - 1):
        rest = "".join(map("".join, zip(separators, parts[1:], strict=True)))
        yield (parts[0] + rest).encode()


# What nobody but a proxy sends. Some proxies tell users and certificates in X-Forwarded fields.
_UNTRUSTED_PREFIXES = tuple(_spellings("x-forwarded"))
_UNTRUSTED_NAMES = {b"forwarded", *_spellings("x-real-ip")}


@attrs.define
class _Told:
    """What a chain of proxies says, as far as it is believed."""

    client: Node | None = None
    scheme: str | None = None
    host: HostValue | None = None
    port: int | None = None
    prefix: str | None = None


def _several(given: Iterable[ForwardedField]) -> tuple[ForwardedField, ...]:
    return tuple(given)


def _check_believed(
    instance: object, attribute: "attrs.Attribute[Any]", value: Sequence[ForwardedField]
) -> None:
    if not value:
        raise ValueError("believed: it is empty, and so nothing would be")
    if ForwardedField.FORWARDED in value and len(set(value)) > 1:
        raise ValueError(
            "believed: either Forwarded or X-Forwarded fields, not both; a proxy writes the one and"
            " passes the other on as the client sent it"
        )


@attrs.define(eq=False)
class ForwardedHeaders:
    """Puts the client, the scheme, the host and the root path that a proxy tells into the scope.

    What the peer says counts if its address is one of `trusted`, else it is removed. An address that
    is hidden or wrong ends the chain, and the client is the last one before it. Headers are lists of
    what several proxies said, and the n-th from the right of each goes with the n-th address, or
    else the first there is. The scope's `server` stays the address on which the server listens.
    """

    app: AsgiApp

    trusted: Networks = attrs.field(kw_only=True, converter=networks)
    """The proxies: networks, addresses, "unix" for Unix sockets; "*" for everybody."""

    believed: tuple[ForwardedField, ...] = attrs.field(
        default=(ForwardedField.X_FORWARDED_FOR, ForwardedField.X_FORWARDED_PROTO),
        kw_only=True,
        converter=_several,
        validator=_check_believed,
    )
    """The fields that the proxy writes, and does not just pass on; uvicorn's and ASP.NET Core's."""

    max_hops: int | None = attrs.field(default=None, kw_only=True)
    """How many proxies there are at most."""

    removed: Removal = attrs.field(default=Removal.ALL, kw_only=True)
    """Which fields the application does not get to see."""

    _names: frozenset[bytes] = attrs.field(init=False)
    _hidden: frozenset[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.max_hops is not None and self.max_hops < 1:
            raise ValueError("max_hops: there is one proxy at least")
        if "*" in self.trusted.texts and self.max_hops is None:
            raise ValueError(
                "trusted: with everybody trusted each client chooses its own address; say how many"
                " proxies there are by max_hops, or name them"
            )
        self._names = frozenset(field.value.encode() for field in self.believed)
        spelled = {spelling for field in ForwardedField for spelling in _spellings(field.value)}
        if self.removed is Removal.UNBELIEVED:
            spelled -= self._names
        self._hidden = frozenset(spelled)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with the corrected scope."""
        await self.app(self._corrected(scope) if is_request(scope) else scope, receive, send)

    def _corrected(self, scope: Scope) -> Scope:
        client = scope.get("client")
        if (client[0] if client else None) not in self.trusted:
            return self._without_hearsay(scope)
        headers: Iterable[Field] = scope["headers"]
        names = self._names
        texts: dict[bytes, str] = {}
        for name, value in headers:
            if name in names:
                text = value.decode("latin-1")
                texts[name] = f"{texts[name]},{text}" if name in texts else text
        corrected = dict(scope)
        if self.removed is not Removal.NOTHING:
            hidden = self._hidden
            corrected["headers"] = [each for each in headers if each[0] not in hidden]
        if texts:
            forwarded = texts.get(_FORWARDED)
            told = (
                self._told_by_x_forwarded(texts)
                if forwarded is None
                else self._told_by_forwarded(forwarded)
            )
            _apply(told, corrected)
        return corrected

    def _without_hearsay(self, scope: Scope) -> Scope:
        if self.removed is Removal.NOTHING:
            return scope
        fields: list[Field] = [
            field
            for field in scope["headers"]
            if not field[0].startswith(_UNTRUSTED_PREFIXES) and field[0] not in _UNTRUSTED_NAMES
        ]
        return {**scope, "headers": fields}

    def _ends_at(self, node: Node | None, hops: int) -> bool:
        """Tell whether the chain ends at its `hops`-th node, because nobody vouches for more."""
        if node is None or node.host is None or hops == self.max_hops:
            return True
        return node.host not in self.trusted

    def _told_by_forwarded(self, text: str) -> _Told:
        told = _Told()
        for hops, element_text in enumerate(elements_from_right(text), 1):
            element = read_element(element_text)
            if element is None:
                break
            if element.for_ is not None and element.for_.host is not None:
                told.client = element.for_
            told.scheme = element.proto or told.scheme
            told.host = (read_host(element.host) if element.host else None) or told.host
            if self._ends_at(element.for_, hops):
                break
        return told

    def _told_by_x_forwarded(self, texts: dict[bytes, str]) -> _Told:
        told = _Told()
        hops = 0
        for hops, address in enumerate(reversed(_split(texts.get(_FOR, ""))), 1):
            node = read_node(address)
            if node is not None and node.host is not None:
                told.client = node
            if self._ends_at(node, hops):
                break

        def said(name: bytes) -> str:
            text = texts.get(name)
            values = _split(text) if text else None
            return values[-min(max(hops, 1), len(values))] if values else ""

        told.scheme = said(_PROTO)
        told.host = read_host(said(_HOST))
        port = said(_PORT)
        if _PORT_VALUE.fullmatch(port) and 0 < int(port) < 65536:
            told.port = int(port)
        told.prefix = said(_PREFIX).rstrip("/")
        return told


def _split(text: str) -> list[str]:
    """Return what stands between commas, and is not blank."""
    return [part for piece in text.split(",") if (part := piece.strip(" \t"))]


def _apply(told: _Told, scope: Scope) -> None:
    """Put what was told into `scope`, a copy whose headers may still be shared."""
    if told.client is not None:
        scope["client"] = (told.client.host, told.client.port or 0)
    schemes = _SCHEMES.get((told.scheme or "").lower())
    if schemes is not None:
        scope["scheme"] = schemes[scope["type"] == "websocket"]
    if told.host is not None or told.port is not None:
        _apply_host(told, scope)
    if told.prefix and _PREFIX_VALUE.fullmatch(told.prefix):
        path = unquote(told.prefix)
        if {".", ".."}.isdisjoint(path.split("/")) and path.isprintable():
            scope["root_path"] = path + scope.get("root_path", "")
            scope["path"] = path + scope["path"]
            if scope.get("raw_path") is not None:
                scope["raw_path"] = told.prefix.encode() + scope["raw_path"]


def _apply_host(told: _Told, scope: Scope) -> None:
    headers: list[Field] = list(scope["headers"])
    host = told.host
    if host is None:
        host = next((read_host(value) for name, value in headers if name == b"host"), None)
    if host is None:
        return
    if told.port is not None:
        is_default = _DEFAULT_PORTS.get(scope.get("scheme", "")) == told.port
        host = HostValue(host.name, None if is_default else told.port)
    rest = [field for field in headers if field[0] != b"host"]
    scope["headers"] = [(b"host", str(host).encode()), *rest]
