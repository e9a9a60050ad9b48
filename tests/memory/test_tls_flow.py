"""Volume, back-pressure and pace through TLS: as without it."""

import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.limits import Limits
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http1 import Http1
from tests.http1_site import answer
from tests.raw_client import GET, RawClient, request
from tests.tls_site import Echo, serving_tls, shaken_pair, tls, tls_1_2, trusting
from tests.ways import pass_through

MakePair = Callable[[int], Awaitable[tuple[DuplexPipe, DuplexPipe]]]

VOLUME = random.Random(1).randbytes(1024 * 1024)


# Volume -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_context", [tls_1_2, trusting])
@pytest.mark.parametrize("piece_bytes", [1000, 16_384, 16_385, 1_000_000])
async def test_a_mebibyte_each_way(
    piece_bytes: int, make_context: Callable[[], ssl.SSLContext], autojump_clock: MockClock
) -> None:
    """At the same time, to and from a peer that is OpenSSL's alone."""
    async with serving_tls(handler=Echo()) as site:
        peer = await site.peer(make_context())

        async def send() -> None:
            for start in range(0, len(VOLUME), piece_bytes):
                await peer.send(VOLUME[start : start + piece_bytes])
            await peer.send_raw(peer.close_notify())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await peer.receive_all() == VOLUME


async def test_an_upload_and_a_download(autojump_clock: MockClock) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (event := await receive())["more_body"]:
            body += event["body"]
        await answer(send, body + event["body"])

    async with serving_tls(handler=Http1(AsgiApplication(application))) as site:
        client = await site.client()
        async with trio.open_nursery() as nursery:
            head = request(b"content-length: %d" % len(VOLUME), first=b"POST / HTTP/1.1")
            nursery.start_soon(client.send, head + VOLUME)
            assert (await client.receive()).body == VOLUME
        assert (await client.ask(GET)).body == b""


# Back-pressure ----------------------------------------------------------------------------------


class Pours:
    """Writes without end, until the peer does not take it any more."""

    def __init__(self) -> None:
        self.flushed_bytes = 0

    async def __call__(self, connection: Connection) -> None:
        """Serve a connection."""
        while True:
            await connection.transport.output.send(bytes(100_000))
            self.flushed_bytes += 100_000


async def test_a_peer_that_does_not_read(autojump_clock: MockClock) -> None:
    """The flush waits, and what is on its way is known, and bounded."""
    pours = Pours()
    async with serving_tls(handler=pours) as site:
        peer = await site.peer()
        await trio.sleep(100)
        output = site.connection.transport.output
        assert pours.flushed_bytes <= 100_000
        assert 65_536 <= output.backlog_bytes < 300_000
        assert output.backlog_step_bytes == 0
        flushed = pours.flushed_bytes
        for _ in range(10):
            await peer.receive()
            await wait_all_tasks_blocked()
        assert pours.flushed_bytes > flushed


async def test_a_handler_that_does_not_read(autojump_clock: MockClock) -> None:
    async def look_once(connection: Connection) -> None:
        await connection.transport.input.read()
        await trio.sleep(100)

    async with serving_tls(handler=look_once) as site:
        peer = await site.peer()
        sent = 0
        with trio.move_on_after(10):
            while True:
                await peer.send(bytes(1000))
                sent += 1000
        assert sent < 3 * 65_536
        await site.ended()


async def test_the_backlog_is_what_the_peer_has_not_taken(autojump_clock: MockClock) -> None:
    near, far = duplex_pipe_pair(10_000)
    one, other = await shaken_pair(near, far)
    one.output.write(bytes(300_000))
    assert (one.output.backlog_bytes, one.output.unflushed_bytes) == (300_000, 300_000)
    one.output.flush_nowait()
    assert 300_000 <= one.output.backlog_bytes < 301_000
    assert one.output.unflushed_bytes > 200_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.output.flush)
        received = 0
        while received < 300_000:
            await wait_all_tasks_blocked()
            # More by what TLS adds, and less by the part of a record that the peer has.
            assert -16_384 < one.output.backlog_bytes - (300_000 - received) < 1500
            received += len(await other.input.receive())
    await wait_all_tasks_blocked()
    assert (one.output.backlog_bytes, one.output.unflushed_bytes) == (0, 0)


# Layers above, and what was not flushed ---------------------------------------------------------


def over(pipe: DuplexPipe) -> DuplexPipe:
    """Return a layer on `pipe` that changes nothing."""
    return LayeredPipe(pipe, LayerReader(pipe.input), LayerWriter(pipe.output))


async def tls_pair(pause_at_bytes: int) -> tuple[DuplexPipe, DuplexPipe]:
    return await shaken_pair(*duplex_pipe_pair(pause_at_bytes))


async def tls_below_a_layer(pause_at_bytes: int) -> tuple[DuplexPipe, DuplexPipe]:
    one, other = await tls_pair(pause_at_bytes)
    return over(over(one)), over(other)


async def tls_in_tls(pause_at_bytes: int) -> tuple[DuplexPipe, DuplexPipe]:
    return await shaken_pair(*await shaken_pair(*duplex_pipe_pair(pause_at_bytes)))


stacks = pytest.mark.parametrize("make_pair", [tls_pair, tls_below_a_layer, tls_in_tls])


