"""What the contract suite cannot see of a writer: what it asks of its layer below."""

import pytest
import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from kestrel_core.pipe_writer import PipeWriter


class RecordingWriter(PipeWriter):
    """Notes what is passed on; takes at once no more than `room` bytes."""

    def __init__(self, room: int = 1_000_000) -> None:
        super().__init__()
        self.room = room
        self.passed: list[bytes] = []
        self.passed_nowait: list[bytes] = []
        self.ends = 0
        self.may_go_on = trio.Event()

    async def _transmit(self, data: bytes | memoryview) -> None:
        if len(data) > self.room:
            await self.may_go_on.wait()
        self.passed.append(bytes(data))

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        count = min(self.room, len(data))
        self.room -= count
        self.passed_nowait.append(bytes(data[:count]))
        return count

    async def _transmit_eof(self) -> None:
        self.ends += 1

    def end(self, *, closed: bool = False, broken: bool = False) -> None:
        """Be closed or broken from now on."""
        self._closed = closed
        self._broken = broken


async def test_many_writes_become_one() -> None:
    writer = RecordingWriter()
    for data in (b"a", b"", b"bc", b"d"):
        writer.write(data)
    assert writer.unflushed_bytes == 4
    await writer.flush()
    assert writer.passed == [b"abcd"]
    assert writer.unflushed_bytes == 0


async def test_a_single_write_is_passed_on_without_a_copy() -> None:
    writer = RecordingWriter()
    data = bytes(100)
    await writer.send(data)
    assert writer.passed[0] is data


async def test_flushing_nothing_asks_nothing_of_the_layer_below() -> None:
    writer = RecordingWriter()
    await writer.flush()
    writer.write(b"")
    await writer.flush()
    writer.flush_nowait()
    assert writer.passed == writer.passed_nowait == []


async def test_a_flush_that_need_not_wait_does_not_checkpoint() -> None:
    writer = RecordingWriter()
    with assert_no_checkpoints():
        await writer.send(b"abc")


async def test_what_went_without_waiting_is_not_sent_again() -> None:
    writer = RecordingWriter(room=3)
    writer.write(b"ab")
    writer.write(b"cde")
    writer.flush_nowait()
    assert writer.passed_nowait == [b"abc"]
    assert writer.unflushed_bytes == 2
    writer.write(b"f")
    writer.room = 100
    writer.flush_nowait()
    assert writer.passed_nowait == [b"abc", b"def"]
    assert writer.unflushed_bytes == 0


async def test_when_nothing_goes_without_waiting_all_of_it_stays() -> None:
    writer = RecordingWriter(room=0)
    writer.write(b"ab")
    writer.flush_nowait()
    writer.flush_nowait()
    assert writer.unflushed_bytes == 2
    writer.room = 100
    await writer.flush()
    assert writer.passed == [b"ab"]


async def test_a_write_beside_a_flush_waits_for_the_next() -> None:
    writer = RecordingWriter(room=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.send, b"first")
        await wait_all_tasks_blocked()
        assert writer.unflushed_bytes == 0
        writer.write(b"second")
        writer.flush_nowait()
        assert writer.unflushed_bytes == 6
        for operation in (writer.flush, writer.send_eof):
            with pytest.raises(trio.BusyResourceError):
                await operation()
        writer.may_go_on.set()
    await writer.flush()
    assert writer.passed == [b"first", b"second"]
    assert writer.passed_nowait == []


async def test_after_a_cancelled_flush_another_may_follow() -> None:
    writer = RecordingWriter(room=0)
    with trio.move_on_after(0) as scope:
        await writer.send(b"lost")
    assert scope.cancelled_caught
    writer.room = 100
    await writer.send(b"next")
    assert writer.passed == [b"next"]


async def test_the_end_is_sent_once_and_last() -> None:
    writer = RecordingWriter()
    writer.write(b"last")
    await writer.send_eof()
    await writer.send_eof()
    assert writer.passed == [b"last"]
    assert writer.ends == 1
    with pytest.raises(trio.ClosedResourceError, match="the end of this pipe was already sent"):
        writer.write(b"x")


async def test_while_the_end_is_being_sent_nobody_flushes() -> None:
    class SlowlyEnding(RecordingWriter):
        async def _transmit_eof(self) -> None:
            await self.may_go_on.wait()
            await super()._transmit_eof()

    writer = SlowlyEnding()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.send_eof)
        await wait_all_tasks_blocked()
        writer.write(b"late")
        writer.flush_nowait()
        for operation in (writer.flush, writer.send_eof):
            with pytest.raises(trio.BusyResourceError):
                await operation()
        writer.may_go_on.set()
    assert writer.passed == writer.passed_nowait == []
    assert writer.ends == 1


async def test_nothing_is_asked_of_a_closed_or_broken_layer_below() -> None:
    for kind, closed in ((trio.ClosedResourceError, True), (trio.BrokenResourceError, False)):
        writer = RecordingWriter()
        writer.write(b"unflushed")
        writer.end(closed=closed, broken=True)
        writer.flush_nowait()
        for operation in (writer.flush, writer.send_eof):
            with pytest.raises(kind):
                await operation()
        with pytest.raises(kind):
            writer.write(b"x")
        assert writer.passed == writer.passed_nowait == []
        assert writer.ends == 0
