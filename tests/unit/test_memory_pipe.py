"""What only the pipe in memory promises: exact thresholds, and who learns what of an end."""

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from kestrel_core.memory_pipe import MemoryDuplexPipe, Pipe, duplex_pipe_pair


class Sending:
    """A send in a task of its own."""

    def __init__(self, nursery: trio.Nursery, pipe: Pipe, data: bytes) -> None:
        self.done = False
        nursery.start_soon(self._run, pipe, data)

    async def _run(self, pipe: Pipe, data: bytes) -> None:
        await pipe.writer.send(data)
        self.done = True


@pytest.mark.parametrize(
    ("pause_at_bytes", "resume_at_bytes"), [(0, None), (-1, None), (10, 0), (10, 11)]
)
def test_thresholds_that_make_no_sense_are_refused(
    pause_at_bytes: int, resume_at_bytes: int | None
) -> None:
    with pytest.raises(ValueError, match="a pipe needs 1 <= resume_at_bytes <= pause_at_bytes"):
        Pipe(pause_at_bytes, resume_at_bytes)


def test_writing_resumes_at_half_unless_told_otherwise() -> None:
    assert Pipe().pause_at_bytes == 65536
    assert Pipe().resume_at_bytes == 32768
    assert Pipe(1).resume_at_bytes == 1
    assert Pipe(10, 3).resume_at_bytes == 3


async def test_a_flush_that_fits_exactly_does_not_wait() -> None:
    pipe = Pipe(10)
    with assert_no_checkpoints():
        await pipe.writer.send(b"0123456789")
    assert pipe.unexamined_bytes == 10


async def test_a_flush_waits_at_one_threshold_and_goes_on_at_the_other() -> None:
    pipe = Pipe(10, 4)
    async with trio.open_nursery() as nursery:
        sending = Sending(nursery, pipe, b"0123456789ab")
        await wait_all_tasks_blocked()
        assert pipe.unexamined_bytes == 10
        assert await pipe.reader.receive(6) == b"012345"
        await wait_all_tasks_blocked()
        assert not sending.done, "four are left to examine, and fewer are needed"
        assert await pipe.reader.receive(1) == b"6"
        await wait_all_tasks_blocked()
        assert sending.done
        assert pipe.unexamined_bytes == 5
        assert await pipe.reader.read_exactly(5) == b"789ab"


async def test_bytes_that_were_examined_count_no_more() -> None:
    pipe = Pipe(10, 10)
    async with trio.open_nursery() as nursery:
        sending = Sending(nursery, pipe, b"0123456789abcdefghij")
        data = await pipe.reader.read()
        pipe.reader.advance(0, len(data))
        await wait_all_tasks_blocked()
        assert sending.done
        assert await pipe.reader.read() == b"0123456789abcdefghij"


async def test_bytes_that_were_shown_and_not_examined_count() -> None:
    pipe = Pipe(10, 10)
    async with trio.open_nursery() as nursery:
        sending = Sending(nursery, pipe, b"0123456789a")
        assert await pipe.reader.read() == b"0123456789"
        await wait_all_tasks_blocked()
        assert not sending.done
        pipe.reader.advance(0, 1)
        await wait_all_tasks_blocked()
        assert sending.done
        pipe.reader.advance(0, 10)
        assert await pipe.reader.read() == b"0123456789a"


async def test_bytes_are_counted_once_however_often_they_are_examined() -> None:
    pipe = Pipe(10)
    await pipe.writer.send(b"01234567")
    await pipe.reader.read()
    for consumed, examined, left in ((0, 4, 4), (0, 2, 4), (1, 4, 4), (0, 7, 0), (3, 3, 0)):
        pipe.reader.advance(consumed, examined)
        assert pipe.unexamined_bytes == left
    assert pipe.reader.buffered == b"4567"


async def test_the_end_waits_behind_what_was_flushed() -> None:
    pipe = Pipe()
    await pipe.writer.send(b"abc")
    await pipe.writer.send_eof()
    assert await pipe.reader.read() == b"abc"
    assert not pipe.reader.at_eof
    pipe.reader.advance(0, 3)
    assert await pipe.reader.read() == b"abc"
    assert pipe.reader.at_eof


