"""What the value of an option may be, read from its annotation, and how text becomes one."""

import types
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

import attrs

__all__ = ["ValueType"]

_NOTHING = "none"
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_NOUNS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}
_METAVARS: dict[object, str] = {
    bool: "true|false",
    int: "COUNT",
    float: "NUMBER",
    str: "TEXT",
    Path: "PATH",
}

# What a sequence is made with, by the origin of its annotation.
_CONTAINERS: dict[object, Callable[[Iterable[object]], object]] = {
    tuple: tuple,
    list: list,
    frozenset: frozenset,
    set: set,
    Sequence: tuple,
    Collection: tuple,
    Iterable: tuple,
}


@attrs.frozen
class ValueType:
    """The types that text can become, and whether None and several values are allowed.

    Of several types the first that the text fits is taken. Without any, the text stays as it is,
    for the converter of its attrs field.
    """

    kinds: tuple[type, ...]
    """Of bool, int, float, str, Path and Enums, those that the annotation has."""

    is_open: bool
    """Whether the annotation has other types, too."""

    may_be_none: bool = False

    container: Callable[[Iterable[object]], object] | None = None
    """What makes the sequence, if it is one; the rest goes for its elements then."""

    @classmethod
    def of(cls, annotation: object) -> "ValueType":
        """Return what `annotation` allows, a type that was resolved; of `Any`, text."""
        members = _members(annotation)
        may_be_none = type(None) in members
        rest = [member for member in members if member is not type(None)]
        if len(rest) == 1:
            container, element = _sequence(rest[0])
            kinds, is_open = _kinds(_members(element))
            if container is not None and kinds:
                return cls(kinds, is_open, may_be_none, container)
        kinds, is_open = _kinds(rest)
        return cls(kinds, is_open, may_be_none)

    def read(self, texts: Sequence[str]) -> object:
        """Return what `texts`, one for each time that the option was given, say.

        Raises:
            ValueError: they say nothing that is allowed; the text says what is.
        """
        if len(texts) == 1 and texts[0].lower() == _NOTHING and self._says_none:
            return None
        if self.container is not None:
            return self.container([self._read(text) for text in texts])
        if not self.kinds:
            return texts[0] if len(texts) == 1 else list(texts)
        if len(texts) > 1:
            raise ValueError("may be given once")
        return self._read(texts[0])

    def accept(self, value: object) -> object:
        """Return what a ready `value` stands for; text is read where it is not the value itself.

        Raises:
            ValueError: it is nothing that is allowed.
        """
        if value is None and self.may_be_none:
            return None
        if isinstance(value, str) and str not in self.kinds:
            return self.read([value])
        if self.container is None:
            return self._accept(value)
        several = isinstance(value, (list, tuple, set, frozenset))
        elements = cast(Collection[object], value) if several else [value]
        return self.container([self._accept(element) for element in elements])

    @property
    def metavar(self) -> str:
        """What stands for a value in a help text, such as "COUNT|none"."""
        names = [
            "|".join(member_names(kind)) if issubclass(kind, Enum) else _METAVARS[kind]
            for kind in self.kinds
        ]
        return "|".join([*(names or ["TEXT"]), *([_NOTHING] if self._says_none else [])])

    @property
    def _says_none(self) -> bool:
        """Whether the word stands for None, and not for a member of an Enum."""
        return self.may_be_none and not any(
            issubclass(kind, Enum) and _NOTHING in member_names(kind) for kind in self.kinds
        )

    def _read(self, text: str) -> object:
        for kind in self.kinds:
            try:
                return _read(kind, text)
            except ValueError:
                continue
        raise self._refusal(text)

    def _accept(self, value: object) -> object:
        if isinstance(value, str) and self.kinds:
            return self._read(value)
        if isinstance(value, self.kinds) and (not isinstance(value, bool) or bool in self.kinds):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and float in self.kinds:
            return float(value)
        if self.is_open:
            return value
        raise self._refusal(value)

    def _refusal(self, value: object) -> ValueError:
        nouns = [
            f"one of {', '.join(member_names(kind))}" if issubclass(kind, Enum) else _NOUNS[kind]
            for kind in self.kinds
        ]
        also = f", nor {_NOTHING}" if self._says_none else ""
        return ValueError(f"{value!r} is not {' or '.join(nouns)}{also}")


def member_names(kind: type[Enum]) -> list[str]:
    """Return what the members of `kind` are called in text: their values, or their names."""
    return [
        (member.value if isinstance(member.value, str) else member.name.lower()).replace("_", "-")
        for member in kind
    ]


def _members(annotation: object) -> list[object]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return list(get_args(annotation)) if is_union else [annotation]


def _sequence(
    annotation: object,
) -> tuple[Callable[[Iterable[object]], object] | None, object]:
    """Return what makes the sequence that `annotation` is, or None, and what its elements are."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and arguments[1:] != (...,):
        return None, None
    return _CONTAINERS.get(origin), arguments[0] if arguments else None


def _kinds(members: Iterable[object]) -> tuple[tuple[type, ...], bool]:
    """Return those of `members` that text can become, and whether there are others."""
    kinds: list[type] = []
    is_open = False
    for member in members:
        if isinstance(member, type) and (member in _NOUNS or issubclass(member, Enum)):
            kinds.append(member)
        else:
            is_open = True
            if member is Any:
                kinds.append(str)
    return tuple(kinds), is_open


def _read(kind: type, text: str) -> object:
    if issubclass(kind, Enum):
        return _read_member(kind, text)
    if kind is bool:
        if text.lower() not in _TRUTHS:
            raise ValueError(text)
        return _TRUTHS[text.lower()]
    return cast(Callable[[str], object], kind)(text)


def _read_member(kind: type[Enum], text: str) -> Enum:
    wanted = _plain(text)
    for member in kind:
        if _plain(str(member.value)) == wanted:
            return member
    for member in kind:
        if _plain(member.name) == wanted:
            return member
    raise ValueError(text)


def _plain(text: str) -> str:
    return text.lower().replace("-", "_")
