"""A client that ends its side behind its request, as scripts do, and waits for the answer."""

import subprocess

from tests.interop.conftest import EXAMPLES
from tests.server_process import running_kestrel

REQUEST = b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n"


def test_it_gets_the_whole_answer(netcat: str) -> None:
    with running_kestrel("--app-dir", EXAMPLES, "demo:app", "--listen=tcp://127.0.0.1:0") as server:
        port = str(server.wait_for_port())
        for sent in (REQUEST, REQUEST * 3):
            answer = subprocess.run(
                [netcat, "-N", "127.0.0.1", port], input=sent, capture_output=True, timeout=30
            )
            assert (answer.returncode, answer.stderr) == (0, b"")
            assert answer.stdout.count(b"HTTP/1.1 200 OK\r\n") == sent.count(REQUEST)
            assert answer.stdout.count(b"line 10 of 10\n") == sent.count(REQUEST)
            assert answer.stdout.endswith(b"\r\n0\r\n\r\n")
        assert server.stop() == 0
