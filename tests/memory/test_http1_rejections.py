"""Requests that are wrong: for each the status, the reason that is recorded, and the end.

The rows are those of the table of acceptance vectors that Kestrel's behaviour was written down in,
with the verdicts of a strict server, and further ones of the same kind.
"""

import pytest
from trio.testing import MockClock

from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.exchange import Http1Exchange
from tests import bad_bodies, bad_heads
from tests.bad_request import ANSWERS, Bad
from tests.head_reading import read_head
from tests.http1_site import ServerLog, Serving, echo
from tests.raw_client import RawClient

# An empty SETTINGS frame, and GOAWAY with HTTP_1_1_REQUIRED (RFC 9113, 6.5, 6.8 and 7).
HTTP2_REFUSAL = (
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    b"\x00\x00\x08\x07\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00\x00\x00\x0d"
)


def named(rows: list[Bad]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", rows, ids=[row.name for row in rows])


async def expect_rejection(bad: Bad, serving: Serving, log: ServerLog, answers: int = 0) -> None:
    """Send what is bad: the answer says so and that the connection ends, which it does."""
    status, reason = ANSWERS[bad.rejection]
    statuses: list[int | None] = []
    rejections: list[Rejection | None] = []

    def note(exchange: HttpExchange) -> None:
        assert isinstance(exchange, Http1Exchange)
        statuses.append(exchange.status)
        rejections.append(exchange.rejection)

    async with serving(echo, limits=bad.limits, on_exchange_end=note) as site:
        client = await site.connect()
        await client.send(bad.sent)
        if bad.ends:
            await client.send_eof()
        for _ in range(answers):
            response = await client.receive()
            assert response.status == 200
            assert response.keeps_alive
        if status is None:
            assert await client.receive_rest() == HTTP2_REFUSAL
        else:
            await expect_answer(client, status, bad.allow)
        await client.aclose()
        await site.all_ended()
        assert log.ends == [reason]
    assert statuses[:answers] == [200] * answers
    assert rejections[:answers] == [None] * answers
    if len(statuses) > answers:  # for the rest, the application was called before it came out
        assert (statuses[answers:], rejections[answers:]) == ([status], [bad.rejection])


async def expect_answer(client: RawClient, status: int, allow: bytes | None) -> None:
    response = await client.receive()
    assert response.status == status
    assert response.body == b""
    assert response.all(b"content-length") == [b"0"]
    assert response.all(b"connection") == [b"close"]
    assert len(response.all(b"date")) == len(response.all(b"server")) == 1
    assert response.all(b"allow") == ([allow] if allow else [])
    assert await client.receive_rest() == b""


@named(bad_heads.LINES)
async def test_request_lines(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_heads.TARGETS)
async def test_targets(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_heads.FIELDS)
async def test_fields(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_heads.HOSTS)
async def test_hosts(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_heads.LENGTHS)
async def test_lengths(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_heads.LIMITS)
async def test_limits_of_heads(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_bodies.LIMITS)
async def test_limits_of_bodies(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_bodies.CHUNKS)
async def test_chunks(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_bodies.EARLY_ENDS)
async def test_early_ends(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_bodies.SILENCES)
async def test_silences(
    bad: Bad, serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    await expect_rejection(bad, serving, log)


@named(bad_bodies.PIPELINED)
async def test_after_a_good_request(bad: Bad, serving: Serving, log: ServerLog) -> None:
    await expect_rejection(bad, serving, log, answers=1)


@named(bad_heads.HEADS)
def test_heads_are_refused_for_that_reason(bad: Bad) -> None:
    """Several reasons have the same status; which it is shows where heads are read."""
    assert read_head(bad.sent, limits=bad.limits) is bad.rejection


def test_the_table_has_every_reason() -> None:
    rows = [
        *bad_heads.HEADS,
        *bad_bodies.LIMITS,
        *bad_bodies.CHUNKS,
        *bad_bodies.EARLY_ENDS,
        *bad_bodies.SILENCES,
    ]
    in_rows = {row.rejection for row in rows}
    assert in_rows == ANSWERS.keys()
    assert in_rows == set(Rejection)


@pytest.mark.parametrize("rejection", ANSWERS)
def test_statuses(rejection: Rejection) -> None:
    status, reason = ANSWERS[rejection]
    assert rejection.end_reason is reason
    assert status in (rejection.status, None)


async def test_client_that_does_not_close_is_left_after_lingering(
    serving: Serving, log: ServerLog, autojump_clock: MockClock
) -> None:
    async with serving() as site:
        client = await site.connect()
        assert (await client.ask(b"nonsense\r\n")).status == 400
        assert await client.receive_rest() == b""
        start = autojump_clock.current_time()
        await site.all_ended()
        assert autojump_clock.current_time() - start == pytest.approx(2.0, abs=0.02)
