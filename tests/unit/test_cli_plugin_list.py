from enum import Enum

import attrs
import click

from kestrel_core.cli.plugin_list import plugin_details, plugin_lines
from kestrel_core.registry import PluginInfo, PluginKind, Registry


def test_plugins_are_a_table_and_broken_ones_say_why() -> None:
    plugins = [
        PluginInfo(PluginKind.TRANSPORT, "tcp", "tcp:Tcp", "trio-kestrel", "1.0", None),
        PluginInfo(PluginKind.PROTOCOL, "smoke", "signal:Smoke", "x", "20.1", "no matches"),
    ]
    assert list(plugin_lines(plugins)) == [
        "KIND       NAME   TARGET        DISTRIBUTION  VERSION",
        "transport  tcp    tcp:Tcp       trio-kestrel  1.0",
        "protocol   smoke  signal:Smoke  x             20.1",
        "    broken: no matches",
    ]


def test_without_plugins_there_is_still_a_heading() -> None:
    assert list(plugin_lines([])) == ["KIND  NAME  TARGET  DISTRIBUTION  VERSION"]


class Policy(Enum):
    WAIT = "wait"
    REFUSE = "refuse"


@attrs.define(kw_only=True)
class Door:
    """Lets in whom `it` likes,
    and nobody else.

    More of that.
    """

    most: int
    """How many."""

    policy: Policy = Policy.WAIT
    """What the rest gets."""

    label: str = ""

    sizes: tuple[int, ...] = (1, 2)


@attrs.define
class Wrap:
    """Wraps."""

    app: object
    level: int = 5


class Bare:
    pass


def details(kind: PluginKind, name: str, plugin: object, error: str | None = None) -> str:
    registry = Registry()
    registry.register(kind, name, plugin)
    info = PluginInfo(kind, name, "target:X", "x", "1", error)
    return plugin_details(registry, info, click.HelpFormatter(width=80))


def test_the_options_of_a_middleware() -> None:
    assert details(PluginKind.MIDDLEWARE, "door", Door) == (
        "middleware door\n"
        "  Lets in whom it likes, and nobody else.\n"
        "\n"
        "  most=COUNT          How many.  [mandatory]\n"
        "  policy=wait|refuse  What the rest gets.  [default: wait]\n"
        "  label=TEXT\n"
        "  sizes=COUNT         [may be repeated; default: 1 2]\n"
    )


def test_what_the_program_gives_is_no_option() -> None:
    assert details(PluginKind.ASGI_MIDDLEWARE, "wrap", Wrap) == (
        "ASGI middleware wrap\n  Wraps.\n\n  level=COUNT  [default: 5]\n"
    )


def test_a_plugin_without_options_or_documentation() -> None:
    assert details(PluginKind.PROTOCOL, "bare", Bare) == (
        "protocol bare\n  It has no documentation.\n"
    )


def test_a_broken_plugin_says_why() -> None:
    told = details(PluginKind.MIDDLEWARE, "door", Door, "no hinges")
    assert told == "middleware door\n  broken: no hinges\n"
