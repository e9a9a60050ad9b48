"""TLS with the clients that people use: curl, httpx and OpenSSL's own."""

import subprocess
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from kestrel_core.end_reason import EndReason
from kestrel_middleware.tls import ClientCertificates, PlainHttp, Tls, TlsOptions, TlsVersion
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http1 import Http1
from tests.http1_site import answer, read_body
from tests.interop.conftest import program
from tests.tls_site import (
    SERVER_NAME,
    Echo,
    TlsSite,
    authority,
    certificate,
    serving_tls,
    tls,
    trusting,
)

AUTHORITY = authority().cert_pem.bytes()


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what is known of the client's TLS, and the length of its body."""
    body = await read_body(receive)
    about: dict[str, object] = scope["extensions"].get("tls", {})
    words = [
        scope["scheme"],
        scope["path"],
        str(about.get("tls_version")),
        str(about.get("client_cert_name")).split(",")[0],
        str(len(body)),
    ]
    await answer(send, " ".join(words).encode())


def serving(layer: Tls | None = None) -> AbstractAsyncContextManager[TlsSite]:
    """Serve `tell` over TCP, behind TLS."""
    return serving_tls(layer, Http1(AsgiApplication(tell)), endpoint="tcp://127.0.0.1:0")


@pytest.fixture
def openssl() -> str:
    return program("openssl")


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """Return the file of the authority."""
    path = tmp_path / "ca.pem"
    path.write_bytes(AUTHORITY)
    return path


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    """Return a client's certificate, with its key."""
    issued = certificate("alice.example", common_name="Alice")
    path = tmp_path / "alice.pem"
    path.write_bytes(issued.chain + issued.key)
    return path


# curl -------------------------------------------------------------------------------------------


class Curl:
    """Runs curl against a site, asking for a name that is not in any directory."""

    def __init__(self, program: str, site: TlsSite, trust: Path) -> None:
        self.port = site.opened.endpoint.host_and_port()[1]
        self._command = [program, "--silent", "--show-error", "--cacert", str(trust)]

    async def __call__(
        self, *arguments: str, name: str = SERVER_NAME, scheme: str = "https"
    ) -> tuple[int, str]:
        """Return the exit code, and what it prints."""
        command = [
            *self._command,
            *("--noproxy", "*"),
            *("--resolve", f"{name}:{self.port}:127.0.0.1"),
            *arguments,
            f"{scheme}://{name}:{self.port}/x",
        ]
        ran = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        return ran.returncode, (ran.stdout or ran.stderr).decode()


