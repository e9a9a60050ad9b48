"""What the contract suite cannot see of a reader: its layer below, and long random histories."""

from collections import deque

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.memory_pipe import Pipe
from kestrel_core.pipe_reader import PipeReader, SeparatorNotFound


class ScriptedReader(PipeReader):
    """Fetches what a script says: bytes, nothing, or an error."""

    def __init__(self, *script: bytes | Exception | None) -> None:
        super().__init__()
        self.script = deque(script)
        self.wakes = 0

    async def _fetch(self) -> None:
        await trio.lowlevel.checkpoint()
        step = self.script.popleft()
        if isinstance(step, Exception):
            raise step
        if step is not None:
            self._feed(step)

    def _wake(self) -> None:
        self.wakes += 1


async def test_a_fetch_that_brings_nothing_is_repeated() -> None:
    reader = ScriptedReader(None, None, b"a", None, b"b")
    assert await reader.read() == b"a"
    reader.advance(0, 1)
    assert await reader.read() == b"ab"
    assert not reader.script


async def test_nothing_is_fetched_before_it_is_needed() -> None:
    reader = ScriptedReader(b"abc")
    await reader.read()
    await reader.read()
    reader.advance(2)
    assert await reader.read() == b"c"
    assert reader.buffered == b"c"


async def test_after_an_error_below_it_can_be_asked_again() -> None:
    reader = ScriptedReader(trio.BrokenResourceError("once"), b"a")
    with pytest.raises(trio.BrokenResourceError, match="once"):
        await reader.read()
    assert await reader.read() == b"a"


async def test_the_end_is_fetched_once() -> None:
    reader = ScriptedReader(b"a", b"")
    assert [chunk async for chunk in reader] == [b"a"]
    assert reader.at_eof
    assert await reader.read() == b""


async def test_a_wake_up_reaches_the_layer_below_only_while_a_read_waits() -> None:
    reader = ScriptedReader()
    reader.cancel_pending_read()
    assert reader.wakes == 0
    await reader.read()
    assert reader.read_cancelled


async def test_a_wake_up_between_two_empty_fetches_ends_the_read() -> None:
    class WokenReader(ScriptedReader):
        async def _fetch(self) -> None:
            await super()._fetch()
            self.cancel_pending_read()

    reader = WokenReader(None)
    assert await reader.read() == b""
    assert reader.read_cancelled
    assert reader.wakes == 1


async def test_a_separator_is_not_searched_for_where_it_cannot_begin() -> None:
    reader = ScriptedReader(b"ab", b"cd", b"-", b"-ef")
    assert await reader.read_until(b"--", 6) == b"abcd--"
    assert reader.buffered == b"ef"


async def test_the_limit_counts_the_separator() -> None:
    reader = ScriptedReader(b"abcd--ef")
    with pytest.raises(SeparatorNotFound, match="no b'--' in the first 5 bytes"):
        await reader.read_until(b"--", 5)
    assert await reader.read_until(b"--", 6) == b"abcd--"


async def test_reading_nothing_exactly_does_not_read() -> None:
    assert await ScriptedReader().read_exactly(0) == b""


class Model:
    """A pipe as two strings and a few numbers."""

    def __init__(self, pause_at_bytes: int) -> None:
        self.pause_at_bytes = pause_at_bytes
        self.unflushed = b""
        self.queued = b""
        self.held = b""
        self.examined = 0
        self.most_examined = 0
        self.ended = False
        self.at_eof = False
        self.cancel_pending = False

    @property
    def unexamined_bytes(self) -> int:
        return len(self.queued) + len(self.held) - self.most_examined

    def flush(self) -> None:
        room = max(0, self.pause_at_bytes - self.unexamined_bytes)
        self.queued += self.unflushed[:room]
        self.unflushed = self.unflushed[room:]

    def read(self) -> tuple[bytes, bool] | None:
        """Return what is shown and whether it was cancelled, or None where it would wait."""
        if self.cancel_pending:
            self.cancel_pending = False
            return self.held, True
        if len(self.held) == self.examined and not self.at_eof:
            if self.queued:
                self.held += self.queued
                self.queued = b""
            elif self.ended:
                self.at_eof = True
            else:
                return None
        return self.held, False

    def advance(self, consumed: int, examined: int) -> None:
        self.held = self.held[consumed:]
        self.examined = examined - consumed
        self.most_examined = max(self.most_examined, examined) - consumed


_fractions = st.floats(0, 1)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.binary(max_size=30)),
        st.tuples(st.just("read")),
        st.tuples(st.just("advance"), _fractions, _fractions),
        st.tuples(st.just("receive"), st.none() | st.integers(1, 40)),
        st.tuples(st.just("cancel")),
        st.tuples(st.just("end")),
    ),
    max_size=60,
)


@given(pause_at_bytes=st.integers(1, 50), steps=_steps)
def test_any_history_agrees_with_the_model(
    pause_at_bytes: int, steps: list[tuple[str, *tuple[object, ...]]]
) -> None:
    trio.run(_run_history, pause_at_bytes, steps)


async def _run_history(pause_at_bytes: int, steps: list[tuple[str, *tuple[object, ...]]]) -> None:
    pipe = Pipe(pause_at_bytes)
    model = Model(pause_at_bytes)
    reader, writer = pipe.reader, pipe.writer
    for step in steps:
        match step:
            case ("write", bytes(data)) if not model.ended:
                writer.write(data)
                writer.flush_nowait()
                model.unflushed += data
                model.flush()
            case ("read",):
                expected = model.read()
                with trio.move_on_after(0 if expected is None else 5) as scope:
                    shown = await reader.read()
                    assert expected == (shown, reader.read_cancelled)
                assert scope.cancelled_caught == (expected is None)
            case ("receive", None | int() as max_bytes):
                model.examined = 0
                expected = (model.held, False) if model.held else model.read()
                with trio.move_on_after(0 if expected is None else 5) as scope:
                    received = await reader.receive(max_bytes)
                    assert expected is not None
                    assert received == expected[0][:max_bytes]
                    assert reader.read_cancelled == expected[1]
                    model.advance(len(received), len(received))
                assert scope.cancelled_caught == (expected is None)
            case ("advance", float(first), float(second)):
                consumed, examined = sorted(round(f * len(model.held)) for f in (first, second))
                reader.advance(consumed, examined)
                model.advance(consumed, examined)
            case ("cancel",):
                reader.cancel_pending_read()
                model.cancel_pending = True
            case ("end",) if not model.unflushed:
                await writer.send_eof()
                model.ended = True
            case _:
                pass
        assert reader.buffered == model.held
        assert reader.at_eof == model.at_eof
        assert writer.unflushed_bytes == len(model.unflushed)
        assert pipe.unexamined_bytes == model.unexamined_bytes
