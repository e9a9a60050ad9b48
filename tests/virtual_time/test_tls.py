"""TLS, on both sides; the handshakes are real ones."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.features import TlsInfo
from kestrel_core.testing import OpenServer, open_server, serve
from kestrel_core.testing.authority import Authority, Identity
from kestrel_middleware.tls import TlsClient
from tests.http1_site import hello
from tests.raw_client import GET, post
from tests.virtual_time.ending import Ending, connect, ending
from tests.virtual_time.proofs import proves

# How a ClientHello begins: a record of 512 bytes, of which there are five.
HALF_A_HELLO = bytes.fromhex("1603010200") + b"\x01\x00\x01\xfc\x03"


@proves("tls.handshake_seconds")
@pytest.mark.parametrize("beginning", [b"", HALF_A_HELLO])
async def test_a_client_that_does_not_shake_hands(
    beginning: bytes, autojump_clock: MockClock
) -> None:
    async with serve(hello, tls=True) as server:
        client = await connect(server, tls=False)
        await client.send(beginning)
        assert await ending(server, client) == Ending(at=10, reason=EndReason.TLS_HANDSHAKE_TIMEOUT)


@proves("Limits.keep_alive_seconds", "tls.handshake_seconds")
async def test_what_is_inside_of_tls_has_times_of_its_own(autojump_clock: MockClock) -> None:
    async with serve(hello, tls=True) as server:
        client = await connect(server)
        await trio.sleep(100)
        assert (await client.ask(GET)).status == 200
        assert await ending(server, client) == Ending(at=230, reason=EndReason.KEEP_ALIVE_TIMEOUT)


@proves("TlsClient.handshake_seconds")
async def test_a_server_that_does_not_shake_hands(autojump_clock: MockClock) -> None:
    async def say_nothing(connection: Connection) -> None:
        await connection.transport.input.read_exactly(1_000_000)

    async with open_server(say_nothing) as server:
        tls = TlsClient(server_name="testserver", authorities=Authority().pem)
        connection = await server.connect()
        with pytest.raises(trio.TooSlowError):
            await tls.start_tls(connection.transport)
        assert trio.current_time() == 10


@proves("Limits.linger_seconds")
async def test_a_client_that_speaks_http_is_read_for_so_long(autojump_clock: MockClock) -> None:
    async with serve(hello, tls=True) as server:
        client = await connect(server, tls=False)
        await client.send(post(b"x" * 100)[:-1])
        assert await ending(server, client) == Ending(
            at=0,
            said=b"HTTP/1.1 400 Bad Request",
            reason=EndReason.PLAIN_HTTP_ON_TLS,
            gone_at=2,
        )


def write(path: Path, identity: Identity) -> None:
    """Write over the file; its time is another in any case."""
    path.write_bytes(identity.certificate_chain + identity.key)
    written_at = path.stat().st_mtime_ns
    os.utime(path, ns=(written_at, written_at + len(list(path.parent.iterdir())) + 1))


async def shown(server: OpenServer) -> bytes | None:
    """Return the certificate that a new connection is shown."""
    await connect(server)
    await wait_all_tasks_blocked()  # a client is done before the server is
    tls = server.connections[-1].features.get(TlsInfo)
    assert tls is not None
    return tls.own_certificate


@proves("tls.reload_seconds")
async def test_a_new_certificate_is_found_after_so_long(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The last look is what counts, and nobody looks while nobody comes."""
    authority, path = Authority(), tmp_path / "tls.pem"
    write(path, authority.issue("testserver"))
    options = {"certificate": path, "key": None, "reload_seconds": 60}
    async with serve(hello, tls=options, authority=authority) as server:
        await trio.sleep(5)
        old = await shown(server)
        await trio.sleep(0.001)
        write(path, authority.issue("testserver"))
        await trio.sleep_until(64.999)
        assert await shown(server) == old
        await trio.sleep_until(65)
        new = await shown(server)
        assert new != old
        write(path, authority.issue("testserver"))
        await trio.sleep_until(124.999)
        assert await shown(server) == new
        await trio.sleep_until(125)
        assert await shown(server) != new
