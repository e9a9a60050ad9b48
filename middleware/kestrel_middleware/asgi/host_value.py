"""The value of a Host field (RFC 9110, 7.2), of X-Forwarded-Host, and of `host` in Forwarded."""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

import attrs

__all__ = ["HostValue", "read_host"]

# RFC 3986 lets a registered name have more characters. No domain name has them, and a value that is
# put into a URL is safe without them. The underscore is in names of containers.
_LABEL = "[A-Za-z0-9_-]{1,63}"
_HOST = re.compile(
    rf"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{{2,45}})\]|(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?)"
    r"(?::(?P<port>\d{0,5}))?",
    re.ASCII,
)


@attrs.frozen
class HostValue:
    """A host and its port, if it has one."""

    name: str
    """In lower case and without a final dot; an IPv6 address in its short form, without brackets."""

    port: int | None = None

    @property
    def bracketed(self) -> str:
        """The name as a URL has it."""
        return f"[{self.name}]" if ":" in self.name else self.name

    def __str__(self) -> str:
        return self.bracketed if self.port is None else f"{self.bracketed}:{self.port}"


@lru_cache(maxsize=1024)
def read_host(value: bytes | str) -> HostValue | None:
    """Return what `value` says, or None if that is no host."""
    match = _HOST.fullmatch(value if isinstance(value, str) else value.decode("latin-1"))
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > 65535:
        return None
    if match["name"]:
        return HostValue(match["name"].lower(), port)
    try:
        return HostValue(str(IPv6Address(match["ipv6"])), port)
    except AddressValueError:
        return None
