"""The in-memory transport of streams keeps the contract and its own promises."""

import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from kestrel_core.connection import Address, MultiplexedConnection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import EndpointError
from kestrel_core.memory_pipe import MemoryDuplexPipe
from kestrel_core.testing import check_multiplexed_transport, check_no_leaks
from kestrel_core.transport import TransportContext, open_transport_context
from kestrel_transports.memory import MemoryTransport
from kestrel_transports.memory_streams import MemoryStreamsTransport


@pytest.mark.parametrize(
    "endpoint",
    [
        "memory-streams://name",
        "memory-streams://a/b c%3F?max_concurrent_streams=30&pause_at_bytes=4096&client=10.0.0.1:1",
    ],
)
async def test_it_keeps_every_promise(endpoint: str, autojump_clock: MockClock) -> None:
    async with check_no_leaks():
        await check_multiplexed_transport(MemoryStreamsTransport(), endpoint)


async def connect(
    context: TransportContext, options: str = ""
) -> tuple[MultiplexedConnection, MultiplexedConnection]:
    """Return the two ends of a new connection, the client's first."""
    endpoint = Endpoint.parse(f"memory-streams://name{options}")
    listener = await MemoryStreamsTransport().bind(endpoint, context)
    client = await MemoryStreamsTransport().connect(listener.endpoint, context)
    server = await listener.accept()
    await listener.aclose()
    assert isinstance(client, MultiplexedConnection)
    assert isinstance(server, MultiplexedConnection)
    return client, server


@asynccontextmanager
async def connected(
    options: str = "",
) -> AsyncGenerator[tuple[MultiplexedConnection, MultiplexedConnection]]:
    async with check_no_leaks(), open_transport_context() as context:
        client, server = await connect(context, options)
        yield client, server
        for connection in (client, server):
            await close_within(connection, 1.0)


async def test_ends_have_names_as_those_of_plain_connections_have() -> None:
    async with connected() as (client, server):
        assert client.local == server.remote == Address("name-client")
        assert client.remote == server.local == Address("name")
    async with connected("?client=10.0.0.1:1&server=[::1]:443") as (client, server):
        stream = await client.open_stream()
        assert stream.local == Address("10.0.0.1", 1)
        assert stream.remote == Address("::1", 443)


async def test_streams_have_the_address_that_somebody_corrected() -> None:
    async with connected() as (client, server):
        await client.open_stream()
        server.remote = Address("203.0.113.7", 4711)
        assert (await server.accept_stream()).remote == Address("203.0.113.7", 4711)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("max_concurrent_streams=0", "max_concurrent_streams must be at least 1"),
        ("max_concurrent_streams=x", "max_concurrent_streams=x is not a number"),
        ("backlog=0", "backlog must be at least 1"),
        ("colour=red", "memory-streams has no option 'colour'; its options: backlog, client, max"),
    ],
)
async def test_options_that_make_no_sense(options: str, fault: str) -> None:
    endpoint = Endpoint.parse(f"memory-streams://name?{options}")
    async with open_transport_context() as context:
        for operation in (MemoryStreamsTransport().bind, MemoryStreamsTransport().connect):
            with pytest.raises(EndpointError, match=fault):
                await operation(endpoint, context)


async def test_plain_names_and_those_of_streams_do_not_meet() -> None:
    async with open_transport_context() as context:
        plain = await MemoryTransport().bind(Endpoint.parse("memory://name"), context)
        endpoint = Endpoint.parse("memory-streams://name")
        with pytest.raises(ConnectionRefusedError, match="nobody listens on the name 'name'"):
            await MemoryStreamsTransport().connect(endpoint, context)
        streams = await MemoryStreamsTransport().bind(endpoint, context)
        await plain.aclose()
        await streams.aclose()


async def test_either_side_may_have_as_many_streams_as_was_asked_for() -> None:
    async with connected("?max_concurrent_streams=2") as pair:
        for opener in pair:
            for _ in range(2):
                await opener.open_stream()
            with trio.move_on_after(0.001) as scope:
                await opener.open_stream()
            assert scope.cancelled_caught


async def test_a_stream_counts_until_the_other_side_has_closed_it() -> None:
    async with connected("?max_concurrent_streams=1") as (client, server):
        first = await client.open_stream()
        await first.transport.output.send(b"all of it")
        await first.aclose()
        with trio.move_on_after(0.001) as scope:
            await client.open_stream()
        assert scope.cancelled_caught
        accepted = await server.accept_stream()
        assert accepted.closed
        assert await accepted.transport.input.read_exactly(20) == b"all of it"
        await accepted.aclose()
        await client.open_stream()


async def test_aborted_streams_are_forgotten_before_anybody_accepts_them() -> None:
    async with connected("?max_concurrent_streams=1") as (client, server):
        for _ in range(100):
            (await client.open_stream()).abort(EndReason.ABORTED_BY_APP)
        last = await client.open_stream()
        await last.transport.output.send(b"x")
        accepted = await server.accept_stream()
        assert await accepted.transport.input.receive() == b"x"


