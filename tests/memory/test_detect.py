"""Several protocols on one endpoint: who is found, when, and what becomes of the others."""

import logging
import math
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.features import TlsInfo
from kestrel_core.middleware import ConnectionHandler, Middleware, alpn_of
from kestrel_core.protocol import Protocol, Sniff, SniffedLayer
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.testing import OpenServer, check_middleware, open_server
from kestrel_middleware.detect import Detect
from kestrel_middleware.sniffers import sniff_beginning, sniff_ssh, sniffed_protocol
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog
from tests.raw_client import GET, RawClient

YES, NO, MORE = Sniff.YES, Sniff.NO, Sniff.MORE

SECONDS = 30.0


@pytest.fixture(params=[False, True], ids=["at once", "byte by byte"])
def byte_by_byte(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def log() -> Generator[ServerLog]:
    log, logger = ServerLog(), logging.getLogger("kestrel")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)
    logger.setLevel(logging.NOTSET)


class Speaks(Protocol):
    """Answers what it read with its name; and notes which prefixes it was asked about."""

    def __init__(self, name: str, beginning: bytes, *, alpn: Sequence[str] = ()) -> None:
        self.name = name  # type: ignore[misc]
        self.alpn = alpn  # type: ignore[misc]
        self.asked: list[bytes] = []
        self._sniff = sniff_beginning(beginning)

    def sniff(self, prefix: bytes) -> Sniff:
        self.asked.append(prefix)
        return self._sniff(prefix)

    async def __call__(self, connection: Connection) -> None:
        wire = connection.transport
        await wire.output.send(self.name.encode() + b": " + await wire.input.read_exactly(6))


class Wrapper(SniffedLayer):
    """Takes its own beginning off, and may agree on a protocol."""

    def __init__(self, name: str, *, agreed: str | None = None) -> None:
        self.name = name  # type: ignore[misc]
        self.header = f"<{name}>".encode()
        self.agreed = agreed
        self.offered: list[tuple[str, ...]] = []

    def sniff(self, prefix: bytes) -> Sniff:
        return sniff_beginning(self.header)(prefix)

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        self.offered.append(alpn_of(following))
        assert await connection.transport.input.read_exactly(len(self.header)) == self.header
        if self.agreed is not None:
            connection.features.publish(tls_info(self.agreed))
        await following(connection)


def tls_info(alpn: str | None) -> TlsInfo:
    return TlsInfo(
        version="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        cipher_suite=0x1302,
        alpn=alpn,
        server_name=None,
        resumed=False,
        peer_certificates=(),
        peer_name=None,
        own_certificate=None,
    )


async def hello(exchange: HttpExchange) -> None:
    await exchange.respond(200, [], b"hello")


@attrs.frozen
class Talk:
    """A server under test."""

    opened: OpenServer
    log: ServerLog
    byte_by_byte: bool

    async def connect(self) -> RawClient:
        return RawClient(await self.opened.connect(), byte_by_byte=self.byte_by_byte)

    async def ask(self, data: bytes, *, end: bool = False) -> bytes:
        """Send `data`, and its end if asked to; return everything that comes back."""
        client = await self.connect()
        await client.send(data)
        if end:
            await client.send_eof()
        answer = await client.receive_rest()
        await client.aclose()
        return answer

    async def end_of(self, data: bytes, *, end: bool = False) -> EndReason | None:
        """Do the same; return why the connection ended."""
        before = len(self.log.ends)
        assert await self.ask(data, end=end) == b""
        with trio.fail_after(1):
            while len(self.log.ends) == before:  # noqa: ASYNC110  # the log has no event for it
                await trio.sleep(0.01)
        return self.log.ends[-1]


@asynccontextmanager
async def serving(
    handler: ConnectionHandler,
    log: ServerLog,
    *,
    byte_by_byte: bool = False,
    middleware: Sequence[Middleware] = (),
) -> AsyncGenerator[Talk]:
    async with open_server(handler, middleware=middleware) as opened:
        yield Talk(opened, log, byte_by_byte)
    assert not opened.server.connections


