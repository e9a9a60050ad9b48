"""Several requests at once: answers in order, together where nobody waits, at once where somebody does."""

from collections.abc import Callable

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.http1_site import (
    Disconnected,
    Flushes,
    ServerLog,
    Serving,
    answer,
    echo,
    read_body,
    serving,
    watch_log,
)
from tests.raw_client import GET, Response, post, post_chunked, request


async def test_answers_leave_together(serving: Serving, log: ServerLog) -> None:
    flushes = Flushes()
    async with serving(middleware=[flushes]) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET * 16)
        for _ in range(16):
            assert (await client.receive()).body == b"hello"
        assert len(flushes.all) == 1


async def test_answers_do_not_wait_for_half_a_request(serving: Serving, log: ServerLog) -> None:
    flushes = Flushes()
    async with serving(middleware=[flushes]) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET * 2 + GET[:-1])
        assert (await client.received_by_now()).count(b"hello") == 2
        assert len(flushes.all) == 1
        await client.send(GET[-1:])
        assert (await client.receive()).body == b"hello"


async def test_answers_do_not_wait_for_an_application_that_waits(
    serving: Serving, log: ServerLog
) -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await go_on.wait()
        await answer(send, scope["path"].encode())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(GET * 2 + request(first=b"GET /slow HTTP/1.1") + GET)
        assert [(await client.receive()).body for _ in range(2)] == [b"/", b"/"]
        assert await client.received_by_now() == b""
        go_on.set()
        assert [(await client.receive()).body for _ in range(2)] == [b"/slow", b"/"]


async def test_answers_do_not_wait_for_a_body(serving: Serving, log: ServerLog) -> None:
    async with serving(echo) as site:
        client = await site.connect()
        await client.send(GET * 2 + post(b"hello")[:-1])
        assert (await client.received_by_now()).count(b"HTTP/1.1 200") == 2
        assert (await client.ask(b"o" + GET)).body == b"/ hello"
        assert (await client.receive()).status == 200


async def test_an_answer_that_was_waited_for_is_not_held_back(
    serving: Serving, log: ServerLog
) -> None:
    """The application waits after its response: what is ready leaves all the same."""
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"done")
        await go_on.wait()

    async with serving(app) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET * 2)
        assert (await client.receive()).body == b"done"
        assert await client.received_by_now() == b""
        go_on.set()
        assert (await client.receive()).body == b"done"


async def test_joined_answers_are_bounded(serving: Serving, log: ServerLog) -> None:
    flushes = Flushes()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * 900)

    limits = Limits(max_response_buffer_bytes=5000)
    async with serving(app, limits=limits, middleware=[flushes]) as site:
        client = await site.connect(byte_by_byte=False)
        await client.send(GET * 20)
        for _ in range(20):
            await client.receive()
    assert 3 <= len(flushes.all) <= 5
    assert max(map(len, flushes.all)) < 5000 + 1100


async def test_the_next_request_is_not_lost_on_one_that_looks_out_for_the_client(
    serving: Serving, log: ServerLog
) -> None:
    """`receive` reads ahead to see whether the client goes; what it finds is the next request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        await answer(send, scope["path"].encode())

    async with serving(app) as site:
        client = await site.connect()
        await client.send(b"".join(request(first=b"GET /%d HTTP/1.1" % n) for n in range(5)))
        assert [(await client.receive()).body for _ in range(5)] == [b"/%d" % n for n in range(5)]


# Any pipeline -----------------------------------------------------------------------------------


async def pipelined_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the path says, in its order: read, wait, look out, then answer in one piece or more."""
    name, _, doings = scope["path"].removeprefix("/").partition("/")
    text = name.encode()
    async with trio.open_nursery() as nursery:
        for doing in doings.split("/"):
            if doing == "read":
                text += b":" + await read_body(receive)
            elif doing == "wait":
                await trio.sleep(0.1)
            elif doing == "yield":
                await trio.lowlevel.checkpoint()
            elif doing == "watch":
                nursery.start_soon(receive)
                await trio.lowlevel.checkpoint()
        if "pieces" in doings:
            await send({"type": "http.response.start", "status": 200})
            for number in range(len(text)):
                piece = text[number : number + 1]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        else:
            await answer(send, text)


@attrs.frozen
class Asked:
    """A request of a pipeline and the answer that it must get."""

    sent: bytes
    body: bytes
    to_head: bool


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    waits = st.lists(st.sampled_from(["wait", "yield"]), max_size=2)
    doings = [
        *draw(waits),
        *draw(st.sampled_from([[], ["read"], ["read", "watch"]])),
        *draw(waits),
        *draw(st.sampled_from([[], ["pieces"]])),
    ]
    name = draw(st.text("abc", min_size=1, max_size=3))
    target = b"/".join([b"", name.encode(), *(doing.encode() for doing in doings)])
    body = draw(st.binary(max_size=20))
    make: Callable[[], bytes] = draw(
        st.sampled_from(
            [
                lambda: post(body),
                lambda: post_chunked(
                    b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0;x\r\nx: y\r\n\r\n"
                ),
                lambda: request(first=b"GET / HTTP/1.1"),
                lambda: request(first=b"HEAD / HTTP/1.1"),
            ]
        )
    )
    sent = make()
    to_head = sent.startswith(b"HEAD")
    text = name.encode()
    if "read" in doings:
        text += b":" + (body if sent.startswith(b"POST") else b"")
    return Asked(sent.replace(b" / ", b" " + target + b" ", 1), b"" if to_head else text, to_head)


