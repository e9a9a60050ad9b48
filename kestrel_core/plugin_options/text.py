"""A plug-in and its options as one text, such as "idle:seconds=60,log=true"."""

import re
from collections.abc import Iterator

import attrs

from kestrel_core.errors import ConfigurationError

__all__ = ["PluginText"]

# A name, or module:attribute. After a name of the first kind comes a key with its "=", so a second
# word without one belongs to the name.
_NAME = re.compile(r"[^:,=\\]+(?::[^\W\d][\w.]*(?=:|\Z))?")

_SPECIAL = re.compile(r"[\\,=]")


@attrs.frozen
class PluginText:
    """The name of a plug-in, and its options as keys and values, in the order given.

    Written NAME or NAME:key=value,key=value, where NAME may be module:attribute, and a backslash
    takes the meaning from a following comma, equals sign or backslash. `str` writes it so.
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()
    written: str | None = attrs.field(default=None, eq=False, repr=False)
    """What it was read from."""

    @classmethod
    def parse(cls, text: str) -> "PluginText":
        """Read what `str` writes.

        Raises:
            ConfigurationError: the text has another form.
        """
        match = _NAME.match(text)
        if match is None:
            raise ConfigurationError(f"bad plug-in {text!r}: it does not begin with a name")
        rest = text[match.end() :]
        if rest and not rest.startswith(":"):
            raise ConfigurationError(
                f"bad plug-in {text!r}: between the name and its options stands a colon"
            )
        return cls(match[0], tuple(_options(text, rest[1:])) if rest[1:] else (), text)

    def __str__(self) -> str:
        if self.written is not None:
            return self.written
        options = ",".join(f"{_quote(key)}={_quote(value)}" for key, value in self.options)
        return f"{self.name}:{options}" if options else self.name


def _quote(part: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", part)


def _options(whole: str, text: str) -> Iterator[tuple[str, str]]:
    for option in _split(whole, text):
        key, *value = option
        if not key or not value:
            raise ConfigurationError(
                f"bad plug-in {whole!r}: an option is written key=value, and a comma stands between"
                " two; a comma within a value is written \\,"
            )
        yield key, "=".join(value)


def _split(whole: str, text: str) -> Iterator[list[str]]:
    """Yield each option as what its equals signs part."""
    parts = [""]
    characters = iter(text)
    for character in characters:
        match character:
            case "\\":
                escaped = next(characters, "")
                if not _SPECIAL.match(escaped):
                    raise ConfigurationError(
                        f"bad plug-in {whole!r}: a backslash stands before a comma, an equals sign"
                        f" or a backslash, not before {escaped or 'the end'}"
                    )
                parts[-1] += escaped
            case ",":
                yield parts
                parts = [""]
            case "=":
                parts.append("")
            case _:
                parts[-1] += character
    yield parts
