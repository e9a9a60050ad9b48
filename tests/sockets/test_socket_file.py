"""The files of Unix sockets: their owners, what is there already, and what goes in the end."""

# ruff: noqa: ASYNC240  # a look at a temporary folder keeps nobody waiting

import os
import socket
import stat
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import trio

from kestrel_core.connection import Address
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.transport import TransportContext
from kestrel_transports.unix import UnixTransport
from tests.socket_ends import Bind, Task, as_nobody, leave_behind

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has that")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to give files away")


@pytest.fixture
def bind(unix: UnixTransport, context: TransportContext) -> Bind:
    return Bind(unix, context)


@pytest.fixture
def umask() -> Generator[None]:
    """Make the umask one that takes something away, and some of what the tests ask for."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def files_beside(path: Path) -> list[str]:
    return [name for name in os.listdir(path.parent) if name != path.name]


# Files ------------------------------------------------------------------------------------------


async def test_a_file_is_bound_and_removed(bind: Bind, path: Path) -> None:
    async with bind(f"unix://{path}?backlog=7") as listener:
        assert str(listener.endpoint) == f"unix://{path}?backlog=7"
        assert path.is_socket()
        assert files_beside(path) == []
        async with bind.pair(listener) as (client, server):
            assert server.local == client.remote == Address(str(path))
            assert server.remote is None
            assert client.local is None
            await listener.unbind()
            assert not path.exists()
            await client.transport.output.send(b"still here")
            assert await server.transport.input.receive() == b"still here"
            with pytest.raises(FileNotFoundError):
                await bind.transport.connect(listener.endpoint, bind.context)
    assert files_beside(path) == []


async def test_without_a_mode_the_umask_decides(bind: Bind, path: Path, umask: None) -> None:
    async with bind(f"unix://{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o750


@pytest.mark.parametrize("mode", [0o660, 0o666, 0o600, 0o777, 0o000])
async def test_the_mode_is_what_the_option_says_whatever_the_umask(
    bind: Bind, path: Path, umask: None, mode: int
) -> None:
    async with bind(f"unix://{path}?mode={mode:03o}"):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.umask(0o027) == 0o027, "the umask should be as it was"


@only_root
@pytest.mark.parametrize(
    ("owner", "user_id", "group_id"),
    [
        ("1234:5678", 1234, 5678),
        ("1234", 1234, 0),
        (":5678", 0, 5678),
        ("root:root", 0, 0),
        ("root", 0, 0),
        ("4294967294", 4294967294, 0),
    ],
)
async def test_the_owner_is_what_the_option_says(
    bind: Bind, path: Path, owner: str, user_id: int, group_id: int
) -> None:
    async with bind(f"unix://{path}?mode=640&owner={owner}"):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (user_id, group_id)
        assert stat.S_IMODE(status.st_mode) == 0o640
    assert not path.exists()


async def test_an_owner_that_may_not_be_set_is_told_and_leaves_nothing(
    bind: Bind, path: Path
) -> None:
    path.parent.chmod(0o777)
    with as_nobody(), pytest.raises(BindError) as caught:
        async with bind(f"unix://{path}?owner=0"):
            pass
    assert str(caught.value) == f"cannot bind unix://{path}?owner=0: Operation not permitted"
    assert os.listdir(path.parent) == []


async def test_a_relative_path_is_removed_though_the_working_directory_changed(
    bind: Bind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    async with bind("unix://app.sock?mode=600") as listener:
        assert listener.endpoint.address == "app.sock"
        async with bind.pair(listener):
            pass
        monkeypatch.chdir("/")
        assert path.is_socket()
    assert not path.exists()


async def test_a_file_may_begin_with_an_at_sign_and_contain_anything(
    bind: Bind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    async with bind("unix://./@ä%3F%20%25") as listener:
        assert Path("@ä? %").is_socket()
        async with bind.pair(listener):
            pass


@pytest.mark.parametrize("length", [90, 98, 99, 106, 107])
@only_linux
async def test_a_path_may_be_as_long_as_the_system_allows(
    bind: Bind, path: Path, length: int
) -> None:
    long = path.with_name("x" * (length - len(str(path.parent)) - 1))
    async with bind(f"unix://{long}") as listener, bind.pair(listener):
        assert os.listdir(path.parent) == [long.name]


@only_linux
async def test_a_path_that_is_too_long_is_refused_with_both_lengths(
    unix: UnixTransport, context: TransportContext, path: Path
) -> None:
    long = path.with_name("x" * (107 - len(str(path.parent))))
    for use in (unix.bind, unix.connect):
        with pytest.raises(EndpointError) as caught:
            await use(Endpoint.parse(f"unix://{long}"), context)
        assert caught.value.fault == (
            "the name takes 108 bytes, and this system has room for 107; choose a shorter one,"
            " or a path relative to the working directory"
        )


# What is there already --------------------------------------------------------------------------


async def test_a_stale_file_is_replaced(bind: Bind, path: Path) -> None:
    leave_behind(path)
    async with bind(f"unix://{path}") as listener, bind.pair(listener):
        assert files_beside(path) == []
    assert not path.exists()


async def test_a_file_in_use_is_refused_and_its_server_not_disturbed(
    bind: Bind, path: Path
) -> None:
    async with bind(f"unix://{path}") as listener:
        with pytest.raises(BindError) as caught:
            async with bind(f"unix://{path}?mode=600"):
                pass
        assert str(caught.value) == (
            f"cannot bind unix://{path}?mode=600: a socket that is in use is there already"
        )
        async with bind.pair(listener) as (client, server):
            await client.transport.output.send(b"x")
            assert await server.transport.input.receive() == b"x"
        assert files_beside(path) == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_file_in_use_by_somebody_who_does_not_accept_is_refused(
    bind: Bind, path: Path, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        with pytest.raises(BindError, match="in use"):
            async with bind(f"unix://{path}"):
                pass
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
async def test_what_is_no_socket_stays(bind: Bind, path: Path, kind: str) -> None:
    target = path.with_name("target")
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case _:
            if kind == "link":
                leave_behind(target)
            path.symlink_to(target)
    before = path.lstat()
    with pytest.raises(BindError) as caught:
        async with bind(f"unix://{path}"):
            pass
    assert str(caught.value) == (
        f"cannot bind unix://{path}: what is there already is no socket, and stays"
    )
    assert path.lstat() == before
    assert files_beside(path) == (["target"] if kind == "link" else [])


async def test_without_a_folder_nothing_can_be_bound(bind: Bind, path: Path) -> None:
    nowhere = path.parent / "nowhere" / "app.sock"
    with pytest.raises(BindError) as caught:
        async with bind(f"unix://{nowhere}"):
            pass
    assert str(caught.value) == f"cannot bind unix://{nowhere}: its folder does not exist"
    file = path.with_name("file")
    file.touch()
    with pytest.raises(BindError, match="Not a directory"):
        async with bind(f"unix://{file}/app.sock"):
            pass


async def test_a_socket_that_cannot_be_asked_is_refused(bind: Bind, path: Path) -> None:
    leave_behind(path)
    path.chmod(0)
    path.parent.chmod(0o777)
    with as_nobody(), pytest.raises(BindError) as caught:
        async with bind(f"unix://{path}"):
            pass
    assert str(caught.value) == (
        f"cannot bind unix://{path}: a socket is there already, and there is no telling whether it"
        " is in use: Permission denied"
    )
    assert path.is_socket()


async def test_of_many_that_bind_at_once_one_succeeds(bind: Bind, path: Path) -> None:
    leave_behind(path)
    endpoint = Endpoint.parse(f"unix://{path}")
    async with trio.open_nursery() as nursery:
        binding = [
            Task(nursery, lambda: bind.transport.bind(endpoint, bind.context)) for _ in range(10)
        ]
    assert sum(isinstance(task.error, BindError) for task in binding) == 9
    (listener,) = [listener for task in binding for listener in task.results]
    async with bind.pair(listener):
        pass
    await listener.aclose()
    assert os.listdir(path.parent) == []


# What comes meanwhile ---------------------------------------------------------------------------


class Rival:
    """Another server that binds the same file, at a moment of the test's choosing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.bound = False

    def bind(self) -> None:
        if not self.bound:
            self.path.unlink(missing_ok=True)
            self.socket.bind(str(self.path))
            self.socket.listen()
            self.bound = True

    def expect_undisturbed(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))


