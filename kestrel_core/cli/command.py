"""The command line itself: help, and errors as sentences with an exit code."""

import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import click
import trio

from kestrel_core.application import HTTP1
from kestrel_core.cli.application_import import (
    ApplicationImportError,
    import_application,
    look_first_in,
)
from kestrel_core.cli.composition import ComposedServer, HttpSettings, compose_server
from kestrel_core.cli.connection_stack import make_stack, self_signed_for
from kestrel_core.cli.limit_options import limits_from
from kestrel_core.cli.logging_setup import configure_logging, reclaim_logging
from kestrel_core.cli.option_names import option_name
from kestrel_core.cli.plugin_list import plugin_details, plugin_lines
from kestrel_core.cli.sectioned_help import SectionedCommand
from kestrel_core.cli.serve_options import serve_options
from kestrel_core.cli.serving import (
    EXIT_CANNOT_START,
    EXIT_WRONG_USAGE,
    ServingFailed,
    serve_until_stopped,
)
from kestrel_core.cli.tls_options import TlsRequest, tls_request_from
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, PluginError
from kestrel_core.interface import Interface
from kestrel_core.limits import Limits
from kestrel_core.plugin_options import PluginText
from kestrel_core.registry import Registry

__all__ = ["main"]

_log = logging.getLogger("kestrel.cli")

_HELP = """Serve an ASGI or WSGI application, or a native handler.

MODULE:ATTRIBUTE names it, as in main:app; an attribute may be dotted. A module alone is asked for
"app", then for "application".

SIGINT and SIGTERM let requests finish, for --drain-seconds at most, and end with exit code 0. A
second signal cuts them.

\b
kestrel plugins         lists the transports, middleware and protocols that are installed
kestrel plugins NAME    tells the options of one
"""

_EPILOG = """
\b
Exit codes: 0 stopped by a signal, 1 failed while serving or stopping,
2 wrong usage, or the application does not import, 3 could not start,
128 and the signal's number after a second signal.
"""

# What is about HTTP and its application, and means nothing where HTTP is not spoken.
_OF_HTTP = (
    "application",
    "interface",
    "factory",
    "root_path",
    "access_log",
    "alt_svc",
    "lenient",
    "asgi_middleware",
)


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


@click.pass_context
def _run(
    context: click.Context,
    /,
    application: str | None,
    listen: tuple[Endpoint, ...],
    insecure_listen: tuple[Endpoint, ...],
    interface: str,
    factory: bool,
    app_dir: Path,
    not_ready_seconds: float,
    drain_seconds: float,
    log_level: str,
    access_log: bool,
    middleware: tuple[PluginText, ...],
    protocol: tuple[PluginText, ...],
    **values: Any,  # noqa: ANN401  # by option; read below and in the modules of their options
) -> None:
    limits = limits_from(values)
    tls = tls_request_from(context, values)
    http = HttpSettings(
        interface=Interface.of(interface),
        root_path=values["root_path"],
        asgi_middleware=values["asgi_middleware"],
        access_log=access_log,
        alt_svc=values["alt_svc"],
        lenient=values["lenient"],
    )
    _check_use(context, application, http, speaks_http=any(each.name == HTTP1 for each in protocol))
    level = logging.getLevelNamesMapping()[log_level.upper()]
    configure_logging(level)
    try:
        app: object = None
        look_first_in(app_dir)
        if application is not None:
            app = import_application(
                application, folder=app_dir, factory=factory, interface=http.interface
            )
            reclaim_logging(level, access_log=access_log)
        with ExitStack() as during:
            composed = _compose(
                app, listen, insecure_listen, middleware, tls, protocol, http, limits, during
            )
            exit_code = trio.run(_serve_with_signals, composed, not_ready_seconds, drain_seconds)
    except ApplicationImportError as error:
        _fail(str(error), EXIT_WRONG_USAGE, error.user_traceback)
    except ServingFailed as error:
        _fail(str(error), error.exit_code, error.user_traceback)
    except ConfigurationError as error:
        _fail(str(error), EXIT_WRONG_USAGE)
    except PluginError as error:
        _fail(str(error), EXIT_CANNOT_START)
    sys.exit(exit_code)


