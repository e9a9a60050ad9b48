"""Middleware and protocols by the command line, of this test's own and real ones."""

import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.server_process import KESTREL, running_kestrel

ANY_PORT = "--listen=tcp://127.0.0.1:0"

SHOP = """
import logging
from typing import ClassVar

import attrs

from kestrel_core import Admission, ConfigurationError, Layer, Protocol, Sniff

log = logging.getLogger("shop")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    text = repr(scope.get("seen", [])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


@attrs.define(kw_only=True, eq=False)
class Tap(Layer):
    name: ClassVar[str] = "tap"
    label: str = "none"
    alone: bool = False

    def check_place(self, outer, inner):
        if self.alone and len(inner) > 1:
            raise ConfigurationError("this tap wants to be alone")

    async def __call__(self, connection, following):
        log.info("in %s", self.label)
        await following(connection)
        log.info("out %s", self.label)


@attrs.define
class Seen:
    app: object
    label: str

    async def __call__(self, scope, receive, send):
        scope["seen"] = [*scope.get("seen", []), self.label]
        await self.app(scope, receive, send)


class Shout(Protocol):
    name = "shout"

    def __init__(self, mark: str = "!") -> None:
        self.mark = mark.encode()

    def sniff(self, prefix):
        if prefix[:2] == b"!!":
            return Sniff.YES
        return Sniff.MORE if prefix == b"!" else Sniff.NO

    async def __call__(self, connection):
        reader, writer = connection.transport.input, connection.transport.output
        while data := await reader.receive():
            await writer.send(data.upper() + self.mark)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    return tmp_path


def get(port: int) -> str:
    with httpx.Client(trust_env=False, timeout=30, headers={"connection": "close"}) as client:
        return client.get(f"http://127.0.0.1:{port}/").text


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answer:
            return answer.read()


def test_the_first_middleware_is_the_outermost(folder: Path) -> None:
    arguments = ("--middleware=shop:Tap:label=a", "--middleware=shop:Tap:label=b\\,c", ANY_PORT)
    with running_kestrel("shop:app", *arguments, folder=folder) as server:
        port = server.wait_for_port()
        assert get(port) == "[]"
        assert server.wait_for(r"INFO shop: (out a)")
        assert server.stop() == 0
    taps = [line.removeprefix("INFO shop: ") for line in server.lines if "INFO shop: " in line]
    assert taps == ["in a", "in b,c", "out b,c", "out a"]


def test_every_listen_has_the_middleware(folder: Path) -> None:
    arguments = ("--middleware=shop:Tap:label=a", ANY_PORT, ANY_PORT)
    with running_kestrel("shop:app", *arguments, folder=folder) as server:
        ports = [server.wait_for_port(), server.wait_for_port()]
        for port in ports:
            get(port)
            server.wait_for("INFO shop: out a")
        assert server.stop() == 0


def test_the_first_asgi_middleware_is_the_outermost(folder: Path) -> None:
    arguments = ("--asgi-middleware=shop:Seen:label=a", "--asgi-middleware=shop:Seen:label=b")
    with running_kestrel("shop:app", *arguments, ANY_PORT, folder=folder) as server:
        assert get(server.wait_for_port()) == "['a', 'b']"
        assert server.stop() == 0


def test_an_asgi_middleware_of_somebody_else(folder: Path) -> None:
    gzip = "--asgi-middleware=starlette.middleware.gzip:GZipMiddleware:minimum-size=1"
    with running_kestrel("shop:app", gzip, ANY_PORT, folder=folder) as server:
        request = b"GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n"
        assert b"\r\ncontent-encoding: gzip\r\n" in exchange(server.wait_for_port(), request)
        assert server.stop() == 0


def test_several_protocols_on_one_port(folder: Path) -> None:
    arguments = ("--protocol=http/1.1", "--protocol=shop:Shout:mark=?!", ANY_PORT)
    with running_kestrel("shop:app", *arguments, folder=folder) as server:
        port = server.wait_for_port()
        assert get(port) == "[]"
        assert exchange(port, b"!!hello") == b"!!HELLO?!"
        assert exchange(port, b"\x00\x01\x02\x03") == b""
        assert server.stop() == 0


def test_how_long_detection_waits(folder: Path) -> None:
    arguments = ("--protocol=http/1.1", "--protocol=shop:Shout", "--middleware=detect:seconds=0.1")
    with running_kestrel("shop:app", *arguments, ANY_PORT, folder=folder) as server:
        with socket.create_connection(("127.0.0.1", server.wait_for_port()), timeout=30) as client:
            client.sendall(b"!")
            assert client.recv(100) == b""
        assert server.stop() == 0


def test_another_protocol_than_http_needs_no_application(folder: Path) -> None:
    with running_kestrel("--protocol=shop:Shout", ANY_PORT, folder=folder) as server:
        assert exchange(server.wait_for_port(), b"hello") == b"HELLO!"
        assert server.stop() == 0
    assert server.lines[-1] == "INFO kestrel.cli: stopped; connections cut: 0"


def test_ssh_beside_http(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ssh:
        to = f"--protocol=ssh:to=tcp://127.0.0.1:{ssh.getsockname()[1]}"
        arguments = ("--protocol=http/1.1", to, ANY_PORT)
        with running_kestrel("shop:app", *arguments, folder=folder) as server:
            port = server.wait_for_port()
            assert get(port) == "[]"
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(b"SSH-2.0-test\r\n")
                ssh.settimeout(30)
                forwarded, _ = ssh.accept()
                with forwarded:
                    assert forwarded.recv(100) == b"SSH-2.0-test\r\n"
            assert server.stop() == 0


def test_the_proxy_protocol(folder: Path) -> None:
    arguments = ("--middleware=proxy_protocol:trusted=127.0.0.0/8", "--access-log", ANY_PORT)
    with running_kestrel("shop:app", *arguments, folder=folder) as server:
        header = b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 80\r\n"
        request = b"GET /proxied HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        assert b" 200 OK\r\n" in exchange(server.wait_for_port(), header + request)
        server.wait_for(r'kestrel\.access: 192\.0\.2\.7:1234 "GET /proxied HTTP/1\.1" 200')
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (["--middleware=nothing"], 2, "there is no middleware called 'nothing'; known: "),
        (
            ["--middleware=shop:Tap:size=3"],
            2,
            "bad plug-in 'shop:Tap:size=3': shop:Tap has no option 'size'; its options: label, al",
        ),
        (["--middleware=tls:certificate"], 2, "bad plug-in 'tls:certificate': an option is writ"),
        (["--middleware=shop:app"], 2, "shop:app is not a middleware: it does not take connecti"),
        (
            ["--middleware=shop:Tap:alone=yes", "--middleware=shop:Tap"],
            2,
            "this tap wants to be alone",
        ),
        (["--middleware=shop:Nothing"], 3, "the middleware 'shop:Nothing' cannot be loaded: "),
        (["--asgi-middleware=nothing"], 2, "there is no ASGI middleware called 'nothing'"),
        (["--asgi-middleware=shop:Seen"], 2, "bad plug-in 'shop:Seen': shop:Seen needs the opti"),
        (["--protocol=http/1.1:a=b"], 2, "bad plug-in 'http/1.1:a=b': its options are those of "),
        (["--protocol=http/1.1", "--protocol=gopher"], 2, "there is no protocol called 'gopher'"),
        (
            ["--protocol=http/1.1", "--protocol=http/1.1"],
            2,
            "'http/1.1' is to be detected twice; leave one out",
        ),
        (["--insecure-listen=tcp://127.0.0.1:0"], 2, "--insecure-listen needs TLS for --listen"),
    ],
)
def test_what_cannot_be(folder: Path, arguments: list[str], exit_code: int, told: str) -> None:
    result = subprocess.run(
        [KESTREL, "shop:app", ANY_PORT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.stderr.startswith(f"Error: {told}")
    assert result.returncode == exit_code
