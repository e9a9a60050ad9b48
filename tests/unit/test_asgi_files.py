import fcntl
import io
import os
import random
import socket
import stat
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import anyio
import pytest
import trio

from kestrel_protocols.asgi.files import HasFileno, OpenedPath, open_path, piece_of
from kestrel_protocols.http import ResponseError
from tests.socket_ends import as_nobody, open_descriptors

CONTENT = random.Random(1).randbytes(100_000)

# The largest file that is read where it is opened.
MOST_AT_ONCE = 64 * 1024


@pytest.fixture(autouse=True)
def nothing_left_open() -> Generator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() <= before


def file_of(size: int, folder: Path) -> Path:
    path = folder / "file"
    path.write_bytes(CONTENT[:size])
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return file_of(len(CONTENT), tmp_path)


# Path Send --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, MOST_AT_ONCE])
async def test_a_small_file_is_read_at_once(tmp_path: Path, size: int) -> None:
    path = file_of(size, tmp_path)
    before = open_descriptors()
    opened = await open_path(path)
    assert open_descriptors() == before
    with opened:
        assert (opened.content, opened.count) == (CONTENT[:size], size)


@pytest.mark.parametrize("nowait", [0, 1 << 30], ids=["not there", "not supported"])
async def test_a_small_file_that_cannot_be_read_without_waiting(
    nowait: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on other systems, and on file systems that know no such thing: a thread reads it."""
    monkeypatch.setattr("kestrel_core.file_blocks._NOWAIT", nowait)
    before = open_descriptors()
    with await open_path(file_of(1000, tmp_path)) as opened:
        assert (opened.content, opened.count) == (CONTENT[:1000], 1000)
    assert open_descriptors() == before


async def test_a_larger_file_stays_open_for_the_length_of_the_block(tmp_path: Path) -> None:
    path = file_of(MOST_AT_ONCE + 1, tmp_path)
    with await open_path(path) as opened:
        assert (opened.content, opened.count) == (None, MOST_AT_ONCE + 1)
        assert os.pread(opened.file, 10, MOST_AT_ONCE - 9) == CONTENT[MOST_AT_ONCE - 9 :][:10]
        assert fcntl.fcntl(opened.file, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened.file)


async def test_a_path_may_be_text_or_an_object_and_lead_through_a_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    for way in (str(path), path, str(link)):
        with await open_path(way) as opened:
            assert opened.count == len(CONTENT)


async def test_what_is_not_there_is_an_error_of_the_system(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await open_path(path.with_name("missing"))
    with pytest.raises(NotADirectoryError):
        await open_path(path / "below a file")


async def test_what_may_not_be_read_is_an_error_of_the_system(path: Path) -> None:
    keep_for_root(path)
    with as_nobody(), pytest.raises(PermissionError):
        await open_path(path)


def keep_for_root(path: Path) -> None:
    """Let nobody read the file, though everybody may see that it is there."""
    path.chmod(0)
    for folder in (path.parent, *path.parent.parents[:2]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)


async def test_a_path_that_cannot_be_one(path: Path) -> None:
    with pytest.raises(ValueError, match="null"):
        await open_path(f"{path}\0")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_device(path: Path) -> None:
    path.symlink_to(os.devnull)


@pytest.mark.parametrize("make", [make_folder, os.mkfifo, make_device])
async def test_only_regular_files_are_sent(make: Callable[[Path], None], tmp_path: Path) -> None:
    """Opening a FIFO would wait until somebody writes to it."""
    path = tmp_path / "odd"
    make(path)
    with trio.fail_after(10), pytest.raises(ResponseError, match=r"odd' is no regular file"):
        await open_path(path)


async def test_a_sockets_file_cannot_be_opened(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kestrel-", dir="/tmp") as folder:
        name = f"{folder}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            with pytest.raises(OSError, match="No such device"):
                await open_path(name)


async def test_opening_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    opened: list[OpenedPath] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def open_it() -> None:
                with await open_path(path) as file:
                    opened.append(file)
                    await trio.sleep_forever()

            nursery.start_soon(open_it)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert len(opened) == 1

    with trio.move_on_after(0) as scope:
        await open_path(path)
    assert scope.cancelled_caught


# Zero Copy Send ---------------------------------------------------------------------------------


@pytest.mark.parametrize("buffering", [-1, 0], ids=["buffered", "raw"])
def test_it_begins_where_the_file_stands_and_moves_it_on(path: Path, buffering: int) -> None:
    """Wherever a buffer that reads ahead has left the descriptor itself."""
    with open(path, "rb", buffering) as file:
        for start, count in ((0, 10), (10, 0), (10, 1), (11, 989)):
            piece = piece_of(file, None, count)
            assert (piece.file, piece.offset, piece.count) == (file.fileno(), start, count)
        assert file.read(5) == CONTENT[1000:1005]
        rest = piece_of(file, None, None)
        assert (rest.offset, rest.count) == (1005, len(CONTENT) - 1005)
        assert file.read() == b""
        nothing = piece_of(file, None, None)
        assert (nothing.offset, nothing.count) == (len(CONTENT), 0)


def test_an_offset_leaves_the_file_where_it_stands(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(7)
        for count, expected in ((5, 5), (None, len(CONTENT) - 100), (0, 0)):
            piece = piece_of(file, 100, count)
            assert (piece.offset, piece.count) == (100, expected)
        assert file.tell() == 7
        beyond = piece_of(file, len(CONTENT) + 1, None)
        assert (beyond.offset, beyond.count) == (len(CONTENT) + 1, 0)


async def test_an_asynchronous_file_is_one_too(path: Path) -> None:
    """Though its methods that would tell its position are of no use here."""
    async with await trio.open_file(path, "rb") as file:
        assert await file.read(10) == CONTENT[:10]
        expect_five_from_ten_on(file)
        assert await file.read(5) == CONTENT[15:20]
    async with await anyio.open_file(path, "rb") as other:
        assert await other.read(10) == CONTENT[:10]
        expect_five_from_ten_on(cast("HasFileno", other))
        assert await other.read(5) == CONTENT[15:20]


def expect_five_from_ten_on(file: HasFileno) -> None:
    piece = piece_of(file, None, 5)
    assert (piece.file, piece.offset, piece.count) == (file.fileno(), 10, 5)


class Descriptor:
    """Nothing but what the specification asks for."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def fileno(self) -> int:
        return self._fileno


def test_a_bare_descriptor_has_a_position_too(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.lseek(file, 3, os.SEEK_SET)
        piece = piece_of(Descriptor(file), None, 5)
        assert (piece.file, piece.offset, piece.count) == (file, 3, 5)
        assert os.lseek(file, 0, os.SEEK_CUR) == 8
    finally:
        os.close(file)


def test_what_was_written_and_rewound_is_sent() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"hello")
        file.seek(0)
        piece = piece_of(file, None, None)
        assert os.pread(piece.file, piece.count, piece.offset) == b"hello"
        assert file.tell() == 5


def test_only_regular_files_can_be_sent_piece_by_piece(path: Path) -> None:
    reading, writing = os.pipe()
    left, right = socket.socketpair()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        for odd in (Descriptor(reading), left, Descriptor(folder)):
            for offset in (None, 0):
                for count in (None, 5):
                    with pytest.raises(ResponseError, match="no regular file"):
                        piece_of(odd, offset, count)
    finally:
        for descriptor in (reading, writing, folder):
            os.close(descriptor)
        left.close()
        right.close()


def test_what_has_no_descriptor_cannot_be_sent(path: Path) -> None:
    with pytest.raises(io.UnsupportedOperation):
        piece_of(io.BytesIO(b"abc"), None, None)
    file: HasFileno = path.open("rb")
    assert isinstance(file, io.BufferedReader)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        piece_of(file, None, None)


@pytest.mark.parametrize(("offset", "count"), [(-1, None), (-1, 5), (0, -1), (None, -1)])
def test_numbers_below_zero_are_refused(path: Path, offset: int | None, count: int | None) -> None:
    with path.open("rb") as file:
        file.seek(10)
        with pytest.raises(ResponseError, match="cannot send"):
            piece_of(file, offset, count)
        assert file.tell() == 10
