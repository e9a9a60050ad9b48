"""Files that an application has the server send (ASGI: Path Send, Zero Copy Send)."""

import os
import stat
from operator import index
from types import TracebackType
from typing import Protocol, Self

import attrs
import trio

from kestrel_core.file_blocks import read_cached
from kestrel_protocols.http.exchange import ResponseError

__all__ = ["FilePiece", "HasFileno", "OpenedPath", "open_path", "piece_of"]

# A file up to this size is read where it is opened, and leaves with the head in one write.
_MOST_READ_AT_ONCE_BYTES = 64 * 1024


class HasFileno(Protocol):
    """What Zero Copy Send calls a file descriptor object."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...


@attrs.frozen
class FilePiece:
    """`count` bytes of the open file `file`, from `offset`."""

    file: int
    offset: int
    count: int


@attrs.frozen
class OpenedPath:
    """A file that was opened to be sent whole; a context manager that closes it.

    `content` has it all if it is small, and then `file` is closed already.
    """

    file: int
    count: int
    content: bytes | None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.content is None:
            os.close(self.file)


async def open_path(path: str | os.PathLike[str]) -> OpenedPath:
    """Open a regular file, and read it if it is small.

    It is opened in this thread, as nginx does: handing that to another takes longer than all the
    rest of sending a small file. So one on a file system that hangs keeps everybody waiting. It is
    read in this thread if that need not wait for a disk.

    Raises:
        OSError: it cannot be opened or read.
        ResponseError: it is no regular file.
    """
    await trio.lowlevel.checkpoint()
    # A FIFO would wait for its writer; what does not block now will not later, if it is a file.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    keep = False
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ResponseError(f"{os.fspath(path)!r} is no regular file, and so cannot be sent")
        count = status.st_size
        if count > _MOST_READ_AT_ONCE_BYTES:
            keep = True
            return OpenedPath(file, count, None)
        buffer = bytearray(count)
        if read_cached(file, [buffer], 0) == count:
            return OpenedPath(-1, count, bytes(buffer))
        content = await trio.to_thread.run_sync(os.pread, file, count, 0)
        return OpenedPath(-1, count, content)
    finally:
        if not keep:
            os.close(file)


def piece_of(file: HasFileno, offset: int | None, count: int | None) -> FilePiece:
    """Return what Zero Copy Send means by these three.

    Without `offset` it is read from the file's own position, which is moved behind the piece, and
    without `count` to the end.

    Raises:
        OSError: it has no descriptor, or no position.
        ResponseError: it is no regular file, or a number is below zero.
        TypeError: a number is none.
    """
    descriptor = file.fileno()
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ResponseError(f"{file!r} is no regular file, and so cannot be sent")
    start = _position(file) if offset is None else index(offset)
    count = max(0, status.st_size - start) if count is None else index(count)
    if start < 0 or count < 0:
        raise ResponseError(f"cannot send {count} bytes of a file from {start} on")
    if offset is None:
        _move(file, start + count)
    return FilePiece(descriptor, start, count)


# A file object that reads ahead is not where its descriptor is, and the application means the object.
# trio and anyio wrap one in another whose methods are asynchronous.


def _position(file: HasFileno) -> int:
    tell = getattr(getattr(file, "wrapped", file), "tell", None)
    return os.lseek(file.fileno(), 0, os.SEEK_CUR) if tell is None else int(tell())


def _move(file: HasFileno, position: int) -> None:
    seek = getattr(getattr(file, "wrapped", file), "seek", None)
    if seek is None:
        os.lseek(file.fileno(), position, os.SEEK_SET)
    else:
        seek(position)
