import pytest

from kestrel_core import __version__
from kestrel_core.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed to either stream."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    printed = capsys.readouterr()
    return caught.value.code, printed.out, printed.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"kestrel {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: kestrel [OPTIONS] MODULE:ATTRIBUTE\n")
    general, _, limits = out.partition("\nLimits:\n")
    general, _, tls = general.partition("\nTLS:\n")
    assert "--certfile FILE" in tls
    general, _, connections = general.partition("\nMiddleware and protocols:\n")
    assert "--asgi-middleware TEXT" in connections
    assert "--listen URL" in general
    assert "[default: tcp://127.0.0.1:8000]" in general
    assert "kestrel plugins" in general
    assert "--keep-alive-seconds SECONDS" in limits
    assert "Exit codes: 0 stopped by a signal" in limits
    assert max(map(len, out.splitlines())) <= 100


def test_without_arguments_there_is_help_and_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys)
    assert code in (0, 2)  # 0 with click before 8.2
    assert "Usage: kestrel [OPTIONS] MODULE:ATTRIBUTE" in out + err


def test_plugins_lists_the_built_in_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "plugins")
    assert (code, err) == (0, "")
    heading, *rows = out.splitlines()
    assert heading.split() == ["KIND", "NAME", "TARGET", "DISTRIBUTION", "VERSION"]
    for kind, name in [
        ("transport", "memory"),
        ("transport", "memory-streams"),
        ("transport", "tcp"),
        ("transport", "unix"),
        ("middleware", "tls"),
        ("protocol", "http/1.1"),
    ]:
        [row] = [row for row in rows if row.split()[:2] == [kind, name]]
        assert row.split()[3:] == ["trio-kestrel", __version__]
    assert "broken" not in out


def test_plugins_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plugins", "--help")
    assert code == 0
    assert out.startswith("Usage: kestrel plugins [OPTIONS] [NAME]\n")


def test_plugins_tells_the_options_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "plugins", "tls")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert words.startswith("middleware tls Speaks TLS with clients, ")
    assert "plain-http=reject|redirect|close What clients get that speak HTTP" in words
    assert "[default: reject]" in words
    assert "hosts=" not in words  # which text cannot say
    assert "KIND" not in out


def test_plugins_tells_the_options_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plugins", "--verbose")
    assert code == 0
    assert out.startswith("KIND ")
    assert "\nmiddleware tls\n" in out
    assert "\nprotocol http/1.1\n" in out
    assert "  handshake-seconds=NUMBER " in out


def test_plugins_does_not_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "plugins", "nothing")
    assert code == 2
    assert "there is no plug-in called 'nothing'" in err


def test_plugins_takes_none_of_the_servers_options(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--factory", "plugins")
    assert code == 2
    assert "for an application in a module of that name write plugins:app" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen", "8000"], "bad endpoint '8000': it does not start with a scheme and ://"),
        (["--listen", "carrot://x"], "nothing provides the scheme 'carrot'; known schemes: memory"),
        (["--drain-seconds", "-1"], "-1.0 is not a number from 0 up"),
        (["--drain-seconds", "nan"], "nan is not a number from 0 up"),
        (["--log-level", "loud"], "'loud' is not one of"),
        (["--interface", "cgi"], "'cgi' is not one of 'asgi', 'wsgi'"),
        (["--max-connections", "few"], "'few' is not a whole number"),
        (["--linger-seconds", "0"], "--linger-seconds must be above zero and finite, not 0"),
        (["--workers", "4"], "No such option"),
        (["--not-ready-seconds", "-1"], "-1.0 is not a number from 0 up"),
        (["--middleware", "idle:a=1,b"], "bad plug-in 'idle:a=1,b': an option is written"),
        (["--protocol", "=a"], "bad plug-in '=a': it does not begin with a name"),
        (["--keyfile", "a.pem"], "--keyfile needs --certfile"),
        (
            ["--interface", "wsgi", "--asgi-middleware", "gzip"],
            "--asgi-middleware cannot wrap a WSGI application",
        ),
        (["--protocol", "ssh"], "MODULE:ATTRIBUTE is for http/1.1, which no --protocol asks for"),
    ],
)
def test_wrong_usage_is_a_sentence_and_the_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, out, err = run(capsys, *arguments, "app:app")
    assert (code, out) == (2, "")
    assert err.startswith("Usage: kestrel [OPTIONS] MODULE:ATTRIBUTE\n")
    assert told in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--log-level=info"], "Missing argument 'MODULE:ATTRIBUTE'"),
        (["--protocol=ssh", "--alt-svc=a"], "--alt-svc is for http/1.1, which no --protocol asks"),
        (["--protocol=ssh", "--access-log"], "--access-log is for http/1.1"),
        (["--protocol=ssh", "--asgi-middleware=a"], "--asgi-middleware is for http/1.1"),
    ],
)
def test_an_application_is_for_http(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert told in err
