"""The command line's options about HTTP, and native handlers, with real sockets."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.server_process import KESTREL, running_kestrel

HANDLER = """
async def hello(exchange):
    await exchange.respond(200, [], exchange.path.encode() + b" of " + exchange.method.encode())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("handler.py").write_text(HANDLER)
    return tmp_path


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answer:
            return answer.read()


def test_a_native_handler(folder: Path) -> None:
    arguments = ("--app-dir", folder, "--interface=native", "handler:hello")
    with running_kestrel(*arguments, "--listen=tcp://127.0.0.1:0") as server:
        port = server.wait_for_port()
        answer = ask(port, b"PUT /a HTTP/1.1\r\nhost: a\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n/a of PUT")
        assert b"alt-svc" not in answer
        assert b" 400 " in ask(port, b"GET /a HTTP/1.1\nhost: a\n\n")
        assert server.stop() == 0


def test_lenient_and_alt_svc(folder: Path) -> None:
    arguments = ("--app-dir", folder, "--interface=native", "handler:hello")
    options = ("--lenient=bare-line-feed", "--lenient=spaces_in_request_line", "--alt-svc=h3=:1")
    with running_kestrel(*arguments, *options, "--listen=tcp://127.0.0.1:0") as server:
        answer = ask(server.wait_for_port(), b"GET  /a HTTP/1.1\nhost: a\n\n")
        assert answer.endswith(b"\r\nalt-svc: h3=:1\r\n\r\n/a of GET")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            ["--lenient=kind"],
            "--lenient kind: the server cannot be that; it can be absolute-target-",
        ),
        (["--alt-svc=a\nb"], "--alt-svc 'a\\nb' is no field value"),
        (["--root-path=/a"], "a native handler has no use for --root-path"),
    ],
)
def test_what_is_refused(folder: Path, options: list[str], fault: str) -> None:
    result = subprocess.run(
        [KESTREL, "--app-dir", folder, "--interface=native", *options, "handler:hello"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"Error: {fault}")
