"""By what requests are told apart, so that each client, or each key, has its own count."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address
from typing import TypeAlias

import attrs

from kestrel_middleware.asgi.scope import Scope, route_path, sole_field
from kestrel_middleware.networks import ip_of

__all__ = ["BY_CLIENT", "BY_NOTHING", "KeyFunction", "PartitionKey", "partition_key"]

KeyFunction: TypeAlias = Callable[[Scope], str | None]

# What is longer is hashed: a client chooses what its fields and its path say.
_MOST_KEY_CHARACTERS = 64

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")

# What a provider gives to one customer at least, so it stands for one client (RFC 6177, 2).
_CLIENT_PREFIX_BITS = 64


@attrs.frozen
class PartitionKey:
    """What tells requests apart: those with the same key are counted together."""

    name: str
    function: KeyFunction
    """Returns the key, or None of a request that is not counted."""

    def __call__(self, scope: Scope) -> str | None:
        """Return the key of a request."""
        return self.function(scope)

    def __str__(self) -> str:
        return self.name


def partition_key(given: PartitionKey | KeyFunction | str | Iterable[str]) -> PartitionKey:
    """Return what tells requests apart by `given`.

    That is "client", "path", "everybody", "header:NAME", or several of them together; or a
    function of the scope, which returns None for requests that are not counted.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(given, PartitionKey):
        return given
    if callable(given):
        return PartitionKey("a function", given)
    names = [given] if isinstance(given, str) else list(given)
    keys = [_key(name) for name in names]
    if not keys:
        raise ValueError("requests are told apart by something, if only by everybody")
    if len(keys) == 1:
        return keys[0]
    return PartitionKey(" ".join(names), lambda scope: " ".join(str(key(scope)) for key in keys))


def _key(name: str) -> PartitionKey:
    if name in _KEYS:
        return _KEYS[name]
    kind, _, field = name.lower().partition(":")
    if kind == "header" and _FIELD_NAME.fullmatch(field):
        return PartitionKey(name, _by_field(field))
    raise ValueError(
        f"{name!r} is nothing to tell requests apart by: write {', '.join(_KEYS)} or header:NAME"
    )


def _by_client(scope: Scope) -> str:
    client = scope.get("client")
    return _network_of(client[0]) if client else "unnamed"


@lru_cache(maxsize=4096)
def _network_of(host: str) -> str:
    """Return the address as text, or of an IPv6 address the /64 in which it is."""
    address = ip_of(host)
    if address is None:
        return _bounded(host) or "unnamed"
    if not isinstance(address, IPv6Address):
        return str(address)
    host_bits = 128 - _CLIENT_PREFIX_BITS
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{_CLIENT_PREFIX_BITS}"


def _by_path(scope: Scope) -> str:
    return _bounded(route_path(scope))


def _everybody(scope: Scope) -> str:
    return "everybody"


def _by_field(name: str) -> KeyFunction:
    """Tell by the value of a field; those that do not have it, or have it twice, by client."""
    wanted = name.encode()

    def by_field(scope: Scope) -> str:
        value = sole_field(scope, wanted)
        if not value:
            return f"without {name}: {_by_client(scope)}"
        return f"{name}: {_bounded(value.decode('latin-1'))}"

    return by_field


def _bounded(text: str) -> str:
    if len(text) <= _MOST_KEY_CHARACTERS and text.isascii() and text.isprintable():
        return text
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


BY_CLIENT = PartitionKey("client", _by_client)
"""By the address of the client; of IPv6 by the /64 in which it is."""

BY_NOTHING = PartitionKey("everybody", _everybody)
"""All requests are counted together."""

_KEYS = {key.name: key for key in (BY_CLIENT, PartitionKey("path", _by_path), BY_NOTHING)}
