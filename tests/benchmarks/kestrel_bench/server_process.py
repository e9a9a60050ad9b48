"""A benchmarked server as a running process group: started, found ready, and always ended."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Self

from applications import FILE_FOLDER_VARIABLE
from kestrel_bench.correctness import answers_at_all
from kestrel_bench.environment import Environment
from kestrel_bench.servers import BENCHMARK_FOLDER, KESTREL, ServerKind, Setup

_READY_SECONDS = 20.0
_POLL_SECONDS = 0.05
_TERMINATE_SECONDS = 2.0


class ServerFailedError(Exception):
    """A server did not start, answered wrongly or died; the text is the reason for the table."""


class ServerProcess:
    """A server in its own session, pinned to one core, on a free port held for it until it starts.

    Entering starts it without waiting, so that several can start at once; `wait_ready` waits.
    Leaving ends the whole process group, whatever state it is in.
    """

    def __init__(
        self,
        kind: ServerKind,
        environment: Environment,
        *,
        core: int,
        setup: Setup = Setup.PLAIN,
    ) -> None:
        self.kind: ServerKind = kind
        self.setup: Setup = setup
        self._port_holder = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._port_holder.getsockname()[1]
        self._environment = environment
        self._core = core
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._port_holder.close()
        program = self._environment.program(self.kind.program)
        arguments = self.kind.command_line(
            self.setup, port=self.port, files=self._environment.certificate
        )
        # Workers that are spawned, not forked, find the application by this path.
        variables = os.environ | {
            "PYTHONPATH": str(BENCHMARK_FOLDER),
            FILE_FOLDER_VARIABLE: str(self._environment.static_files),
        }
        if program.exists():
            self._process = subprocess.Popen(
                ["taskset", "-c", str(self._core), str(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                cwd=BENCHMARK_FOLDER,
                env=variables,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._process
        if process is not None:
            _signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TERMINATE_SECONDS)
            # Workers can outlive their supervisor, so the group is killed in any case.
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """The id of the group's leader, the root of the process tree.

        Raises:
            ServerFailedError: the server was never started.
        """
        if self._process is None:
            raise ServerFailedError(self._why_not_started())
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the group's leader is running."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self) -> None:
        """Returns once the server answers a request.

        Raises:
            ServerFailedError: it is not installed, ended, or did not answer in time.
        """
        give_up = time.monotonic() + _READY_SECONDS
        while not answers_at_all(self.port, tls=self.setup is Setup.TLS):
            if not self.alive:
                raise ServerFailedError(self._why_not_started())
            if time.monotonic() > give_up:
                reason = self.last_logged_line()
                raise ServerFailedError(f"no answer after {_READY_SECONDS:.0f} s: {reason}")
            time.sleep(_POLL_SECONDS)
        # An answer from a stranger who took the port first would be measured as this server's.
        if not self.alive:
            raise ServerFailedError(self._why_not_started())

    def last_logged_line(self) -> str:
        """The last line that the server wrote, for a reader who wonders why it failed."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it wrote nothing"

    def _why_not_started(self) -> str:
        if self._process is None:
            problem = self._environment.project_problem
            if self.kind.name == KESTREL and problem is not None:
                return problem
            return f"the command {self.kind.program!r} is not installed"
        return f"exit code {self._process.poll()}: {self.last_logged_line()}"


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)
