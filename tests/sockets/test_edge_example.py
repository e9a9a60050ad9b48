"""The program docs/examples/edge.py, in a process and so in real time."""

import signal
import sys
from pathlib import Path

import httpx

from tests.server_process import running, running_kestrel

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ANY_PORT = "tcp://127.0.0.1:0"
TOLD = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"}


def ask(url: str, **headers: str) -> httpx.Response:
    told = {**headers, "connection": "close"}
    return httpx.get(url, headers=told, trust_env=False, timeout=30)


def test_with_kestrel() -> None:
    with running_kestrel("--app-dir", EXAMPLES, "edge:app", f"--listen={ANY_PORT}") as server:
        base = f"http://127.0.0.1:{server.wait_for_port()}"
        assert ask(base, **TOLD).text == "Hello, 203.0.113.7, by https\n"
        response = ask(f"{base}/x?y")
        assert (response.status_code, response.headers["location"]) == (
            308,
            "https://127.0.0.1/x?y",
        )
        assert ask(base, host="evil.test", **TOLD).status_code == 400
        response = ask(base, host="www.example.com", **TOLD)
        assert response.headers["strict-transport-security"] == "max-age=2592000"
        told = {**TOLD, "x-forwarded-for": "203.0.113.8"}
        assert ask(base, **told).status_code == 200
        while (response := ask(base, **told)).status_code == 200:
            pass  # a slow machine may need more than the five of a second
        assert (response.status_code, response.text) == (429, "Too many requests.\n")
        assert ask(f"{base}/readyz").json() == {"status": "ready", "checks": {"disk": "passed"}}
        assert server.stop() == 0


def test_it_is_not_ready_while_it_drains() -> None:
    with running(sys.executable, EXAMPLES / "edge.py", ANY_PORT) as program:
        base = f"http://127.0.0.1:{program.wait_for_port()}"
        assert ask(f"{base}/readyz").status_code == 200
        program.send_signal(signal.SIGTERM)
        while (response := ask(f"{base}/readyz")).status_code == 200:
            pass
        assert (response.status_code, response.json()) == (503, {"status": "draining"})
        assert ask(base, **TOLD).status_code == 200
        assert program.wait() == 0


def test_on_the_command_line() -> None:
    options = [
        "--asgi-middleware=health",
        "--asgi-middleware=forwarded:trusted=127.0.0.1,trusted=unix",
        "--asgi-middleware=kestrel_middleware.asgi:HostFilter:allowed=127.0.0.1",
        "--asgi-middleware=rate_limit:limit=2/hour,strategy=sliding_window",
    ]
    target: tuple[Path | str, ...] = (
        "--app-dir",
        EXAMPLES,
        *options,
        "plain_asgi:app",
        f"--listen={ANY_PORT}",
    )
    with running_kestrel(*target) as server:
        base = f"http://127.0.0.1:{server.wait_for_port()}"
        assert ask(f"{base}/livez").json() == {"status": "alive"}
        assert ask(base, host="evil.test").status_code == 400
        assert [ask(base).status_code for _ in range(3)] == [200, 200, 429]
        assert ask(base, **TOLD).status_code == 200
        assert server.stop() == 0
