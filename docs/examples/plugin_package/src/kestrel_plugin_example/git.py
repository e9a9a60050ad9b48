"""Git's own protocol, read-only: `git clone git://host:port/path`.

A client says in one line, a pkt-line, which repository it wants (gitprotocol-pack(5)). The rest is
between it and `git upload-pack`, a process of its own for each connection: one task carries bytes
to it, one carries bytes from it, and one keeps what it complains of.

Whatever ends the serving ends the process. A client that goes away breaks a read or a write, one
that stays and does nothing runs into `timeout_seconds`, and a server that stops cancels. In each
case `trio.run_process` terminates git, kills it if it is still there after 5 s, and waits for it.
"""

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from kestrel_core import (
    ConfigurationError,
    Connection,
    EndReason,
    PipeReader,
    PipeWriter,
    Protocol,
    Sniff,
)

__all__ = ["Git"]

_log = logging.getLogger("kestrel.git")

# A pkt-line begins with its length in four hexadecimal digits, which count themselves, too.
_DIGITS = 4
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]*")

# What the services are called begins with it.
_BEGINNING = b"git-"

# Two of the longest paths; a pkt-line could be longer.
_MOST_LINE_BYTES = 8192

_CHUNK_BYTES = 64 * 1024

# Of what git complains of, the last words are logged.
_MOST_COMPLAINT_BYTES = 2000


def _resolved(path: Path) -> Path:
    return path.resolve()


