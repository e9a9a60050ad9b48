"""The programs in docs/examples do what the documentation says. In processes, so in real time."""

import hashlib
import json
import re
import socket
import ssl
import sys
from collections.abc import Generator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import trustme

from kestrel_core.testing import open_server
from kestrel_protocols.http1 import Http1
from tests.server_process import running, running_kestrel

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
ANY_PORT = "tcp://127.0.0.1:0"


@pytest.fixture
def client() -> Generator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30, headers={"connection": "close"}) as client:
        yield client


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_native_handler(client: httpx.Client) -> None:
    source = (EXAMPLES / "native_handler.py").read_bytes()
    arguments = ("--app-dir", EXAMPLES, "--interface=native", "native_handler:site")
    with running_kestrel(*arguments, f"--listen={ANY_PORT}") as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/there").text == "Hello from /there\n"
        assert server.stop() == 0
    with running(sys.executable, EXAMPLES / "native_handler.py", ANY_PORT) as program:
        port = program.wait_for_port()
        base = f"http://127.0.0.1:{port}"
        assert client.get(f"{base}/there").text == "Hello from /there\n"
        digest = hashlib.sha256(source).hexdigest()
        assert client.put(f"{base}/digest", content=source).text == f"{digest}\n"
        with client.stream("GET", f"{base}/countdown") as response:
            assert response.headers["transfer-encoding"] == "chunked"
            assert list(response.iter_lines()) == ["3", "2", "1"]
        response = client.get(f"{base}/source")
        assert response.headers["content-length"] == str(len(source))
        assert response.content == source
        assert client.get(f"{base}/watched").text == "Done.\n"

        def ask(target: bytes, more: bytes = b"") -> bytes:
            head = b"POST %b HTTP/1.1\r\nhost: test\r\nconnection: close\r\n" % target
            with socket.create_connection(("127.0.0.1", port)) as peer:
                return exchange(peer, head + (more or b"\r\n"))

        early, _, final = ask(b"/page").partition(b"\r\n\r\n")
        hint = b"</style.css>; rel=preload; as=style"
        assert early == b"HTTP/1.1 103 Early Hints\r\nlink: " + hint
        assert final.startswith(b"HTTP/1.1 200 OK\r\n")
        assert ask(b"/x/%2e%2e/page").startswith(b"HTTP/1.1 103 ")

        correct = hashlib.sha256(b"whole").hexdigest().encode()
        body = b"te: trailers\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n"
        end = b"0\r\nx-sha256: %b\r\n\r\n" % correct
        assert ask(b"/copy", body + b"\r\n").endswith(b"\r\n5\r\nwhole\r\n" + end)
        trailer = b"x-sha256: %b\r\n\r\n"
        assert ask(b"/copy", body + trailer % correct).endswith(end)
        with pytest.raises(ConnectionResetError):
            ask(b"/copy", body + trailer % b"0")
        program.wait_for("^ValueError: this is not what was sent$")


def test_upgrade(client: httpx.Client) -> None:
    with running(sys.executable, EXAMPLES / "upgrade.py", ANY_PORT) as program:
        port = program.wait_for_port()
        endpoint = f"tcp://127.0.0.1:{port}"
        with running(sys.executable, EXAMPLES / "upgrade.py", endpoint, "ay", "bee") as other:
            assert other.wait() == 0
        assert other.lines == ["HTTP/1.1 101 Switching Protocols", "AY", "BEE", "BYE"]
        response = client.get(f"http://127.0.0.1:{port}/")
        assert (response.status_code, response.headers["upgrade"]) == (426, "shout")
        asking = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as peer:
            received = exchange(peer, asking + b"at once\n" + b"too long" * 1000)
        assert received.partition(b"\r\n\r\n")[2] == b"AT ONCE\nBYE\n"


async def test_upgrade_ends_when_the_server_drains() -> None:
    async with open_server(Http1(example("upgrade").shout)) as opened:
        wire = (await opened.connect()).transport
        head = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n"
        await wire.output.send(head)
        assert (await wire.input.read_until(b"\r\n\r\n", 1000)).startswith(b"HTTP/1.1 101 ")
        assert await opened.server.drain(seconds=10) == 0
        assert b"".join([chunk async for chunk in wire.input]) == b"BYE\n"


