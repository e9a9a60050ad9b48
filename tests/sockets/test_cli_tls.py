"""TLS by the command line, with real sockets and Python's own client."""

import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.server_process import KESTREL, ServerProcess, running_kestrel

ANY_PORT = "--listen=tcp://127.0.0.1:0"

SHOP = """
import logging
from typing import ClassVar

import attrs

from kestrel_core import Layer

log = logging.getLogger("shop")


async def app(scope, receive, send):
    text = scope["scheme"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


@attrs.define(kw_only=True, eq=False)
class Tap(Layer):
    name: ClassVar[str] = "tap"
    label: str

    async def __call__(self, connection, following):
        data = await connection.transport.input.read()
        connection.transport.input.advance(0)
        log.info("%s: %s", self.label, "plain" if data.startswith(b"GET") else "TLS")
        await following(connection)
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Path:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    other = authority.issue_cert("other.example")
    other.private_key_and_cert_chain_pem.write_to_path(tmp_path / "other.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


CERTIFICATE = ("--certfile=cert.pem", "--keyfile=key.pem")


def get(url: str, verify: ssl.SSLContext | bool = False) -> httpx.Response:
    headers = {"connection": "close"}
    with httpx.Client(trust_env=False, timeout=30, verify=verify, headers=headers) as client:
        return client.get(url)


def served_certificate(port: int, trusting: ssl.SSLContext, name: str) -> list[str]:
    """Return the names in the certificate that a client gets who asks for `name`."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        trusting.wrap_socket(plain, server_hostname=name) as secured,
    ):
        shown = secured.getpeercert()
        assert shown is not None
        names = shown["subjectAltName"]
        assert isinstance(names, tuple)
        return [str(entry[1]) for entry in names]


def taps(server: ServerProcess) -> list[str]:
    return [line.removeprefix("INFO shop: ") for line in server.lines if "INFO shop: " in line]


def test_a_certificate_is_https_and_the_log_says_so(folder: Path, trusting: ssl.SSLContext) -> None:
    with running_kestrel("shop:app", *CERTIFICATE, ANY_PORT, folder=folder) as server:
        port = int(server.wait_for(r"listening on tcp://127\.0\.0\.1:(\d+) \(TLS\)$"))
        assert get(f"https://127.0.0.1:{port}/", trusting).text == "https"
        refusal = get(f"http://127.0.0.1:{port}/")
        assert refusal.status_code == 400
        assert server.stop() == 0


def test_endpoints_without_tls_beside_it(folder: Path, trusting: ssl.SSLContext) -> None:
    tap = "--middleware=shop:Tap:label=inside"
    insecure = "--insecure-listen=tcp://127.0.0.1:0"
    with running_kestrel(
        "shop:app", *CERTIFICATE, tap, insecure, ANY_PORT, folder=folder
    ) as server:
        secure_port = server.wait_for_port()
        port = int(server.wait_for(r"listening on tcp://127\.0\.0\.1:(\d+)$"))
        assert get(f"https://127.0.0.1:{secure_port}/", trusting).text == "https"
        assert get(f"http://127.0.0.1:{port}/").text == "http"
        assert server.stop() == 0
    assert taps(server) == ["inside: plain"] * 2


def test_plain_http_is_redirected(folder: Path, trusting: ssl.SSLContext) -> None:
    arguments = (*CERTIFICATE, "--plain-http=redirect", ANY_PORT)
    with running_kestrel("shop:app", *arguments, folder=folder) as server:
        port = server.wait_for_port()
        redirect = get(f"http://127.0.0.1:{port}/a")
        assert redirect.status_code == 308
        assert redirect.headers["location"] == f"https://127.0.0.1:{port}/a"
        assert server.stop() == 0


def test_plain_http_is_served_on_the_same_port(folder: Path, trusting: ssl.SSLContext) -> None:
    middleware = ("--middleware=shop:Tap:label=outside", "--middleware=tls")
    arguments = (*CERTIFICATE, *middleware, "--middleware=shop:Tap:label=inside", ANY_PORT)
    with running_kestrel("shop:app", *arguments, "--plain-http=serve", folder=folder) as server:
        port = int(server.wait_for(r":(\d+) \(TLS, and without\)$"))
        assert get(f"https://127.0.0.1:{port}/", trusting).text == "https"
        assert get(f"http://127.0.0.1:{port}/").text == "http"
        assert server.stop() == 0
    assert taps(server) == ["outside: TLS", "inside: plain", "outside: plain", "inside: plain"]


def test_tls_stands_where_it_is_written(folder: Path, trusting: ssl.SSLContext) -> None:
    middleware = [f"--middleware=shop:Tap:label={label}" for label in ("outside", "inside")]
    arguments = (*CERTIFICATE, middleware[0], "--middleware=tls", middleware[1], ANY_PORT)
    with running_kestrel("shop:app", *arguments, folder=folder) as server:
        get(f"https://127.0.0.1:{server.wait_for_port()}/", trusting)
        assert server.stop() == 0
    assert taps(server) == ["outside: TLS", "inside: plain"]


