"""The example of admission, idle and throttle, in a process of its own."""

import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server_process import running

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "admission.py"


def test_two_endpoints_take_two_connections_of_one_address() -> None:
    endpoints = ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
    with running(sys.executable, EXAMPLE, *endpoints) as program, ExitStack() as peers:
        one, other = program.wait_for_port(), program.wait_for_port()

        def connect(port: int) -> socket.socket:
            peer = peers.enter_context(socket.create_connection(("127.0.0.1", port)))
            peer.settimeout(30)
            return peer

        for port in (one, other):
            peer = connect(port)
            peer.sendall(b"hello")
            assert peer.recv(5) == b"hello"
        with pytest.raises(ConnectionResetError):
            connect(one).recv(5)
        program.wait_for(
            r"^AdmissionStatistics\(open=2, accepted=2, refused=\{<EndReason\."
            r"MAX_CONNECTIONS_PER_ADDRESS_EXCEEDED: .*>: 1\}, waiting=0, remembered=2\)$"
        )

        started = time.monotonic()
        peer.sendall(bytes(120_000))
        received = 0
        while received < 120_000:
            received += len(peer.recv(65536))
        assert 0.15 < time.monotonic() - started < 20
