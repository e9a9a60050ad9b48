"""`TlsClient.start_tls`: TLS over any pipe, for whoever has no pipeline around it."""

import ssl
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.features import TlsInfo
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.testing import open_server
from kestrel_core.testing.authority import Authority
from kestrel_middleware.tls import Tls, TlsClient, TlsPipe

AUTHORITY = Authority()
IDENTITY = AUTHORITY.issue("host.example", "other.example")


def server_tls() -> Tls:
    return Tls(certificate=IDENTITY.certificate_chain, key=IDENTITY.key)


class Greeter:
    """Greets, notes what is known of TLS, and waits for the end of the input."""

    def __init__(self) -> None:
        self.infos: list[TlsInfo] = []
        self.ends: list[bytes] = []

    async def __call__(self, connection: Connection) -> None:
        self.infos.append(connection.features[TlsInfo])
        await connection.transport.output.send(b"hello")
        self.ends.append(await connection.transport.input.read())


async def test_the_pipe_inside_is_like_any_other_and_says_good_bye() -> None:
    greeter = Greeter()
    client = TlsClient(authorities=AUTHORITY.pem)
    async with open_server(greeter, middleware=[server_tls()]) as opened:
        connection = await opened.connect()
        pipe = await client.start_tls(connection.transport, "host.example")
        assert await pipe.input.read_exactly(5) == b"hello"
        await pipe.output.send(b"bye")
        await pipe.aclose()
        await connection.wait_closed()
    assert greeter.ends == [b"bye"], "the server would not take an end without close_notify"
    assert greeter.infos[0].server_name == "host.example"


async def test_sessions_are_resumed_for_each_name_by_itself() -> None:
    greeter = Greeter()
    client = TlsClient(authorities=AUTHORITY.pem)
    async with open_server(greeter, middleware=[server_tls()]) as opened:
        for name in ("host.example", "host.example", "other.example", "other.example"):
            connection = await opened.connect()
            pipe = await client.start_tls(connection.transport, name)
            assert await pipe.input.read_exactly(5) == b"hello"
            await pipe.aclose()
    assert [info.resumed for info in greeter.infos] == [False, True, False, True]


async def test_the_clients_own_name_comes_first() -> None:
    greeter = Greeter()
    client = TlsClient(server_name="other.example", authorities=AUTHORITY.pem)
    async with open_server(greeter, middleware=[server_tls()]) as opened:
        for name in (None, "testserver"):
            pipe = await client.start_tls((await opened.connect()).transport, name)
            await pipe.aclose()
    assert [info.server_name for info in greeter.infos] == ["other.example"] * 2


async def test_somebody_has_to_say_whom_the_certificate_is_for() -> None:
    pipe, _ = duplex_pipe_pair()
    with pytest.raises(ValueError, match="whom the certificate must be for"):
        await TlsClient(authorities=AUTHORITY.pem).start_tls(pipe)


async def test_a_certificate_for_somebody_else_is_refused() -> None:
    client = TlsClient(authorities=AUTHORITY.pem)
    async with open_server(Greeter(), middleware=[server_tls()]) as opened:
        connection = await opened.connect()
        with pytest.raises(ssl.SSLCertVerificationError, match="testserver"):
            await client.start_tls(connection.transport, "testserver")
        await connection.aclose()


async def test_a_server_that_says_nothing_takes_too_long(autojump_clock: MockClock) -> None:
    pipe, _ = duplex_pipe_pair()
    client = TlsClient(authorities=AUTHORITY.pem, handshake_seconds=3)
    with pytest.raises(trio.TooSlowError):
        await client.start_tls(pipe, "host.example")
    assert trio.current_time() == 3


async def test_an_end_without_good_bye_is_told(tmp_path: Path) -> None:
    near, far = duplex_pipe_pair()
    (tmp_path / "pem").write_bytes(IDENTITY.key + IDENTITY.certificate_chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    server = TlsPipe(far, context, server_side=True)
    reasons: list[EndReason] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        pipe = await TlsClient(authorities=AUTHORITY.pem).start_tls(
            near, "host.example", record_end=reasons.append
        )
    await server.output.send(b"hello")
    assert await pipe.input.read_exactly(5) == b"hello"
    await far.output.send_eof()
    with pytest.raises(trio.BrokenResourceError, match="without ending TLS"):
        await pipe.input.read()
    assert reasons == [EndReason.TLS_TRUNCATED]
    await pipe.aclose()
    await server.aclose()