@pytest.fixture
def rival(path: Path, nothing_left_open: None) -> Generator[Rival]:
    rival = Rival(path)
    with rival.socket:
        yield rival


async def test_a_server_that_takes_a_free_name_first_keeps_it(
    bind: Bind, path: Path, rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_too_late(source: bytes, target: bytes) -> None:
        rival.bind()
        link(source, target)

    monkeypatch.setattr(os, "link", link_too_late)
    with pytest.raises(BindError, match="in use"):
        async with bind(f"unix://{path}"):
            pass
    rival.expect_undisturbed()
    assert files_beside(path) == []


async def test_a_server_that_replaces_a_stale_file_first_keeps_its_own(
    bind: Bind, path: Path, rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(path)
    rename = os.rename

    def rename_too_late(source: bytes, target: bytes) -> None:
        rival.bind()
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_too_late)
    with pytest.raises(BindError, match="in use"):
        async with bind(f"unix://{path}"):
            pass
    rival.expect_undisturbed()
    assert files_beside(path) == []


@pytest.mark.parametrize("stale", [True, False])
async def test_a_file_system_without_links_will_do(
    bind: Bind, path: Path, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    def no_link(source: bytes, target: bytes) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_link)
    if stale:
        leave_behind(path)
    async with bind(f"unix://{path}?mode=600") as listener, bind.pair(listener):
        assert os.listdir(path.parent) == [path.name]
    assert os.listdir(path.parent) == []


async def test_a_name_that_is_always_taken_a_moment_before_is_given_up(
    bind: Bind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link_too_late(source: bytes, target: bytes) -> None:
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_too_late)
    with pytest.raises(BindError, match="others bind it again and again"):
        async with bind(f"unix://{path}"):
            pass
    assert os.listdir(path.parent) == []


# Removal ----------------------------------------------------------------------------------------


async def test_a_file_that_somebody_else_has_put_in_its_place_stays(bind: Bind, path: Path) -> None:
    async with bind(f"unix://{path}") as listener:
        path.unlink()
        async with bind(f"unix://{path}") as other:
            await listener.unbind()
            assert path.is_socket()
            async with bind.pair(other):
                pass
        assert not path.exists()


async def test_a_file_that_is_gone_already_is_not_missed(
    bind: Bind, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bind(f"unix://{path}"):
        path.unlink()
    assert caplog.messages == []


async def test_a_listener_that_was_unbound_removes_nothing_more(bind: Bind, path: Path) -> None:
    async with bind(f"unix://{path}") as listener:
        await listener.unbind()
        path.touch()
    assert path.is_file()


async def test_a_file_that_cannot_be_removed_is_logged(
    bind: Bind, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bind(f"unix://{path}") as listener:
        path.parent.chmod(0o555)
        with as_nobody():
            await listener.unbind()
        path.parent.chmod(0o700)
    assert caplog.messages == [f"{path} was not removed: Permission denied"]
