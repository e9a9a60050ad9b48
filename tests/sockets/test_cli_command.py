"""The command as a process: it serves, obeys signals, and says in a sentence what went wrong.

These wait in real time, for a process.
"""

import re
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
    headers = {"connection": "close"}  # nothing to wait for at the end
    with httpx.Client(trust_env=False, timeout=30, headers=headers) as client:
        yield client


def listening(port: int) -> str:
    return f"INFO kestrel.cli: listening on tcp://127.0.0.1:{port}"


def draining(number: signal.Signals, seconds: str = "30", connections: str = "few") -> str:
    """Return the line that tells of draining; see `lines`."""
    return (
        f"INFO kestrel.cli: {number.name}: draining for at most {seconds} s;"
        f" connections to wait for: {connections}"
    )


def lines(server: ServerProcess) -> list[str]:
    """Return what it printed; whether it noticed that a client has gone is a matter of luck."""
    return [re.sub(r"(?<=to wait for: )[01]$", "few", line) for line in server.lines]


def ask(port: int, path: str) -> socket.socket:
    """Send a request and leave its answer for later."""
    asking = socket.create_connection(("127.0.0.1", port), timeout=30)
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
    return asking


def all_received(asking: socket.socket) -> bytes:
    """Read until the server ends the connection, even by a reset."""
    received = b""
    try:
        while data := asking.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(
    folder: Path, client: httpx.Client, number: signal.Signals
) -> None:
    with running_kestrel("shop:app", ANY_PORT, folder=folder) as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/here").text == " /here"
        assert server.stop(number) == 0
    assert lines(server) == [*STARTED, listening(port), draining(number), *STOPPED]


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
    with running_kestrel(*arguments, "--access-log") as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/here?you").text == "/shop /shop/here"
        server.wait_for(
            r'INFO kestrel\.access: 127\.0\.0\.1:\d+ "GET /here\?you HTTP/1\.1" 200 16 0\.\d{6}$'
        )
        assert server.stop() == 0


def test_without_an_access_log_there_is_none(folder: Path, client: httpx.Client) -> None:
    with running_kestrel("shop:app", ANY_PORT, folder=folder) as server:
        client.get(f"http://127.0.0.1:{server.wait_for_port()}/")
        server.stop()
    assert "kestrel.access" not in server.output


def test_several_endpoints(folder: Path, client: httpx.Client) -> None:
    path = folder / "shop.sock"
    unix = f"--listen=unix://{path}"
    with running_kestrel("shop:app", ANY_PORT, unix, ANY_PORT, folder=folder) as server:
        ports = [server.wait_for_port()]
        server.wait_for(f"listening on unix://{path}")
        ports.append(server.wait_for_port())
        for port in ports:
            assert client.get(f"http://127.0.0.1:{port}/").status_code == 200
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, headers={"connection": "close"}) as unix_client:
            assert unix_client.get("http://shop/by-path").text == " /by-path"
        assert server.stop() == 0
    assert not path.exists()
    assert lines(server)[-3:] == [draining(signal.SIGTERM), *STOPPED]


def test_a_limit_is_set_by_its_option(folder: Path, client: httpx.Client) -> None:
    arguments = ("shop:app", ANY_PORT, "--max-request-line-bytes=100")
    with running_kestrel(*arguments, folder=folder) as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/{'x' * 100}").status_code == 414
        assert server.stop() == 0


def test_a_module_called_plugins_is_served_by_its_full_name(
    folder: Path, client: httpx.Client
) -> None:
    folder.joinpath("plugins.py").write_text(APPLICATION)
    with running_kestrel("plugins:app", ANY_PORT, folder=folder) as server:
        assert client.get(f"http://127.0.0.1:{server.wait_for_port()}/").status_code == 200
        assert server.stop() == 0