@settings(max_examples=200, deadline=None)
@given(st.lists(asked(), min_size=1, max_size=8), st.lists(st.integers(1, 200), max_size=6))
def test_any_pipeline_is_answered_in_order(pipeline: list[Asked], splits: list[int]) -> None:
    async def main() -> list[Response]:
        async with serving(byte_by_byte=False)(pipelined_app) as site:
            client = await site.connect()
            rest = b"".join(each.sent for each in pipeline)
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    nonlocal rest
                    for size in splits:
                        await client.send(rest[:size])
                        rest = rest[size:]
                        await trio.sleep(0.01)
                    await client.send(rest)

                nursery.start_soon(send)
                with trio.fail_after(60):
                    return [await client.receive(to_head=each.to_head) for each in pipeline]

    with watch_log():
        responses = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [response.body for response in responses] == [each.body for each in pipeline]
    assert all(response.status == 200 for response in responses)
    assert all(response.keeps_alive for response in responses)


# Any mutation of a pipeline ---------------------------------------------------------------------


async def careful_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Read and answer, or only answer, and leave when the client is gone."""
    body = b""
    if "x" in scope["path"]:
        try:
            body = await read_body(receive)
        except Disconnected:
            return
    await answer(send, body)


SEEDS = st.sampled_from(
    [
        GET,
        request(b"connection: keep-alive", b"x: y z", first=b"OPTIONS /x?y HTTP/1.1"),
        request(
            b"expect: 100-continue", b"content-length: 3", first=b"PUT /x HTTP/1.1", body=b"abc"
        ),
        post(b"hello"),
        post(b"hello").replace(b" / ", b" /x "),
        post_chunked(b"5;a=b\r\nhello\r\n1\r\nx\r\n0\r\nt: u\r\n\r\n"),
        post_chunked(b"5\r\nhello\r\n0\r\n\r\n").replace(b" / ", b" /x "),
        request(first=b"GET http://a/x HTTP/1.1"),
        request(b"content-length: 1", first=b"POST /x HTTP/1.0", body=b"x"),
    ]
)
NOISE = st.sampled_from(
    [
        b"",
        b"\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b":",
        b";",
        b"0",
        b"9",
        b"f",
        b",",
        b"\xff",
    ]
)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(SEEDS, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 2), NOISE), min_size=1, max_size=4),
    st.lists(st.integers(1, 100), max_size=4),
    st.booleans(),
)
def test_any_damage_ends_in_answers_and_an_end(
    seeds: list[bytes], damages: list[tuple[int, int, bytes]], splits: list[int], ends: bool
) -> None:
    """No damage hangs the server, makes it fail, or gets an answer that is not one."""
    data = b"".join(seeds)
    for place, dropped, noise in damages:
        place %= len(data) or 1
        data = data[:place] + noise + data[place + dropped :]

    async def main() -> tuple[list[int], bytes]:
        async with serving(byte_by_byte=False)(careful_echo) as site:
            client = await site.connect()
            rest = data
            for size in splits:
                await client.send(rest[:size])
                rest = rest[size:]
                await trio.sleep(0.01)
            await client.send(rest)
            with trio.fail_after(300):
                async with trio.open_nursery() as nursery:

                    async def end() -> None:
                        if not ends:  # a body that is cut short is waited for, till then
                            await trio.sleep(200)
                        await client.send_eof()

                    nursery.start_soon(end)
                    received = await client.receive_rest()
                    nursery.cancel_scope.cancel()
                await client.aclose()
                await site.all_ended()
        return statuses_of(received), received

    with watch_log() as log:
        statuses, received = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert set(statuses) <= {100, 200, 400, 405, 408, 413, 501, 505}, received
    (reason,) = log.ends
    refused = [status for status in statuses if status > 200]
    assert refused == statuses[len(statuses) - len(refused) :][:1]
    if refused:
        assert reason not in (EndReason.COMPLETED, EndReason.PEER_CLOSED)


def statuses_of(received: bytes) -> list[int]:
    """Return the statuses of a sequence of responses, all of them of known length."""
    statuses: list[int] = []
    while received:
        head, blank, received = received.partition(b"\r\n\r\n")
        assert blank
        statuses.append(int(head.split(b" ")[1]))
        length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        received = received[int(length or 0) :]
    return statuses