async def test_curl(curl: str, trust: Path, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(bytes(3_000_000))
    other = certificate("other.example")
    layer = tls(hosts={"other.example": TlsOptions(certificate=other.chain, key=other.key)})
    async with serving(layer) as site:
        ask = Curl(curl, site, trust)
        assert await ask() == (0, "https /x 772 None 0")
        assert await ask("--http1.1") == (0, "https /x 772 None 0")
        assert await ask("--tls-max", "1.2") == (0, "https /x 771 None 0")
        assert await ask(name="other.example") == (0, "https /x 772 None 0")
        code, head = await ask("--head")
        assert code == 0
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        upload = ("--upload-file", str(tmp_path / "body"))
        assert await ask(*upload) == (0, "https /x 772 None 3000000")
        form = ("--form", f"file=@{tmp_path}/body")
        code, text = await ask(*form)
        assert code == 0
        assert int(text.split()[-1]) > 3_000_000
        code, _ = await ask(name="unknown.example")
        assert code == 60  # the certificate is for another name


async def test_curl_with_a_certificate(curl: str, trust: Path, alice: Path) -> None:
    layer = tls(client_certificates=ClientCertificates.REQUIRE, client_authorities=AUTHORITY)
    async with serving(layer) as site:
        ask = Curl(curl, site, trust)
        assert await ask("--cert", str(alice)) == (0, "https /x 772 CN=Alice 0")
        code, text = await ask()
        assert code != 0
        assert "certificate required" in text


async def test_curl_without_tls(curl: str, trust: Path) -> None:
    async with serving(tls(plain_http=PlainHttp.REDIRECT)) as site:
        ask = Curl(curl, site, trust)
        assert await ask("--location", scheme="http") == (0, "https /x 772 None 0")
        code, text = await ask("--data", "x" * 100_000, "--include", scheme="http")
        assert (code, text.splitlines()[0]) == (0, "HTTP/1.1 308 Permanent Redirect")
    async with serving() as site:
        ask = Curl(curl, site, trust)
        assert await ask(scheme="http") == (0, "This port speaks TLS: use https://.\n")


# httpx ------------------------------------------------------------------------------------------


async def test_httpx(alice: Path, trust: Path) -> None:
    layer = tls(client_certificates=ClientCertificates.ALLOW, client_authorities=AUTHORITY)
    async with serving(layer) as site:
        base = f"https://{site.opened.endpoint.address}"
        named = {"sni_hostname": SERVER_NAME}
        context = trusting()
        async with httpx.AsyncClient(verify=context, trust_env=False, base_url=base) as client:
            for _ in range(3):
                response = await client.post("/y", content=bytes(500_000), extensions=named)
                assert response.text == "https /y 772 None 500000"
        context.load_cert_chain(alice)
        async with httpx.AsyncClient(verify=context, trust_env=False, base_url=base) as client:
            response = await client.get("/y", extensions=named)
            assert response.text == "https /y 772 CN=Alice 0"
        async with httpx.AsyncClient(verify=context, trust_env=False, base_url=base) as client:
            with pytest.raises(httpx.ConnectError):  # the certificate is for another name
                await client.get("/y", extensions={"sni_hostname": "other.example"})


# OpenSSL ----------------------------------------------------------------------------------------


class SClient:
    """`openssl s_client`, that is told what to do line by line."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self.before = b""
        """What it printed before what was waited for last."""
        self.output = b""

    async def wait_for(self, text: bytes) -> None:
        """Wait until it has printed `text`, behind what was waited for before."""
        assert self._process.stdout is not None
        with trio.fail_after(20):
            while text not in self.output:
                chunk = await self._process.stdout.receive_some()
                assert chunk, self.output.decode()
                self.output += chunk
        self.before, _, self.output = self.output.partition(text)

    async def say(self, line: bytes) -> None:
        """Give it a line; R, K, k and Q alone are commands."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line + b"\n")

    async def rest(self) -> bytes:
        """Wait for its end; return what else it has printed."""
        assert self._process.stdout is not None
        with trio.fail_after(20):
            async for chunk in self._process.stdout:
                self.output += chunk
            await self._process.wait()
        return self.output


@asynccontextmanager
async def s_client(
    openssl: str, site: TlsSite, trust: Path, *options: str
) -> AsyncGenerator[SClient]:
    """Connect with OpenSSL, and wait for the end of the handshake."""
    host, port = site.opened.endpoint.host_and_port()
    command = [
        *(openssl, "s_client", "-connect", f"{host}:{port}", "-servername", SERVER_NAME),
        *("-verify_hostname", SERVER_NAME, "-verify_return_error", "-CAfile", str(trust)),
        *options,
    ]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    site.connections_made += 1
    try:
        client = SClient(process)
        await client.wait_for(b"Verify return code: 0 (ok)")
        yield client
    finally:
        process.kill()
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()


def serving_echo(layer: Tls | None = None) -> AbstractAsyncContextManager[TlsSite]:
    return serving_tls(layer, Echo(), endpoint="tcp://127.0.0.1:0")


async def test_renegotiation_is_refused(openssl: str, trust: Path) -> None:
    """Which ends that client, and nobody else."""
    async with serving_echo() as site:
        async with s_client(openssl, site, trust, "-tls1_2") as other:
            async with s_client(openssl, site, trust, "-tls1_2") as client:
                await client.say(b"hello")
                await client.wait_for(b"hello")
                await client.say(b"R")
                assert b"no renegotiation" in await client.rest()
            await other.say(b"still here")
            await other.wait_for(b"still here")
            assert site.log.ends == [EndReason.TLS_ERROR]
            await other.say(b"Q")
            await other.rest()
        assert await site.ended() is EndReason.COMPLETED


async def test_new_keys(openssl: str, trust: Path) -> None:
    async with serving_echo() as site, s_client(openssl, site, trust) as client:
        for command in (b"k", b"K", b"K"):
            await client.say(command)
            await client.wait_for(b"KEYUPDATE")
            await client.say(b"said after " + command)
            await client.wait_for(b"said after " + command)
        await client.say(b"Q")
        await client.rest()
        assert await site.ended() is EndReason.COMPLETED


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_resumes(openssl: str, trust: Path, tmp_path: Path, version: str) -> None:
    session = str(tmp_path / "session")
    echo = Echo()
    async with serving_tls(handler=echo, endpoint="tcp://127.0.0.1:0") as site:
        for option in ("-sess_out", "-sess_in"):
            async with s_client(openssl, site, trust, version, option, session) as client:
                await client.say(b"hello")
                await client.wait_for(b"hello")
                await client.say(b"Q")
                await client.rest()
        await site.ended()
    assert [info.resumed for info in echo.infos] == [False, True]


async def test_what_openssl_sees(openssl: str, trust: Path, alice: Path) -> None:
    """A chain, a protocol, and that it is asked for a certificate."""
    leaf = authority().create_child_ca().issue_cert(SERVER_NAME)
    chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
    layer = Tls(
        certificate=chain,
        key=leaf.private_key_pem.bytes(),
        client_certificates=ClientCertificates.REQUIRE,
        client_authorities=AUTHORITY,
        minimum_version=TlsVersion.TLS_1_3,
        alpn=["echo"],
    )
    async with serving_echo(layer) as site:
        options = ("-cert", str(alice), "-alpn", "x,echo", "-showcerts")
        async with s_client(openssl, site, trust, *options) as client:
            assert client.before.count(b"BEGIN CERTIFICATE") >= 2
            assert b"ALPN protocol: echo" in client.before
            # It is not told whose: Python has no way to say so.
            assert b"No client certificate CA names sent" in client.before
            await client.say(b"Q")
            await client.rest()
        await site.ended()
