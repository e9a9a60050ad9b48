"""A capture file: the pcapng file that the wiretaps of one process write their packets to.

Theory of operation. The file is open while any connection is captured, and closed with the last.
The first time it is emptied; later ones go on where the last one stopped, in the same section of
the file. A file that was meanwhile moved away, or changed, is given a new section, which the format
allows at any place. Whoever writes holds a lock on the file, so that two processes cannot mix
their blocks.

Writing happens in trio's thread. An error ends all capturing to this file; connections go on.
"""

import errno
import fcntl
import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

from kestrel_core import __version__
from kestrel_middleware.wiretap.pcapng import (
    PacketDirection,
    enhanced_packet,
    interface_description,
    section_header,
)
from kestrel_middleware.wiretap.tcp_stream import Packet, SocketPair, TcpStream

__all__ = ["CaptureFile", "CapturedStream"]

_log = logging.getLogger("kestrel.wiretap")

_INBOUND, _OUTBOUND = PacketDirection.INBOUND, PacketDirection.OUTBOUND

# It holds what was said in confidence.
_ONLY_FOR_ITS_OWNER = 0o600

# As a pipe of the kernel takes; a packet of full size goes to the file at once.
_BUFFER_BYTES = 65536

_known: WeakValueDictionary[Path, "CaptureFile"] = WeakValueDictionary()


class CaptureFile:
    """A file that is open while somebody captures to it; made by `at`."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        """Where it is."""
        self._file: BinaryIO | None = None
        self._users = 0
        self._streams = 0
        self._interfaces: dict[str, int] = {}
        self._emptied = False
        self._left: tuple[int, int] | None = None  # its inode and size when it was closed
        self._failed = False

    @classmethod
    def at(cls, path: Path) -> "CaptureFile":
        """Return the capture file at `path`, the same for all who ask in this process.

        Unless there is one, an empty file is made; one that is there keeps what it has until the
        first connection is captured.

        Raises:
            OSError: it cannot be written to, or is no regular file.
        """
        path = path.resolve()
        known = _known.get(path)
        if known is None:
            os.close(_open(path))
            known = _known[path] = cls(path)
        return known

    def capture(self, sockets: SocketPair, label: str, comment: str) -> "CapturedStream":
        """Begin to capture one connection; the stream has to be closed."""
        self._users += 1
        if self._users == 1 and not self._failed:
            try:
                self._reopen()
            except OSError as error:
                self._fail(error)
        self._streams += 1
        return CapturedStream(self, TcpStream(sockets, self._streams), label, comment)

    def write(
        self, label: str, direction: PacketDirection, packet: Packet, comment: str = ""
    ) -> None:
        """Write a packet, as seen now at the layer `label`."""
        if self._file is None:
            return
        try:
            interface = self._interfaces.get(label)
            if interface is None:
                interface = self._interfaces[label] = len(self._interfaces)
                self._file.write(interface_description(label))
            now_ns = time.time_ns()
            self._file.write(enhanced_packet(interface, now_ns, packet, direction, comment))
        except OSError as error:
            self._fail(error)

    def release(self) -> None:
        """Have one user less; write what is buffered, and close the file after the last one."""
        self._users -= 1
        if self._file is None:
            return
        try:
            self._file.flush()
            if not self._users:
                self._left = _identity(self._file.fileno())
                self._file.close()
                self._file = None
        except OSError as error:
            self._fail(error)

    def _reopen(self) -> None:
        descriptor = _open(self.path)
        self._file = open(descriptor, "ab", _BUFFER_BYTES)  # noqa: SIM115  # closed by `release`
        if not self._emptied:
            os.ftruncate(descriptor, 0)
            self._emptied = True
        if self._left is None or self._left != _identity(descriptor):
            self._interfaces.clear()
            self._file.write(section_header(f"trio-kestrel {__version__}"))

    def _fail(self, error: OSError) -> None:
        """Capture no more, to leave connections alone and what was written as it is."""
        _log.error("capturing to %s has stopped: %s", self.path, error.strerror)
        self._failed = True
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # it may try, in vain, to write what is buffered
                file.close()


class CapturedStream:
    """One connection in a capture file, from now until it is closed."""

    __slots__ = ("_file", "_label", "_stream")

    def __init__(self, file: CaptureFile, stream: TcpStream, label: str, comment: str) -> None:
        self._file = file
        self._stream = stream
        self._label = label
        for direction, packet in stream.handshake():
            file.write(label, direction, packet, comment)
            comment = ""  # the first packet's is enough to find the others

    def data(self, direction: PacketDirection, data: bytes | memoryview) -> None:
        """Write packets that carry `data`."""
        for packet in self._stream.data(direction, data):
            self._file.write(self._label, direction, packet)

    def end(self, direction: PacketDirection, comment: str = "") -> None:
        """Write that nothing more comes in `direction`."""
        self._file.write(self._label, direction, self._stream.end(direction), comment)

    def reset(self, direction: PacketDirection, comment: str = "") -> None:
        """Write that the sender in `direction` has broken the connection off."""
        self._file.write(self._label, direction, self._stream.reset(direction), comment)

    def close(self) -> None:
        """Let go of the file; nothing is written after that."""
        self._file.release()


def _open(path: Path) -> int:
    """Open the file, which is made if it is missing, and lock it.

    Raises:
        OSError: that cannot be; `strerror` tells why.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK  # opening a FIFO might wait
    descriptor = os.open(path, flags, _ONLY_FOR_ITS_OWNER)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(error.errno, "another process is writing to it") from error
        os.fchmod(descriptor, _ONLY_FOR_ITS_OWNER)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size
