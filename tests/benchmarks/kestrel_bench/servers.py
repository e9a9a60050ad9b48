"""The servers that are compared, each as the command that starts it.

All of them run one process or worker without an access log, listen on loopback and serve the same
application. Two settings are raised wherever they exist, because the comparison is of the cost of
a request or a connection and not of policy: keep-alive timeouts (5 seconds by default in uvicorn
and hypercorn), which would close idle connections while they are being counted, and backlogs or
connection caps (100 in hypercorn, 1024 in granian), which would drop or park a burst of clients.
Kestrel alone limits a request's body by default, and is told to take more than the largest here.

With TLS all show the same certificate and are left to agree with the client on everything else,
which comes to the same for all: TLS 1.3, X25519 and AES-256-GCM.
"""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from attrs import frozen

from kestrel_bench.certificate import CertificateFiles

BENCHMARK_FOLDER = Path(__file__).resolve().parent.parent
"""The folder with the application file, from which every server is started."""

KESTREL = "kestrel"
"""The name of the server under test, against which the ratios are formed."""


class Setup(Enum):
    """What stands between a server's socket and the requests; all but the first two are kestrel's."""

    PLAIN = "plain"
    TLS = "tls"
    PASS_THROUGH = "pass-through"
    WIRETAP_OFF = "wiretap switched off"
    IDLE = "idle"
    THROTTLE = "throttle without effect"
    DETECT = "detect"
    ADMISSION = "admission"


@frozen(kw_only=True)
class ServerKind:
    """One way to serve the application, before it has a port.

    `arguments` may contain `{port}` and `{folder}`; the latter is where the application file is.
    Those of `setups` come on top, and may contain `{certificate}` and `{key}`, too.
    """

    name: str
    title: str
    program: str
    arguments: tuple[str, ...]
    setups: Mapping[Setup, tuple[str, ...]]

    def offers(self, setup: Setup) -> bool:
        """Whether it can be set up so."""
        return setup is Setup.PLAIN or setup in self.setups

    def command_line(self, setup: Setup, *, port: int, files: CertificateFiles) -> list[str]:
        """The arguments with the placeholders filled in, without the program."""
        *options, application = self.arguments
        return [
            argument.format(
                port=port, folder=BENCHMARK_FOLDER, certificate=files.certificate, key=files.key
            )
            for argument in (*options, *self.setups.get(setup, ()), application)
        ]


ADMITTED_CONNECTIONS = 64
"""How many connections a server with `Setup.ADMISSION` takes at once."""

_HUGE = "1e12"

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
_UVICORN_TLS = ("--ssl-certfile={certificate}", "--ssl-keyfile={key}")
_HYPERCORN = (
    "--config={folder}/hypercorn.toml",
    "--bind=127.0.0.1:{port}",
    "--workers=1",
    "--log-level=warning",
    "--keep-alive=3600",
    "--backlog=4096",
    "applications:app",
)
_HYPERCORN_TLS = ("--certfile={certificate}", "--keyfile={key}")

SERVERS = (
    ServerKind(
        name=KESTREL,
        title="kestrel (trio)",
        program="kestrel",
        arguments=(
            "--app-dir={folder}",
            "--listen=tcp://127.0.0.1:{port}",
            "--max-request-body-bytes=2000000000",
            "applications:app",
        ),
        setups={
            Setup.TLS: ("--certfile={certificate}", "--keyfile={key}"),
            Setup.PASS_THROUGH: ("--middleware=pass_through:PassThrough",),
            Setup.WIRETAP_OFF: ("--middleware=kestrel_middleware.wiretap:Wiretap:enabled=false",),
            Setup.IDLE: ("--middleware=kestrel_middleware.idle:Idle:seconds=600",),
            Setup.THROTTLE: (
                "--middleware=kestrel_middleware.throttle:Throttle:"
                f"read_bytes_per_second={_HUGE},write_bytes_per_second={_HUGE}",
            ),
            # No client here begins as SSH does, so nothing need listen where that would go.
            Setup.DETECT: ("--protocol=ssh:to=tcp://127.0.0.1:22", "--protocol=http/1.1"),
            Setup.ADMISSION: (
                "--middleware=kestrel_middleware.admission:ConnectionAdmission:"
                f"max_connections={ADMITTED_CONNECTIONS}",
            ),
        },
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
        setups={Setup.TLS: ("--ssl-certificate={certificate}", "--ssl-keyfile={key}")},
    ),
    ServerKind(
        name="uvicorn-httptools",
        title="uvicorn (httptools, uvloop)",
        program="uvicorn",
        arguments=("--http=httptools", "--loop=uvloop", *_UVICORN),
        setups={Setup.TLS: _UVICORN_TLS},
    ),
    ServerKind(
        name="uvicorn-h11",
        title="uvicorn (h11, asyncio)",
        program="uvicorn",
        arguments=("--http=h11", "--loop=asyncio", *_UVICORN),
        setups={Setup.TLS: _UVICORN_TLS},
    ),
    ServerKind(
        name="hypercorn-trio",
        title="hypercorn (trio)",
        program="hypercorn",
        arguments=("--worker-class=trio", *_HYPERCORN),
        setups={Setup.TLS: _HYPERCORN_TLS},
    ),
    ServerKind(
        name="hypercorn-asyncio",
        title="hypercorn (asyncio)",
        program="hypercorn",
        arguments=("--worker-class=asyncio", *_HYPERCORN),
        setups={Setup.TLS: _HYPERCORN_TLS},
    ),
)
QUICK_SERVERS = (KESTREL, "granian", "uvicorn-httptools")
