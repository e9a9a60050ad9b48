"""Makes a plug-in from its class and its options."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from kestrel_core.errors import ConfigurationError, PluginError
from kestrel_core.plugin_options.option import PluginOption, options_of
from kestrel_core.plugin_options.text import PluginText

__all__ = ["plugin_from_text", "plugin_from_values"]


def plugin_from_text(
    plugin: Callable[..., object], text: PluginText, *first: object, noun: str = "plug-in"
) -> object:
    """Call `plugin` with `first` and with the options that `text` has.

    An option that is repeated makes a sequence longer. The name in `text` is not looked at. An
    error calls the text a bad `noun`.

    Raises:
        ConfigurationError: an option is unknown or missing, or has a value that it may not have.
        PluginError: the annotations of `plugin` cannot be resolved.
    """
    grouped: dict[str, list[str]] = {}
    for key, value in text.options:
        grouped.setdefault(key.replace("-", "_"), []).append(value)
    making = _Making(plugin, text.name, f"bad {noun} {str(text)!r}: ", first)
    return making.make(
        {name: partial(making.read, texts) for name, texts in grouped.items()},
    )


def plugin_from_values(
    plugin: Callable[..., object], name: str, values: Mapping[str, object], *first: object
) -> object:
    """Call `plugin`, which is called `name`, with `first` and with `values` by option.

    A value is what the option's type says, a number for a number and a list for a sequence; or
    text, which is read as that of a command line is.

    Raises:
        ConfigurationError, PluginError: as `plugin_from_text` does.
    """
    making = _Making(plugin, name, "", first)
    return making.make(
        {key.replace("-", "_"): partial(making.accept, value) for key, value in values.items()}
    )


class _Making:
    """A plug-in on the way to being made, and how its errors begin."""

    def __init__(
        self, plugin: Callable[..., object], name: str, quote: str, first: Sequence[object]
    ) -> None:
        self._plugin = plugin
        self._name = name
        self._quote = quote
        self._first = first
        self._options = {each.parameter: each for each in options_of(plugin, given=len(first))}

    def make(self, given: Mapping[str, Callable[[PluginOption], object]]) -> object:
        """Return the plug-in; `given` tells each option's value."""
        arguments: dict[str, object] = {}
        for name, tell in given.items():
            option = self._options.get(name)
            if option is None:
                raise self._error(f"has no option {name!r}; {self._known()}")
            try:
                arguments[name] = tell(option)
            except ValueError as error:
                raise self._error(f"cannot have that {option.key}: {error}") from error
        missing = [
            each.key
            for each in self._options.values()
            if each.is_mandatory and each.parameter not in arguments
        ]
        if missing:
            raise self._error(f"needs the option {' and the option '.join(missing)}")
        try:
            return self._plugin(*self._first, **arguments)
        except PluginError:  # as of a library that is not installed
            raise
        except (ValueError, TypeError, OSError) as error:
            raise self._refused(arguments, error) from error

    def read(self, texts: Sequence[str], option: PluginOption) -> object:
        """Return the value that `texts` give to `option`."""
        if not option.takes_text:
            raise ValueError("it cannot be written as text")
        return option.value_type.read(texts)

    def accept(self, value: object, option: PluginOption) -> object:
        """Return the value that `value` gives to `option`."""
        return option.value_type.accept(value)

    def _refused(self, arguments: Mapping[str, object], error: Exception) -> ConfigurationError:
        """Tell of what the class itself raised, and of which option if its converter did."""
        for name, value in arguments.items():
            converter = self._options[name].converter
            # One that wants the instance, too, an `attrs.Converter`, cannot be asked.
            if converter is not None and not hasattr(converter, "takes_self"):
                try:
                    converter(value)
                except (ValueError, TypeError, OSError) as fault:
                    key = self._options[name].key
                    return self._error(f"cannot have that {key}: {_sentence(fault)}")
        return ConfigurationError(f"{self._quote}{self._name}: {_sentence(error)}")

    def _known(self) -> str:
        keys = [each.key for each in self._options.values() if each.takes_text]
        return f"its options: {', '.join(keys)}" if keys else "it has no options"

    def _error(self, fault: str) -> ConfigurationError:
        return ConfigurationError(f"{self._quote}{self._name} {fault}")


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
