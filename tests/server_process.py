"""A server in a process of its own, for tests that need a command, signals or exit codes."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

KESTREL = Path(sys.executable).with_name("kestrel")

# Real time, and a machine that may be busy: far more than is needed.
_PATIENCE_SECONDS = 30.0

_LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} ")


class ServerProcess:
    """A running program whose output, both streams of it, is read line by line."""

    def __init__(self, command: Sequence[Path | str], folder: Path | None = None) -> None:
        self.lines: list[str] = []
        """What it has printed so far, and was looked at, without times."""
        self._ended = False
        self._read = queue.Queue[str | None]()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONWARNINGS": "always::ResourceWarning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_lines)
        self._reader.start()

    def wait_for(self, pattern: str) -> str:
        """Return what the first group of `pattern` matches in a line that is still to be read."""
        while self._look_at_a_line():
            if match := re.search(pattern, self.lines[-1]):
                return match[1] if match.groups() else match[0]
        raise AssertionError(f"it ended without {pattern!r}:\n{self.output}")

    def wait_for_port(self) -> int:
        """Return the port of the next TCP endpoint that it says it listens on."""
        return int(self.wait_for(r"listening on tcp://[^ ]*:(\d+)"))

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        exit_code = self._process.wait(_PATIENCE_SECONDS)
        while self._look_at_a_line():
            pass
        return exit_code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait until it has ended, and return its exit code."""
        self.send_signal(number)
        return self.wait()

    @property
    def output(self) -> str:
        """All that was looked at."""
        return "".join(f"{line}\n" for line in self.lines)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _look_at_a_line(self) -> bool:
        """Move the next line to `lines`; tell whether there was one before the end."""
        if not self._ended:
            line = self._read.get(timeout=_PATIENCE_SECONDS)
            if line is None:
                self._ended = True
            else:
                self.lines.append(line)
        return not self._ended

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._read.put(_LOG_PREFIX.sub("", line.rstrip("\n")))
        self._read.put(None)


@contextmanager
def running(*command: Path | str, folder: Path | None = None) -> Generator[ServerProcess]:
    """Run `command` in `folder` for the length of the block; kill it if it is still there then."""
    process = ServerProcess(command, folder)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def running_kestrel(*arguments: Path | str, folder: Path | None = None) -> Generator[ServerProcess]:
    """Run the command `kestrel`, as `running` does."""
    with running(KESTREL, *arguments, folder=folder) as process:
        yield process
