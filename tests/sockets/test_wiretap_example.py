"""The example of a wiretap, in a process of its own, told by a signal."""

import signal
import socket
import sys
from pathlib import Path

from tests.capture_reader import read_streams
from tests.server_process import running

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "wiretap.py"

REQUEST = b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n"


def ask(peer: socket.socket, name: bytes) -> bytes:
    """Send a request; return its answer."""
    peer.settimeout(30)
    peer.sendall(REQUEST % name)
    answer = b""
    while not answer.endswith(b"\r\n\r\nHello\n"):
        received = peer.recv(65536)
        assert received
        answer += received
    return answer


def test_it_shows_connections_while_it_is_switched_on(tmp_path: Path) -> None:
    file = tmp_path / "capture.pcapng"
    with running(sys.executable, EXAMPLE, file, "tcp://127.0.0.1:0") as program:
        address = ("127.0.0.1", program.wait_for_port())
        with socket.create_connection(address) as peer, socket.create_connection(address) as other:
            ask(peer, b"before")
            program.send_signal(signal.SIGUSR1)
            program.wait_for("the wiretap is on")
            answer = ask(peer, b"while")
            ask(other, b"it")
            program.wait_for(r"plain: sent \d+ bytes at 0$")
            program.send_signal(signal.SIGUSR1)
            program.wait_for("the wiretap is off")
            ask(peer, b"after")
        streams = {stream.received: stream for stream in read_streams(file.read_bytes())}
        assert streams.keys() == {REQUEST % b"while", REQUEST % b"it"}
        assert streams[REQUEST % b"while"].sent == answer
        assert {stream.local for stream in streams.values()} == {address}
