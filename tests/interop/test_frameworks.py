"""Applications of other people's frameworks, served by the command, asked by other people's clients.

These wait in real time, for processes.
"""

import json
import subprocess
from pathlib import Path

import httpx
import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(curl: str, *arguments: str) -> str:
    """Ask with curl, which reads no configuration; return what it printed."""
    result = subprocess.run(
        [curl, "--disable", "--noproxy", "*", "--silent", "--show-error", "--fail", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


starlette = pytest.mark.parametrize("server", ["demo:app"], indirect=True, ids=["starlette"])
fastapi = pytest.mark.parametrize("server", ["fastapi_app:app"], indirect=True, ids=["fastapi"])
quart_trio = pytest.mark.parametrize("server", ["quart_trio_app:app"], indirect=True, ids=["quart"])


@starlette
def test_starlette_with_curl(address: str, curl: str) -> None:
    assert "HTTP/1.1 200 OK" in run(curl, "--include", f"{address}/json")
    streamed = run(curl, "--no-buffer", f"{address}/stream")
    assert streamed == "".join(f"line {number} of 10\n" for number in range(1, 11))
    assert "<td>hello, curl" in run(curl, "--data-urlencode", "text=hello, curl", f"{address}/echo")


@starlette
def test_starlette_with_httpx(client: httpx.Client) -> None:
    assert client.get("/").status_code == 200
    assert client.get("/nowhere").status_code == 404
    head = client.head("/json")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    assert "<td>hello" in client.post("/echo", data={"text": "hello"}).text


@starlette
def test_two_requests_of_curl_use_one_connection(address: str, curl: str) -> None:
    told = run(
        curl, "--write-out", "%{num_connects} ", "--output", "/dev/null", f"{address}/json",
        "--next", "--silent", "--write-out", "%{num_connects}", "--output", "/dev/null",
        f"{address}/json",
    )  # fmt: skip
    assert told == "1 0"


@fastapi
def test_fastapi_with_curl(address: str, curl: str) -> None:
    assert run(curl, f"{address}/names/2") == '"Grace"'
    order = (
        "--header",
        "content-type: application/json",
        "--data",
        '{"article": "tea", "count": 3}',
    )
    assert json.loads(run(curl, *order, f"{address}/orders")) == {"confirmed": "3 x tea"}


@fastapi
def test_fastapi_with_httpx(client: httpx.Client) -> None:
    assert client.get("/names/1").json() == "Ada"  # from the lifespan's state
    assert client.get("/names/9").status_code == 404
    assert client.get("/names/ten").status_code == 422
    assert client.post("/orders", json={"article": "tea", "count": 2}).json() == {
        "confirmed": "2 x tea"
    }
    assert "openapi" in client.get("/openapi.json").json()


@quart_trio
def test_quart_trio_with_curl(address: str, curl: str) -> None:
    assert run(curl, f"{address}/") == "Hello from Quart on trio\n"
    assert run(curl, "--data", "quietly", f"{address}/shout") == "QUIETLY"
    chunked = ("--header", "transfer-encoding: chunked", "--data", "in pieces")
    assert run(curl, *chunked, f"{address}/shout") == "IN PIECES"


@quart_trio
def test_quart_trio_with_httpx(client: httpx.Client) -> None:
    assert client.get("/").text == "Hello from Quart on trio\n"
    assert client.post("/shout", content=b"x" * 200_000).text == "X" * 200_000
    with client.stream("GET", "/stream") as response:
        assert list(response.iter_lines()) == ["0", "1", "2"]
