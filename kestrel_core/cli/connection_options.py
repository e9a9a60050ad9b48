"""The options for what stands between a connection's bytes and the application."""

import click

from kestrel_core.application import HTTP1
from kestrel_core.cli.sectioned_help import SectionedOption
from kestrel_core.errors import ConfigurationError
from kestrel_core.plugin_options import PluginText

__all__ = ["DETECT", "connection_options", "parse_plugins"]

"""The protocol that serves the application."""

DETECT = "detect"
"""What chooses among protocols: named like a middleware, but nothing can stand inside of it."""


def parse_plugins(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[PluginText, ...]:
    """Read what an option has that names plug-ins, as a callback of click."""
    try:
        return tuple(PluginText.parse(text) for text in texts)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


class _ConnectionOption(SectionedOption):
    section = "Middleware and protocols"


def connection_options() -> list[SectionedOption]:
    """Return the options, each a tuple of `PluginText`."""
    return [
        _ConnectionOption(
            ["--middleware"],
            multiple=True,
            metavar="TEXT",
            callback=parse_plugins,
            help="A middleware for the connections of every --listen, as NAME or"
            " NAME:key=value,key=value; may be repeated, the first is the outermost. `kestrel"
            " plugins NAME` lists its keys. NAME may be module:attribute.",
        ),
        _ConnectionOption(
            ["--asgi-middleware"],
            multiple=True,
            metavar="TEXT",
            callback=parse_plugins,
            help="A middleware for the requests to an ASGI application, written likewise; may be"
            " repeated, the first is the outermost.",
        ),
        _ConnectionOption(
            ["--protocol"],
            multiple=True,
            metavar="TEXT",
            callback=parse_plugins,
            default=(HTTP1,),
            show_default=True,
            help="A protocol to speak, written likewise; may be repeated. Of several, that is"
            " spoken which a client begins with.",
        ),
    ]
