from pathlib import Path

import click
import pytest

from kestrel_core.cli.tls_options import (
    FIELD_OPTIONS,
    PASSWORD_VARIABLE,
    TlsRequest,
    tls_options,
    tls_request_from,
)
from kestrel_core.plugin_options import options_of
from kestrel_middleware.tls import ClientCertificates, PlainHttp, Tls, TlsVersion


def parse(*arguments: str) -> TlsRequest | None:
    """Read a command line that has only these options."""
    command = click.Command("serve", params=list(tls_options()))
    context = command.make_context("serve", list(arguments))
    return tls_request_from(context, context.params)


def refused(*arguments: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        parse(*arguments)
    return caught.value.format_message()


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)


def test_without_options_there_is_no_tls() -> None:
    assert parse() is None


def test_all_options() -> None:
    request = parse(
        "--certfile=a.pem",
        "--keyfile=a.key",
        "--keyfile-password=secret",
        "--ca-certs=ca.pem",
        "--client-certificates=require",
        "--tls-min-version=1.3",
        "--tls-ciphers=HIGH",
        "--tls-keylog-file=keys",
        "--plain-http=redirect",
        "--sni=b.example:certificate=b.pem",
    )
    assert request is not None
    assert request.values == {
        "certificate": Path("a.pem"),
        "key": Path("a.key"),
        "password": "secret",
        "client_authorities": Path("ca.pem"),
        "client_certificates": "require",
        "minimum_version": "1.3",
        "ciphers": "HIGH",
        "key_log_file": Path("keys"),
        "plain_http": "redirect",
    }
    assert [str(host) for host in request.hosts] == ["b.example:certificate=b.pem"]
    assert not request.is_self_signed
    assert not request.serves_plain
    assert "secret" not in repr(request)
    assert set(request.values) <= {option.parameter for option in options_of(Tls)}


def test_the_words_are_those_of_the_middleware() -> None:
    choices = {
        option.name: list(option.type.choices)
        for option in tls_options()
        if isinstance(option.type, click.Choice)
    }
    assert choices["client_certificates"] == [each.value for each in ClientCertificates]
    assert choices["tls_min_version"] == [each.value for each in TlsVersion]
    assert choices["plain_http"] == [*(each.value for each in PlainHttp), "serve"]


def test_field_names_are_told_as_options() -> None:
    assert FIELD_OPTIONS["client_authorities"] == "--ca-certs"
    assert "key" not in FIELD_OPTIONS


def test_self_signed() -> None:
    request = parse("--tls=self-signed", "--plain-http=serve")
    assert request is not None
    assert request.is_self_signed
    assert request.serves_plain
    assert request.values == {}


def test_certificates_for_single_hosts_alone() -> None:
    request = parse("--sni=b.example:certificate=b.pem", "--ca-certs=ca.pem")
    assert request is not None
    assert request.values == {"client_authorities": Path("ca.pem")}


def test_the_password_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    request = parse("--certfile=a.pem")
    assert request is not None
    assert request.values["password"] == "secret"
    assert parse() is None
    request = parse("--tls=self-signed")
    assert request is not None
    assert "password" not in request.values


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--keyfile=a"], "--keyfile needs --certfile, or another option for TLS"),
        (["--plain-http=serve"], "--plain-http needs --certfile, or another option for TLS"),
        (["--tls-min-version=1.3"], "--tls-min-version needs --certfile"),
        (["--tls=self-signed", "--certfile=a"], "--tls self-signed and --certfile exclude each"),
        (["--tls=self-signed", "--keyfile=a"], "--keyfile needs --certfile"),
        (["--sni=a:key=b", "--keyfile-password=a"], "--keyfile-password needs --certfile"),
        (["--certfile=a", "--ca-certs=b"], "--ca-certs needs --client-certificates allow or"),
        (
            ["--certfile=a", "--ca-certs=b", "--client-certificates=none"],
            "--ca-certs needs --client-certificates allow or require",
        ),
        (["--certfile=a", "--tls-min-version=1.1"], "'1.1' is not one of '1.2', '1.3'"),
        (["--certfile=a", "--plain-http=no"], "'no' is not one of 'reject', 'redirect', 'close'"),
        (["--tls=on"], "'on' is not 'self-signed'"),
        (["--sni==a"], "bad plug-in '=a': it does not begin with a name"),
    ],
)
def test_what_does_not_fit(arguments: list[str], told: str) -> None:
    assert told in refused(*arguments)
