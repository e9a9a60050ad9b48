"""What ends a server: it lets everything finish, for so long."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.testing import LeftOpen, open_server, serve
from kestrel_middleware.admission import ConnectionAdmission
from kestrel_middleware.asgi import Health
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from tests.http1_site import hello
from tests.raw_client import GET, RawClient
from tests.virtual_time.ending import Ending, connect, ending
from tests.virtual_time.proofs import proves
from tests.virtual_time.unresponsive import Unresponsive


async def sleep(exchange: HttpExchange) -> None:
    """Answer after as many seconds as the target says."""
    await trio.sleep(float(exchange.target[1:]))
    await exchange.respond(200, [], b"")


async def sleep_forever(connection: Connection) -> None:
    await trio.sleep_forever()


@proves("Server.drain(seconds)")
async def test_draining_waits_so_long_and_no_longer(autojump_clock: MockClock) -> None:
    async with serve(sleep, interface="native") as server:
        idle, quick, slow = [await connect(server) for _ in range(3)]
        await quick.send(GET.replace(b"/ ", b"/29.999 "))
        await slow.send(GET.replace(b"/ ", b"/30.001 "))
        await wait_all_tasks_blocked()
        endings: dict[str, Ending] = {}
        async with trio.open_nursery() as nursery:

            async def wait_for(name: str, client: RawClient) -> None:
                endings[name] = await ending(server, client)

            nursery.start_soon(wait_for, "idle", idle)
            nursery.start_soon(wait_for, "quick", quick)
            nursery.start_soon(wait_for, "slow", slow)
            assert await server.server.drain(30) == 1
            assert trio.current_time() == 30
        ok = b"HTTP/1.1 200 OK"
        assert endings == {
            "idle": Ending(at=0, reason=EndReason.SHUTDOWN),
            "quick": Ending(at=29.999, said=ok, reason=EndReason.SHUTDOWN),
            "slow": Ending(at=30, reset=True, reason=EndReason.APP_SHUTDOWN_TIMEOUT),
        }


@proves("Server.drain(notice_seconds)")
async def test_draining_goes_on_accepting_for_the_notice(autojump_clock: MockClock) -> None:
    async with serve(Health(hello)) as server, server.httpx_client() as client:
        assert (await client.get("/readyz")).status_code == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: server.server.drain(30, notice_seconds=20))
            await trio.sleep(19.999)
            assert (await client.get("/readyz")).status_code == 503
            assert (await (await connect(server)).ask(GET)).status == 200
            await trio.sleep(0.002)
            with pytest.raises(ConnectionRefusedError):
                await connect(server)
        assert trio.current_time() == pytest.approx(20.001)


@proves("Server.unbind(seconds)")
async def test_unbinding_waits_so_long_for_that_endpoints_connections(
    autojump_clock: MockClock,
) -> None:
    async with open_server(sleep_forever, drain_seconds=0) as server:
        second = await server.server.bind("memory://second", sleep_forever)
        stays = await server.connect()
        await server.server.registry.transport("memory").connect(second, server.context)
        await wait_all_tasks_blocked()
        assert await server.server.unbind(second, 7) == 1
        assert trio.current_time() == 7
        assert not stays.closed


@proves("open_server(drain_seconds)")
async def test_the_end_of_the_block_waits_so_long(autojump_clock: MockClock) -> None:
    async with open_server(sleep_forever, drain_seconds=4) as server:
        await server.connect()
        await wait_all_tasks_blocked()
    assert trio.current_time() == 4


@proves("serve(drain_seconds)")
async def test_what_goes_on_without_its_client_is_told_then(autojump_clock: MockClock) -> None:
    with pytest.raises(LeftOpen):  # noqa: PT012  # the end of the block is what is tested
        async with serve(sleep, interface="native", drain_seconds=4) as server:
            client = await connect(server)
            await client.send(GET.replace(b"/ ", b"/5 "))
            await wait_all_tasks_blocked()
    assert trio.current_time() == 4


# A transport that does not come to an end -------------------------------------------------------


@proves("Server.drain(seconds)")
async def test_a_listener_that_does_not_close_is_left_after_a_second(
    autojump_clock: MockClock,
) -> None:
    registry = Unresponsive(closing_listeners=True).registry()
    async with open_server(sleep_forever, registry=registry, endpoint="unresponsive://x"):
        pass
    assert trio.current_time() == 1


@proves("Limits.linger_seconds")
async def test_a_connection_that_does_not_close_is_left(autojump_clock: MockClock) -> None:
    registry = Unresponsive(closing_accepted=True).registry()
    async with serve(hello, registry=registry, endpoint="unresponsive://x") as server:
        client = await connect(server)
        await client.ask(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert await client.is_reset()
        assert trio.current_time() == 2


@proves("kestrel_middleware.admission.listener._CLOSE_SECONDS")
async def test_a_connection_that_is_refused_and_does_not_close(autojump_clock: MockClock) -> None:
    registry = Unresponsive(closing_accepted=True).registry()
    admission = ConnectionAdmission(deny="203.0.113.7")
    async with open_server(
        Http1(sleep),
        registry=registry,
        endpoint="unresponsive://x",
        middleware=[admission],
        drain_seconds=3,
    ) as server:
        refused = await server.connect(options={"client": "203.0.113.7:1"})
        served = RawClient(await server.connect(options={"client": "203.0.113.8:1"}))
        await refused.wait_closed()
        assert trio.current_time() == 0
        assert (await served.ask(GET.replace(b"/ ", b"/0 "))).status == 200  # behind the other one
        assert trio.current_time() == 1
