"""What a block leaves behind is found and named; what it does not leave is not."""

import os
import socket
import threading
from contextlib import suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection, ConnectionContext, MultiplexedConnection
from kestrel_core.endpoint import Endpoint
from kestrel_core.memory import Block, MemoryPool
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.server import Server
from kestrel_core.testing import check_multiplexed_transport, check_no_leaks, check_transport
from kestrel_core.timers import Timers
from kestrel_core.transport import Listener, Transport, open_transport_context
from kestrel_transports.memory import MemoryTransport
from kestrel_transports.memory_streams import MemoryStreamsTransport
from kestrel_transports.tcp import TcpTransport

PROMISE = "^What comes into being in a block is gone at its end; left is\n  "

lists_descriptors = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="this system lists descriptors otherwise"
)

TRANSPORTS = [
    pytest.param(MemoryTransport(), "memory://name", id="memory"),
    pytest.param(MemoryStreamsTransport(), "memory-streams://name", id="memory-streams"),
    pytest.param(TcpTransport(), "tcp://127.0.0.1:0", id="tcp"),
]


async def echo(connection: Connection) -> None:
    if isinstance(connection, MultiplexedConnection):
        with suppress(trio.EndOfChannel):
            while True:
                stream = await connection.accept_stream()
                await echo(stream)
                await stream.aclose()
    else:
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk)


async def ask(connection: Connection) -> None:
    if isinstance(connection, MultiplexedConnection):
        stream = await connection.open_stream()
        await ask(stream)
        await stream.aclose()
    else:
        await connection.transport.output.send(b"word")
        await connection.transport.output.send_eof()
        assert await connection.transport.input.read_exactly(5) == b"word"


@pytest.mark.parametrize(("transport", "endpoint"), TRANSPORTS)
async def test_a_server_and_its_clients_leave_nothing(transport: Transport, endpoint: str) -> None:
    async with check_no_leaks():
        server = Server()
        server.listen(endpoint, echo)
        async with trio.open_nursery() as nursery:
            (bound,) = await nursery.start(server.serve)
            async with open_transport_context() as context:
                for _ in range(3):
                    connection = await transport.connect(bound, context)
                    await ask(connection)
                    await connection.aclose()
            await server.drain(1)


@pytest.mark.parametrize(("transport", "endpoint"), TRANSPORTS)
async def test_what_a_server_outside_does_for_the_block_ends_with_its_clients(
    transport: Transport, endpoint: str
) -> None:
    server = Server()
    server.listen(endpoint, echo)
    async with trio.open_nursery() as nursery:
        (bound,) = await nursery.start(server.serve)
        async with open_transport_context() as context:
            # The first connection makes what a context keeps: a poller, with its task.
            await (await transport.connect(bound, context)).aclose()
            async with check_no_leaks():
                connection = await transport.connect(bound, context)
                await ask(connection)
                await connection.aclose()
            with pytest.raises(AssertionError, match=PROMISE) as caught:
                async with check_no_leaks():
                    connection = await transport.connect(bound, context)
            assert str(caught.value).count("a connection that is not closed") == 2
            assert repr(connection) in str(caught.value)
            assert "Server._run" in str(caught.value)
            await connection.aclose()
        await server.drain(1)


async def test_the_contract_suites_leave_nothing(autojump_clock: MockClock) -> None:
    async with check_no_leaks():
        await check_transport(MemoryTransport(), "memory://name")
    async with check_no_leaks():
        await check_multiplexed_transport(MemoryStreamsTransport(), "memory-streams://name")


async def test_nor_do_they_with_sockets() -> None:
    async with check_no_leaks():
        await check_transport(TcpTransport(), "tcp://127.0.0.1:0")


async def test_a_task_is_named_with_its_place() -> None:
    async def linger() -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match=PROMISE) as caught:
            async with check_no_leaks():
                nursery.start_soon(linger, name="the lingering one")
        line = linger.__code__.co_firstlineno + 1
        told = f"the task the lingering one, which waits at {__file__}:{line}"
        assert str(caught.value).splitlines()[1:] == [f"  {told}"]
        nursery.cancel_scope.cancel()


