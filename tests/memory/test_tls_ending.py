"""How TLS ends: a clean end is told from one that somebody may have made on the way."""

import ssl

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http1 import Http1
from tests.http1_site import Disconnected, answer, read_body
from tests.raw_client import GET, UnexpectedEnd, post, request
from tests.tls_site import MakeContext, TlsPeer, by_each_version, serving_tls, shaken_pair

LAST = request(b"connection: close")


class Collects:
    """Reads to the end, and notes what came and whether that was all."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.received = b""
        self.complete = False

    async def __call__(self, connection: Connection) -> None:
        """Serve a connection."""
        async for chunk in connection.transport.input:
            self.received += chunk
        self.complete = True
        assert connection.transport.input.at_eof
        assert await connection.transport.input.read() == b""
        await connection.transport.output.send(self.answer)


async def wire_is_over(peer: TlsPeer) -> bool:
    """Wait until the server ends its side below TLS; tell whether it said nothing before that."""
    return await peer.connection.transport.input.receive() == b""


# The server's end -------------------------------------------------------------------------------


@by_each_version
async def test_a_handler_that_returns(make_context: MakeContext, autojump_clock: MockClock) -> None:
    async def greet(connection: Connection) -> None:
        await connection.transport.output.send(b"hello")

    async with serving_tls(handler=greet) as site:
        peer = await site.peer(make_context())
        assert await peer.receive_all() == b"hello"  # which is the end by a close_notify
        assert await wire_is_over(peer)
        assert await site.ended() is EndReason.COMPLETED


@by_each_version
async def test_what_a_handler_did_not_flush_comes_before_the_end(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    async def greet(connection: Connection) -> None:
        connection.transport.output.write(b"x" * 100_000)

    async with serving_tls(handler=greet) as site:
        peer = await site.peer(make_context())
        assert await peer.receive_all() == b"x" * 100_000


@by_each_version
async def test_the_last_response(make_context: MakeContext, autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        peer = await site.peer(make_context())
        await peer.send(LAST)
        assert (await peer.receive_all()).endswith(b"\r\n\r\n/ ")
        assert await wire_is_over(peer)


async def test_an_idle_connection_when_the_server_drains(autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        peer = await site.peer()
        assert (await peer.ask(GET)).startswith(b"HTTP/1.1 200")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.opened.server.drain, 5)
            assert await peer.receive() == b""
        assert trio.current_time() < 4
        assert site.log.ends == [EndReason.SHUTDOWN]


async def test_an_idle_connection_that_is_too_old(autojump_clock: MockClock) -> None:
    async with serving_tls(limits=Limits(keep_alive_seconds=5)) as site:
        peer = await site.peer()
        assert await peer.receive() == b""
        assert await site.ended() is EndReason.KEEP_ALIVE_TIMEOUT


async def test_a_handler_that_fails(autojump_clock: MockClock) -> None:
    """No close_notify: the client must not take for all what is not."""

    async def fail(connection: Connection) -> None:
        await connection.transport.output.send(b"half of")
        raise ZeroDivisionError

    async def lose_another_peer(connection: Connection) -> None:
        await connection.transport.output.send(b"half of")
        raise trio.BrokenResourceError

    async with serving_tls(handler=fail) as site:
        peer = await site.peer()
        with pytest.raises(trio.BrokenResourceError):
            await peer.receive_all()
        assert await site.ended() is EndReason.OTHER_ERROR
        assert "its handler raised" in site.log.take().getMessage()
    async with serving_tls(handler=lose_another_peer) as site:
        peer = await site.peer()
        assert await peer.receive() == b"half of"
        with pytest.raises(ssl.SSLEOFError):
            await peer.receive()


async def test_a_response_that_is_cut_short(autojump_clock: MockClock) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half of", "more_body": True})
        raise ZeroDivisionError

    async with serving_tls(handler=Http1(AsgiApplication(fail))) as site:
        client = await site.client()
        with pytest.raises(UnexpectedEnd, match="reset"):
            await client.ask(GET.replace(b"1.1", b"1.0"))
        await site.ended()
        site.log.take_error(ZeroDivisionError)


async def test_a_client_that_does_not_read_the_end(autojump_clock: MockClock) -> None:
    """It does not keep the connection open for longer than any other that lingers."""

    async def pour(connection: Connection) -> None:
        connection.transport.output.write(bytes(1_000_000))

    async with serving_tls(handler=pour, limits=Limits(linger_seconds=3)) as site:
        await site.peer()
        await site.ended()
        assert 3 <= trio.current_time() < 7


# The client's end -------------------------------------------------------------------------------


@by_each_version
async def test_a_clean_end(make_context: MakeContext, autojump_clock: MockClock) -> None:
    """Of its side alone: the server still answers, and ends its own side."""
    collects = Collects(b"answer")
    async with serving_tls(handler=collects) as site:
        peer = await site.peer(make_context())
        await peer.send_raw(peer.encrypted(b"question") + peer.close_notify())
        assert await peer.receive_all() == b"answer"
        assert await wire_is_over(peer)
        assert await site.ended() is EndReason.COMPLETED
    assert (collects.received, collects.complete) == (b"question", True)


@by_each_version
async def test_a_server_that_ends_first_still_reads(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    """What came along with the handshake, and what comes later."""
    collects = Collects()

    async def end_first(connection: Connection) -> None:
        await connection.transport.output.send(b"all of it")
        await connection.transport.output.send_eof()
        async for chunk in connection.transport.input:
            collects.received += chunk
        collects.complete = True

    async with serving_tls(handler=end_first) as site:
        peer = TlsPeer(await site.connect(), make_context())
        while not peer.step():
            await peer.transmit()
            await peer.take()
        await peer.send_raw(peer.outgoing.read() + peer.encrypted(b"early"))
        assert await peer.receive_all() == b"all of it"
        await peer.send_raw(peer.encrypted(b" and late") + peer.close_notify())
        assert await site.ended() is EndReason.COMPLETED
    assert (collects.received, collects.complete) == (b"early and late", True)


@by_each_version
async def test_what_comes_after_the_end_is_not_looked_at(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    collects = Collects(b"answer")
    async with serving_tls(handler=collects) as site:
        peer = await site.peer(make_context())
        await peer.send_raw(peer.encrypted(b"question") + peer.close_notify() + b"\x17more")
        assert await peer.receive_all() == b"answer"
    assert (collects.received, collects.complete) == (b"question", True)


@by_each_version
async def test_an_end_that_comes_alone(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    collects = Collects()
    async with serving_tls(handler=collects) as site:
        peer = await site.peer(make_context())
        await wait_all_tasks_blocked()
        for byte in peer.close_notify():
            await peer.send_raw(bytes([byte]))
            await wait_all_tasks_blocked()
        assert await peer.receive() == b""
    assert (collects.received, collects.complete) == (b"", True)


@by_each_version
async def test_an_end_without_a_close_notify(
    make_context: MakeContext, autojump_clock: MockClock
) -> None:
    """Whoever can reset or end TCP on the way could have made it."""
    collects = Collects()
    async with serving_tls(handler=collects) as site:
        peer = await site.peer(make_context())
        await peer.send(b"something")
        await peer.connection.transport.output.send_eof()
        assert await site.ended() is EndReason.TLS_TRUNCATED
        with pytest.raises(ssl.SSLError, match=r"ALERT|UNEXPECTED_EOF"):
            await peer.receive_all()
    assert (collects.received, collects.complete) == (b"something", False)


async def test_an_end_in_the_middle_of_a_record(autojump_clock: MockClock) -> None:
    collects = Collects()
    async with serving_tls(handler=collects) as site:
        peer = await site.peer()
        record = peer.encrypted(b"something")
        for count in (1, 4, 5, 20, len(record) - 1):
            other = await site.peer()
            await wait_all_tasks_blocked()
            await other.send_raw(other.encrypted(b"something")[:count])
            await other.connection.transport.output.send_eof()
            await wait_all_tasks_blocked()
            assert site.log.ends[-1] is EndReason.TLS_TRUNCATED
    assert (collects.received, collects.complete) == (b"", False)


async def test_a_reset(autojump_clock: MockClock) -> None:
    collects = Collects()
    async with serving_tls(handler=collects) as site:
        peer = await site.peer()
        await peer.send(b"something")
        await wait_all_tasks_blocked()
        peer.connection.abort(EndReason.ABORTED_BY_APP)
        assert await site.ended() is EndReason.CONNECTION_RESET
    assert (collects.received, collects.complete) == (b"something", False)


async def test_a_request_that_is_cut_short_is_not_answered(autojump_clock: MockClock) -> None:
    """Even where the end of the connection might pass for the end of the body."""
    bodies: list[bytes] = []
    disconnected = 0

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal disconnected
        try:
            bodies.append(await read_body(receive))
        except Disconnected:
            disconnected += 1
            return
        await answer(send, b"thanks")

    async with serving_tls(handler=Http1(AsgiApplication(application))) as site:
        for cut in (
            post(b"0123456789")[:-1],
            request(b"transfer-encoding: chunked", body=b"5\r\n1"),
        ):
            peer = await site.peer()
            await peer.send(cut)
            await wait_all_tasks_blocked()
            await peer.connection.transport.output.send_eof()
            assert await site.ended() is EndReason.TLS_TRUNCATED
            with pytest.raises(ssl.SSLError):
                await peer.receive()
    assert (bodies, disconnected) == ([], 2)


async def test_a_clean_end_in_a_request_is_told_from_that(autojump_clock: MockClock) -> None:
    async with serving_tls() as site:
        peer = await site.peer()
        await peer.send_raw(peer.encrypted(post(b"0123456789")[:-1]) + peer.close_notify())
        assert await site.ended() is EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT


async def test_an_idle_client_that_leaves(autojump_clock: MockClock) -> None:
    """Cleanly, or as most browsers do it; neither is anybody's concern."""
    async with serving_tls() as site:
        for how, reason in (
            (leave_cleanly, EndReason.PEER_CLOSED),
            (leave_at_once, EndReason.PEER_CLOSED),
            (leave_without_a_word, EndReason.TLS_TRUNCATED),
        ):
            peer = await site.peer()
            assert (await peer.ask(GET)).startswith(b"HTTP/1.1 200")
            await how(peer)
            assert await site.ended() is reason


