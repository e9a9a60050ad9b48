"""How long a handshake may take, and how many may be under way."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from tests.raw_client import GET
from tests.tls_site import Echo, TlsPeer, TlsSite, serving_tls, tls


async def goes_on(site: TlsSite) -> None:
    """Expect that the server serves."""
    client = await site.client()
    assert (await client.ask(GET)).status == 200
    await client.aclose()
    await site.ended()


# Clients that are slow --------------------------------------------------------------------------


async def idle_client(site: TlsSite) -> None:
    await site.connect()


async def half_a_hello(site: TlsSite) -> None:
    peer = TlsPeer(await site.connect())
    peer.step()
    await peer.send_raw(peer.outgoing.read()[:100])


async def a_hello_only(site: TlsSite) -> None:
    peer = TlsPeer(await site.connect())
    peer.step()
    await peer.transmit()


async def a_byte_a_second(site: TlsSite) -> None:
    peer = TlsPeer(await site.connect())
    peer.step()
    for byte in peer.outgoing.read():
        try:
            await peer.send_raw(bytes([byte]))
        except trio.BrokenResourceError:
            return
        await trio.sleep(1)


@pytest.mark.parametrize("client", [idle_client, half_a_hello, a_hello_only, a_byte_a_second])
@pytest.mark.parametrize("seconds", [10.0, 3.0])
async def test_a_handshake_has_so_much_time(
    client: Callable[[TlsSite], Awaitable[None]], seconds: float, autojump_clock: MockClock
) -> None:
    layer = tls() if seconds == 10 else tls(handshake_seconds=seconds)
    async with serving_tls(layer) as site, trio.open_nursery() as nursery:
        nursery.start_soon(client, site)
        while not site.log.ends:  # noqa: ASYNC110  # the server has no event for it
            await trio.sleep(0.01)
        assert trio.current_time() == pytest.approx(seconds, abs=0.05)
        assert await site.ended() is EndReason.TLS_HANDSHAKE_TIMEOUT
        await goes_on(site)


async def test_the_deadline_ends_with_the_handshake(autojump_clock: MockClock) -> None:
    async with serving_tls(tls(handshake_seconds=3), Echo()) as site:
        peer = await site.peer()
        await trio.sleep(100)
        assert await peer.ask(b"still there") == b"still there"


async def test_a_silent_client_does_not_hold_up_the_drain(autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        await site.connect()
        await wait_all_tasks_blocked()
        assert await site.opened.server.drain(5) == 0
        assert trio.current_time() < 1
        assert site.log.ends == [EndReason.SHUTDOWN]


async def test_a_handshake_under_way_is_finished_before_the_server_is(
    autojump_clock: MockClock,
) -> None:
    async with serving_tls() as site:
        peer = TlsPeer(await site.connect())
        peer.step()
        hello = peer.outgoing.read()
        await peer.send_raw(hello[:50])
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.opened.server.drain, 5)
            await wait_all_tasks_blocked()
            await peer.send_raw(hello[50:])
            await peer.shake_hands()
            assert await peer.receive() == b""  # for HTTP ends an idle connection
        assert site.log.ends == [EndReason.SHUTDOWN]


async def test_a_server_that_stops_cuts_handshakes(autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        await half_a_hello(site)
        await wait_all_tasks_blocked()
        assert await site.opened.server.drain(2) == 1
        assert site.log.ends == [EndReason.APP_SHUTDOWN_TIMEOUT]
        (warning,) = site.log.records
        assert "were cut" in warning.getMessage()
        site.log.records.clear()


# How many at a time -----------------------------------------------------------------------------


async def test_so_many_handshakes_at_a_time(autojump_clock: MockClock) -> None:
    """The others wait for their turn, and their time runs."""
    async with serving_tls(tls(max_handshakes=2, handshake_seconds=4), Echo()) as site:
        slow = [await a_hello_seen(site) for _ in range(2)]
        waiting = TlsPeer(await site.connect())
        waiting.step()
        await waiting.transmit()
        with trio.move_on_after(1) as scope:
            await waiting.connection.transport.input.read()
        assert scope.cancelled_caught
        await slow[0].shake_hands()
        with trio.fail_after(0.1):
            await waiting.shake_hands()
        assert await waiting.ask(b"at last") == b"at last"
        await trio.sleep(10)
        assert site.log.ends == [EndReason.TLS_HANDSHAKE_TIMEOUT]
        assert await slow[0].ask(b"still there") == b"still there"


async def test_waiting_for_a_turn_has_an_end(autojump_clock: MockClock) -> None:
    async with serving_tls(tls(max_handshakes=1, handshake_seconds=4), Echo()) as site:
        await a_hello_seen(site)
        await trio.sleep(2)
        waiting = TlsPeer(await site.connect())
        waiting.step()
        await waiting.transmit()
        await trio.sleep(1.9)
        assert site.log.ends == []
        waiting.connection.transport.input.look()
        assert waiting.connection.transport.input.buffered == b""
        await trio.sleep(0.2)  # the first has had its time; the second has its turn
        assert site.log.ends == [EndReason.TLS_HANDSHAKE_TIMEOUT]
        await trio.sleep(2)
        assert site.log.ends == [EndReason.TLS_HANDSHAKE_TIMEOUT] * 2
        assert await (await site.peer()).ask(b"x") == b"x"


async def test_clients_that_say_nothing_take_no_turn(autojump_clock: MockClock) -> None:
    async with serving_tls(tls(max_handshakes=1), Echo()) as site:
        for _ in range(3):
            await half_a_hello(site)
            await site.connect()
        assert await (await site.peer()).ask(b"x") == b"x"


async def a_hello_seen(site: TlsSite) -> TlsPeer:
    """Connect, and say no more than a hello, which the server has answered."""
    peer = TlsPeer(await site.connect())
    peer.step()
    await peer.transmit()
    await peer.take()
    return peer


async def test_a_failed_handshake_gives_its_turn_back(autojump_clock: MockClock) -> None:
    async with serving_tls(tls(max_handshakes=1), Echo()) as site:
        for _ in range(3):
            peer = await a_hello_seen(site)
            await peer.aclose()
            await site.ended()
        assert await (await site.peer()).ask(b"x") == b"x"
