"""The options of `kestrel MODULE:ATTRIBUTE`, but for those that have modules of their own."""

from pathlib import Path

import click

from kestrel_core._version import __version__
from kestrel_core.cli.connection_options import connection_options
from kestrel_core.cli.limit_options import limit_options
from kestrel_core.cli.tls_options import tls_options
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import EndpointError
from kestrel_core.interface import Interface
from kestrel_core.registry import PluginKind, Registry

__all__ = ["serve_options"]

# uvicorn's and hypercorn's.
DEFAULT_ENDPOINT = "tcp://127.0.0.1:8000"

# gunicorn's graceful_timeout, and the time that Kubernetes waits before it kills.
DEFAULT_DRAIN_SECONDS = 30.0

_LEVELS = ("critical", "error", "warning", "info", "debug")


def _parse_endpoints(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[Endpoint, ...]:
    known = Registry().names(PluginKind.TRANSPORT)
    try:
        return tuple(Endpoint.parse(text, known) for text in texts)
    except EndpointError as error:
        raise click.BadParameter(str(error)) from error


def _check_seconds(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if not value >= 0:  # nor a NaN
        raise click.BadParameter(f"{value} is not a number from 0 up")
    return value


def _print_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"kestrel {__version__}")
        context.exit()


def serve_options() -> list[click.Option]:
    """Return the options, in the order in which the help has them."""
    return [
        click.Option(
            ["--listen"],
            multiple=True,
            metavar="URL",
            callback=_parse_endpoints,
            default=(DEFAULT_ENDPOINT,),
            show_default=True,
            help="Where to listen, such as tcp://127.0.0.1:8000, tcp://localhost:8000 (both"
            " families), tcp://*:8000 (every address) or unix:///run/app.sock; may be repeated.",
        ),
        click.Option(
            ["--insecure-listen"],
            multiple=True,
            metavar="URL",
            callback=_parse_endpoints,
            help="Where to listen without TLS, if --listen is with TLS; may be repeated.",
        ),
        click.Option(
            ["--interface"],
            type=click.Choice([interface.option for interface in Interface]),
            default=Interface.ASGI.option,
            show_default=True,
            metavar="NAME",
            help="How the application is called: asgi, wsgi (in threads) or native (with an"
            " HttpExchange).",
        ),
        click.Option(
            ["--factory"],
            is_flag=True,
            help="What MODULE:ATTRIBUTE names is a function that returns the application.",
        ),
        click.Option(
            ["--app-dir"],
            type=click.Path(path_type=Path),
            default=Path(),
            metavar="FOLDER",
            help="Where modules are looked for first.  [default: the current folder]",
        ),
        click.Option(
            ["--root-path"],
            default="",
            metavar="PATH",
            help="The path that a proxy in front has taken off, for the application to know.",
        ),
        click.Option(
            ["--not-ready-seconds"],
            type=float,
            default=0.0,
            metavar="SECONDS",
            callback=_check_seconds,
            help="How long to go on accepting after a signal while health checks say not ready, so"
            " that load balancers look elsewhere.  [default: 0]",
        ),
        click.Option(
            ["--drain-seconds"],
            type=float,
            default=DEFAULT_DRAIN_SECONDS,
            metavar="SECONDS",
            callback=_check_seconds,
            help="How long requests may take to finish after that; then they are cut."
            f"  [default: {DEFAULT_DRAIN_SECONDS:g}]",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(_LEVELS, case_sensitive=False),
            default="info",
            show_default=True,
            metavar="LEVEL",
            help=f"What is logged, by the server and by the application: {', '.join(_LEVELS)}.",
        ),
        click.Option(
            ["--access-log/--no-access-log"],
            default=False,
            help="Log a line for each request.  [default: no-access-log]",
        ),
        click.Option(
            ["--alt-svc"],
            metavar="VALUE",
            help="Where else the application is served, as the field Alt-Svc says it, such as"
            ' h3=":443"; ma=86400.',
        ),
        click.Option(
            ["--lenient"],
            multiple=True,
            metavar="FAULT",
            help="A fault of requests to tolerate, such as bare-line-feed; may be repeated.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        ),
        *connection_options(),
        *tls_options(),
        *limit_options(),
    ]