async def leave_cleanly(peer: TlsPeer) -> None:
    await peer.send_raw(peer.close_notify())
    assert await peer.receive() == b""


async def leave_at_once(peer: TlsPeer) -> None:
    """Do not wait for the server's close_notify, which then reaches nobody."""
    peer.connection.transport.output.write(peer.close_notify())
    await peer.connection.aclose()


async def leave_without_a_word(peer: TlsPeer) -> None:
    await peer.connection.aclose()


# Our own pipe at both ends ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("turned", [False, True])
async def test_half_closing(
    version: ssl.TLSVersion, turned: bool, autojump_clock: MockClock
) -> None:
    """Either side may end first, and hears the other to its end."""
    pair = await shaken_pair(*duplex_pipe_pair(), version)
    first, second = reversed(pair) if turned else pair
    await first.output.send(b"to the end")
    await first.output.send_eof()
    await first.output.send_eof()  # a second one does nothing
    with pytest.raises(trio.ClosedResourceError):
        first.output.write(b"x")
    assert await rest(second) == b"to the end"
    for number in range(3):
        await second.output.send(b"%d" % number)
        assert await first.input.receive() == b"%d" % number
    await second.output.send_eof()
    assert await rest(first) == b""
    await first.aclose()
    await second.aclose()


async def rest(pipe: DuplexPipe) -> bytes:
    return b"".join([chunk async for chunk in pipe.input])