WSGI_APPLICATION = """
import logging
import threading

log = logging.getLogger("shop")


def app(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        log.info("at work")
        threading.Event().wait()
    start_response("200 OK", [("content-type", "text/plain")])
    return [(environ["SCRIPT_NAME"] + " " + environ["PATH_INFO"]).encode()]
"""


@pytest.fixture
def wsgi_folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("shop.py").write_text(WSGI_APPLICATION)
    return tmp_path


def test_a_wsgi_application(wsgi_folder: Path, client: httpx.Client) -> None:
    arguments = ("--interface=wsgi", "--root-path=/root", "--access-log", "shop", ANY_PORT)
    with running_kestrel(*arguments, folder=wsgi_folder) as server:
        port = server.wait_for_port()
        assert client.get(f"http://127.0.0.1:{port}/here").text == "/root /here"
        server.wait_for(r'kestrel.access: 127.0.0.1:\d+ "GET /here HTTP/1.1" 200 11')
        assert server.stop() == 0


def test_a_thread_that_hangs_does_not_keep_the_process(wsgi_folder: Path) -> None:
    arguments = ("--interface=wsgi", "--drain-seconds=0", "shop", ANY_PORT)
    with running_kestrel(*arguments, folder=wsgi_folder) as server:
        port = server.wait_for_port()
        with ask(port, "/hang") as asking:
            server.wait_for("at work")
            server.send_signal(signal.SIGTERM)
            assert all_received(asking) == b""
        assert server.wait() == 0
    assert server.lines[-1] == "INFO kestrel.cli: stopped; connections cut: 1"


def test_a_root_path_that_wsgi_cannot_have(wsgi_folder: Path) -> None:
    arguments = ("--interface=wsgi", "--root-path=root", "shop")
    with running_kestrel(*arguments, folder=wsgi_folder) as server:
        assert server.wait() == 2
    assert server.lines == ["Error: a root path begins with /, unlike 'root'"]


def test_draining_lets_a_request_finish(folder: Path) -> None:
    with running_kestrel("shop:app", ANY_PORT, folder=folder) as server:
        port = server.wait_for_port()
        with ask(port, "/slow") as asking:
            server.wait_for("at work")
            server.send_signal(signal.SIGTERM)
            answer = all_received(asking)
        assert server.wait() == 0
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\n /slow")
    assert lines(server)[-3:] == [draining(signal.SIGTERM), *STOPPED]