@attrs.define(kw_only=True, eq=False)
class Git(Protocol):
    """Serves the repositories in a folder to `git clone` and `git fetch`, and nothing else.

    Raises:
        ConfigurationError: there is no such folder, or no program `git`.
    """

    name = "git"

    root: Path = attrs.field(converter=_resolved)
    """The folder. A URL names a repository in it, and may leave out `.git` at its end."""

    request_seconds: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    """How long a client may take to say what it wants (git daemon: --init-timeout)."""

    timeout_seconds: int = attrs.field(default=300, validator=attrs.validators.ge(1))
    """How long nothing may move afterwards, in either direction (git daemon: --timeout)."""

    def __attrs_post_init__(self) -> None:
        if not self.root.is_dir():
            raise ConfigurationError(f"git cannot serve {self.root}, which is no folder")
        if shutil.which("git") is None:
            raise ConfigurationError("the protocol git needs the program git; install it")

    def sniff(self, prefix: bytes) -> Sniff:
        digits, word = prefix[:_DIGITS], prefix[_DIGITS : _DIGITS + len(_BEGINNING)]
        if not (_HEXADECIMAL.fullmatch(digits) and _BEGINNING.startswith(word)):
            return Sniff.NO
        return Sniff.YES if word == _BEGINNING else Sniff.MORE

    async def __call__(self, connection: Connection) -> None:
        line = await self._read_request(connection)
        if line is None:
            return
        request = _Request.parse(line)
        if request is None:
            connection.record_end(EndReason.INVALID_INPUT)
            await _refuse(connection, "this is no request for a repository")
        elif request.service != "git-upload-pack":
            await _refuse(connection, f"service not enabled: {request.service}")
        else:
            repository = await trio.to_thread.run_sync(self._find, request.path)
            if repository is None:
                await _refuse(connection, f"no such repository: {request.path}")
            else:
                await self._upload(connection, repository, request.parameters)

    async def _read_request(self, connection: Connection) -> bytes | None:
        """Return the first pkt-line; or None, with the reason recorded, if there is none."""
        # A scope costs as much as a small HTTP request, and next to nothing beside a process.
        with trio.move_on_after(self.request_seconds) as scope:
            connection.close_requested.listen(scope.cancel)
            try:
                return await _read_line(connection)
            finally:
                connection.close_requested.unlisten(scope.cancel)
        if connection.close_requested:
            connection.record_end(EndReason.SHUTDOWN)
        else:
            connection.record_end(EndReason.REQUEST_HEADERS_TIMEOUT)
        return None

    def _find(self, path: str) -> Path | None:
        """Return the repository that `path` names, or None where the root has none of that name."""
        asked = self.root / path.lstrip("/")
        for candidate in (asked, asked / ".git", Path(f"{asked}.git")):
            try:
                found = candidate.resolve(strict=True)  # has no `..` and no link in it any more
            except (OSError, RuntimeError):  # there is none, or its links run in a circle
                continue
            if found.is_relative_to(self.root) and (found / "HEAD").is_file():
                return found
        return None

    async def _upload(
        self, connection: Connection, repository: Path, parameters: Sequence[str]
    ) -> None:
        """Run git, and carry bytes between it and the client until it has ended."""
        run = partial(
            trio.run_process,
            ["git", "upload-pack", "--strict", f"--timeout={self.timeout_seconds}", repository],
            env={**os.environ, "GIT_PROTOCOL": ":".join(parameters)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            start_new_session=True,  # Ctrl-C asks the server to finish, and not git to stop
        )
        complaint = bytearray()
        pipe = connection.transport
        with trio.CancelScope() as patience:

            def moved() -> None:
                patience.deadline = trio.current_time() + self.timeout_seconds

            moved()
            async with trio.open_nursery() as processes:
                process: trio.Process = await processes.start(run)
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stderr is not None
                processes.start_soon(_keep_last_words, process.stderr, complaint)
                async with trio.open_nursery() as carrying:
                    carrying.start_soon(_carry_to_git, pipe.input, process.stdin, moved)
                    await _carry_from_git(process.stdout, pipe.output, moved)
                    carrying.cancel_scope.cancel()
            if process.returncode:
                self._note_failure(connection, process.returncode, complaint)
            return
        connection.abort(EndReason.IDLE_TIMEOUT)

    def _note_failure(self, connection: Connection, exit_code: int, complaint: bytearray) -> None:
        if connection.transport.input.at_eof:  # then it has nobody to talk to
            connection.record_end(EndReason.UNEXPECTED_END_OF_INPUT)
            return
        _log.warning(
            "connection %s: git ended with %d: %s",
            connection.id,
            exit_code,
            complaint.decode(errors="replace").strip(),
            extra={"connection_id": connection.id},
        )
        connection.abort(EndReason.ERROR_AFTER_STARTING_RESPONSE)


@attrs.frozen
class _Request:
    """What a client asks for, such as "git-upload-pack" of "/project.git"."""

    service: str
    path: str
    parameters: Sequence[str]
    """Such as "version=2"."""

    @classmethod
    def parse(cls, line: bytes) -> "_Request | None":
        """Read `service path NUL host=name NUL NUL parameter NUL`; the last parts may be missing."""
        command, *fields = os.fsdecode(line).split("\0")
        service, _, path = command.rstrip("\n").partition(" ")
        if not (service.startswith("git-") and path.startswith("/")):
            return None
        parameters = fields[fields.index("") + 1 :] if "" in fields else []
        return cls(service, path, [each for each in parameters if each])


async def _read_line(connection: Connection) -> bytes | None:
    """Return what a pkt-line says; b"" if it is none, or too long; or None, with the reason
    recorded, if the input ends before it does.
    """
    reader = connection.transport.input
    digits = await reader.read_exactly(_DIGITS)
    if not digits:
        connection.record_end(EndReason.PEER_CLOSED)
        return None
    if len(digits) == _DIGITS:
        if not _HEXADECIMAL.fullmatch(digits):
            return b""
        length = int(digits, 16) - _DIGITS
        if not 0 < length <= _MOST_LINE_BYTES:
            return b""
        line = await reader.read_exactly(length)
        if len(line) == length:
            return line
    connection.record_end(EndReason.UNEXPECTED_END_OF_INPUT)
    return None


async def _refuse(connection: Connection, why: str) -> None:
    """Say why not, in the pkt-line that git shows to its user."""
    said = os.fsencode(f"ERR {why}")
    await connection.transport.output.send(b"%04x%b" % (_DIGITS + len(said), said))


async def _carry_to_git(
    reader: PipeReader, git: trio.abc.SendStream, moved: Callable[[], None]
) -> None:
    async with git:
        async for chunk in reader:
            moved()
            try:
                await git.send_all(chunk)
            except trio.BrokenResourceError:  # it listens no more; what it says is still to come
                return


async def _carry_from_git(
    git: trio.abc.ReceiveStream, writer: PipeWriter, moved: Callable[[], None]
) -> None:
    async with git:
        while chunk := await git.receive_some(_CHUNK_BYTES):
            moved()
            await writer.send(bytes(chunk))


async def _keep_last_words(git: trio.abc.ReceiveStream, kept: bytearray) -> None:
    async with git:
        async for chunk in git:
            kept += chunk
            del kept[:-_MOST_COMPLAINT_BYTES]
