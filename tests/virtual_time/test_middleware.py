"""The middleware of connections, each below a real application."""

import logging
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.middleware import Middleware
from kestrel_core.protocol import Protocol, Sniff
from kestrel_core.testing import OpenServer, open_server, serve
from kestrel_middleware.admission import ConnectionAdmission, WhenFull
from kestrel_middleware.idle import Idle
from kestrel_middleware.proxy_protocol import ProxyProtocol
from kestrel_middleware.throttle import Throttle
from tests.http1_site import hello
from tests.raw_client import GET
from tests.virtual_time.ending import Ending, connect, ending
from tests.virtual_time.proofs import proves


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def receive_exactly(connection: Connection, count: int) -> float:
    """Return when so many bytes had come."""
    assert len(await connection.transport.input.read_exactly(count)) == count
    return trio.current_time()


# Idle -------------------------------------------------------------------------------------------


@proves("idle.seconds")
@pytest.mark.parametrize(("moves_at", "ends_at"), [([], 600), ([1], 675), ([75, 301], 975)])
async def test_an_idle_connection_is_aborted(
    moves_at: Sequence[float], ends_at: float, autojump_clock: MockClock
) -> None:
    """By looking eight times in that span, so never early, and late by an eighth at most."""
    async with open_server(echo, middleware=[Idle()]) as server:
        client = await connect(server)
        for at in moves_at:
            await trio.sleep_until(at)
            await client.send(b"x")
            assert await client.receive_some() == b"x"
        assert await ending(server, client) == Ending(
            at=ends_at, reset=True, reason=EndReason.IDLE_TIMEOUT
        )


# Detection --------------------------------------------------------------------------------------


class Shout(Protocol):
    name = "shout"

    def sniff(self, prefix: bytes) -> Sniff:
        return Sniff.YES if prefix.startswith(b"!!") else Sniff.MORE

    async def __call__(self, connection: Connection) -> None:
        await echo(connection)


@proves("detect.seconds")
@pytest.mark.parametrize("beginning", [b"", b"!", b"GE"])
async def test_what_cannot_be_told_is_waited_for_so_long(
    beginning: bytes, autojump_clock: MockClock
) -> None:
    async with serve(hello, beside=[Shout()]) as server:
        client = await connect(server)
        await client.send(beginning)
        assert await ending(server, client) == Ending(
            at=30, reason=EndReason.PROTOCOL_DETECTION_TIMEOUT
        )


@proves("detect.seconds")
async def test_what_can_be_told_a_moment_before_is_served(autojump_clock: MockClock) -> None:
    async with serve(hello, beside=[Shout()]) as server:
        client = await connect(server)
        await client.send(b"!")
        await trio.sleep(29.999)
        await client.send(b"!")
        assert await client.receive_some() == b"!!"


# The PROXY header -------------------------------------------------------------------------------