def test_draining_cuts_what_does_not_finish(folder: Path) -> None:
    arguments = ("shop:app", ANY_PORT, "--drain-seconds=0.1")
    with running_kestrel(*arguments, folder=folder) as server:
        port = server.wait_for_port()
        with ask(port, "/hang") as asking:
            server.wait_for("at work")
            assert server.stop() == 0
            assert all_received(asking) == b""
    assert server.lines[-4] == draining(signal.SIGTERM, "0.1", "1")
    assert server.lines[-2:] == [
        "INFO kestrel.cli: stopped; connections cut: 1",
        "INFO shop: lifespan.shutdown",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_at_once(folder: Path, number: signal.Signals) -> None:
    with running_kestrel("shop:app", ANY_PORT, folder=folder) as server:
        port = server.wait_for_port()
        with ask(port, "/hang") as asking:
            server.wait_for("at work")
            server.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            assert server.stop(number) == 128 + number
            assert all_received(asking) == b""
    assert server.lines[-4:] == [
        draining(signal.SIGTERM, "30", "1"),
        f"WARNING kestrel.cli: {number.name} again: not waiting for connections",
        "INFO kestrel.cli: stopped; connections cut: 1",
        "INFO shop: lifespan.shutdown",
    ]


def test_a_signal_ends_a_start_up_that_hangs(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text(
        "import trio\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    print('starting', flush=True)\n"
        "    await trio.sleep_forever()\n"
    )
    with running_kestrel("shop:app", ANY_PORT, folder=tmp_path) as server:
        server.wait_for("starting")
        assert server.stop() == 0
    assert server.lines == ["starting", "INFO kestrel.cli: SIGTERM: start-up given up"]


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with running_kestrel("shop:app", "--listen", endpoint, folder=folder) as server:
            assert server.wait() == 3
    assert server.lines == [
        *STARTED,
        "INFO shop: lifespan.shutdown",
        f"Error: cannot bind {endpoint}: Address already in use",
    ]


def test_an_address_that_its_transport_does_not_understand(folder: Path) -> None:
    with running_kestrel("shop:app", "--listen=tcp://127.0.0.1", folder=folder) as server:
        assert server.wait() == 2
    assert server.lines[-1] == (
        "Error: bad endpoint 'tcp://127.0.0.1':"
        " the address is written host:port, an IPv6 host in [brackets]"
    )


LIFESPAN_FAILS = """
async def app(scope, receive, send):
    while True:
        event = await receive()
        outcome = ".failed" if event["type"] == "lifespan.{phase}" else ".complete"
        await send({{"type": event["type"] + outcome, "message": "the till is jammed"}})
"""


def test_an_application_that_cannot_start(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text(LIFESPAN_FAILS.format(phase="startup"))
    with running_kestrel("shop:app", ANY_PORT, folder=tmp_path) as server:
        assert server.wait() == 3
    assert server.lines == ["Error: the application could not start: the till is jammed"]


def test_an_application_that_cannot_stop(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text(LIFESPAN_FAILS.format(phase="shutdown"))
    with running_kestrel("shop:app", ANY_PORT, folder=tmp_path) as server:
        server.wait_for_port()
        assert server.stop() == 1
    assert server.lines[-2:] == [
        "INFO kestrel.cli: stopped; connections cut: 0",
        "Error: the application could not stop: the till is jammed",
    ]


def test_a_starlette_application_that_cannot_start_shows_its_own_traceback(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from starlette.applications import Starlette\n"
        "@asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    open_the_till()\n"
        "    yield\n"
        "app = Starlette(lifespan=lifespan)\n"
    )
    with running_kestrel("shop:app", ANY_PORT, folder=tmp_path) as server:
        assert server.wait() == 3
    told = "NameError: name 'open_the_till' is not defined"
    assert server.lines[0] == "Traceback (most recent call last):"
    assert server.lines[-1] == f"Error: the application could not start: {told}"
    assert server.output.count("Traceback") == 1
    assert "kestrel" not in "".join(server.lines[:-1])


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    with running_kestrel("nowhere:app", folder=tmp_path) as server:
        assert server.wait() == 2
    [line] = server.lines
    assert line.startswith(f"Error: there is no module 'nowhere' in {tmp_path}, ")


def test_a_module_that_raises_shows_the_users_frames_alone(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text("price = 1 / 0\n")
    with running_kestrel("shop:app", folder=tmp_path) as server:
        assert server.wait() == 2
    assert [line for line in server.lines if line and not line.startswith("    ")] == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/shop.py", line 1, in <module>',
        "ZeroDivisionError: division by zero",
        "Error: the module 'shop' cannot be imported: ZeroDivisionError: division by zero",
    ]


def test_an_application_that_configures_logging_does_not_hide_the_server(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text(
        f"{APPLICATION}\n"
        "import logging.config\n"
        "logging.config.dictConfig({\n"
        "    'version': 1,\n"
        "    'formatters': {'mine': {'format': 'mine: %(message)s'}},\n"
        "    'handlers': {'mine': {'class': 'logging.StreamHandler', 'formatter': 'mine'}},\n"
        "    'root': {'handlers': ['mine'], 'level': 'WARNING'},\n"
        "})\n"
    )
    with running_kestrel("shop:app", ANY_PORT, folder=tmp_path) as server:
        server.wait_for(r"^mine: listening on tcp://127\.0\.0\.1:\d+$")
        assert server.stop() == 0
    assert server.lines[-1] == "mine: stopped; connections cut: 0"
