import math
from pathlib import Path

import attrs
import click
import pytest

from kestrel_core.cli.limit_options import limit_options, limits_from
from kestrel_core.limits import Limits

FIELDS = [field.name for field in attrs.fields(Limits)]


def parse(*arguments: str) -> Limits:
    """Read a command line that has only these options."""
    made: list[Limits] = []
    command = click.Command(
        "serve",
        params=list(limit_options()),
        callback=lambda **values: made.append(limits_from(values)),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # click's callbacks are untyped
    )
    command.main(list(arguments), standalone_mode=False)
    [limits] = made
    return limits


def refused(*arguments: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        parse(*arguments)
    return caught.value.format_message()


def test_each_limit_has_an_option_with_help_and_its_default() -> None:
    assert [option.name for option in limit_options()] == FIELDS
    for option in limit_options():
        assert option.help is not None
        explanation, _, default = option.help.partition("  [default: ")
        assert explanation.endswith(".")
        assert default


def test_the_documentation_has_the_defaults() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "command-line.md").read_text()
    for option in limit_options():
        default = str(option.help).partition("  [default: ")[2].rstrip("]")
        assert f"| `{option.opts[0]} {option.metavar}` | {default} |" in page


def test_without_options_the_limits_are_the_defaults() -> None:
    assert parse() == Limits()


def test_a_count_a_time_and_none() -> None:
    limits = parse(
        "--max-connections=50",
        "--max-request-body-bytes=none",
        "--keep-alive-seconds=0.5",
        "--request-headers-seconds=none",
        "--max-request-header-count=1_000",
    )
    assert limits == Limits(
        max_connections=50,
        max_request_body_bytes=None,
        keep_alive_seconds=0.5,
        request_headers_seconds=math.inf,
        max_request_header_count=1000,
    )


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--max-connections=few", "'few' is not a whole number, nor none for unlimited"),
        ("--max-request-line-bytes=none", "'none' is not a whole number"),
        ("--max-request-line-bytes=1.5", "'1.5' is not a whole number"),
        ("--keep-alive-seconds=1m", "'1m' is not a number, nor none for unlimited"),
        ("--max-connections=0", "--max-connections must be above zero, not 0"),
        ("--keep-alive-seconds=nan", "--keep-alive-seconds must be above zero, not nan"),
    ],
)
def test_what_is_no_number_or_out_of_range(argument: str, told: str) -> None:
    assert refused(argument).endswith(told)


def test_limits_that_do_not_fit_together_are_told_by_their_options() -> None:
    assert refused("--max-request-buffer-bytes=1024") == (
        "--max-request-buffer-bytes must be at least --max-request-line-bytes and"
        " --max-request-headers-bytes, 32768, not 1024"
    )