# Who is found -----------------------------------------------------------------------------------


async def test_by_the_first_bytes(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    entries = [Speaks("one", b"one"), Speaks("two", b"two"), Speaks("three", b"three")]
    async with serving(Detect(entries), log, byte_by_byte=byte_by_byte) as talk:
        assert await talk.ask(b"two !!") == b"two: two !!"
        assert await talk.ask(b"three!") == b"three: three!"
        assert await talk.ask(b"one !!") == b"one: one !!"
        assert log.ends == [EndReason.COMPLETED] * 3
    assert log.records[0].getMessage().endswith(" speaks two")
    assert [record.levelno for record in log.records] == [logging.DEBUG] * 3


async def test_a_real_protocol_notices_nothing(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    entries = [Speaks("one", b"one"), Http1(hello)]
    async with serving(Detect(entries), log, byte_by_byte=byte_by_byte) as talk:
        client = await talk.connect()
        for _ in range(3):
            assert (await client.ask(GET)).body == b"hello"
            await trio.sleep(SECONDS + 1)  # the detection's deadline is not the protocol's
        await client.send_eof()
        assert await client.receive_rest() == b""
        await client.aclose()
    assert log.ends == [EndReason.PEER_CLOSED]


@pytest.mark.parametrize("http_is_first", [True, False])
async def test_what_begins_like_a_request_may_come_after_http(
    http_is_first: bool, byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    entries = [Http1(hello), Speaks("git", b"0032git-"), Speaks("sip", b"INVITE sip:")]
    if not http_is_first:
        entries.reverse()
    async with serving(Detect(entries), log, byte_by_byte=byte_by_byte) as talk:
        git = b"0032git-upload-pack /project.git\0host=a\0"
        assert await talk.ask(git) == b"git: 0032gi"
        assert await talk.ask(b"INVITE sip:bob@a SIP/2.0\r\n") == b"sip: INVITE"
        for request in (GET, GET.replace(b"GET", b"0032")):
            answer = await talk.ask(request, end=True)
            assert answer.startswith(b"HTTP/1.1 200 ")


async def test_who_said_no_is_not_asked_again(log: ServerLog, autojump_clock: MockClock) -> None:
    one, other = Speaks("one", b"one"), Speaks("other", b"other!")
    async with serving(Detect([one, other]), log, byte_by_byte=True) as talk:
        assert await talk.ask(b"other!") == b"other: other!"
    assert one.asked == [b"o", b"ot"]
    assert other.asked == [b"o", b"ot", b"oth", b"othe", b"other", b"other!"]


@pytest.mark.parametrize(
    ("data", "answer"), [(b"abcdef", b"long: abcdef"), (b"abcxyz", b"short: abcxyz")]
)
async def test_the_first_goes_before_the_fast(
    data: bytes, answer: bytes, byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    entries = [Speaks("long", b"abcd"), Speaks("short", b"ab"), Speaks("never", b"a")]
    async with serving(Detect(entries), log, byte_by_byte=byte_by_byte) as talk:
        assert await talk.ask(data) == answer
    assert isinstance(entries[2], Speaks)
    assert entries[2].asked in ([], [b"a"])


async def test_one_that_waits_for_another_is_taken_when_no_more_can_come(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    entries = [Speaks("long", b"abcdefghi"), Speaks("short", b"ab")]
    async with serving(Detect(entries), log) as talk:
        assert await talk.ask(b"abcdef", end=True) == b"short: abcdef"
        started = trio.current_time()
        assert await talk.ask(b"abcdef") == b"short: abcdef"
        assert trio.current_time() - started == SECONDS
    async with serving(Detect(entries, max_prefix_bytes=6), log) as talk:
        assert await talk.ask(b"abcdef") == b"short: abcdef"


async def test_the_connection_is_handed_on_as_it_came(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    seen: list[bytes] = []

    async def look(connection: Connection) -> None:
        reader, deadline = connection.transport.input, connection.deadline
        seen.append(await reader.read())
        assert (deadline.expires_at, deadline.on_expiry) == (math.inf, None)
        connection.request_close()
        reader.advance(0, len(seen[0]))
        seen.append(await reader.read())
        assert not reader.read_cancelled

    late = Speaks("late", b"abcdefghi")
    detect = Detect([late, sniffed_protocol("first", sniff_beginning(b"ab"), look)])
    async with serving(detect, log, byte_by_byte=byte_by_byte) as talk:
        for pause in (0.0, SECONDS + 1):  # so that it is taken at once, or late
            client = await talk.connect()
            await client.send(b"abc" if pause else b"ab?")
            await trio.sleep(pause)
            await wait_all_tasks_blocked()
            await client.send(b"def")
            assert await client.receive_rest() == b""
            await client.aclose()
    assert [data[:3] for data in seen[:2]] == [b"ab?", b"ab?"]
    assert seen[2] == b"abc"  # at once, though it had been seen
    assert seen[3] in (b"abcd", b"abcdef")


# By ALPN ----------------------------------------------------------------------------------------


async def agree_on(alpn: str | None, connection: Connection, following: ConnectionHandler) -> None:
    connection.features.publish(tls_info(alpn))
    await following(connection)


def agreeing_on(alpn: str | None) -> Middleware:
    return lambda connection, following: agree_on(alpn, connection, following)


async def greet(connection: Connection) -> None:
    await connection.transport.output.send(b"welcome")


async def test_by_alpn(log: ServerLog, autojump_clock: MockClock) -> None:
    first = Speaks("first", b"first", alpn=["a", "b"])
    second = sniffed_protocol("second", sniff_beginning(b"second"), greet, alpn=["b", "c"])
    detect = Detect([first, second])
    assert alpn_of(detect) == ("a", "b", "c")
    async with serving(detect, log, middleware=[agreeing_on("b")]) as talk:
        assert await talk.ask(b"second") == b"first: second"
    # Not even a byte is waited for.
    async with serving(detect, log, middleware=[agreeing_on("c")]) as talk:
        assert await talk.ask(b"") == b"welcome"
    assert first.asked == []
    for other in ("x", None):
        async with serving(detect, log, middleware=[agreeing_on(other)]) as talk:
            assert await talk.ask(b"first!") == b"first: first!"


# Layers -----------------------------------------------------------------------------------------


async def test_inside_a_layer_it_is_detected_again(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    outer, inner = Wrapper("outer"), Wrapper("inner")
    detect = Detect(
        [outer, Speaks("one", b"one", alpn=["1"]), inner, Speaks("two", b"two", alpn=["2"])]
    )
    async with serving(detect, log, byte_by_byte=byte_by_byte) as talk:
        assert await talk.ask(b"one...") == b"one: one..."
        assert await talk.ask(b"<outer>one...") == b"one: one..."
        assert await talk.ask(b"<outer>two...") == b"two: two..."
        assert await talk.ask(b"<inner>two...") == b"two: two..."
        assert await talk.ask(b"<outer><inner>two...") == b"two: two..."
        # But neither twice, nor in another order.
        assert await talk.end_of(b"<inner><outer>two") is EndReason.PROTOCOL_NOT_DETECTED
        assert await talk.end_of(b"<outer><outer>two") is EndReason.PROTOCOL_NOT_DETECTED
        assert await talk.end_of(b"<inner><inner>two") is EndReason.PROTOCOL_NOT_DETECTED
    assert set(outer.offered + inner.offered) == {("1", "2")}


async def test_what_a_layer_agrees_on_counts_inside_of_it(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    detect = Detect(
        [
            Wrapper("tls", agreed="2"),
            Wrapper("proxy"),
            Speaks("one", b"one", alpn=["1"]),
            Speaks("two", b"two", alpn=["2"]),
        ]
    )
    async with serving(detect, log) as talk:
        assert await talk.ask(b"one...") == b"one: one..."
        assert await talk.ask(b"<tls>one...") == b"two: one..."
        # A layer that stands between is still looked for.
        assert await talk.ask(b"<tls><proxy>one...") == b"two: one..."
        assert await talk.ask(b"<proxy>one...") == b"one: one..."
        assert await talk.end_of(b"<tls>", end=True) is EndReason.PEER_CLOSED


async def test_many_layers_cost_no_more_than_they_are() -> None:
    layers = [Wrapper(f"layer {number}") for number in range(50)]
    assert len(Detect([*layers, Http1(hello)]).entries) == 51


# Nobody is found --------------------------------------------------------------------------------


async def test_nothing_fits(byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock) -> None:
    detect = Detect([Speaks("one", b"one"), Speaks("two", b"two")])
    async with serving(detect, log, byte_by_byte=byte_by_byte) as talk:
        assert await talk.end_of(b"\xffthree") is EndReason.PROTOCOL_NOT_DETECTED
        started = trio.current_time()
        assert await talk.end_of(b"on", end=True) is EndReason.PROTOCOL_NOT_DETECTED
        assert trio.current_time() - started < 1
    assert (
        "speaks nothing that is known here; it begins with b'\\xff" in log.records[0].getMessage()
    )


async def test_a_prefix_that_is_too_long(
    byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock
) -> None:
    detect = Detect([Speaks("one", b"x" * 100)], max_prefix_bytes=50)
    async with serving(detect, log, byte_by_byte=byte_by_byte) as talk:
        started = trio.current_time()
        assert await talk.end_of(b"x" * 50) is EndReason.PROTOCOL_NOT_DETECTED
        assert trio.current_time() - started < 1
        assert await talk.end_of(b"x" * 49) is EndReason.PROTOCOL_DETECTION_TIMEOUT


async def test_a_fallback(byte_by_byte: bool, log: ServerLog, autojump_clock: MockClock) -> None:
    other = Speaks("other", b"-")
    detect = Detect([Speaks("one", b"one")], fallback=other)
    async with serving(detect, log, byte_by_byte=byte_by_byte) as talk:
        assert await talk.ask(b"three!") == b"other: three!"
        assert await talk.ask(b"on", end=True) == b"other: on"
        assert await talk.end_of(b"on") is EndReason.PROTOCOL_DETECTION_TIMEOUT
        assert await talk.end_of(b"", end=True) is EndReason.PEER_CLOSED


async def test_a_slow_peer(log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(Detect([Speaks("one", b"one")], silent=greet, seconds=7), log) as talk:
        client = await talk.connect()
        started = trio.current_time()
        await client.send(b"o")
        await trio.sleep(5)
        await client.send(b"n")
        assert await client.receive_rest() == b""
        assert trio.current_time() - started == 7
        await client.aclose()
    assert log.ends == [EndReason.PROTOCOL_DETECTION_TIMEOUT]


async def test_a_silent_peer(log: ServerLog, autojump_clock: MockClock) -> None:
    entries = [Speaks("one", b"one")]
    async with serving(Detect(entries), log) as talk:
        started = trio.current_time()
        assert await talk.end_of(b"") is EndReason.PROTOCOL_DETECTION_TIMEOUT
        assert SECONDS <= trio.current_time() - started < SECONDS + 1
        assert await talk.end_of(b"", end=True) is EndReason.PEER_CLOSED
    async with serving(Detect(entries, silent=greet), log) as talk:
        started = trio.current_time()
        assert await talk.ask(b"") == b"welcome"
        assert trio.current_time() - started == SECONDS


async def test_time_begins_again_inside_of_a_layer(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    detect = Detect([Wrapper("outer"), Speaks("one", b"one")], silent=greet)
    async with serving(detect, log) as talk:
        client = await talk.connect()
        await trio.sleep(SECONDS - 1)
        await client.send(b"<outer>")
        started = trio.current_time()
        assert await client.receive_rest() == b"welcome"
        assert trio.current_time() - started == SECONDS
        await client.aclose()


async def test_a_peer_that_is_gone(log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(Detect([Speaks("one", b"one")]), log) as talk:
        client = await talk.connect()
        await client.send(b"o")
        await wait_all_tasks_blocked()
        client.reset()
        await client.aclose()
    assert log.ends == [EndReason.CONNECTION_RESET]


# The server drains ------------------------------------------------------------------------------


async def test_draining_ends_the_wait_for_a_first_byte(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving(Detect([Speaks("one", b"one")], silent=greet), log) as talk:
        client = await talk.connect()
        await wait_all_tasks_blocked()
        started = trio.current_time()
        assert await talk.opened.server.drain(10) == 0
        assert trio.current_time() == started
        assert await client.receive_rest() == b""
    assert log.ends == [EndReason.SHUTDOWN]


async def test_draining_waits_for_who_has_begun(log: ServerLog, autojump_clock: MockClock) -> None:
    async with serving(Detect([Speaks("one", b"one")]), log) as talk:
        client = await talk.connect()
        await client.send(b"o")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.opened.server.drain, 10)
            await trio.sleep(1)
            await client.send(b"ne...")
            assert await client.receive_rest() == b"one: one..."
    assert log.ends == [EndReason.COMPLETED]


async def test_a_connection_that_is_asked_to_close_before_it_begins(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    async def ask_to_close(connection: Connection, following: ConnectionHandler) -> None:
        connection.request_close()
        await following(connection)

    detect = Detect([Speaks("one", b"one")])
    async with serving(detect, log, middleware=[ask_to_close]) as talk:
        assert await talk.end_of(b"") is EndReason.SHUTDOWN


# Faults -----------------------------------------------------------------------------------------


async def test_a_sniffer_that_raises(log: ServerLog, autojump_clock: MockClock) -> None:
    def sniff(prefix: bytes) -> Sniff:
        raise LookupError("what now?")

    async with serving(Detect([sniffed_protocol("bad", sniff, greet)]), log) as talk:
        client = await talk.connect()
        await client.send(b"x")
        assert await client.is_reset()
        await client.aclose()
    assert log.ends == [EndReason.OTHER_ERROR]
    error = log.records[0].exc_info
    assert error is not None
    assert error[0] is LookupError


async def test_an_answer_that_is_none(log: ServerLog, autojump_clock: MockClock) -> None:
    def sniff(prefix: bytes) -> Sniff:
        return True  # type: ignore[return-value]

    async with serving(Detect([sniffed_protocol("bad", sniff, greet)]), log) as talk:
        client = await talk.connect()
        await client.send(b"x")
        assert await client.is_reset()
        await client.aclose()
    error = log.records[0].exc_info
    assert error is not None
    assert str(error[1]) == "bad answers a sniff with True, no Sniff"


class Outermost(Wrapper):
    """Stands around everything, or not at all."""

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        assert callable(inner[-1])
        inside = [each.name for each in getattr(inner[-1], "entries", ()) if each is not self]
        assert [each.name for each in inner[:-1] if isinstance(each, SniffedLayer)] == [
            name for name in inside if name != "http/1.1"
        ]
        if outer:
            raise ConfigurationError(f"{self.name} stands inside of {outer[-1]}")


def test_the_order_of_layers_is_checked() -> None:
    layer, http1 = Outermost("first"), Http1(hello)
    detect = Detect([layer, http1, Wrapper("second")])
    with pytest.raises(ConfigurationError, match="first stands inside of <tests"):
        Detect([Wrapper("second"), http1, layer])
    with pytest.raises(ConfigurationError, match="first stands inside of <function agreeing_on"):
        detect.check_place([agreeing_on(None)], [])


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "there is no protocol to detect; give some"),
        ([Wrapper("tls")], "there is no protocol to detect: tls only wrap"),
        ([Http1(hello), Http1(hello)], "'http/1.1' is to be detected twice"),
        ([Wrapper("tls"), Http1(hello), Wrapper("tls")], "'tls' is to be detected twice"),
        ([greet], r"cannot be detected, .* sniffed_protocol\(\)"),
        ([Http1], "cannot be detected"),
    ],
)
def test_mistakes(entries: Sequence[Protocol | SniffedLayer], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Detect(entries)


@pytest.mark.parametrize("number", [0, -1, float("nan")])
def test_numbers_that_make_no_sense(number: int) -> None:
    with pytest.raises(ValueError, match="seconds must be above zero"):
        Detect([Http1(hello)], seconds=number)
    with pytest.raises(ValueError, match="max_prefix_bytes must be above zero"):
        Detect([Http1(hello)], max_prefix_bytes=number)


# As a whole -------------------------------------------------------------------------------------


async def test_it_does_to_the_connection_what_a_middleware_may(autojump_clock: MockClock) -> None:
    async def detected(connection: Connection, following: ConnectionHandler) -> None:
        anything = sniffed_protocol("anything", lambda prefix: YES, following)
        detect = Detect([Speaks("never", b"\0never"), anything], silent=following, seconds=0.1)
        await detect(connection)

    await check_middleware(detected)


async def test_a_list_of_protocols_is_a_handler(log: ServerLog, autojump_clock: MockClock) -> None:
    registry = Registry()
    registry.register(PluginKind.MIDDLEWARE, "detect", Detect)
    async with open_server(greet, registry=registry) as opened:
        endpoint = await opened.server.bind(
            "memory://several", [sniffed_protocol("ssh", sniff_ssh, greet), Http1(hello)]
        )
        connection = await registry.transport("memory").connect(endpoint, opened.context)
        client = RawClient(connection)
        assert (await client.ask(GET)).body == b"hello"
        await client.aclose()


@given(
    st.lists(st.lists(st.sampled_from([YES, NO, MORE]), max_size=6), min_size=1, max_size=5),
    st.integers(0, 8),
)
def test_the_choice_is_what_the_rules_say(plans: list[list[Sniff]], sent: int) -> None:
    """The first YES with nothing but NOs before it; MOREs become NOs when no more can come."""

    def answers(plan: list[Sniff], count: int) -> Sniff:
        decided = [answer for answer in plan[:count] if answer is not MORE]
        return decided[0] if decided else MORE

    expected: int | None = None
    for count in range(1, sent + 1):
        given_now = [answers(plan, count) for plan in plans]
        first = next((n for n, answer in enumerate(given_now) if answer is not NO), None)
        if first is None or given_now[first] is YES:
            expected = first
            break
    else:
        final = [answers(plan, sent) for plan in plans] if sent else []
        expected = next((n for n, answer in enumerate(final) if answer is YES), None)

    served: list[int] = []

    def entry(number: int, plan: list[Sniff]) -> Protocol:
        async def serve(connection: Connection) -> None:
            assert connection.transport.input.buffered
            served.append(number)

        return sniffed_protocol(str(number), lambda prefix: answers(plan, len(prefix)), serve)

    async def main() -> None:
        detect = Detect([entry(number, plan) for number, plan in enumerate(plans)])
        async with open_server(detect) as opened:
            client = RawClient(await opened.connect(), byte_by_byte=True)
            await client.send(b"x" * sent)
            await client.send_eof()
            await client.is_reset()
            await client.aclose()

    trio.run(main)
    assert served == ([] if expected is None else [expected])
