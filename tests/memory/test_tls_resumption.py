"""Sessions that are taken up again, and keys that are written down."""

import os
import ssl
from pathlib import Path

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_middleware.tls import Tls, TlsClient, TlsOptions
from tests.tls_records import split_records
from tests.tls_site import (
    SERVER_NAME,
    Echo,
    authority,
    certificate,
    serving_tls,
    tls,
    trusting,
)

TLS_1_2, TLS_1_3 = VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


async def resumed(
    layer: Tls, version: ssl.TLSVersion = TLS_1_3, then: str = SERVER_NAME
) -> list[bool]:
    """Connect twice, the second time with the session of the first; tell what the server saw."""
    echo = Echo()
    context = trusting(highest=version, any_name=True)
    async with serving_tls(layer, echo) as site:
        first = await site.peer(context)
        assert await first.ask(b"x") == b"x"
        second = await site.peer(context, then, first.session.session)
        assert await second.ask(b"x") == b"x"
        assert second.session.session_reused is echo.infos[-1].resumed
    return [info.resumed for info in echo.infos]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_ticket(version: ssl.TLSVersion, autojump_clock: MockClock) -> None:
    assert await resumed(tls(), version) == [False, True]


@pytest.mark.parametrize("tickets", [0, 1, 2, 5])
async def test_so_many_tickets(tickets: int, autojump_clock: MockClock) -> None:
    async with serving_tls(tls(session_tickets=tickets), Echo()) as site:
        peer = await site.peer()
        await wait_all_tasks_blocked()
        await peer.send(b"x")
        await wait_all_tasks_blocked()
        received = await peer.connection.transport.input.receive()
        assert len(split_records(received)) == tickets + 1
    assert await resumed(tls(session_tickets=tickets)) == [False, tickets > 0]


async def test_without_tickets_an_old_client_may_still_ask_by_number(
    autojump_clock: MockClock,
) -> None:
    """OpenSSL remembers sessions of TLS 1.2, which Python gives no way to turn off."""
    assert await resumed(tls(session_tickets=0), TLS_1_2) == [False, True]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_is_good_for_its_own_name_alone(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    """Another name may have stricter rules, which resuming must not get around."""
    other = certificate("other.example")
    layer = tls(hosts={"other.example": TlsOptions(certificate=other.chain, key=other.key)})
    assert await resumed(layer, version, "other.example") == [False, False]


async def test_a_session_is_good_until_the_server_reloads(autojump_clock: MockClock) -> None:
    echo, layer, context = Echo(), tls(), trusting()
    async with serving_tls(layer, echo) as site:
        first = await site.peer(context)
        assert await first.ask(b"x") == b"x"
        layer.reload()
        second = await site.peer(context, session=first.session.session)
        assert await second.ask(b"x") == b"x"
    assert [info.resumed for info in echo.infos] == [False, False]


async def test_one_instance_resumes_across_servers(autojump_clock: MockClock) -> None:
    echo, layer, context = Echo(), tls(), trusting()
    async with serving_tls(layer, echo) as one, serving_tls(layer, echo) as other:
        first = await one.peer(context)
        assert await first.ask(b"x") == b"x"
        second = await other.peer(context, session=first.session.session)
        assert await second.ask(b"x") == b"x"
        await first.aclose()
        await second.aclose()
        await one.ended()
    assert [info.resumed for info in echo.infos] == [False, True]


async def test_our_own_client_resumes(autojump_clock: MockClock) -> None:
    echo = Echo()
    client = TlsClient(server_name=SERVER_NAME, authorities=authority().cert_pem.bytes())
    async with serving_tls(handler=echo) as site:
        for _ in range(3):
            await client(await site.connect(), ask_once)
    assert [info.resumed for info in echo.infos] == [False, True, True]


async def ask_once(connection: Connection) -> None:
    await connection.transport.output.send(b"x")
    assert await connection.transport.input.receive() == b"x"


# Keys -------------------------------------------------------------------------------------------


async def test_the_key_log_has_the_keys_of_both_ends(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    ours, theirs = tmp_path / "server", tmp_path / "client"
    ours.write_text("# kept\n")
    layer = tls(key_log_file=ours, hosts={"other.example": TlsOptions()})
    async with serving_tls(layer, Echo()) as site:
        for name in (SERVER_NAME, "other.example"):
            for version in VERSIONS:
                context = trusting(highest=version, any_name=True)
                context.keylog_filename = str(theirs)
                assert await (await site.peer(context, name)).ask(b"x") == b"x"
    written = ours.read_text()
    assert written.startswith("# kept\n")
    assert keys(written) == keys(theirs.read_text())
    assert {line.split()[0] for line in keys(written)} >= {
        "CLIENT_RANDOM",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    }


def keys(text: str) -> set[str]:
    return {line for line in text.splitlines() if not line.startswith("#")}


async def test_no_keys_are_logged_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    async with serving_tls(tls(), Echo()) as site:
        assert await (await site.peer()).ask(b"x") == b"x"
    assert os.listdir(tmp_path) == []
