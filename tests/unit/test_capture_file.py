"""The file of a capture: who may read it, what it holds after pauses, and what ends it."""

import fcntl
import os
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kestrel_middleware.wiretap.capture_file import CapturedStream, CaptureFile
from kestrel_middleware.wiretap.pcapng import PacketDirection
from kestrel_middleware.wiretap.tcp_stream import SocketPair
from tests.capture_reader import read_packets, read_streams

SOCKETS = SocketPair(IPv4Address("192.0.2.1"), 80, IPv4Address("198.51.100.7"), 4711)

INBOUND = PacketDirection.INBOUND


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "capture.pcapng"


def capture(file: CaptureFile, said: bytes, label: str = "") -> None:
    """Capture a connection from its beginning to its end."""
    stream = begin(file, label)
    stream.data(INBOUND, said)
    stream.end(INBOUND)
    stream.close()


def begin(file: CaptureFile, label: str = "") -> CapturedStream:
    return file.capture(SOCKETS, label, "a comment")


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


def said_in(path: Path) -> list[bytes]:
    return [stream.received for stream in read_streams(path.read_bytes())]


def holds_open(path: Path) -> bool:
    """Tell whether this process has the file open."""
    descriptors = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return str(path) in [os.readlink(each) for each in descriptors]


def test_it_is_open_while_somebody_captures(path: Path) -> None:
    file = CaptureFile.at(path)
    assert not holds_open(path)
    one, other = begin(file), begin(file)
    one.close()
    assert holds_open(path)
    other.close()
    assert not holds_open(path)


def test_what_was_captured_is_in_the_file_when_a_connection_ends(path: Path) -> None:
    file = CaptureFile.at(path)
    stays = begin(file)
    capture(file, b"a short one")
    assert b"a short one" in said_in(path)
    stays.close()


def test_only_its_owner_may_read_it(path: Path) -> None:
    CaptureFile.at(path)
    assert permissions(path) == 0o600


def test_what_was_there_stays_until_something_is_captured(path: Path) -> None:
    path.write_bytes(b"what was there before")
    path.chmod(0o666)
    file = CaptureFile.at(path)
    assert permissions(path) == 0o600
    assert path.read_bytes() == b"what was there before"
    path.chmod(0o666)
    capture(file, b"this")
    assert permissions(path) == 0o600
    assert said_in(path) == [b"this"]


def test_it_goes_on_after_a_pause(path: Path) -> None:
    file = CaptureFile.at(path)
    for said, label in ((b"one", "a"), (b"two", "b"), (b"three", "a")):
        capture(file, said, label)
    packets = [packet for packet in read_packets(path.read_bytes()) if packet.payload]
    assert [(packet.section, packet.interface, packet.payload) for packet in packets] == [
        (0, "a", b"one"),
        (0, "b", b"two"),
        (0, "a", b"three"),
    ]
    assert said_in(path) == [b"one", b"two", b"three"]
    firsts = [stream.packets[0].sequence for stream in read_streams(path.read_bytes())]
    assert len(set(firsts)) == 3  # or a reader would take the three for one


def test_a_file_that_was_moved_away_is_followed_by_a_new_one(path: Path) -> None:
    file = CaptureFile.at(path)
    capture(file, b"one")
    old = path.rename(path.with_name("old"))
    capture(file, b"two")
    assert (said_in(old), said_in(path)) == ([b"one"], [b"two"])
    assert permissions(path) == 0o600


def test_a_file_that_was_changed_gets_a_new_section(path: Path) -> None:
    file = CaptureFile.at(path)
    capture(file, b"one")
    path.write_bytes(path.read_bytes() * 2)
    capture(file, b"two")
    packets = [packet for packet in read_packets(path.read_bytes()) if packet.payload]
    assert [(packet.section, packet.payload) for packet in packets] == [
        (0, b"one"),
        (1, b"one"),
        (2, b"two"),
    ]


def test_those_who_ask_for_one_path_get_one_file(path: Path) -> None:
    one = CaptureFile.at(path)
    assert CaptureFile.at(path.parent / "." / path.name) is one
    assert CaptureFile.at(path.with_name("another")) is not one


def test_a_new_one_empties_what_an_old_one_left(path: Path) -> None:
    capture(CaptureFile.at(path), b"one")
    capture(CaptureFile.at(path), b"two")
    assert said_in(path) == [b"two"]


def test_two_processes_do_not_mix_their_packets(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = "another process is writing to it"
    file = CaptureFile.at(path)
    with path.open("ab") as other:  # as another process would have it
        fcntl.flock(other, fcntl.LOCK_EX)
        capture(file, b"lost")
        capture(file, b"lost as well")
        with pytest.raises(OSError, match=told):
            CaptureFile.at(path.rename(path.with_name("moved")))
    assert caplog.messages == [f"capturing to {path} has stopped: {told}"]
    assert not path.exists()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "no" / "where")


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (os.mkdir, "Is a directory"),
        (make_fifo, "No such device or address"),
        (make_link_to_nowhere, "No such file or directory"),
        (make_link_to_device, "it is no regular file"),
    ],
)
def test_a_path_that_cannot_be_is_told_at_once(
    path: Path, prepare: Callable[[Path], None], why: str
) -> None:
    prepare(path)
    with pytest.raises(OSError, match=why):
        CaptureFile.at(path)
