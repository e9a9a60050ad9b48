import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kestrel_core import ConfigurationError, Connection, EndReason
from kestrel_core.testing import OpenServer, check_protocol_sniffer, open_server
from kestrel_plugin_example.git import Git

# For real processes, in real time: far more than is needed.
PATIENCE_SECONDS = 30.0


def pkt_line(text: str) -> bytes:
    return f"{4 + len(text):04x}{text}".encode()


def request(path: str, *parameters: str) -> bytes:
    extra = "".join(f"{each}\0" for each in ("", *parameters)) if parameters else ""
    return pkt_line(f"git-upload-pack {path}\0host=test\0{extra}")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Generator[None]:
    """Expect that every process was waited for, and none is a zombie."""
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_it_is_recognized(root: Path) -> None:
    check_protocol_sniffer(
        Git(root=root),
        samples=[request("/project.git"), request("/x", "version=2"), b"0010git-receive-"],
        others=[b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"SSH-2.0-x\r\n", b"0010gi!", b"00x"],
    )


# Without processes, over memory and in virtual time -----------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with what looks like a repository, as long as git does not look itself."""
    (tmp_path / "root" / "project.git").mkdir(parents=True)
    (tmp_path / "root" / "project.git" / "HEAD").touch()
    return tmp_path / "root"


async def answer(opened: OpenServer, *pieces: bytes) -> tuple[bytes, EndReason | None]:
    """Send the pieces; return the answer, and why the connection ended."""
    wire = await opened.connect()
    for piece in pieces:
        await wire.transport.output.send(piece)
        await trio.testing.wait_all_tasks_blocked()
    received = b"".join([chunk async for chunk in wire.transport.input])
    await wire.aclose()
    await trio.testing.wait_all_tasks_blocked()
    return received, opened.connections[-1].end_reason


@pytest.mark.parametrize(
    "path",
    [
        "/other.git",
        "/",
        "/project.git/refs",
        "/../secret.git",
        "/project.git/../../secret.git",
        "/../root/../secret.git",
        "/link.git",
        "//etc",
        "/circle",
        "/" + 300 * "x",
    ],
)
async def test_there_is_no_other_repository(
    path: str, root: Path, autojump_clock: MockClock
) -> None:
    (root.parent / "secret.git").mkdir()
    (root.parent / "secret.git" / "HEAD").touch()
    (root / "link.git").symlink_to("../secret.git")
    (root / "circle").symlink_to("circle")
    async with open_server(Git(root=root)) as opened:
        said, reason = await answer(opened, request(path))
    assert said == pkt_line(f"ERR no such repository: {path}")
    assert reason is EndReason.COMPLETED


async def test_only_fetching_is_served(root: Path, autojump_clock: MockClock) -> None:
    push = pkt_line("git-receive-pack /project.git\0host=test\0")
    async with open_server(Git(root=root)) as opened:
        said, _ = await answer(opened, push)
    assert said == pkt_line("ERR service not enabled: git-receive-pack")


@pytest.mark.parametrize(
    "wrong", [b"0000", b"0004", b"ffff", b"what", pkt_line("git-upload-pack"), pkt_line("ls /")]
)
async def test_what_is_no_request(wrong: bytes, root: Path, autojump_clock: MockClock) -> None:
    async with open_server(Git(root=root)) as opened:
        said, reason = await answer(opened, *(bytes([byte]) for byte in wrong))
    assert said == pkt_line("ERR this is no request for a repository")
    assert reason is EndReason.INVALID_INPUT


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", EndReason.PEER_CLOSED),
        (b"003", EndReason.UNEXPECTED_END_OF_INPUT),
        (b"0033", EndReason.UNEXPECTED_END_OF_INPUT),
        (b"0033git-upload-pack /pro", EndReason.UNEXPECTED_END_OF_INPUT),
    ],
)
async def test_a_client_that_ends_early(
    sent: bytes, reason: EndReason, root: Path, autojump_clock: MockClock
) -> None:
    async with open_server(Git(root=root)) as opened:
        wire = await opened.connect()
        await wire.transport.output.send(sent)
        await wire.transport.output.send_eof()
        assert await wire.transport.input.receive() == b""
        assert opened.connections[0].end_reason is reason


@pytest.mark.parametrize("sent", [b"", b"0033git-upload-pack /pro"])
async def test_a_client_that_says_nothing(
    sent: bytes, root: Path, autojump_clock: MockClock
) -> None:
    async with open_server(Git(root=root, request_seconds=7)) as opened:
        wire = await opened.connect()
        began_at = trio.current_time()
        await wire.transport.output.send(sent)
        assert await wire.transport.input.receive() == b""
        assert trio.current_time() - began_at == pytest.approx(7)
        assert opened.connections[0].end_reason is EndReason.REQUEST_HEADERS_TIMEOUT


async def test_a_server_that_drains_does_not_wait_for_a_request(
    root: Path, autojump_clock: MockClock
) -> None:
    async with open_server(Git(root=root)) as opened:
        await opened.connect()
        await trio.testing.wait_all_tasks_blocked()
        began_at = trio.current_time()
        assert await opened.server.drain(10) == 0
        assert trio.current_time() == began_at
        assert opened.connections[0].end_reason is EndReason.SHUTDOWN


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_root_that_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="which is no folder"):
        Git(root=tmp_path / name)


