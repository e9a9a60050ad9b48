"""The three as an operator gets them: installed, found by entry point, named on the command line."""

import re
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from kestrel_core import Connection, Endpoint, Registry, open_transport_context
from kestrel_plugin_example.deflate import Deflate
from kestrel_plugin_example.mptcp import Multipath

KESTREL = Path(sys.executable).with_name("kestrel")

ANY_PORT = "mptcp://127.0.0.1:0"

# For a process that hangs, and then is killed.
PATIENCE_SECONDS = 30.0

APPLICATION = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-length", b"15")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello over HTTP"})
"""

REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"


@contextmanager
def running_kestrel(*arguments: str, folder: Path) -> Generator[Endpoint]:
    """Serve `app:app` for the length of the block, which gets the endpoint that was bound."""
    (folder / "app.py").write_text(APPLICATION)
    command = [str(KESTREL), "app:app", *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            log = ""
            for line in process.stdout:
                log += line
                if found := re.search(r"listening on (\S+)", line):
                    yield Endpoint.parse(found[1])
                    process.terminate()
            assert process.wait() == 0, log
        finally:
            watchdog.cancel()
            process.kill()


async def ask(connection: Connection) -> bytes:
    await connection.transport.output.send(REQUEST)
    return b"".join([chunk async for chunk in connection.transport.input])


def told(*arguments: str) -> str:
    return subprocess.run([KESTREL, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_three_are_listed() -> None:
    rows = [line.split() for line in told("plugins").splitlines()]
    ours = [row[:2] for row in rows if "kestrel-plugin-example" in row]
    assert ours == [["transport", "mptcp"], ["middleware", "deflate"], ["protocol", "git"]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mptcp", ["Multipath TCP", "backlog"]),
        ("deflate", ["level=COUNT", "max-inflated-bytes=COUNT", "65536"]),
        ("git", ["root=PATH", "mandatory", "timeout-seconds=COUNT"]),
    ],
)
def test_each_is_explained(name: str, words: list[str]) -> None:
    explained = told("plugins", name)
    assert [word for word in words if word not in explained] == []


@pytest.mark.parametrize("scheme", ["mptcp", "tcp"])
@pytest.mark.parametrize("git_is_first", [True, False])
async def test_http_and_git_on_one_port(
    scheme: str, git_is_first: bool, repositories: Path, tmp_path: Path
) -> None:
    listen = f"--listen={scheme}://127.0.0.1:0"
    protocols = [f"--protocol=git:root={repositories}", "--protocol=http/1.1"]
    if not git_is_first:
        protocols.reverse()
    with running_kestrel(listen, *protocols, folder=tmp_path) as endpoint:
        async with open_transport_context() as context:
            connection = await Registry().transport(scheme).connect(endpoint, context)
            assert (Multipath in connection.features) == (scheme == "mptcp")
            assert (await ask(connection)).endswith(b"\r\n\r\nHello over HTTP")
            await connection.aclose()
        url = f"git://{endpoint.address}/project"
        await trio.run_process(["git", "clone", "--quiet", url, tmp_path / "clone"])
    cloned = (tmp_path / "clone" / "file").read_bytes()
    assert cloned == (repositories.parent / "work" / "file").read_bytes()


async def test_deflate(tmp_path: Path) -> None:
    async def expect_answer(connection: Connection) -> None:
        assert (await ask(connection)).endswith(b"\r\n\r\nHello over HTTP")

    options = (f"--listen={ANY_PORT}", "--middleware=deflate:level=9")
    with running_kestrel(*options, folder=tmp_path) as endpoint:
        async with open_transport_context() as context:
            connection = await Registry().transport("mptcp").connect(endpoint, context)
            await Deflate()(connection, expect_answer)
            await connection.aclose()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--listen=mptcp://127.0.0.1:0?backlg=5"], "mptcp has no option 'backlg'"),
        (["--middleware=deflate:level=11"], "'level' must be <= 9"),
        (["--middleware=deflate:speed=3"], "level"),
        (["--protocol=http/1.1", "--protocol=git"], "root"),
        (["--protocol=http/1.1", "--protocol=git:root=nowhere"], "which is no folder"),
    ],
)
def test_wrong_options_are_told(options: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    refused = subprocess.run(
        [KESTREL, "app:app", *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert sentence in refused.stderr
