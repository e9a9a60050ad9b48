"""The servers that are compared, each as the command that starts it.

All of them run one process or worker without an access log, listen on loopback and serve the same
application. Two settings are raised wherever they exist, because the comparison is of the cost of
a request or a connection and not of policy: keep-alive timeouts (5 seconds by default in uvicorn
and hypercorn), which would close idle connections while they are being counted, and backlogs or
connection caps (100 in hypercorn, 1024 in granian), which would drop or park a burst of clients.
Kestrel alone limits a request's body by default, and is told to take more than the largest here.
"""

from pathlib import Path

from attrs import frozen

BENCHMARK_FOLDER = Path(__file__).resolve().parent.parent
"""The folder with the application file, from which every server is started."""

KESTREL = "kestrel"
"""The name of the server under test, against which the ratios are formed."""


@frozen(kw_only=True)
class ServerKind:
    """One way to serve the application, before it has a port.

    `arguments` may contain `{port}` and `{folder}`; the latter is where the application file is.
    """

    name: str
    title: str
    program: str
    arguments: tuple[str, ...]

    def command_line(self, port: int) -> list[str]:
        """The arguments with the placeholders filled in, without the program."""
        return [argument.format(port=port, folder=BENCHMARK_FOLDER) for argument in self.arguments]


_UVICORN = (
    "--app-dir={folder}",
    "--host=127.0.0.1",
    "--port={port}",
    "--workers=1",
    "--no-access-log",
    "--log-level=warning",
    "--timeout-keep-alive=3600",
    "--backlog=4096",
    "applications:app",
)
_HYPERCORN = (
    "--config={folder}/hypercorn.toml",
    "--bind=127.0.0.1:{port}",
    "--workers=1",
    "--log-level=warning",
    "--keep-alive=3600",
    "--backlog=4096",
    "applications:app",
)

SERVERS = (
    ServerKind(
        name=KESTREL,
        title="kestrel (trio)",
        program="kestrel",
        arguments=(
            "--app-dir",
            "{folder}",
            "applications:app",
            "--listen",
            "tcp://127.0.0.1:{port}",
            "--max-request-body-bytes=2000000000",
        ),
    ),
    ServerKind(
        # HTTP/1 only, as uvicorn is, which spares granian the protocol sniff of each connection.
        # The header timeout also ends idle connections, and 60 seconds is the most it allows;
        # backpressure is a cap on connections, and would leave an idle crowd unaccepted.
        name="granian",
        title="granian (asgi, loop auto)",
        program="granian",
        arguments=(
            "--interface=asgi",
            "--working-dir={folder}",
            "--host=127.0.0.1",
            "--port={port}",
            "--workers=1",
            "--runtime-threads=1",
            "--http=1",
            "--no-access-log",
            "--log-level=warning",
            "--http1-header-read-timeout=60000",
            "--backlog=4096",
            "--backpressure=16384",
            "applications:app",
        ),
    ),
    ServerKind(
        name="uvicorn-httptools",
        title="uvicorn (httptools, uvloop)",
        program="uvicorn",
        arguments=("--http=httptools", "--loop=uvloop", *_UVICORN),
    ),
    ServerKind(
        name="uvicorn-h11",
        title="uvicorn (h11, asyncio)",
        program="uvicorn",
        arguments=("--http=h11", "--loop=asyncio", *_UVICORN),
    ),
    ServerKind(
        name="hypercorn-trio",
        title="hypercorn (trio)",
        program="hypercorn",
        arguments=("--worker-class=trio", *_HYPERCORN),
    ),
    ServerKind(
        name="hypercorn-asyncio",
        title="hypercorn (asyncio)",
        program="hypercorn",
        arguments=("--worker-class=asyncio", *_HYPERCORN),
    ),
)
QUICK_SERVERS = (KESTREL, "granian", "uvicorn-httptools")
