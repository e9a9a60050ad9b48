"""The options for TLS, and what they ask for together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from kestrel_core.cli.connection_options import parse_plugins
from kestrel_core.cli.sectioned_help import SectionedOption
from kestrel_core.plugin_options import PluginText

__all__ = ["FIELD_OPTIONS", "TlsRequest", "tls_options", "tls_request_from"]

SELF_SIGNED = "self-signed"

# What becomes of plain HTTP is a matter of the middleware, but for this, which leaves the
# endpoint to both.
SERVE_PLAIN = "serve"

PASSWORD_VARIABLE = "KESTREL_KEYFILE_PASSWORD"

# What each option is called in the class of the middleware.
_FIELDS = {
    "certfile": "certificate",
    "keyfile": "key",
    "keyfile_password": "password",
    "ca_certs": "client_authorities",
    "client_certificates": "client_certificates",
    "tls_min_version": "minimum_version",
    "tls_ciphers": "ciphers",
    "tls_keylog_file": "key_log_file",
    "plain_http": "plain_http",
}

# These two are nothing without a certificate of their own.
_OF_THE_CERTIFICATE = ("keyfile", "keyfile_password")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


FIELD_OPTIONS: Mapping[str, str] = {
    field: _option(name) for name, field in _FIELDS.items() if "_" in field
}
"""The option for each field of the middleware's class whose name is no ordinary word."""


@attrs.frozen(kw_only=True)
class TlsRequest:
    """What the command line asks of TLS."""

    values: Mapping[str, object] = attrs.field(repr=False)
    """Options of the middleware, by field."""

    hosts: tuple[PluginText, ...]
    """Options for single server names, which stand where the name of a plug-in does."""

    is_self_signed: bool
    """Whether a certificate is to be made."""

    serves_plain: bool
    """Whether clients without TLS are served, too."""


class _TlsOption(SectionedOption):
    section = "TLS"


def tls_options() -> list[SectionedOption]:
    """Return the options; `tls_request_from` reads what they had."""
    file = click.Path(path_type=Path)
    return [
        _TlsOption(
            ["--certfile"],
            type=file,
            metavar="FILE",
            help="The certificate in PEM, the chain behind it: every --listen speaks TLS. A file"
            " that has changed is loaded again.",
        ),
        _TlsOption(
            ["--keyfile"],
            type=file,
            metavar="FILE",
            help="The private key in PEM, if --certfile does not have it.",
        ),
        _TlsOption(
            ["--keyfile-password"],
            metavar="TEXT",
            envvar=PASSWORD_VARIABLE,
            help="What the key is encrypted with. Others can see it among the processes, but not"
            f" in the environment variable {PASSWORD_VARIABLE}.",
        ),
        _TlsOption(
            ["--sni"],
            multiple=True,
            metavar="HOST:key=value,...",
            callback=parse_plugins,
            help="Options for clients that ask for HOST, which may be *.example.org or *, as"
            " example.org:certificate=FILE,key=FILE; may be repeated. The keys are those of `kestrel"
            " plugins tls` that concern certificates, clients, versions and ALPN.",
        ),
        _TlsOption(
            ["--tls"],
            type=click.Choice([SELF_SIGNED]),
            metavar=SELF_SIGNED,
            help="Make a certificate for development, and log where that of its authority is.",
        ),
        _TlsOption(
            ["--client-certificates"],
            type=click.Choice(["none", "allow", "require"]),
            metavar="HOW",
            help="Whether clients are asked for a certificate: none, allow (one that is shown must"
            " be good) or require.  [default: none]",
        ),
        _TlsOption(
            ["--ca-certs"],
            type=file,
            metavar="FILE",
            help="The certificates, in PEM, of those who may certify clients.",
        ),
        _TlsOption(
            ["--tls-min-version"],
            type=click.Choice(["1.2", "1.3"]),
            metavar="VERSION",
            help="The lowest version that is spoken, 1.2 or 1.3.  [default: 1.2]",
        ),
        _TlsOption(
            ["--tls-ciphers"],
            metavar="TEXT",
            help="The cipher suites of TLS 1.2, in OpenSSL's format; those of TLS 1.3 are fixed.",
        ),
        _TlsOption(
            ["--tls-keylog-file"],
            type=file,
            metavar="FILE",
            help="Where to append the keys of all sessions, for Wireshark. Who has them can read"
            " everything.",
        ),
        _TlsOption(
            ["--plain-http"],
            type=click.Choice(["reject", "redirect", "close", SERVE_PLAIN]),
            metavar="HOW",
            help="What a client gets that speaks plain HTTP where TLS is spoken: reject (400),"
            " redirect (308), close (nothing) or serve (what every client gets).  [default:"
            " reject]",
        ),
    ]


def tls_request_from(context: click.Context, values: Mapping[str, Any]) -> TlsRequest | None:
    """Return what the options of `values`, by their names, ask for, or None if there is no TLS.

    Raises:
        click.UsageError: an option needs another one.
    """
    given = {name: values[name] for name in _FIELDS if values[name] is not None}
    if context.get_parameter_source("keyfile_password") is click.core.ParameterSource.ENVIRONMENT:
        password = given.pop("keyfile_password")
        if "certfile" in given:  # the environment may have it for another command
            given["keyfile_password"] = password
    hosts: tuple[PluginText, ...] = values["sni"]
    is_self_signed = values["tls"] == SELF_SIGNED
    if is_self_signed and "certfile" in given:
        raise click.UsageError("--tls self-signed and --certfile exclude each other")
    if "certfile" not in given and not is_self_signed and not hosts:
        for name in given:
            raise click.UsageError(f"{_option(name)} needs --certfile, or another option for TLS")
        return None
    if "certfile" not in given:
        for name in _OF_THE_CERTIFICATE:
            if name in given:
                raise click.UsageError(f"{_option(name)} needs --certfile")
    asks_clients = given.get("client_certificates", "none") != "none"
    if "ca_certs" in given and not asks_clients and not hosts:
        raise click.UsageError("--ca-certs needs --client-certificates allow or require")
    serves_plain = given.get("plain_http") == SERVE_PLAIN
    if serves_plain:
        del given["plain_http"]
    return TlsRequest(
        values={_FIELDS[name]: value for name, value in given.items()},
        hosts=hosts,
        is_self_signed=is_self_signed,
        serves_plain=serves_plain,
    )