def _check_use(
    context: click.Context, application: str | None, http: HttpSettings, *, speaks_http: bool
) -> None:
    """Check that what was asked for fits together.

    Raises:
        click.UsageError: it does not.
    """
    if application == "plugins":
        raise click.UsageError(
            "'plugins' is a command and takes no options; for an application in a module of that"
            " name write plugins:app"
        )
    if not speaks_http:
        for name in _OF_HTTP:
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                told = "MODULE:ATTRIBUTE" if name == "application" else option_name(name)
                raise click.UsageError(f"{told} is for {HTTP1}, which no --protocol asks for")
    elif application is None:
        raise click.UsageError("Missing argument 'MODULE:ATTRIBUTE'.")
    if http.asgi_middleware and http.interface is not Interface.ASGI:
        raise click.UsageError(f"--asgi-middleware cannot wrap {http.interface.noun}")


def _compose(
    app: object,
    listen: Sequence[Endpoint],
    insecure_listen: Sequence[Endpoint],
    middleware: Sequence[PluginText],
    tls: TlsRequest | None,
    protocols: Sequence[PluginText],
    http: HttpSettings,
    limits: Limits,
    during: ExitStack,
) -> ComposedServer:
    """Return the server; what it needs for its life is left to `during`."""
    registry = Registry()
    certificate: bytes | None = None
    if tls is not None and tls.is_self_signed:
        made = self_signed_for(listen, during)
        certificate = made.certificate
        _log.info(
            "certificate for %s; clients trust it with its authority's, as in curl --cacert %s",
            ", ".join(made.names),
            made.authority,
        )
    stack = make_stack(registry, middleware, tls, certificate)
    if insecure_listen and stack.tls is None:
        raise ConfigurationError(
            "--insecure-listen needs TLS for --listen, as by --certfile; without it, use --listen"
        )
    return compose_server(
        app,
        listen,
        insecure_listen,
        stack=stack,
        protocols=protocols,
        http=http,
        limits=limits,
        registry=registry,
    )


def _fail(message: str, exit_code: int, user_traceback: str = "") -> NoReturn:
    """End with a sentence; before it, the traceback of the user's own code if there is one."""
    if user_traceback:
        click.echo(user_traceback, err=True)
    click.echo(f"Error: {message}", err=True)
    sys.exit(exit_code)


async def _serve_with_signals(
    composed: ComposedServer, not_ready_seconds: float, drain_seconds: float
) -> int:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        return await serve_until_stopped(
            composed.server,
            composed.lifespan,
            signals,
            not_ready_seconds=not_ready_seconds,
            drain_seconds=drain_seconds,
            lifespan_failure=composed.lifespan_failure,
            endpoint_notes=composed.endpoint_notes,
        )


_SETTINGS = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}

_serve = SectionedCommand(
    "kestrel",
    callback=_run,
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    context_settings=_SETTINGS,
    params=[
        click.Argument(["application"], metavar="MODULE:ATTRIBUTE", required=False),
        *serve_options(),
    ],
)


@click.command(
    help="List the plug-ins that are installed, and why broken ones do not load. With NAME, tell"
    " what that one is and what options it takes.",
    context_settings=_SETTINGS,
)
@click.argument("name", required=False)
@click.option("--verbose", is_flag=True, help="Tell that of every plug-in that takes options.")
@click.pass_context
def _plugins(context: click.Context, name: str | None, verbose: bool) -> None:
    registry = Registry()
    plugins = list(registry.describe())
    parts: list[str] = []
    if name is None:
        parts.append("".join(f"{line}\n" for line in plugin_lines(plugins)))
    else:
        plugins = [plugin for plugin in plugins if plugin.name == name]
        if not plugins:
            raise click.UsageError(f"there is no plug-in called {name!r}")
    if verbose or name is not None:
        parts += [plugin_details(registry, each, context.make_formatter()) for each in plugins]
    click.echo("\n".join(parts), nl=False)
