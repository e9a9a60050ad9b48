"""An option for each number in `Limits`, made from the class itself.

The name, type, default and range come from the attrs fields, the help text from the docstrings
below them, so that an operator and a reader of the source are told the same.
"""

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Mapping
from typing import Any, get_args

import attrs
import click

from kestrel_core.limits import Limits

__all__ = ["LimitOption", "limit_options", "limits_from"]

_METAVARS = {"bytes": "BYTES", "seconds": "SECONDS", "second": "BYTES"}


class LimitOption(click.Option):
    """An option that sets one number of `Limits`; `kestrel --help` lists these by themselves."""

    def __init__(self, field: "attrs.Attribute[Any]", explanation: str) -> None:
        kinds = get_args(field.type) or (field.type,)
        self._fractional = float in kinds
        self._unlimited = None if type(None) in kinds else math.inf
        self._may_be_unlimited = self._fractional or self._unlimited is None
        default = "none" if field.default in (None, math.inf) else f"{field.default:.15g}"
        super().__init__(
            [_option_name(field.name)],
            type=str,
            default=default,
            metavar=_METAVARS.get(field.name.rpartition("_")[2], "COUNT"),
            help=f"{explanation}  [default: {default}]",
            callback=self._number,
        )

    def _number(
        self, _context: click.Context, _option: click.Parameter, text: str
    ) -> float | int | None:
        if text.lower() == "none" and self._may_be_unlimited:
            return self._unlimited
        try:
            return float(text) if self._fractional else int(text)
        except ValueError:
            kind = "a number" if self._fractional else "a whole number"
            also = ", nor none for unlimited" if self._may_be_unlimited else ""
            raise click.BadParameter(f"{text!r} is not {kind}{also}") from None


def limit_options() -> list[LimitOption]:
    """Return an option for each field of `Limits`, in their order."""
    documented = _attribute_docstrings(Limits)
    return [LimitOption(field, documented.get(field.name, "")) for field in attrs.fields(Limits)]


def limits_from(values: Mapping[str, Any]) -> Limits:
    """Return the limits that `values`, by field name, make.

    Raises:
        click.UsageError: one of them is out of range, or two do not fit together.
    """
    try:
        return Limits(**values)
    except ValueError as error:
        names = "|".join(rf"\b{field.name}\b" for field in attrs.fields(Limits))
        told = re.sub(names, lambda match: _option_name(match[0]), str(error))
        raise click.UsageError(told) from error


def _option_name(field_name: str) -> str:
    return f"--{field_name.replace('_', '-')}"


def _attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the string literals below the attributes of a class, each as one line.

    Python throws them away, so they are read from the source; without source there are none.
    """
    try:
        source = inspect.getsource(kind)
    except OSError:
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.replace("`", "").split())
            case _:
                pass
    return found