def test_a_system_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="needs the program git; install it"):
        Git(root=tmp_path)


# With git, so over sockets and in real time -------------------------------------------------------


@asynccontextmanager
async def serving(git: Git) -> AsyncGenerator[OpenServer]:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_server(git, endpoint="tcp://127.0.0.1:0") as opened:
            yield opened


async def run_git(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        ["git", *arguments], check=False, capture_stdout=True, capture_stderr=True
    )


@pytest.mark.parametrize("version", ["0", "2"])
@pytest.mark.parametrize("name", ["project.git", "project"])
async def test_clone(version: str, name: str, repositories: Path, tmp_path: Path) -> None:
    protocol = ("-c", f"protocol.version={version}")
    async with serving(Git(root=repositories)) as opened:
        base = f"git://{opened.endpoint.address}"
        cloned = await run_git(*protocol, "clone", f"{base}/{name}", tmp_path / "clone")
        assert cloned.returncode == 0, cloned.stderr
        refused = await run_git(*protocol, "ls-remote", f"{base}/other")
    assert (tmp_path / "clone" / "file").read_bytes() == (
        repositories.parent / "work" / "file"
    ).read_bytes()
    assert b"remote error: no such repository: /other" in refused.stderr
    assert [each.end_reason for each in opened.connections] == [EndReason.COMPLETED] * 2


async def test_the_version_is_handed_on(repositories: Path) -> None:
    async with serving(Git(root=repositories)) as opened:
        client = await opened.connect()
        await client.transport.output.send(request("/project.git", "version=2"))
        assert (await client.transport.input.read()).startswith(b"000eversion 2\n")


async def ask_for_all(opened: OpenServer, repositories: Path) -> Connection:
    """Ask for the whole repository; return the connection when it has begun to come."""
    asked = await run_git("-C", repositories / "project.git", "rev-parse", "HEAD")
    commit = asked.stdout.decode().strip()
    client = await opened.connect()
    reader, writer = client.transport.input, client.transport.output
    await writer.send(request("/project.git"))
    await reader.read_until(b"0000", 10_000)
    await writer.send(pkt_line(f"want {commit}\n") + b"0000" + pkt_line("done\n"))
    assert await reader.read_exactly(8) == pkt_line("NAK\n")
    return client


async def test_a_client_that_goes_away(
    repositories: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Git(root=repositories)) as opened:
        for leave in ("abort", "aclose"):
            client = await ask_for_all(opened, repositories)
            if leave == "abort":
                client.abort(EndReason.ABORTED_BY_APP)
            else:
                await client.aclose()
    assert [each.end_reason for each in opened.connections] == [EndReason.CONNECTION_RESET] * 2
    assert opened.cut_connections == 0
    assert not caplog.records
    assert not opened.failures


async def test_a_client_that_takes_nothing(repositories: Path) -> None:
    async with serving(Git(root=repositories, timeout_seconds=1)) as opened:
        client = await ask_for_all(opened, repositories)
        await opened.connections[0].wait_closed()
        assert opened.connections[0].end_reason is EndReason.IDLE_TIMEOUT
        with pytest.raises(trio.BrokenResourceError):
            await client.transport.input.read_exactly(100_000_000)


async def test_a_client_that_ends_in_the_middle_of_a_conversation(
    repositories: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Git(root=repositories)) as opened:
        client = await opened.connect()
        await client.transport.output.send(request("/project.git") + b"00")
        await client.transport.output.send_eof()
        async for _ in client.transport.input:
            pass
        assert opened.connections[0].end_reason is EndReason.UNEXPECTED_END_OF_INPUT
    assert not caplog.records


async def test_a_client_that_says_more_than_git_listens_to(
    repositories: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Git(root=repositories)) as opened:
        client = await opened.connect()
        await client.transport.output.send(request("/project.git") + b"what" + bytes(1_000_000))
        with suppress(trio.BrokenResourceError):
            await client.transport.input.read_exactly(100_000_000)
    assert [each.end_reason for each in opened.connections] == [
        EndReason.ERROR_AFTER_STARTING_RESPONSE
    ]
    assert "bad line length character: what" in caplog.text


def children() -> list[int]:
    """Return the processes that this one has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


async def test_git_runs_in_a_session_of_its_own(repositories: Path) -> None:
    async with serving(Git(root=repositories)) as opened:
        await ask_for_all(opened, repositories)
        [git] = children()
        assert os.getsid(git) == git


async def test_a_server_that_stops(repositories: Path) -> None:
    async with serving(Git(root=repositories)) as opened:
        await ask_for_all(opened, repositories)
        assert await opened.server.drain(0.1) == 1


async def test_a_broken_repository(
    repositories: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(repositories, tmp_path / "root")
    [pack] = root.glob("project.git/objects/pack/*.pack")
    pack.chmod(0o600)
    os.truncate(pack, 1_000_000)
    async with serving(Git(root=root)) as opened:
        url = f"git://{opened.endpoint.address}/project"
        cloned = await run_git("clone", url, tmp_path / "clone")
    assert cloned.returncode != 0
    assert opened.connections[0].end_reason is EndReason.ERROR_AFTER_STARTING_RESPONSE
    assert "git ended with 128" in caplog.text
