"""The value of the field Forwarded (RFC 7239), and the nodes that it and X-Forwarded-For name.

It is read from the right, because it was written so: each proxy adds an element behind what it
received, and what it received may be anything, such as a quotation mark that is never closed. The
element behind a comma is whole if its quotation marks come in pairs. Within a quoted string that
is an odd number of them away from the end, so no text that stands before an element, and no
comma inside of it, changes how it is read.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import attrs

from kestrel_middleware.networks import IpAddress, ip_of

__all__ = ["ForwardedElement", "Node", "elements_from_right", "read_element", "read_node"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'

# The specification has no blanks around semicolons. Some proxies write them.
_PAIR = re.compile(rf"[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED}))?[ \t]*(;|\Z)")

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

# An IPv6 address has brackets (6.1). In X-Forwarded-For it mostly has none, and no port then.
_NODE = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]{2,64})\]|(?P<plain>[0-9.]{7,15}|unknown|_[A-Za-z0-9._-]+))"
    r"(?::(?P<port>\d{1,5}|_[A-Za-z0-9._-]+))?",
    re.IGNORECASE,
)


def _host_of(node: "Node") -> str | None:
    return None if node.address is None else str(node.address)


@attrs.frozen
class Node:
    """One end of a hop; what hides its address has an identifier of its own, or is "unknown"."""

    address: IpAddress | None
    port: int | None = None
    identifier: str | None = None
    host: str | None = attrs.field(
        init=False, eq=False, repr=False, default=attrs.Factory(_host_of, takes_self=True)
    )
    """The address as text."""


@attrs.frozen
class ForwardedElement:
    """What one proxy tells of the request that it received; None is what it does not tell."""

    for_: Node | None = None
    by: Node | None = None
    host: str | None = None
    proto: str | None = None


def elements_from_right(value: str) -> Iterator[str]:
    """Yield the elements of a Forwarded field, the last one first, none of which is blank."""
    pieces: list[str] = []
    marks = 0
    for piece in reversed(value.split(",")):
        pieces.append(piece)
        marks += _ESCAPE.sub("", piece).count('"')
        if marks % 2 == 0:
            if element := ",".join(reversed(pieces)).strip(" \t"):
                yield element
            pieces.clear()
    if pieces:  # a quotation mark without its partner: no element, as its reader will find
        yield ",".join(reversed(pieces))


def read_element(text: str) -> ForwardedElement | None:
    """Return what one element says, or None if it is none.

    Parameters that RFC 7239 does not have are not looked at. A node that is none counts as
    "unknown".
    """
    told: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            return None
        position = match.end()
        name, value, _ = match.groups()
        if name is None:
            continue
        if name.lower() in told:  # 4: each occurs once
            return None
        told[name.lower()] = _ESCAPE.sub(r"\1", value[1:-1]) if value[0] == '"' else value
    return ForwardedElement(
        _node_or_unknown(told.get("for")),
        _node_or_unknown(told.get("by")),
        told.get("host"),
        told.get("proto"),
    )


@lru_cache(maxsize=1024)
def read_node(text: str) -> Node | None:
    """Return the node that `text` names, or None if that is none."""
    match = _NODE.fullmatch(text)
    if match is None:
        address = ip_of(text) if ":" in text else None
        return None if address is None else Node(address)
    digits = match["port"] or ""
    port = int(digits) if digits.isdecimal() else None
    if port is not None and port > 65535:
        return None
    name = match["bracketed"] or match["plain"]
    address = ip_of(name)
    if address is not None:
        # ::ffff:a.b.c.d in brackets is an IPv4 address by now.
        return Node(address, port) if match["bracketed"] is None or ":" in name else None
    if match["bracketed"] or name[0].isdecimal() or name[0] == ".":
        return None
    return Node(None, port, name)


def _node_or_unknown(text: str | None) -> Node | None:
    return None if text is None else read_node(text) or Node(None, None, "unknown")
