"""An option for each number in `Limits`, made from the class itself.

The name, type, default and range come from the attrs fields, the help text from the docstrings
below them, so that an operator and a reader of the source are told the same.
"""

import math
from collections.abc import Mapping
from typing import Any, get_args

import attrs
import click

from kestrel_core.cli.option_names import option_name, with_option_names
from kestrel_core.cli.sectioned_help import SectionedOption
from kestrel_core.limits import Limits
from kestrel_core.plugin_options import attribute_docstrings

__all__ = ["LimitOption", "limit_options", "limits_from"]

_METAVARS = {"bytes": "BYTES", "seconds": "SECONDS", "second": "BYTES"}


class LimitOption(SectionedOption):
    """An option that sets one number of `Limits`; `kestrel --help` lists these by themselves."""

    section = "Limits"

    def __init__(self, field: "attrs.Attribute[Any]", explanation: str) -> None:
        kinds = get_args(field.type) or (field.type,)
        self._fractional = float in kinds
        self._unlimited = None if type(None) in kinds else math.inf
        self._may_be_unlimited = self._fractional or self._unlimited is None
        default = "none" if field.default in (None, math.inf) else f"{field.default:.15g}"
        super().__init__(
            [option_name(field.name)],
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
    documented = attribute_docstrings(Limits)
    return [LimitOption(field, documented.get(field.name, "")) for field in attrs.fields(Limits)]


def limits_from(values: Mapping[str, Any]) -> Limits:
    """Return the limits that `values`, by field name, make; what else they have is ignored.

    Raises:
        click.UsageError: one of them is out of range, or two do not fit together.
    """
    names = [field.name for field in attrs.fields(Limits)]
    try:
        return Limits(**{name: values[name] for name in names})
    except ValueError as error:
        options = {name: option_name(name) for name in names}
        raise click.UsageError(with_option_names(str(error), options)) from error