@stacks
async def test_what_could_not_go_at_once_is_still_to_be_flushed(
    make_pair: MakePair, autojump_clock: MockClock
) -> None:
    """All of it is encrypted, and a part of that has no room: nobody may believe it sent."""
    one, other = await make_pair(4096)
    one.output.write(b"x" * 3000)
    one.output.flush_nowait()
    one.output.write(b"y" * 3000)
    one.output.flush_nowait()
    assert one.output.unflushed_bytes > 0
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.output.flush)
            assert await other.input.read_exactly(6000) == b"x" * 3000 + b"y" * 3000
    assert one.output.unflushed_bytes == 0


@stacks
async def test_what_could_not_go_at_once_goes_once(
    make_pair: MakePair, autojump_clock: MockClock
) -> None:
    """Also where nobody ever waits for it."""
    one, other = await make_pair(4096)
    expected, received = random.Random(1).randbytes(40_000), b""
    for start in range(0, len(expected), 4000):
        one.output.write(expected[start : start + 4000])
        one.output.flush_nowait()
        received += await other.input.receive()
    with trio.move_on_after(1):
        while True:
            one.output.flush_nowait()
            received += await other.input.receive()
    assert one.output.unflushed_bytes == 0
    assert received == expected


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from([1, 2, 100, 3000, 16_384, 70_000])),
        st.tuples(st.just("flush_nowait"), st.just(0)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("read"), st.sampled_from([1, 1000, 5000, 100_000])),
    ),
    max_size=25,
)


@stacks
@settings(max_examples=25, deadline=None)
@given(steps=steps, pause_at_bytes=st.sampled_from([300, 4096, 65_536]))
def test_bytes_in_are_bytes_out(
    make_pair: MakePair, steps: Sequence[tuple[str, int]], pause_at_bytes: int
) -> None:
    trio.run(follow, make_pair, steps, pause_at_bytes, clock=MockClock(autojump_threshold=0))


async def follow(
    make_pair: MakePair, steps: Sequence[tuple[str, int]], pause_at_bytes: int
) -> None:
    """Do as the steps say, then flush and read to the end."""
    one, other = await make_pair(pause_at_bytes)
    dice, written, received = random.Random(1), b"", b""
    with trio.fail_after(1000):  # of virtual time
        async with trio.open_nursery() as nursery:
            for what, count in steps:
                match what:
                    case "write":
                        data = dice.randbytes(count)
                        written += data
                        one.output.write(data)
                    case "flush_nowait":
                        one.output.flush_nowait()
                    case "flush":
                        nursery.start_soon(flush_unless_busy, one)
                        await wait_all_tasks_blocked()
                    case _:
                        with trio.move_on_after(1):
                            received += await other.input.receive(count)
            nursery.start_soon(end, one)
            async for chunk in other.input:
                received += chunk
    assert received == written
    assert one.output.backlog_bytes == 0


async def flush_unless_busy(pipe: DuplexPipe) -> None:
    with suppress(trio.BusyResourceError):
        await pipe.output.flush()


async def end(pipe: DuplexPipe) -> None:
    """End the output, once whoever flushes has finished."""
    while True:
        try:
            return await pipe.output.send_eof()
        except trio.BusyResourceError:
            await trio.sleep(0.1)


@pytest.mark.parametrize("piece_bytes", [100, 5000, 60_000, 200_000])
async def test_responses_through_a_layer_inside_of_tls(
    piece_bytes: int, autojump_clock: MockClock
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(piece_bytes), headers=[(b"content-length", b"%d" % piece_bytes)])

    async with serving_tls(
        middleware=[pass_through, tls(), pass_through],
        handler=Http1(AsgiApplication(application)),
        endpoint=f"memory://layers-{piece_bytes}?pause_at_bytes=3000",
    ) as site:
        client = await site.client()
        with trio.fail_after(1):
            for _ in range(3):
                assert (await client.ask(GET)).body == bytes(piece_bytes)


# Pace -------------------------------------------------------------------------------------------


async def big(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, bytes(1_000_000))


@pytest.mark.parametrize("bytes_per_second", [0, 100])
async def test_a_client_that_takes_too_little(
    bytes_per_second: int, autojump_clock: MockClock
) -> None:
    limits = Limits(min_response_bytes_per_second=1000, response_grace_seconds=5)
    async with serving_tls(handler=Http1(AsgiApplication(big)), limits=limits) as site:
        peer = await site.peer()
        await peer.send(GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_slowly, peer.connection, bytes_per_second)
            assert await site.ended() is EndReason.MIN_RESPONSE_DATA_RATE
            nursery.cancel_scope.cancel()
        assert 5 <= trio.current_time() < 120


async def test_a_client_that_takes_enough(autojump_clock: MockClock) -> None:
    limits = Limits(min_response_bytes_per_second=1000, response_grace_seconds=5)
    async with serving_tls(handler=Http1(AsgiApplication(big)), limits=limits) as site:
        peer = await site.peer()
        await peer.send(GET)
        with trio.move_on_after(600):
            await take_slowly(peer.connection, 1200)
        assert site.log.ends == []


async def take_slowly(connection: Connection, bytes_per_second: int) -> None:
    """Take that much from the wire in each second."""
    while True:
        await trio.sleep(1)
        if bytes_per_second:
            await connection.transport.input.receive(bytes_per_second)


async def test_a_body_that_comes_too_slowly(autojump_clock: MockClock) -> None:
    """Its sender is told so, in TLS."""
    async with serving_tls() as site:
        client: RawClient = await site.client()
        await client.send(request(b"content-length: 10", first=b"POST / HTTP/1.1"))
        response = await client.receive()
        assert (response.status, response.keeps_alive) == (408, False)
        assert await client.receive_rest() == b""
        await client.aclose()
        assert await site.ended() is EndReason.MIN_REQUEST_BODY_DATA_RATE
