"""One option of a plug-in, and all that a class has."""

import inspect
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, cast, get_type_hints

import attrs

from kestrel_core.errors import PluginError
from kestrel_core.plugin_options.docstrings import attribute_docstrings
from kestrel_core.plugin_options.value_type import ValueType, member_names

__all__ = ["PluginOption", "options_of"]

_Factory: Any = attrs.Factory  # a class, though typed as a function


@attrs.frozen
class PluginOption:
    """An option: a parameter of the plug-in's class."""

    parameter: str
    """The name of the parameter."""

    value_type: ValueType

    is_mandatory: bool
    """Whether it has to be given."""

    default_text: str = ""
    """The default as one would write it, or "" if there is none or it cannot be told."""

    explanation: str = ""
    """The docstring of its attrs field, in one line."""

    converter: Callable[[Any], object] | None = None
    """That of its attrs field."""

    @property
    def key(self) -> str:
        """What it is called in text: its name with dashes; underscores are understood, too."""
        return self.parameter.replace("_", "-")

    @property
    def takes_text(self) -> bool:
        """Whether text can become its value; else it is for programs alone."""
        return bool(self.value_type.kinds) or self.converter is not None


def options_of(plugin: Callable[..., object], *, given: int = 0) -> list[PluginOption]:
    """Return the options of `plugin`, an attrs class, another class or a function.

    Its first `given` parameters are no options: the caller gives them.

    Raises:
        PluginError: its annotations cannot be resolved.
    """
    try:
        if isinstance(plugin, type) and attrs.has(plugin):
            options = list(_of_fields(plugin))
        else:
            options = list(_of_parameters(plugin))
    except NameError as error:
        raise PluginError(f"the options of {plugin!r} cannot be told: {error}") from error
    return options[given:]


def _of_fields(kind: type) -> Iterator[PluginOption]:
    documented = attribute_docstrings(kind)
    hints = get_type_hints(kind)
    # Mandatory fields of keyword-only bases may come after those that have a place.
    fields = sorted((field for field in attrs.fields(kind) if field.init), key=_is_keyword_only)
    for field in fields:
        yield PluginOption(
            field.alias or field.name,
            ValueType.of(hints.get(field.name, field.type or Any)),
            field.default is attrs.NOTHING,
            _default_text(field.default),
            documented.get(field.name, ""),
            field.converter,
        )


def _is_keyword_only(field: "attrs.Attribute[Any]") -> bool:
    return field.kw_only


def _default_text(default: Any) -> str:  # noqa: ANN401  # attrs has no better type
    if isinstance(default, _Factory):
        return "" if default.takes_self else _as_text(default.factory())
    return "" if default is attrs.NOTHING else _as_text(default)


def _of_parameters(plugin: Callable[..., object]) -> Iterator[PluginOption]:
    signature = inspect.signature(plugin)
    hints = get_type_hints(getattr(plugin, "__init__") if isinstance(plugin, type) else plugin)  # noqa: B009
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        is_mandatory = parameter.default is parameter.empty
        yield PluginOption(
            parameter.name,
            ValueType.of(hints.get(parameter.name, Any)),
            is_mandatory,
            "" if is_mandatory else _as_text(parameter.default),
        )


def _as_text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case Enum():
            return member_names(type(value))[list(type(value)).index(value)]
        case float():
            return f"{value:.15g}"
        case tuple() | list() | frozenset():
            return " ".join(map(_as_text, cast(Collection[object], value)))
        case str() | int() | Path():
            return str(value)
        case _:
            return ""