async def test_a_system_task_is_found_too() -> None:
    done = trio.Event()
    with pytest.raises(AssertionError, match=f"{PROMISE}the task trio.Event.wait"):
        async with check_no_leaks():
            trio.lowlevel.spawn_system_task(done.wait, name="trio.Event.wait")
    done.set()


async def test_a_task_that_is_about_to_end_may_end() -> None:
    async def end_soon() -> None:
        for _ in range(50):
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, check_no_leaks():
        nursery.start_soon(end_soon)


async def test_one_that_sleeps_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match=f"{PROMISE}the task trio.sleep, which waits at"):
            async with check_no_leaks():
                nursery.start_soon(trio.sleep, 1)
    assert trio.current_time() == 1


async def test_what_was_there_before_does_not_count() -> None:
    near, _ = duplex_pipe_pair()
    before = Connection(near, ConnectionContext())
    reading, writing = os.pipe()
    pool = MemoryPool(Timers())
    async with trio.open_nursery() as nursery, open_transport_context() as context:
        listener = await MemoryTransport().bind(Endpoint.parse("memory://before"), context)
        nursery.start_soon(trio.sleep_forever)
        with pool.rent():
            async with check_no_leaks(memory_pools=[pool]):
                pass
        assert not before.closed
        await listener.aclose()
        nursery.cancel_scope.cancel()
    os.close(reading)
    os.close(writing)


async def test_a_thread_is_named_with_its_place() -> None:
    done = threading.Event()
    thread = threading.Thread(target=lambda: done.wait(), name="the busy one")
    with pytest.raises(AssertionError, match=PROMISE) as caught:
        async with check_no_leaks():
            thread.start()
    assert f"the thread 'the busy one', which is at {__file__}:" in str(caught.value)
    done.set()
    thread.join()


async def test_a_thread_that_works_for_a_cancelled_task_is_found() -> None:
    done = threading.Event()

    async def abandon() -> None:
        with trio.move_on_after(0.01):
            await trio.to_thread.run_sync(done.wait, abandon_on_cancel=True)

    with pytest.raises(AssertionError, match=f"{PROMISE}the thread .wait from "):
        async with check_no_leaks():
            await abandon()
    done.set()


async def test_threads_that_have_done_their_work_are_no_leaks() -> None:
    short = threading.Thread(target=lambda: None)
    async with check_no_leaks():
        short.start()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, partial(threading.Event().wait, 0.01))


@lists_descriptors
async def test_a_descriptor_is_named() -> None:
    opened: list[int] = []
    with pytest.raises(AssertionError, match=PROMISE) as caught:
        async with check_no_leaks():
            opened += os.pipe()
    lines = str(caught.value).splitlines()[1:]
    assert [line.partition(", ")[0] for line in lines] == [
        f"  the file descriptor {number}" for number in opened
    ]
    assert all("pipe:[" in line for line in lines)
    for number in opened:
        os.close(number)


async def test_a_socket_tells_of_itself() -> None:
    opened: list[socket.socket] = []
    with pytest.raises(AssertionError, match=f"{PROMISE}the file descriptor .*<socket.socket fd="):
        async with check_no_leaks():
            opened.append(socket.socket())
    opened[0].close()


@lists_descriptors
async def test_another_file_behind_the_same_number_is_found() -> None:
    reading, writing = os.pipe()

    def replace() -> None:
        os.close(reading)
        assert os.open(os.devnull, os.O_RDONLY) == reading

    with pytest.raises(AssertionError, match=f"the file descriptor {reading}, {os.devnull}"):
        async with check_no_leaks():
            replace()
    os.close(reading)
    os.close(writing)


async def test_a_connection_that_is_not_closed_is_named() -> None:
    async with open_transport_context() as context:
        listener = await MemoryTransport().bind(Endpoint.parse("memory://name"), context)
        ends: list[Connection] = []

        async def connect() -> None:
            ends.append(await MemoryTransport().connect(listener.endpoint, context))
            ends.append(await listener.accept())

        with pytest.raises(AssertionError, match=PROMISE) as caught:
            async with check_no_leaks():
                await connect()
        assert str(caught.value).splitlines()[1:] == [
            f"  a connection that is not closed, {connection!r}" for connection in ends
        ]
        async with check_no_leaks():
            for connection in ends:
                await connection.aclose()
        await listener.aclose()