async def test_who_waits_first_is_served_first() -> None:
    opened: list[int] = []

    async def open_one(connection: MultiplexedConnection, number: int) -> None:
        await connection.open_stream()
        opened.append(number)

    async with connected("?max_concurrent_streams=3") as (client, _):
        streams = [await client.open_stream() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(open_one, client, number)
                await wait_all_tasks_blocked()
            for stream in streams:
                stream.abort(EndReason.ABORTED_BY_APP)
                await wait_all_tasks_blocked()
        assert opened == [0, 1, 2]


async def test_closing_lets_what_was_sent_arrive_on_streams_not_yet_accepted_too() -> None:
    async with connected() as (client, server):
        accepted_before, sent_before = await client.open_stream(), await client.open_stream()
        first = await server.accept_stream()
        accepted_before.transport.output.write(b"one")
        sent_before.transport.output.write(b"two")
        await client.aclose()
        client.abort(EndReason.ABORTED_BY_APP)  # which comes too late to take anything back
        assert server.closed
        assert server.end_reason is None
        second = await server.accept_stream()
        assert await first.transport.input.read_exactly(9) == b"one"
        assert await second.transport.input.read_exactly(9) == b"two"
        with pytest.raises(trio.EndOfChannel):
            await server.accept_stream()


async def test_aborting_takes_everything_back_and_is_a_reset_to_the_peer() -> None:
    async with connected() as (client, server):
        ended = await client.open_stream()
        await ended.transport.output.send(b"one")
        await ended.aclose()
        sent = await client.open_stream()
        await sent.transport.output.send(b"two")
        accepted = await server.accept_stream()
        client.abort(EndReason.ABORTED_BY_APP)
        assert server.end_reason is EndReason.CONNECTION_RESET
        assert sent.end_reason is EndReason.ABORTED_BY_APP
        with pytest.raises(trio.BrokenResourceError):
            await accepted.transport.input.read()
        with pytest.raises(trio.EndOfChannel):
            await server.accept_stream()


async def test_aborting_takes_streams_back_that_were_closed_and_not_accepted() -> None:
    for swapped in (False, True):
        async with connected() as ends:
            opener, acceptor = ends
            stream = await opener.open_stream()
            await stream.transport.output.send(b"one")
            await stream.aclose()
            ends[swapped].abort(EndReason.ABORTED_BY_APP)
            with pytest.raises(trio.EndOfChannel):
                await acceptor.accept_stream()


async def test_all_who_wait_for_room_learn_of_the_end(autojump_clock: MockClock) -> None:
    refused: list[int] = []

    async def open_one(connection: MultiplexedConnection, number: int) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await connection.open_stream()
        refused.append(number)

    async with connected("?max_concurrent_streams=1") as (client, server):
        await client.open_stream()
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(open_one, client, number)
            await wait_all_tasks_blocked()
            await server.aclose()
        assert sorted(refused) == [0, 1, 2]


async def test_streams_that_have_ended_are_not_kept() -> None:
    def living() -> int:
        return sum(type(each) is MemoryDuplexPipe for each in gc.get_objects())

    async with connected() as (client, server):

        async def open_and_close() -> None:
            stream = await client.open_stream()
            await (await server.accept_stream()).aclose()
            await stream.aclose()

        gc.collect()
        before = living()
        for _ in range(10):
            await open_and_close()
        gc.collect()
        assert living() == before


async def test_closing_waits_for_a_peer_that_does_not_read_and_for_no_other() -> None:
    async with connected("?pause_at_bytes=10") as (client, server):
        slow, quick = await client.open_stream(), await client.open_stream()
        await slow.transport.output.send(bytes(10))
        slow.transport.output.write(bytes(1))
        quick.transport.output.write(bytes(10))
        slow_peer, quick_peer = await server.accept_stream(), await server.accept_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            await wait_all_tasks_blocked()
            assert await quick_peer.transport.input.read_exactly(20) == bytes(10)
            assert await slow_peer.transport.input.read_exactly(20) == bytes(11)


async def test_closing_that_is_cut_short_has_closed_every_stream(
    autojump_clock: MockClock,
) -> None:
    async with connected("?pause_at_bytes=10") as (client, server):
        streams = [await client.open_stream() for _ in range(3)]
        for stream in streams:
            stream.transport.output.write(bytes(100))
        accepted = [await server.accept_stream() for _ in streams]
        await close_within(client, 1.0)
        assert trio.current_time() == 1.0
        for stream in (*streams, *accepted):
            assert stream.closed
        for stream in streams:
            with pytest.raises(trio.ClosedResourceError):
                await stream.transport.input.read()


async def test_everything_is_a_checkpoint() -> None:
    async with connected() as (client, server):
        with assert_checkpoints():
            await client.open_stream()
        with assert_checkpoints():
            await server.accept_stream()


async def test_a_stream_tells_when_it_was_closed_as_a_pipe() -> None:
    async with connected() as (client, server):
        stream = await client.open_stream()
        accepted = await server.accept_stream()
        await accepted.transport.aclose()
        assert stream.closed
        assert accepted.closed
