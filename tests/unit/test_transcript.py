"""A transcript tells what went over a connection and when, and changes nothing."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.memory_pipe import MemoryDuplexPipe, duplex_pipe_pair
from kestrel_core.testing import check_pipe
from kestrel_core.testing.transcript import Transcript, TranscriptEvent, TranscriptEventKind

Kind = TranscriptEventKind


def transcribed(
    pause_at_bytes: int = 65536, *, kept_bytes: int = 10_000
) -> tuple[Transcript, LayeredPipe, MemoryDuplexPipe]:
    near, far = duplex_pipe_pair(pause_at_bytes)
    transcript = Transcript("one", kept_bytes=kept_bytes)
    return transcript, transcript.wrap(near), far


def kinds(transcript: Transcript) -> list[TranscriptEventKind]:
    return [event.kind for event in transcript.events]


# The pipe ---------------------------------------------------------------------------------------


async def transcribed_pair() -> tuple[DuplexPipe, DuplexPipe]:
    _, near, far = transcribed()
    return near, far


async def doubly_transcribed_pair() -> tuple[DuplexPipe, DuplexPipe]:
    _, near, far = transcribed()
    return Transcript("two").wrap(near), far


@pytest.mark.parametrize("make_pair", [transcribed_pair, doubly_transcribed_pair])
async def test_the_pipe_keeps_every_promise(
    make_pair: Callable[[], Awaitable[tuple[DuplexPipe, DuplexPipe]]], autojump_clock: MockClock
) -> None:
    await check_pipe(make_pair)


# What is recorded -------------------------------------------------------------------------------


async def test_each_piece_is_recorded_with_its_time(autojump_clock: MockClock) -> None:
    await trio.sleep(7)
    transcript, near, far = transcribed()
    await near.output.send(b"ping")
    await trio.sleep(1.5)
    near.output.write(b"a")
    near.output.write(b"b")
    near.output.flush_nowait()
    await far.output.send(b"pong")
    await near.input.receive()
    await trio.sleep(0.25)
    await near.output.send_eof()
    await far.output.send_eof()
    assert await near.input.receive() == b""
    await near.aclose()
    await near.aclose()
    assert transcript.events == (
        TranscriptEvent(at_seconds=0, kind=Kind.SENT, data=b"ping"),
        TranscriptEvent(at_seconds=1.5, kind=Kind.SENT, data=b"ab"),
        TranscriptEvent(at_seconds=1.5, kind=Kind.RECEIVED, data=b"pong"),
        TranscriptEvent(at_seconds=1.75, kind=Kind.SENT_END),
        TranscriptEvent(at_seconds=1.75, kind=Kind.RECEIVED_END),
        TranscriptEvent(at_seconds=1.75, kind=Kind.CLOSED),
    )
    assert (transcript.sent_bytes, transcript.received_bytes) == (6, 4)


async def test_time_may_count_from_another_start(autojump_clock: MockClock) -> None:
    began_at = trio.current_time()
    await trio.sleep(3)
    transcript = Transcript("one", began_at=began_at)
    transcript.note("refused")
    assert transcript.events == (TranscriptEvent(at_seconds=3, kind=Kind.NOTE, text="refused"),)
    assert str(transcript) == "one: sent 0 bytes, received 0 bytes\n     +3.000 s  -- refused"


async def test_of_a_flush_that_does_not_wait_only_what_went_is_recorded() -> None:
    transcript, near, far = transcribed(4)
    near.output.write(b"abcdef")
    near.output.flush_nowait()
    assert [event.data for event in transcript.events] == [b"abcd"]
    assert await far.input.receive() == b"abcd"
    near.output.flush_nowait()
    near.output.flush_nowait()
    assert [event.data for event in transcript.events] == [b"abcd", b"ef"]
    assert transcript.sent_bytes == 6


async def test_what_is_looked_at_without_waiting_is_recorded_once() -> None:
    transcript, near, far = transcribed()
    await far.output.send(b"abc")
    near.input.look()
    near.input.look()
    assert await near.input.receive() == b"abc"
    await far.output.send_eof()
    near.input.look()
    near.input.look()
    assert near.input.at_eof
    assert kinds(transcript) == [Kind.RECEIVED, Kind.RECEIVED_END]


async def test_a_view_is_copied() -> None:
    transcript, near, _ = transcribed()
    content = bytearray(b"abc")
    await near.output.send(memoryview(content))
    content[:] = b"xyz"
    assert [event.data for event in transcript.events] == [b"abc"]


# How it ends ------------------------------------------------------------------------------------


async def read(pipe: DuplexPipe) -> None:
    await pipe.input.read()


async def read_through_a_layer(pipe: DuplexPipe) -> None:
    await LayeredPipe(pipe, LayerReader(pipe.input), LayerWriter(pipe.output)).input.read()


async def look(pipe: DuplexPipe) -> None:
    pipe.input.look()


async def write(pipe: DuplexPipe) -> None:
    pipe.output.write(b"x")


async def send_eof(pipe: DuplexPipe) -> None:
    await pipe.output.send_eof()


@pytest.mark.parametrize("notice", [read, read_through_a_layer, look, write, send_eof])
async def test_that_the_server_broke_it_off_is_recorded_once(
    notice: Callable[[DuplexPipe], Awaitable[None]],
) -> None:
    transcript, near, far = transcribed()
    far.abort()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await notice(near)
    await near.aclose()
    assert kinds(transcript) == [Kind.BROKEN, Kind.CLOSED]


async def test_that_it_was_broken_off_during_a_flush_is_recorded(
    autojump_clock: MockClock,
) -> None:
    transcript, near, far = transcribed(4)

    async def flush() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await near.output.send(b"abcdef")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        await trio.sleep(1)
        far.abort()
    near.abort()
    assert kinds(transcript) == [Kind.SENT, Kind.BROKEN, Kind.ABORTED]


async def test_what_follows_from_our_own_end_is_no_news(autojump_clock: MockClock) -> None:
    transcript, near, _ = transcribed()

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await near.input.read()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.sleep(1)
        near.abort()
    with pytest.raises(trio.BrokenResourceError):
        near.output.write(b"x")
    near.abort()
    await near.aclose()
    assert kinds(transcript) == [Kind.ABORTED]


# What is kept -----------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(min_value=1, max_value=700), max_size=30),
    kept_bytes=st.integers(min_value=0, max_value=2000),
)
def test_the_newest_bytes_are_kept_and_the_oldest_counted(
    lengths: list[int], kept_bytes: int
) -> None:
    async def main() -> Transcript:
        transcript, near, _ = transcribed(kept_bytes=kept_bytes)
        for number, length in enumerate(lengths):
            await near.output.send(bytes([number]) * length)
        return transcript

    transcript = trio.run(main)
    everything = b"".join(bytes([number]) * length for number, length in enumerate(lengths))
    kept = b"".join(event.data for event in transcript.events)
    assert everything.endswith(kept)
    assert transcript.sent_bytes == len(everything) == transcript.dropped_bytes + len(kept)
    assert len(lengths) == transcript.dropped_events + len(transcript.events)
    assert len(kept) + 128 * len(transcript.events) <= kept_bytes
    if lengths and kept_bytes > 128:
        assert kept, "the newest is kept, as far as there is room"


async def test_the_report_tells_of_what_is_not_kept(autojump_clock: MockClock) -> None:
    transcript, near, _ = transcribed(kept_bytes=400)
    for _ in range(3):
        await near.output.send(b"a line\n" * 10)
    assert str(transcript).splitlines()[:3] == [
        "one: sent 210 bytes, received 0 bytes",
        "  ... 1 event with 70 bytes not kept",
        r"     +0.000 s  -> a line\n",
    ]


async def test_a_note_that_is_too_long_is_not_kept() -> None:
    transcript = Transcript("one", kept_bytes=300)
    transcript.note("x" * 100)
    transcript.note("x" * 200)
    transcript.note("y")
    assert [event.text for event in transcript.events] == ["y"]
    assert (transcript.dropped_events, transcript.dropped_bytes) == (2, 0)


async def test_fewer_than_no_bytes_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="kept_bytes must be at least 0, not -1"):
        Transcript("one", kept_bytes=-1)


# The report -------------------------------------------------------------------------------------


async def converse() -> str:
    transcript, near, far = transcribed()
    await near.output.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await trio.sleep(12.345)
    await far.output.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\x00\x01\x02")
    await near.input.receive()
    await trio.sleep(130)
    await far.output.send_eof()
    await near.input.receive()
    await near.aclose()
    return str(transcript)


async def test_a_report_shows_an_exchange(autojump_clock: MockClock) -> None:
    report = await converse()
    assert report == "\n".join(
        [
            "one: sent 35 bytes, received 41 bytes",
            r"     +0.000 s  -> GET / HTTP/1.1\r\n",
            r"                  host: localhost\r\n",
            r"                  \r\n",
            r"    +12.345 s  <- HTTP/1.1 200 OK\r\n",
            r"                  content-length: 3\r\n",
            r"                  \r\n",
            r"                  00 01 02  |...|",
            r"   +142.345 s  -- the input ended",
            r"   +142.345 s  -- closed",
        ]
    )


async def test_equal_traffic_makes_equal_reports(autojump_clock: MockClock) -> None:
    first = await converse()
    await trio.sleep(1 / 3)
    assert await converse() == first


async def test_bytes_that_come_one_by_one_are_joined(autojump_clock: MockClock) -> None:
    transcript, near, far = transcribed(kept_bytes=100_000)
    for byte in b"GET / HTTP/1.1\r\n":
        await near.output.send(bytes([byte]))
    for byte in b"HTTP/1.1 200 OK\r\n":
        await trio.sleep(0.01)
        await far.output.send(bytes([byte]))
        await near.input.receive()
    assert len(transcript.events) == 33, "the pieces are there for whoever asks"
    assert str(transcript).splitlines()[1:] == [
        r"     +0.000 s  -> 16 bytes in 16 pieces:",
        r"                  GET / HTTP/1.1\r\n",
        r"     +0.010 s  <- 17 bytes in 17 pieces until +0.170 s:",
        r"                  HTTP/1.1 200 OK\r\n",
    ]


async def test_slow_and_large_pieces_stand_by_themselves(autojump_clock: MockClock) -> None:
    transcript, near, _ = transcribed()
    await near.output.send(b"tick")
    await trio.sleep(0.1)
    await near.output.send(b"tock")
    await near.output.send(b"a large piece, of a sentence")
    await near.output.send(b"tick")
    assert str(transcript).splitlines()[1:] == [
        "     +0.000 s  -> tick",
        "     +0.100 s  -> tock",
        "     +0.100 s  -> a large piece, of a sentence",
        "     +0.100 s  -> tick",
    ]


async def test_a_long_report_shows_its_end(autojump_clock: MockClock) -> None:
    transcript, near, far = transcribed(kept_bytes=1_000_000)
    for number in range(300):
        await near.output.send(b"%d" % number)
        await far.output.send(b"%d!" % number)
        await near.input.receive()
    lines = str(transcript).splitlines()
    assert len(lines) == 402
    assert lines[1] == "  ... 200 lines not shown"
    assert lines[2].endswith("-> 100")
    assert lines[-1].endswith("<- 299!")
