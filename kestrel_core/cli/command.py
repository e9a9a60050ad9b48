"""The command line itself: options, help, and errors as sentences with an exit code."""

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
import trio

from kestrel_core._version import __version__
from kestrel_core.cli.application_import import ApplicationImportError, import_application
from kestrel_core.cli.composition import ComposedServer, compose_server
from kestrel_core.cli.interface import Interface
from kestrel_core.cli.limit_options import LimitOption, limit_options, limits_from
from kestrel_core.cli.logging_setup import configure_logging, reclaim_logging
from kestrel_core.cli.plugin_list import plugin_lines
from kestrel_core.cli.serving import (
    EXIT_CANNOT_START,
    EXIT_WRONG_USAGE,
    ServingFailed,
    serve_until_stopped,
)
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, EndpointError, PluginError
from kestrel_core.registry import PluginKind, Registry

__all__ = ["main"]

# uvicorn's and hypercorn's.
DEFAULT_ENDPOINT = "tcp://127.0.0.1:8000"

# gunicorn's graceful_timeout, and the time that Kubernetes waits before it kills.
DEFAULT_DRAIN_SECONDS = 30.0

_LEVELS = ("critical", "error", "warning", "info", "debug")

_HELP = """Serve an ASGI or WSGI application, or a native handler.

MODULE:ATTRIBUTE names it, as in main:app; an attribute may be dotted. A module alone is asked for
"app", then for "application".

SIGINT and SIGTERM let requests finish, for --drain-seconds at most, and end with exit code 0. A
second signal cuts them.

\b
kestrel plugins    lists the transports, middleware and protocols that are installed
"""

_EPILOG = """
\b
Exit codes: 0 stopped by a signal, 1 failed while serving or stopping,
2 wrong usage, or the application does not import, 3 could not start,
128 and the signal's number after a second signal.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments`, or with the process's own.

    Raises:
        SystemExit: always.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["plugins"]:
        _plugins.main(given[1:], prog_name="kestrel plugins")
    else:
        _serve.main(given, prog_name="kestrel")
    sys.exit(0)


class _ServeCommand(click.Command):
    """Lists the options for limits in a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        general: list[tuple[str, str]] = []
        limits: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                (limits if isinstance(parameter, LimitOption) else general).append(record)
        with formatter.section("Options"):
            formatter.write_dl(general)
        with formatter.section("Limits"):
            formatter.write_dl(limits)


def _parse_endpoints(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[Endpoint, ...]:
    known = Registry().names(PluginKind.TRANSPORT)
    try:
        return tuple(Endpoint.parse(text, known) for text in texts)
    except EndpointError as error:
        raise click.BadParameter(str(error)) from error


def _check_drain_seconds(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if not value >= 0:  # nor a NaN
        raise click.BadParameter(f"{value} is not a number from 0 up")
    return value


def _run(
    application: str,
    listen: tuple[Endpoint, ...],
    interface: str,
    factory: bool,
    app_dir: Path,
    root_path: str,
    drain_seconds: float,
    log_level: str,
    access_log: bool,
    alt_svc: str | None,
    lenient: tuple[str, ...],
    **limit_values: float | None,
) -> None:
    limits = limits_from(limit_values)
    if application == "plugins":
        raise click.UsageError(
            "'plugins' is a command and takes no options; for an application in a module of that"
            " name write plugins:app"
        )
    level = logging.getLevelNamesMapping()[log_level.upper()]
    configure_logging(level)
    try:
        called_as = Interface.of(interface)
        app = import_application(application, folder=app_dir, factory=factory, interface=called_as)
        reclaim_logging(level, access_log=access_log)
        composed = compose_server(
            app,
            listen,
            interface=called_as,
            limits=limits,
            root_path=root_path,
            access_log=access_log,
            alt_svc=alt_svc,
            lenient=lenient,
        )
        exit_code = trio.run(_serve_with_signals, composed, drain_seconds)
    except ApplicationImportError as error:
        _fail(str(error), EXIT_WRONG_USAGE, error.user_traceback)
    except ServingFailed as error:
        _fail(str(error), error.exit_code, error.user_traceback)
    except ConfigurationError as error:
        _fail(str(error), EXIT_WRONG_USAGE)
    except PluginError as error:
        _fail(str(error), EXIT_CANNOT_START)
    sys.exit(exit_code)


def _fail(message: str, exit_code: int, user_traceback: str = "") -> NoReturn:
    """End with a sentence; before it, the traceback of the user's own code if there is one."""
    if user_traceback:
        click.echo(user_traceback, err=True)
    click.echo(f"Error: {message}", err=True)
    sys.exit(exit_code)


async def _serve_with_signals(composed: ComposedServer, drain_seconds: float) -> int:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        return await serve_until_stopped(
            composed.server,
            composed.lifespan,
            signals,
            drain_seconds=drain_seconds,
            lifespan_failure=composed.lifespan_failure,
        )


def _print_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"kestrel {__version__}")
        context.exit()


_serve = _ServeCommand(
    "kestrel",
    callback=_run,
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    params=[
        click.Argument(["application"], metavar="MODULE:ATTRIBUTE"),
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
            ["--interface"],
            type=click.Choice([interface.option for interface in Interface]),
            default=Interface.ASGI.option,
            show_default=True,
            help="How the application is called. A WSGI application is called in threads, a native"
            " handler with an HttpExchange.",
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
            ["--drain-seconds"],
            type=float,
            default=DEFAULT_DRAIN_SECONDS,
            metavar="SECONDS",
            callback=_check_drain_seconds,
            help="How long requests may take to finish after a signal; then they are cut."
            f"  [default: {DEFAULT_DRAIN_SECONDS:g}]",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(_LEVELS, case_sensitive=False),
            default="info",
            show_default=True,
            help="What is logged, by the server and by the application.",
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
        *limit_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        ),
    ],
)


@click.command(help="List the plug-ins that are installed, and why broken ones do not load.")
def _plugins() -> None:
    for line in plugin_lines(Registry().describe()):
        click.echo(line)