@pytest.mark.parametrize(("transport", "endpoint"), TRANSPORTS)
async def test_a_listener_that_is_not_unbound_is_named(transport: Transport, endpoint: str) -> None:
    bound: list[Listener] = []
    async with open_transport_context() as context:
        with pytest.raises(AssertionError, match=PROMISE) as caught:
            async with check_no_leaks():
                bound.append(await transport.bind(Endpoint.parse(endpoint), context))
        (listener,) = bound
        told = f"a listener that is not unbound, {type(listener).__name__} on {listener.endpoint}"
        assert told in str(caught.value)
        await listener.aclose()


async def test_blocks_that_are_not_given_back_are_counted() -> None:
    pool = MemoryPool(Timers())
    rented: list[Block] = []
    with pytest.raises(AssertionError, match=f"{PROMISE}2 blocks of <.*MemoryPool.*, not given"):
        async with check_no_leaks(memory_pools=[pool]):
            rented += [pool.rent(), pool.rent()]
    async with check_no_leaks(memory_pools=[pool]):
        pool.give_back(rented.pop())
    with pytest.raises(AssertionError, match=f"{PROMISE}1 block of <"):
        async with check_no_leaks(memory_pools=[pool]):
            rented.append(pool.rent())
    pool.close()


async def test_everything_that_is_left_is_told_at_once() -> None:
    pool = MemoryPool(Timers())
    made: list[object] = []

    async with trio.open_nursery() as nursery:

        def make() -> None:
            nursery.start_soon(trio.sleep_forever)
            near, _ = duplex_pipe_pair()
            made.extend([Connection(near, ConnectionContext()), pool.rent()])

        with pytest.raises(AssertionError, match=PROMISE) as caught:
            async with check_no_leaks(memory_pools=[pool]):
                make()
        nursery.cancel_scope.cancel()
    kinds = [line.split()[1] for line in str(caught.value).splitlines()[1:]]
    assert kinds == ["task", "connection", "block"]


class Deliberate(Exception):
    """What a block raises here."""


async def test_an_error_of_the_block_comes_out_with_a_note() -> None:
    async with trio.open_nursery() as nursery:

        def fail() -> None:
            nursery.start_soon(trio.sleep_forever)
            raise Deliberate

        with pytest.raises(Deliberate) as caught:
            async with check_no_leaks():
                fail()
        (note,) = caught.value.__notes__
        assert note.startswith("What comes into being in a block is gone at its end; left is\n")
        assert "the task trio.sleep_forever, which waits at" in note
        nursery.cancel_scope.cancel()


async def test_an_error_without_leaks_has_no_note() -> None:
    with pytest.raises(Deliberate) as caught:
        async with check_no_leaks():
            raise Deliberate
    assert not hasattr(caught.value, "__notes__")


async def test_a_cancelled_block_that_leaves_something_fails() -> None:
    async with trio.open_nursery() as nursery:

        async def leave_a_task() -> None:
            with trio.move_on_after(0.01):
                async with check_no_leaks():
                    nursery.start_soon(trio.sleep_forever)
                    await trio.sleep_forever()

        with pytest.raises(AssertionError, match=f"{PROMISE}the task trio.sleep_forever"):
            await leave_a_task()
        nursery.cancel_scope.cancel()


async def test_a_cancelled_block_that_leaves_nothing_is_just_cancelled() -> None:
    with trio.move_on_after(0.01) as scope:
        async with check_no_leaks(), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_listener_is_looked_at_under_cancellation_too() -> None:
    async with open_transport_context() as context:
        with trio.CancelScope() as scope:
            async with check_no_leaks():
                endpoint = Endpoint.parse("memory://name")
                listener = await MemoryTransport().bind(endpoint, context)
                await listener.aclose()
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