async def test_both_end_at_the_same_time(autojump_clock: MockClock) -> None:
    one, other = await shaken_pair(*duplex_pipe_pair())
    async with trio.open_nursery() as nursery:
        for pipe in (one, other):
            nursery.start_soon(pipe.output.send_eof)
    assert await rest(one) == await rest(other) == b""


async def test_closing_says_good_bye_and_aborting_does_not(autojump_clock: MockClock) -> None:
    one, other = await shaken_pair(*duplex_pipe_pair())
    one.output.write(b"unflushed")
    await one.aclose()
    await one.aclose()
    assert await rest(other) == b"unflushed"
    one, other = await shaken_pair(*duplex_pipe_pair())
    one.output.write(b"unflushed")
    one.abort()
    with pytest.raises(trio.BrokenResourceError):
        await rest(other)


async def test_a_cancelled_flush_leaves_nothing_to_be_said(autojump_clock: MockClock) -> None:
    """It may have ended in the middle of a record: no close_notify can follow that."""
    one, other = await shaken_pair(*duplex_pipe_pair(4096))
    with trio.move_on_after(1):
        await one.output.send(bytes(100_000))
    with trio.move_on_after(1) as scope:
        await one.aclose()
    assert not scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError, match="went away without ending TLS"):
        await rest(other)