def test_lenient() -> None:
    with running(sys.executable, EXAMPLES / "lenient.py", ANY_PORT, ANY_PORT) as program:
        public, devices = program.wait_for_port(), program.wait_for_port()
        request = b"GET / HTTP/1.0\n\n"
        with socket.create_connection(("127.0.0.1", public)) as peer:
            assert exchange(peer, request).startswith(b"HTTP/1.1 400 ")
        with socket.create_connection(("127.0.0.1", devices)) as peer:
            assert exchange(peer, request).endswith(b"\r\n\r\nHello\n")
        program.wait_for("^bare_line_feed: 1 requests$")


def test_tunnel() -> None:
    with running(sys.executable, EXAMPLES / "native_handler.py", ANY_PORT) as site:
        target = f"127.0.0.1:{site.wait_for_port()}"
        nobody = "127.0.0.1:1"
        with running(sys.executable, EXAMPLES / "tunnel.py", ANY_PORT, target, nobody) as program:
            port = program.wait_for_port()

            def ask(method: str, target: str, inside: bytes = b"") -> bytes:
                head = f"{method} {target} HTTP/1.1\r\nhost: {target.strip('/')}\r\n\r\n"
                with socket.create_connection(("127.0.0.1", port)) as peer:
                    return exchange(peer, head.encode() + inside)

            request = b"GET /inside HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
            opened, _, answer = ask("CONNECT", target, request).partition(b"\r\n\r\n")
            assert opened.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\nHello from /inside\n")
            assert ask("CONNECT", "example.org:443").startswith(b"HTTP/1.1 403 ")
            assert ask("CONNECT", nobody).startswith(b"HTTP/1.1 502 ")
            assert ask("GET", "/").startswith(b"HTTP/1.1 405 ")


def test_asgi_extensions(client: httpx.Client) -> None:
    source = (EXAMPLES / "asgi_extensions.py").read_bytes()
    arguments = ("--app-dir", EXAMPLES, "asgi_extensions:app", f"--listen={ANY_PORT}")
    with running_kestrel(*arguments) as server:
        port = server.wait_for_port()
        base = f"http://127.0.0.1:{port}"
        response = client.get(f"{base}/pathsend")
        assert response.headers["content-length"] == str(len(source))
        assert response.content == source
        expected = b"It begins so:\n" + source[:46]
        assert client.get(f"{base}/zerocopysend").content == expected
        assert client.get(f"{base}/debug").status_code == 204

        def ask(target: bytes, more: bytes) -> bytes:
            head = b"POST %b HTTP/1.1\r\nhost: test\r\nconnection: close\r\n" % target
            with socket.create_connection(("127.0.0.1", port)) as peer:
                return exchange(peer, head + more)

        early, _, final = ask(b"/early_hint", b"\r\n").partition(b"\r\n\r\n")
        hint = b"</style.css>; rel=preload; as=style"
        assert early == b"HTTP/1.1 103 Early Hints\r\nlink: " + hint
        assert final.endswith(b"\r\n\r\nStyled.\n")

        body = b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nwhy: because\r\n\r\n"
        digest = hashlib.sha256(b"abc").hexdigest().encode()
        assert ask(b"/trailers", body).endswith(b"\r\n\r\nwhy: because\n")
        with_trailers = ask(b"/trailers", b"te: trailers\r\n" + body)
        assert with_trailers.endswith(b"because\n\r\n0\r\nx-sha256: %b\r\n\r\n" % digest)
        assert server.stop() == 0
    with running(sys.executable, EXAMPLES / "asgi_extensions.py", ANY_PORT) as program:
        port = program.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/debug").status_code == 204
        program.wait_for("^GET /debug {'route': 'debug'}$")


