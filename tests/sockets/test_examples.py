"""The programs in docs/examples do what the documentation says. In processes, so in real time."""

import hashlib
import json
import re
import socket
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.server_process import running, running_kestrel

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
ANY_PORT = "tcp://127.0.0.1:0"


@pytest.fixture
def client() -> Generator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30, headers={"connection": "close"}) as client:
        yield client


def test_demo(client: httpx.Client) -> None:
    with running_kestrel("--app-dir", EXAMPLES, "demo:app", f"--listen={ANY_PORT}") as server:
        base = f"http://127.0.0.1:{server.wait_for_port()}"
        front = client.get(base)
        assert front.headers["content-type"] == "text/html; charset=utf-8"
        assert "<title>trio-kestrel is running</title>" in front.text
        assert "<th>protocol<td>HTTP/1.1" in front.text
        assert client.get(f"{base}/json").json() == {
            "http_version": "1.1",
            "client": "127.0.0.1",
            "server": base.removeprefix("http://"),
        }
        with client.stream("GET", f"{base}/stream") as response:
            assert response.headers["transfer-encoding"] == "chunked"
            lines = list(response.iter_lines())
        assert lines == [f"line {number} of 10" for number in range(1, 11)]
        echoed = client.post(f"{base}/echo", data={"text": "<b>salt & pepper</b>"})
        assert "<td>&lt;b&gt;salt &amp; pepper&lt;/b&gt;" in echoed.text
        assert server.stop() == 0


def test_plain_asgi(client: httpx.Client) -> None:
    with running_kestrel("--app-dir", EXAMPLES, "plain_asgi:app", f"--listen={ANY_PORT}") as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/there").text == "Hello from /there\n"
        assert server.stop() == 0


def test_wsgi_app(client: httpx.Client) -> None:
    arguments = ("--app-dir", EXAMPLES, "--interface=wsgi", "wsgi_app:app", f"--listen={ANY_PORT}")
    with running_kestrel(*arguments) as server:
        base = f"http://127.0.0.1:{server.wait_for_port()}"
        assert client.get(base).text == "Hello from a thread\n"
        content = b"x" * 1_000_000
        expected = hashlib.sha256(content).hexdigest()
        assert client.post(f"{base}/sha256", content=content).text == f"{expected}\n"
        assert client.get(f"{base}/squares").text.splitlines()[-1] == "998001"
        assert server.stop() == 0
    with running(sys.executable, EXAMPLES / "wsgi_app.py", ANY_PORT) as program:
        port = program.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/").text == "Hello from a thread\n"


def exchange(peer: socket.socket, data: bytes) -> bytes:
    """Send `data` and the end; return all that comes back."""
    peer.settimeout(30)
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    received = b""
    while chunk := peer.recv(65536):
        received += chunk
    return received


def test_echo(tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    endpoints = (ANY_PORT, f"unix://{path}", "memory://echo")
    with running(sys.executable, EXAMPLES / "echo.py", *endpoints) as program:
        port = program.wait_for_port()
        program.wait_for(f"listening on unix://{path}$")
        program.wait_for("listening on memory://echo$")
        with socket.create_connection(("127.0.0.1", port)) as peer:
            assert exchange(peer, b"over tcp") == b"over tcp"
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            assert exchange(peer, b"over unix") == b"over unix"


def test_embed() -> None:
    with running(sys.executable, EXAMPLES / "embed.py") as program:
        port = program.wait_for_port()
        assert program.wait() == 0
    assert program.lines == [
        f"listening on tcp://127.0.0.1:{port}",
        "200 Hello from inside",
        "connections: 1",
        "drained; connections cut: 0",
    ]


def test_two_servers(client: httpx.Client) -> None:
    with running(sys.executable, EXAMPLES / "two_servers.py", ANY_PORT, ANY_PORT) as program:
        public, private = program.wait_for_port(), program.wait_for_port()
        with socket.create_connection(("127.0.0.1", public)) as visitor:
            [connection] = json.loads(client.get(f"http://127.0.0.1:{private}/").text)
            assert connection["client"] == f"127.0.0.1:{visitor.getsockname()[1]}"
        assert client.get(f"http://127.0.0.1:{public}/").text == "Hello, public\n"


def test_count_bytes() -> None:
    with running(sys.executable, EXAMPLES / "count_bytes.py", ANY_PORT) as program:
        with socket.create_connection(("127.0.0.1", program.wait_for_port())) as peer:
            assert exchange(peer, b"x" * 100_000) == b"x" * 100_000
        program.wait_for("^received 100000, sent 100000 bytes$")


def test_unit_test_with_httpx() -> None:
    example = EXAMPLES / "unit_test_with_httpx.py"
    pytest_options = ("-q", "-p", "no:cacheprovider")
    with running(sys.executable, "-m", "pytest", *pytest_options, example) as program:
        exit_code = program.wait()
    assert exit_code == 0, program.output
    assert "3 passed" in program.lines[-1]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: str(page.name)
)
def test_the_documentation_shows_what_is_tested(page: Path) -> None:
    """Every piece of Python on a page is part of an example, to the letter."""
    examples = [example.read_text() for example in EXAMPLES.glob("*.py")]
    for piece in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        assert any(piece in example for example in examples), piece
