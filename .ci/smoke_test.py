"""Use a built wheel as a stranger would.

    .ci/smoke_test.py dist/trio_kestrel-1.0-py3-none-any.whl

The wheel goes into an environment of its own, without extras. The program then runs in a folder that
has a `middleware.py`, a `transports.py` and a `protocols.py`, as many projects do: the application
must get those, and the server its own packages, whose source folders have the same names.
"""

import http.client
import re
import subprocess
import sys
import tempfile
import threading
import venv
import zipfile
from functools import partial
from pathlib import Path

import commands

PACKAGES = {"kestrel_core", "kestrel_transports", "kestrel_protocols", "kestrel_middleware"}
MODULES = {"kestrel_pytest.py"}
SECONDS = 30

APPLICATION = """
import middleware
import protocols
import transports


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    text = " ".join([middleware.MINE, protocols.MINE, transports.MINE])
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
"""

LOAD_PLUGINS = """
from importlib.metadata import distribution

for point in distribution("trio-kestrel").entry_points:
    if point.group != "pytest11":  # which pytest loads, and here is none
        print(point.group, point.name, point.load())
"""


def check_contents(wheel: Path) -> None:
    """Refuse a wheel with an unexpected package, or with one that is not marked as typed."""
    names = zipfile.ZipFile(wheel).namelist()
    found = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    if found != PACKAGES | MODULES:
        raise SystemExit(f"{wheel.name} holds {sorted(found)}, not {sorted(PACKAGES | MODULES)}")
    if untyped := [package for package in PACKAGES if f"{package}/py.typed" not in names]:
        raise SystemExit(f"{wheel.name} lacks py.typed in {untyped}")


def serve_and_ask(kestrel: Path, folder: Path) -> None:
    """Serve the folder's application on a free port, ask it once and stop it politely."""
    server = subprocess.Popen(
        [kestrel, "app:app", "--listen", "tcp://127.0.0.1:0"],
        cwd=folder,
        env=commands.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(SECONDS, server.kill)
    watchdog.start()
    log: list[str] = []
    try:
        assert server.stdout is not None
        for line in server.stdout:
            log.append(line)
            if match := re.search(r"127\.0\.0\.1:([1-9]\d*)", line):
                break
        else:
            raise SystemExit(f"the server never said where it listens:\n{''.join(log)}")

        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=SECONDS)
        connection.request("GET", "/")
        response = connection.getresponse()
        answer = response.status, response.read().decode()
        connection.close()
        server.terminate()
        log.extend(server.stdout)
        status = server.wait()
    finally:
        watchdog.cancel()
        server.kill()
        server.wait()
    if answer != (200, "my middleware my protocols my transports"):
        raise SystemExit(f"a wrong answer, {answer}:\n{''.join(log)}")
    if status != 0:
        raise SystemExit(f"after SIGTERM the server ended with {status}:\n{''.join(log)}")


def main(wheel: Path) -> None:
    """Install the wheel in an empty environment, list the plug-ins, serve an application."""
    check_contents(wheel)
    with tempfile.TemporaryDirectory(prefix="kestrel-smoke-") as name:
        folder = Path(name, "project")
        folder.mkdir()
        for module in ("middleware", "protocols", "transports"):
            (folder / f"{module}.py").write_text(f"MINE = 'my {module}'\n")
        (folder / "app.py").write_text(APPLICATION)

        home = Path(name, "environment")
        venv.create(home, with_pip=True)
        python, kestrel = home / "bin/python", home / "bin/kestrel"
        run = partial(commands.run, folder=folder)
        run(python, "-m", "pip", "install", "--disable-pip-version-check", "-qq", wheel)
        run(python, "-c", LOAD_PLUGINS)
        version = wheel.name.split("-")[1]
        if version not in (told := run(kestrel, "--version")):
            raise SystemExit(f"kestrel --version says {told!r}, the wheel {version}")
        listed = run(kestrel, "plugins")
        if missing := [
            word for word in ("memory", "tcp", "unix", "http/1.1") if word not in listed
        ]:
            raise SystemExit(f"kestrel plugins lacks {missing}:\n{listed}")
        serve_and_ask(kestrel, folder)
    print(f"{wheel.name}: installed, listed its plug-ins, served, stopped")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