def test_tls_by_its_own_options_alone(folder: Path, trusting: ssl.SSLContext) -> None:
    tls = "--middleware=tls:certificate=cert.pem,key=key.pem,handshake-seconds=0.1"
    with running_kestrel("shop:app", tls, ANY_PORT, folder=folder) as server:
        port = int(server.wait_for(r":(\d+) \(TLS\)$"))
        assert get(f"https://127.0.0.1:{port}/", trusting).text == "https"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            assert silent.recv(100) == b""
        assert server.stop() == 0


def test_a_certificate_for_each_name(folder: Path, trusting: ssl.SSLContext) -> None:
    names = "--sni=*.example:certificate=other.pem"
    with running_kestrel("shop:app", *CERTIFICATE, names, ANY_PORT, folder=folder) as server:
        port = server.wait_for_port()
        assert served_certificate(port, trusting, "other.example") == ["other.example"]
        assert served_certificate(port, trusting, "localhost") == ["localhost", "127.0.0.1"]
        assert server.stop() == 0


def test_versions_ciphers_and_keys(folder: Path, trusting: ssl.SSLContext) -> None:
    options = ("--tls-ciphers=ECDHE-ECDSA-AES256-GCM-SHA384", "--tls-keylog-file=keys.txt")
    with running_kestrel("shop:app", *CERTIFICATE, *options, ANY_PORT, folder=folder) as server:
        port = server.wait_for_port()
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            cipher = secured.cipher()
            assert cipher is not None
            assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
        assert server.stop() == 0
    assert "CLIENT_RANDOM" in folder.joinpath("keys.txt").read_text()
    arguments = (*CERTIFICATE, "--tls-min-version=1.3", ANY_PORT)
    with running_kestrel("shop:app", *arguments, folder=folder) as server:
        port = server.wait_for_port()
        with pytest.raises(httpx.ConnectError):
            get(f"https://127.0.0.1:{port}/", trusting)
        assert server.stop() == 0


def test_client_certificates(folder: Path, trusting: ssl.SSLContext, authority: trustme.CA) -> None:
    options = ("--ca-certs=ca.pem", "--client-certificates=require")
    with running_kestrel("shop:app", *CERTIFICATE, *options, ANY_PORT, folder=folder) as server:
        url = f"https://127.0.0.1:{server.wait_for_port()}/"
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            get(url, trusting)
        authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(
            folder / "client.pem"
        )
        trusting.load_cert_chain(folder / "client.pem")
        assert get(url, trusting).text == "https"
        assert server.stop() == 0


def test_the_password_of_a_key_from_the_environment(
    folder: Path, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = load_pem_private_key(folder.joinpath("key.pem").read_bytes(), None)
    encryption = BestAvailableEncryption(b"secret")
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    folder.joinpath("encrypted.pem").write_bytes(encrypted)
    options = ("--certfile=cert.pem", "--keyfile=encrypted.pem", ANY_PORT)
    monkeypatch.setenv("KESTREL_KEYFILE_PASSWORD", "secret")
    with running_kestrel("shop:app", *options, folder=folder) as server:
        url = f"https://127.0.0.1:{server.wait_for_port()}/"
        assert get(url, trusting).text == "https"
        assert server.stop() == 0
    monkeypatch.setenv("KESTREL_KEYFILE_PASSWORD", "wrong")
    with running_kestrel("shop:app", *options, folder=folder) as server:
        assert server.wait() == 2
    assert "the certificate cert.pem with the key encrypted.pem cannot be used" in server.output


def test_a_certificate_for_development(folder: Path) -> None:
    with running_kestrel("shop:app", "--tls=self-signed", ANY_PORT, folder=folder) as server:
        path = Path(server.wait_for("curl --cacert (.+)$"))
        port = server.wait_for_port()
        trusting = ssl.create_default_context(cafile=str(path))
        assert get(f"https://127.0.0.1:{port}/", trusting).text == "https"
        assert get(f"https://localhost:{port}/", trusting).text == "https"
        assert server.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--certfile=none.pem"], "tls: the certificate none.pem cannot be read: No such file"),
        (["--certfile=cert.pem"], "tls: the certificate cert.pem has no key with it"),
        (
            [*CERTIFICATE, "--client-certificates=require"],
            "tls: clients are asked for certificates, but --ca-certs, which says who",
        ),
        (
            [*CERTIFICATE, "--sni=a b:certificate=other.pem"],
            "tls: 'a b' is no server name; write www.example.com",
        ),
        ([*CERTIFICATE, "--sni=a:file=b"], "bad --sni 'a:file=b': a has no option 'file'"),
        (["--middleware=tls"], "--middleware tls is the place of the TLS that --certfile"),
        ([*CERTIFICATE, "--middleware=tls:certificate=cert.pem"], "bad plug-in 'tls:certificate="),
        (
            [*CERTIFICATE, "--middleware=tls:certificate=cert.pem,key=key.pem"],
            "TLS is configured in two ways",
        ),
    ],
)
def test_what_cannot_be(folder: Path, arguments: list[str], told: str) -> None:
    result = subprocess.run(
        [KESTREL, "shop:app", ANY_PORT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.stderr.startswith(f"Error: {told}")
    assert result.returncode == 2
