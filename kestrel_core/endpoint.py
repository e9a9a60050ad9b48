"""An address to bind or to connect to: a value, without any I/O."""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from urllib.parse import unquote

import attrs

from kestrel_core.errors import EndpointError

__all__ = ["Endpoint"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>[^:]*)")


def _frozen_options(options: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(options))


@attrs.frozen
class Endpoint:
    """A scheme, an address in that scheme's own form, and options.

    `tcp://127.0.0.1:8000?backlog=512` has the scheme "tcp", the address "127.0.0.1:8000" and one
    option. What an address means is its transport's business; `host_and_port()` serves those that
    have one of each.
    """

    scheme: str
    address: str
    options: Mapping[str, str] = attrs.field(
        factory=dict[str, str], converter=_frozen_options, hash=False
    )

    @classmethod
    def parse(cls, text: str, schemes: Collection[str] = ()) -> "Endpoint":
        """Read `scheme://address?name=value&name=value`; percent-escapes are decoded.

        If `schemes` is given, only those are known.

        Raises:
            EndpointError: it is not of that form, or the scheme is not known.
        """
        known = f"; known schemes: {', '.join(sorted(schemes))}" if schemes else ""
        scheme = _SCHEME.match(text)
        if scheme is None:
            raise EndpointError(text, f"it does not start with a scheme and ://{known}", 0)
        if schemes and scheme.group().lower() not in schemes:
            raise EndpointError(text, f"nothing provides the scheme {scheme.group()!r}{known}", 0)
        start = scheme.end() + len("://")
        mark = text.find("?", start)
        end = len(text) if mark < 0 else mark
        if end == start:
            raise EndpointError(text, "there is no address after ://", start)
        options: dict[str, str] = {}
        position = end + 1
        for option in text[position:].split("&") if mark >= 0 else ():
            name, equals, value = option.partition("=")
            if not name or not equals:
                raise EndpointError(text, "an option is written name=value", position)
            if unquote(name) in options:
                raise EndpointError(text, f"the option {name!r} is given twice", position)
            options[unquote(name)] = unquote(value)
            position += len(option) + 1
        return cls(scheme.group().lower(), unquote(text[start:end]), options)

    def host_and_port(self) -> tuple[str, int]:
        """Return the address as a host, without brackets, and a port from 0 to 65535.

        Raises:
            EndpointError: it is not of the form host:port or [host]:port.
        """
        match = _HOST_AND_PORT.fullmatch(self.address)
        if match is None:
            raise self.error("the address is written host:port, an IPv6 host in [brackets]")
        host, port = match["host"], match["port"]
        if not host or host == "[]":
            raise self.error("the host is missing; write * for every address")
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise self.error(f"the port {port!r} is not a number from 0 to 65535")
        return host.strip("[]"), int(port)

    def option_names_within(self, known: Collection[str]) -> None:
        """Check that every option is among `known`.

        Raises:
            EndpointError: one is not; the text lists those that are.
        """
        for name in self.options:
            if name not in known:
                raise self.error(
                    f"{self.scheme} has no option {name!r}; its options: {', '.join(sorted(known))}"
                )

    def integer_option(self, name: str, default: int, *, base: int = 10) -> int:
        """Return the option as a number that is not negative, written in `base`.

        Raises:
            EndpointError: it is not one.
        """
        text = self.options.get(name)
        if text is None:
            return default
        try:
            number = int(text, base)
        except ValueError:
            number = -1
        if number < 0:
            raise self.error(f"the option {name}={text} is not a number")
        return number

    def boolean_option(self, name: str, default: bool) -> bool:
        """Return the option, written true or false, yes or no, 1 or 0.

        Raises:
            EndpointError: it is written otherwise.
        """
        text = self.options.get(name)
        if text is None:
            return default
        if text.lower() in ("true", "yes", "1"):
            return True
        if text.lower() in ("false", "no", "0"):
            return False
        raise self.error(f"the option {name}={text} is not true or false")

    def error(self, fault: str) -> EndpointError:
        """Return the error that tells of `fault` in this endpoint."""
        return EndpointError(str(self), fault)

    def __str__(self) -> str:
        options = "&".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.scheme}://{self.address}{'?' if options else ''}{options}"