def test_memory_pool(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 10_000)
    with running(sys.executable, EXAMPLES / "memory_pool.py", path, ANY_PORT) as program:
        port = program.wait_for_port()
        for rents in (1, 2):
            with socket.create_connection(("127.0.0.1", port)) as peer:
                assert exchange(peer, b"") == path.read_bytes()
            program.wait_for(
                "^PoolStatistics.block_bytes=1048576, rented=0, pooled=1, allocated=1,"
                f" evicted=0, retained=0, rents={rents}, returns={rents}.$"
            )


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


def test_many_protocols(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    http = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    put = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n"
    get = b"*2\r\n$3\r\nget\r\n$1\r\n%b\r\n"
    with running(sys.executable, EXAMPLES / "echo.py", ANY_PORT) as sshd:
        forward_to = f"tcp://127.0.0.1:{sshd.wait_for_port()}"
        program_and_arguments = (EXAMPLES / "many_protocols.py", ANY_PORT, forward_to, chain, key)
        with running(sys.executable, *program_and_arguments) as program:
            port = program.wait_for_port()

            def ask(data: bytes) -> bytes:
                with socket.create_connection(("127.0.0.1", port)) as peer:
                    return exchange(peer, data)

            def ask_in_tls(data: bytes) -> bytes:
                with (
                    socket.create_connection(("127.0.0.1", port)) as peer,
                    trusting.wrap_socket(peer, server_hostname="localhost") as inside,
                ):
                    inside.sendall(data)
                    return inside.recv(1000)

            assert ask(http).endswith(b"\r\n\r\nHello over http\n")
            assert ask_in_tls(http).endswith(b"\r\n\r\nHello over https\n")
            assert ask(b"SSH-2.0-test\r\n") == b"SSH-2.0-test\r\n"
            assert ask_in_tls(b"SSH-2.0-test\r\n") == b"SSH-2.0-test\r\n"
            assert ask(put + get % b"a" + get % b"b") == b"+OK\r\n$0\r\n\r\n$-1\r\n"
            assert ask_in_tls(get % b"a") == b"$0\r\n\r\n"
            assert ask(b"*1\r\n$4\r\nPING\r\n*1\r\n?") == b"+PONG\r\n"
            assert ask(b"*1\r\n$4\r\nPI") == b"-ERR a word is not complete\r\n"
            assert ask(b"\x00") == b""


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


def test_greeting() -> None:
    with (
        running(sys.executable, EXAMPLES / "greeting.py", ANY_PORT) as program,
        socket.create_connection(("127.0.0.1", program.wait_for_port())) as peer,
    ):
        assert exchange(peer, b"x") == b"hi\nhi\nx"


def test_behind_haproxy() -> None:
    line = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
    with running(sys.executable, EXAMPLES / "behind_haproxy.py", ANY_PORT) as server:
        port = server.wait_for_port()
        with socket.create_connection(("127.0.0.1", port)) as peer:
            answer = exchange(peer, line + b"GET / HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"client 203.0.113.7:4711, which connected to 192.0.2.1:443")
        upstream = f"tcp://127.0.0.1:{port}"
        with (
            running(sys.executable, EXAMPLES / "tcp_proxy.py", ANY_PORT, upstream) as proxy,
            socket.create_connection(("127.0.0.1", proxy.wait_for_port())) as peer,
        ):
            client = f"client 127.0.0.1:{peer.getsockname()[1]},".encode()
            assert client in exchange(peer, b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        ("unit_test_with_httpx", 3),
        ("unit_test_native_handler", 3),
        ("unit_test_memory_pool", 1),
        ("unit_test_timeouts", 4),
    ],
)
def test_unit_tests(name: str, tests: int) -> None:
    pytest_options = ("-q", "-p", "no:cacheprovider")
    with running(
        sys.executable, "-m", "pytest", *pytest_options, EXAMPLES / f"{name}.py"
    ) as program:
        exit_code = program.wait()
    assert exit_code == 0, program.output
    assert f"{tests} passed" in program.lines[-1]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: str(page.name)
)
def test_the_documentation_shows_what_is_tested(page: Path) -> None:
    """Every piece of Python on a page is part of an example, to the letter."""
    examples = [example.read_text() for example in EXAMPLES.rglob("*.py")]
    for piece in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        assert any(piece in example for example in examples), piece
