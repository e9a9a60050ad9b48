"""The examples of TLS, in processes of their own."""

import signal
import ssl
import sys
from pathlib import Path

import httpx
import pytest

from tests.server_process import running
from tests.tls_site import Issued, authority, certificate, trusting

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

ANY_PORT = "tcp://127.0.0.1:0"


def put(path: Path, issued: Issued) -> None:
    path.write_bytes(issued.chain + issued.key)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the files that the example wants."""
    put(tmp_path / "default.pem", certificate("127.0.0.1"))
    put(tmp_path / "example.org.pem", certificate("example.org"))
    put(tmp_path / "wildcard.pem", certificate("*.example.org"))
    (tmp_path / "clients.pem").write_bytes(authority().cert_pem.bytes())
    return tmp_path


def ask(context: ssl.SSLContext, port: int, name: str | None = None) -> list[str]:
    """Ask for `name` over HTTPS; return what the server tells."""
    extensions = {} if name is None else {"sni_hostname": name}
    with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
        return client.get(f"https://127.0.0.1:{port}/", extensions=extensions).text.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_tls_server(folder: Path) -> None:
    with running(sys.executable, EXAMPLES / "tls_server.py", ANY_PORT, folder) as program:
        port = program.wait_for_port()
        version, name, who, fingerprint = ask(trusting(), port, "example.org")
        assert version == "TLSv1.3, TLS_AES_256_GCM_SHA384, new"
        assert name == "you asked for example.org"
        assert who == "you are nobody in particular"
        assert fingerprint.startswith("your fingerprint is t13d")
        assert ask(trusting(), port, "www.example.org")[1] == "you asked for www.example.org"
        assert ask(trusting(), port)[1] == "you asked for None"

        with pytest.raises((httpx.ReadError, httpx.ConnectError)):
            ask(trusting(), port, "members.example.org")
        alice = certificate("alice", common_name="Alice")
        told = ask(trusting(client=alice), port, "members.example.org")
        assert told[2].startswith("you are CN=Alice,")

        plain = httpx.get(f"http://127.0.0.1:{port}/x", trust_env=False)
        assert plain.status_code == 308
        assert plain.headers["location"] == f"https://127.0.0.1:{port}/x"

        put(folder / "example.org.pem", certificate("example.net"))
        program.send_signal(signal.SIGHUP)
        program.wait_for("^reloaded$")
        assert ask(trusting(), port, "www.example.org")
        with pytest.raises(httpx.ConnectError):
            ask(trusting(), port, "example.org")
        (folder / "default.pem").write_bytes(b"")
        program.send_signal(signal.SIGHUP)
        program.wait_for("^the old certificates stay: there is no certificate in ")
        assert ask(trusting(), port)


def test_tls_on_demand_and_the_client(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with running(sys.executable, EXAMPLES / "tls_on_demand.py", ANY_PORT, file) as program:
        where = f"tcp://127.0.0.1:{program.wait_for_port()}"
        client_program = EXAMPLES / "tls_client.py"
        with running(sys.executable, client_program, where, file, "knock", "enter") as client:
            assert client.wait() == 0
        assert client.lines == ["new", "knock", "enter", "resumed", "knock", "enter"]
        program.wait_for(r"^made a certificate for door\.example\.org$")