@proves("proxy_protocol.header_seconds")
@pytest.mark.parametrize("beginning", [b"", b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r"])
async def test_a_proxy_header_has_so_long(beginning: bytes, autojump_clock: MockClock) -> None:
    middleware = ProxyProtocol(trusted="*")
    async with serve(hello, middleware=[middleware]) as server:
        client = await connect(server)
        await client.send(beginning)
        assert await ending(server, client) == Ending(at=10, reason=EndReason.PROXY_HEADER_TIMEOUT)


@proves("proxy_protocol.header_seconds")
async def test_a_proxy_header_that_comes_a_moment_before_is_taken(
    autojump_clock: MockClock,
) -> None:
    async with serve(hello, middleware=[ProxyProtocol(trusted="*")]) as server:
        client = await connect(server)
        await trio.sleep(9.999)
        await client.send(b"PROXY UNKNOWN\r\n")
        await trio.sleep(100)  # which is of no interest to it any more
        assert (await client.ask(GET)).status == 200


# Throttling -------------------------------------------------------------------------------------


@proves("throttle.read_bytes_per_second")
async def test_what_is_read_comes_at_its_rate(autojump_clock: MockClock) -> None:
    """A second's bytes at once, and then so many a second."""
    middleware = [Throttle(read_bytes_per_second=1000)]
    async with open_server(echo, middleware=middleware) as server:
        client = await server.connect()
        await client.transport.output.send(b"x" * 11_000)
        assert await receive_exactly(client, 1000) == 0
        assert await receive_exactly(client, 100) == pytest.approx(0.1)
        assert await receive_exactly(client, 9900) == pytest.approx(10)


@proves("throttle.write_bytes_per_second")
async def test_what_is_written_leaves_at_its_rate(autojump_clock: MockClock) -> None:
    middleware = [Throttle(write_bytes_per_second=1000, burst_bytes=500)]
    async with open_server(echo, middleware=middleware) as server:
        client = await server.connect()
        await client.transport.output.send(b"x" * 10_500)
        assert await receive_exactly(client, 500) == 0
        assert await receive_exactly(client, 10_000) == pytest.approx(10)


# Admission --------------------------------------------------------------------------------------


async def is_served(server: OpenServer, address: str = "203.0.113.7:1") -> bool:
    """Tell whether a new connection is served, and not refused."""
    client = await connect(server, address=address)
    await client.send(b"x")
    try:
        return await client.receive_some() == b"x"
    except trio.BrokenResourceError:
        return False


@proves("admission.connections_per_second")
async def test_connections_beyond_the_rate_are_refused(autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(connections_per_second=0.5, burst=2)
    async with open_server(echo, middleware=[admission]) as server:
        assert [await is_served(server) for _ in range(3)] == [True, True, False]
        await trio.sleep(1.999)
        assert not await is_served(server)
        await trio.sleep(0.001)
        assert [await is_served(server) for _ in range(2)] == [True, False]
        assert server.connections[-1].end_reason is EndReason.CONNECTION_RATE_EXCEEDED


@proves("admission.connections_per_second")
async def test_connections_beyond_the_rate_may_wait(autojump_clock: MockClock) -> None:
    admission = ConnectionAdmission(connections_per_second=0.5, when_full=WhenFull.WAIT)
    served_at: list[float] = []
    async with open_server(echo, middleware=[admission]) as server:
        for _ in range(4):
            assert await is_served(server)
            served_at.append(trio.current_time())
    assert served_at == pytest.approx([0, 2, 4, 6], abs=1e-4)


@proves("admission.connections_per_second_per_address")
async def test_connections_from_one_address_beyond_its_rate_are_refused(
    autojump_clock: MockClock,
) -> None:
    admission = ConnectionAdmission(connections_per_second_per_address=0.5)
    async with open_server(echo, middleware=[admission]) as server:
        assert [await is_served(server, f"203.0.113.7:{port}") for port in (1, 2)] == [True, False]
        assert await is_served(server, "203.0.113.8:1")
        await trio.sleep(1.999)
        assert not await is_served(server)
        await trio.sleep(0.001)
        assert await is_served(server)


@proves("kestrel_middleware.admission.refusal_log._SECONDS_BETWEEN")
async def test_refusals_are_told_each_ten_seconds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[float, str]] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append((trio.current_time(), record.getMessage()[: len("refused 9")]))

    logger, note = logging.getLogger("kestrel.admission"), Note()
    logger.addHandler(note)
    async with open_server(echo, middleware=[ConnectionAdmission(deny="*")]) as server:
        for _ in range(4):
            assert not await is_served(server)
            await trio.sleep(1)
        await trio.sleep(100)
        assert not await is_served(server)
    logger.removeHandler(note)
    assert told == [(0, "refused 1"), (10, "refused 3"), (104, "refused 1")]


# What lingers -----------------------------------------------------------------------------------


@proves("Limits.linger_seconds")
async def test_a_layer_has_so_long_to_send_its_rest(autojump_clock: MockClock) -> None:
    """A throttle, here, which would need a hundred seconds."""

    async def respond(connection: Connection) -> None:
        connection.transport.output.write(b"x" * 1000)

    middleware: list[Middleware] = [Throttle(write_bytes_per_second=10)]
    async with open_server(respond, middleware=middleware) as server:
        client = await connect(server)
        end = await ending(server, client)
        assert (end.at, end.gone_at) == (2, 2)
