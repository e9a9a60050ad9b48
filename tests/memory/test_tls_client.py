"""Our own TLS as a client: whom it trusts, and what it does with those it does not."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.features import TlsInfo
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_middleware.tls import ClientCertificates, Tls, TlsClient, TlsOptions, TlsPipe
from tests.tls_site import (
    SERVER_NAME,
    Echo,
    Issued,
    TlsSite,
    authority,
    certificate,
    expired,
    serving_tls,
    stranger,
    tls,
    trusting,
)

AUTHORITY = authority().cert_pem.bytes()


class Talk:
    """Says a word and hears it again; notes what is known of the server."""

    def __init__(self) -> None:
        self.infos: list[TlsInfo] = []

    async def __call__(self, connection: Connection) -> None:
        """Talk."""
        self.infos.append(connection.features[TlsInfo])
        await connection.transport.output.send(b"word")
        assert await connection.transport.input.receive() == b"word"


async def talk_to(site: TlsSite, client: TlsClient, **options: str) -> TlsInfo:
    """Connect and talk; return what the client learned."""
    talk = Talk()
    connection = await site.connect(**options)
    before = connection.transport
    try:
        await client(connection, talk)
    finally:
        assert connection.transport is before
        await wait_all_tasks_blocked()
        await connection.aclose()
    (info,) = talk.infos
    return info


async def test_what_it_learns(autojump_clock: MockClock) -> None:
    echo = Echo(["x"])
    client = TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY, alpn=["y", "x"])
    async with serving_tls(handler=echo) as site:
        info = await talk_to(site, client)
        assert await site.ended() is EndReason.COMPLETED  # it said good-bye, and so did we
    assert (info.version, info.alpn, info.server_name) == ("TLSv1.3", "x", SERVER_NAME)
    assert info.peer_certificates[0] == certificate().der
    assert info.peer_name is not None
    assert info.own_certificate is None
    assert echo.hellos[0].server_name == SERVER_NAME


async def test_the_name_is_that_of_the_connection_unless_given(autojump_clock: MockClock) -> None:
    echo = Echo()
    client = TlsClient(authorities=AUTHORITY)
    async with serving_tls(handler=echo) as site:
        info = await talk_to(site, client, server=f"{SERVER_NAME}:443")
        assert info.server_name == echo.hellos[0].server_name == SERVER_NAME
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await talk_to(site, client, server="other.example:443")


async def test_an_address_is_verified_too(autojump_clock: MockClock) -> None:
    issued = certificate("192.0.2.1")
    echo = Echo()
    async with serving_tls(tls(issued), echo) as site:
        await talk_to(site, TlsClient(authorities=AUTHORITY), server="192.0.2.1:443")
        assert echo.hellos[0].server_name is None
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await talk_to(site, TlsClient(authorities=AUTHORITY), server="192.0.2.2:443")


@pytest.mark.parametrize(
    ("issued", "why"),
    [
        (certificate("other.example"), "Hostname mismatch"),
        (expired(), "certificate has expired"),
        (certificate(SERVER_NAME, by=stranger), "unable to get local issuer|self.signed"),
    ],
    ids=["another name", "expired", "of another authority"],
)
async def test_whom_it_does_not_trust(issued: Issued, why: str, autojump_clock: MockClock) -> None:
    client = TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY)
    async with serving_tls(tls(issued), Echo()) as site:
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            await talk_to(site, client)
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED


async def test_by_default_it_trusts_those_that_the_system_does(autojump_clock: MockClock) -> None:
    async with serving_tls(handler=Echo()) as site:
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk_to(site, TlsClient(server_name=SERVER_NAME))


async def test_a_certificate_of_its_own(autojump_clock: MockClock) -> None:
    alice = certificate("alice", common_name="Alice")
    layer = tls(client_certificates=ClientCertificates.REQUIRE, client_authorities=AUTHORITY)
    echo = Echo()
    client = TlsClient(
        server_name=SERVER_NAME, authorities=AUTHORITY, certificate=alice.chain, key=alice.key
    )
    async with serving_tls(layer, echo) as site:
        await talk_to(site, client)
        assert echo.infos[0].peer_certificates[0] == alice.der
        with pytest.raises(trio.BrokenResourceError, match="CERTIFICATE_REQUIRED"):
            await talk_to(site, TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY))


async def test_a_context_of_its_own(autojump_clock: MockClock) -> None:
    client = TlsClient(context=trusting(alpn=["x"]), server_name=SERVER_NAME)
    async with serving_tls(handler=Echo(["x"])) as site:
        assert (await talk_to(site, client)).alpn == "x"


async def test_sessions_are_kept_by_name(autojump_clock: MockClock) -> None:
    other = certificate("other.example")
    layer = tls(hosts={"other.example": TlsOptions(certificate=other.chain, key=other.key)})
    client = TlsClient(authorities=AUTHORITY)
    async with serving_tls(layer, Echo()) as site:
        for resumed in (False, True, True):
            for name in (SERVER_NAME, "other.example"):
                assert (await talk_to(site, client, server=name)).resumed is resumed


@asynccontextmanager
async def silence() -> AsyncGenerator[TlsSite]:
    """Serve by saying nothing."""

    async def say_nothing(connection: Connection) -> None:
        async for _ in connection.transport.input:
            pass

    async with serving_tls(handler=say_nothing, middleware=()) as site:
        yield site


async def test_a_server_that_says_nothing(autojump_clock: MockClock) -> None:
    client = TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY, handshake_seconds=3)
    async with silence() as site:
        with pytest.raises(trio.TooSlowError):
            await talk_to(site, client)
        assert trio.current_time() == pytest.approx(3, abs=0.1)


async def test_a_server_that_leaves(autojump_clock: MockClock) -> None:
    async def leave(connection: Connection) -> None:
        await connection.transport.input.read()

    client = TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY)
    async with serving_tls(handler=leave, middleware=()) as site:
        with pytest.raises((ssl.SSLEOFError, trio.BrokenResourceError)):
            await talk_to(site, client)


async def test_a_server_that_speaks_no_tls(autojump_clock: MockClock) -> None:
    async def greet(connection: Connection) -> None:
        await connection.transport.output.send(b"220 mail.example ESMTP\r\n")
        await connection.transport.input.read()

    client = TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY)
    async with serving_tls(handler=greet, middleware=()) as site:
        with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
            await talk_to(site, client)


async def test_an_answer_that_is_cut_short(autojump_clock: MockClock) -> None:
    """Nothing but the end tells where it ends, so it must be a clean one."""

    async def half(connection: Connection) -> None:
        await connection.transport.output.send(b"half of")
        raise trio.BrokenResourceError

    received = b""

    async def listen(connection: Connection) -> None:
        nonlocal received
        async for chunk in connection.transport.input:
            received += chunk

    client = TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY)
    async with serving_tls(handler=half) as site:
        connection = await site.connect()
        with pytest.raises(trio.BrokenResourceError, match="went away without ending TLS"):
            await client(connection, listen)
        assert connection.end_reason is EndReason.TLS_TRUNCATED
    assert received == b"half of"


async def test_tls_through_tls(autojump_clock: MockClock) -> None:
    """As through a proxy that tunnels: pipes know of no order."""
    inner = Tls(certificate=certificate("inner").chain, key=certificate("inner").key)

    async def serve_inner(connection: Connection) -> None:
        context = inner.contexts.get(inner, ()).context
        pipe = TlsPipe(connection.transport, context, server_side=True)
        await pipe.do_handshake()
        async for chunk in pipe.input:
            await pipe.output.send(chunk.upper())
        await pipe.finish()

    async def talk_inside(connection: Connection) -> None:
        pipe = TlsPipe(connection.transport, trusting(), server_side=False, server_name="inner")
        await pipe.do_handshake()
        await pipe.output.send(b"hello")
        assert await pipe.input.receive() == b"HELLO"
        await pipe.output.send_eof()
        assert await pipe.input.receive() == b""
        await wait_all_tasks_blocked()

    client = TlsClient(server_name=SERVER_NAME, authorities=AUTHORITY)
    async with serving_tls(handler=serve_inner) as site:
        await client(await site.connect(), talk_inside)


async def test_a_name_that_is_none() -> None:
    near, _far = duplex_pipe_pair()
    with pytest.raises(ValueError, match="server_hostname"):
        TlsPipe(near, trusting(), server_side=False, server_name="")
