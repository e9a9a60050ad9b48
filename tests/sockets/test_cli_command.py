"""The command as a process: it serves, obeys signals, and says in a sentence what went wrong.

These wait in real time, for a process.
"""

import signal
import socket
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.server_process import ServerProcess, running, running_kestrel

APPLICATION = """
import logging
import trio

log = logging.getLogger("shop")
log.info("importing")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            log.info(event["type"])
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    if scope["path"].endswith("/slow"):
        log.info("at work")
        await trio.sleep(0.3)
    elif scope["path"].endswith("/hang"):
        log.info("at work")
        await trio.sleep_forever()
    text = f"{scope['root_path']} {scope['path']}".encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def make():
    return app
"""

STARTED = ["INFO shop: importing", "INFO shop: lifespan.startup"]
STOPPED = ["INFO kestrel.cli: stopped; connections cut: 0", "INFO shop: lifespan.shutdown"]
ANY_PORT = "--listen=tcp://127.0.0.1:0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("shop.py").write_text(APPLICATION)
    return tmp_path


@pytest.fixture
def client() -> Generator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


def ask_slowly(port: int, path: str) -> socket.socket:
    """Send a request and leave its answer for later."""
    asking = socket.create_connection(("127.0.0.1", port))
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
    return asking


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(
    folder: Path, client: httpx.Client, number: signal.Signals
) -> None:
    with running_kestrel("shop:app", ANY_PORT, folder=folder) as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/here").text == " /here"
        client.close()
        server.wait_until_idle(port)
        assert server.stop(number) == 0
    assert server.lines == [
        *STARTED,
        f"INFO kestrel.cli: listening on tcp://127.0.0.1:{port}",
        draining(number, 0),
        *STOPPED,
    ]


def test_python_dash_m_is_the_command_too(folder: Path, client: httpx.Client) -> None:
    command = (sys.executable, "-m", "kestrel_core.cli", "shop:app", ANY_PORT)
    with running(*command, folder=folder) as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/").status_code == 200
        assert server.stop() == 0


def test_a_factory_a_folder_a_root_path_and_an_access_log(
    folder: Path, client: httpx.Client
) -> None:
    arguments = ("--app-dir", folder, "--factory", "shop:make", "--root-path=/shop", ANY_PORT)
    with running_kestrel(*arguments, "--access-log", "--log-level=warning") as server:
        port = server.wait_for_port_at("warning")
