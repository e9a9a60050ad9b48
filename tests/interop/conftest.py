"""Programs and servers that these tests talk to."""

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.server_process import ServerProcess, running_kestrel

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def program(name: str) -> str:
    """Return where a program is; the test is skipped where it is missing, but not in CI."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("KESTREL_REQUIRE_PROGRAMS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def curl() -> str:
    return program("curl")


@pytest.fixture
def netcat() -> str:
    return program("nc")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Generator[ServerProcess]:
    """Serve the application that the test is about; at its end nothing else was printed."""
    name: str = request.param
    arguments = ("--app-dir", EXAMPLES, name, "--listen=tcp://127.0.0.1:0")
    with running_kestrel(*arguments) as server:
        yield server
        assert server.stop() == 0
        first, second, last = server.lines
        assert first.startswith("INFO kestrel.cli: listening on tcp://127.0.0.1:")
        assert second.startswith("INFO kestrel.cli: SIGTERM: draining ")
        assert last == "INFO kestrel.cli: stopped; connections cut: 0"


@pytest.fixture
def address(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.wait_for_port()}"


@pytest.fixture
def client(address: str) -> Generator[httpx.Client]:
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
        yield client