async def test_closing_the_reading_end_tells_the_writer() -> None:
    pipe = Pipe()
    await pipe.writer.send(b"abc")
    assert not pipe.reader_gone
    pipe.close_reader()
    assert pipe.reader_gone
    with pytest.raises(trio.ClosedResourceError):
        await pipe.reader.read()
    with pytest.raises(trio.BrokenResourceError):
        pipe.writer.write(b"x")


async def test_closing_the_writing_end_leaves_the_reader_what_was_flushed() -> None:
    pipe = Pipe()
    pipe.writer.write(b"abc")
    await pipe.writer.flush()
    pipe.writer.write(b"unflushed")
    pipe.close_writer()
    assert [chunk async for chunk in pipe.reader] == [b"abc"]
    assert not pipe.reader_gone
    with pytest.raises(trio.ClosedResourceError):
        pipe.writer.write(b"x")


async def test_breaking_it_takes_away_what_was_flushed() -> None:
    pipe = Pipe()
    await pipe.writer.send(b"abc")
    pipe.close_writer(broken=True)
    assert pipe.reader_gone
    for operation in (pipe.reader.read, pipe.writer.flush):
        with pytest.raises(trio.BrokenResourceError):
            await operation()


async def test_the_peer_is_gone_when_it_closed_not_when_it_ended_its_output() -> None:
    near, far = duplex_pipe_pair()
    await far.output.send_eof()
    assert not near.peer_gone
    assert not far.peer_gone
    await far.aclose()
    assert near.peer_gone
    assert not far.peer_gone, "the other end is still there"
    await near.aclose()
    assert far.peer_gone


async def test_both_ends_learn_of_an_abort() -> None:
    near, far = duplex_pipe_pair()
    near.abort()
    assert near.peer_gone
    assert far.peer_gone


async def test_both_directions_have_the_thresholds() -> None:
    near, far = duplex_pipe_pair(10)
    for pipe in (near, far):
        pipe.output.write(b"0123456789a")
        pipe.output.flush_nowait()
        assert pipe.output.unflushed_bytes == 1


async def test_closing_what_another_task_is_closing_does_nothing() -> None:
    near, far = duplex_pipe_pair(10)
    near.output.write(bytes(11))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.aclose)
        await wait_all_tasks_blocked()
        await near.aclose()
        assert await far.input.read_exactly(12) == bytes(11)
        assert far.input.at_eof
    with pytest.raises(trio.ClosedResourceError):
        await near.input.read()


async def test_closing_without_waiting() -> None:
    near, far = duplex_pipe_pair()
    await near.output.send(b"sent")
    near.output.write(b"unsent")
    assert not near.close_nowait()
    await near.output.flush()
    assert near.close_nowait()
    assert near.close_nowait()
    assert await far.input.read_exactly(20) == b"sentunsent"
    with pytest.raises(trio.ClosedResourceError):
        await near.input.read()


def test_a_subclass_that_closes_otherwise_is_not_gone_past() -> None:
    class Careful(MemoryDuplexPipe):
        __slots__ = ()

        async def aclose(self) -> None:
            await trio.sleep(1)
            await super().aclose()

    class MoreCareful(Careful):
        __slots__ = ()

    assert MemoryDuplexPipe(Pipe(), Pipe()).close_nowait()
    assert not Careful(Pipe(), Pipe()).close_nowait()
    assert not MoreCareful(Pipe(), Pipe()).close_nowait()


async def test_a_cancelled_close_does_not_look_like_an_end(autojump_clock: MockClock) -> None:
    near, far = duplex_pipe_pair(10)
    near.output.write(b"x" * 100)
    with trio.move_on_after(1) as scope:
        await near.aclose()
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError):
        await far.input.read_exactly(100)
    with pytest.raises(trio.ClosedResourceError):
        await near.input.read()
