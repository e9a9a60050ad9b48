"""All kinds of pipe pass the contract suite, and no pipe with a fault does."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.memory_pipe import MemoryDuplexPipe, Pipe, duplex_pipe_pair
from kestrel_core.pipe_reader import PipeReader, SeparatorNotFound
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.testing import check_pipe

MakePair = Callable[[], Awaitable[tuple[DuplexPipe, DuplexPipe]]]


class LayeredReader(PipeReader):
    """Reads from another reader and changes nothing."""

    def __init__(self, inner: PipeReader) -> None:
        super().__init__()
        self.inner = inner
        self.closed = False
        self.broken = False

    async def _fetch(self) -> None:
        self.raise_unless_open()
        chunk = await self.inner.receive()
        self.raise_unless_open()
        if chunk or not self.inner.read_cancelled:
            self._feed(chunk)

    def _wake(self) -> None:
        self.inner.cancel_pending_read()

    def raise_unless_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        if self.broken:
            raise trio.BrokenResourceError

    def end(self, *, closed: bool) -> None:
        self.closed = self.closed or closed
        self.broken = True
        self._discard()
        self._wake()


class LayeredWriter(PipeWriter):
    """Writes to another writer and changes nothing."""

    def __init__(self, inner: PipeWriter) -> None:
        super().__init__()
        self.inner = inner

    async def _transmit(self, data: bytes | memoryview) -> None:
        try:
            await self.inner.send(data)
        except trio.BrokenResourceError:
            self._broken = True
            raise

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return 0

    async def _transmit_eof(self) -> None:
        await self.inner.send_eof()

    def end(self, *, closed: bool) -> None:
        self._closed = self._closed or closed
        self._broken = True
        self._chunks.clear()
        self.unflushed_bytes = 0


class LayeredPipe(DuplexPipe):
    """A pipe over a pipe, as TLS is; the faulty ones below derive from it."""

    reader_class: type[LayeredReader] = LayeredReader
    writer_class: type[LayeredWriter] = LayeredWriter

    def __init__(self, inner: DuplexPipe) -> None:
        self.inner = inner
        self.reader = self.reader_class(inner.input)
        self.writer = self.writer_class(inner.output)

    @property
    def input(self) -> PipeReader:
        return self.reader

    @property
    def output(self) -> PipeWriter:
        return self.writer

    async def aclose(self) -> None:
        try:
            if self.writer.unflushed_bytes:
                await self.writer.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass
        finally:
            self.reader.end(closed=True)
            self.writer.end(closed=True)
            await self.inner.aclose()

    def abort(self) -> None:
        self.reader.end(closed=False)
        self.writer.end(closed=False)
        self.inner.abort()


async def memory() -> tuple[DuplexPipe, DuplexPipe]:
    return duplex_pipe_pair()


async def small_memory() -> tuple[DuplexPipe, DuplexPipe]:
    return duplex_pipe_pair(4096, 1)


async def over_memory_streams() -> tuple[DuplexPipe, DuplexPipe]:
    near, far = memory_stream_pair()
    return DuplexPipe.from_stream(near), DuplexPipe.from_stream(far)


async def over_pipes_as_streams() -> tuple[DuplexPipe, DuplexPipe]:
    near, far = duplex_pipe_pair()
    return DuplexPipe.from_stream(near.as_stream()), far


async def layered() -> tuple[DuplexPipe, DuplexPipe]:
    near, far = duplex_pipe_pair()
    return LayeredPipe(near), far


@pytest.mark.parametrize("make_pair", [memory, small_memory, over_pipes_as_streams, layered])
async def test_it_keeps_every_promise(make_pair: MakePair, autojump_clock: MockClock) -> None:
    await check_pipe(make_pair)


async def test_streams_without_bounds_keep_the_others(autojump_clock: MockClock) -> None:
    await check_pipe(over_memory_streams, bounded=False)


async def test_a_pipe_that_cannot_half_close_keeps_the_others(autojump_clock: MockClock) -> None:
    await check_pipe(memory, half_closes=False)


# The faults -------------------------------------------------------------------------------------


class ShowsOnlyWhatIsNew(LayeredReader):
    async def read(self) -> bytes:
        seen = self._examined
        return (await super().read())[seen:]


class NeverWaits(LayeredReader):
    async def read(self) -> bytes:
        return self._buffer or await super().read()


class BelievesEveryNumber(LayeredReader):
    def advance(self, consumed: int, examined: int | None = None) -> None:
        consumed = max(0, min(consumed, len(self._buffer)))
        examined = max(consumed, min(examined or consumed, len(self._buffer)))
        super().advance(consumed, examined)


class HasNoPatienceWithTheRest(LayeredReader):
    def advance(self, consumed: int, examined: int | None = None) -> None:
        super().advance(consumed, len(self._buffer) if examined is None else examined)


class StaysCancelled(LayeredReader):
    async def read(self) -> bytes:
        cancelled = self.read_cancelled
        data = await super().read()
        self.read_cancelled = self.read_cancelled or cancelled
        return data


class ForgetsEarlyWakeUps(LayeredReader):
    def cancel_pending_read(self) -> None:
        if self._reading:
            super().cancel_pending_read()


class WakesWithAnError(LayeredReader):
    async def read(self) -> bytes:
        data = await super().read()
        if self.read_cancelled:
            raise trio.ClosedResourceError
        return data


class DropsWhatArrivesWithAWakeUp(LayeredReader):
    async def _fetch(self) -> None:
        held = self._buffer
        await super()._fetch()
        if self._cancel_pending:
            self._buffer = held


class LosesBytesWhenCancelled(LayeredReader):
    async def _fetch(self) -> None:
        held = self._buffer
        try:
            await super()._fetch()
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._buffer = held
            raise


class LetsTwoRead(LayeredReader):
    async def receive(self, max_bytes: int | None = None) -> bytes:
        if self._reading:
            await trio.sleep_forever()
        return await super().receive(max_bytes)


class MissesTheEnd(LayeredReader):
    async def _fetch(self) -> None:
        await super()._fetch()
        if self._at_eof:
            self._at_eof = False
            await trio.sleep_forever()


class DropsTheTail(LayeredReader):
    async def _fetch(self) -> None:
        await super()._fetch()
        if self._at_eof:
            self._buffer = b""


class ReceivesTooMuch(LayeredReader):
    async def receive(self, max_bytes: int | None = None) -> bytes:
        return await super().receive()


class ConsumesWhatItSearched(LayeredReader):
    async def read_until(self, separator: bytes, limit: int) -> bytes:
        try:
            return await super().read_until(separator, limit)
        except SeparatorNotFound:
            self.advance(len(self._buffer))
            raise


class ReadsOnWhenClosed(LayeredReader):
    def _discard(self) -> None:
        pass


class SleepsWhenClosed(LayeredReader):
    def end(self, *, closed: bool) -> None:
        self._discard()

    async def _fetch(self) -> None:
        try:
            await super()._fetch()
        except trio.ClosedResourceError:
            await trio.sleep_forever()


class ChangesABit(LayeredReader):
    passed = 0

    def _feed(self, chunk: bytes) -> None:
        self.passed += len(chunk)
        if self.passed > 500_000:
            chunk = bytes([chunk[0] ^ 1]) + chunk[1:] if chunk else chunk
            self.passed = 0
        super()._feed(chunk)


READER_FAULTS: list[tuple[type[LayeredReader], str]] = [
    (ShowsOnlyWhatIsNew, "returns everything unconsumed"),
    (NeverWaits, "waits while everything held was examined"),
    (BelievesEveryNumber, "raises ValueError"),
    (HasNoPatienceWithTheRest, "returns everything unconsumed"),
    (StaysCancelled, "only that one"),
    (ForgetsEarlyWakeUps, "with no read pending"),
    (WakesWithAnError, "ClosedResourceError"),
    (DropsWhatArrivesWithAWakeUp, "loses none of them"),
    (LosesBytesWhenCancelled, "A cancelled read has lost nothing"),
    (LetsTwoRead, "BusyResourceError"),
    (MissesTheEnd, "it hangs"),
    (DropsTheTail, "At the end of the input"),
    (ReceivesTooMuch, "receive"),
    (ConsumesWhatItSearched, "consumes nothing"),
    (ReadsOnWhenClosed, "After `aclose\\(\\)` every use raises"),
    (SleepsWhenClosed, "it hangs"),
    (ChangesABit, "other bytes arrived"),
]


class SendsAtOnce(LayeredWriter):
    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        self.inner.write(self._take())
        self.inner.flush_nowait()


class CountsNothing(LayeredWriter):
    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        self.unflushed_bytes = 0


class SwapsTheOrder(LayeredWriter):
    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        self._chunks.append(b"")
        return 0

    def _take(self) -> bytes | memoryview:
        self._chunks.reverse()
        return super()._take()


class ClaimsToHaveSent(LayeredWriter):
    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return len(data)


class LetsTwoFlush(LayeredWriter):
    async def flush(self) -> None:
        self._flushing = False
        await super().flush()


class NeverEnds(LayeredWriter):
    async def _transmit_eof(self) -> None:
        pass


class WritesPastTheEnd(LayeredWriter):
    def write(self, data: bytes | memoryview) -> None:
        self._eof_sent = False
        super().write(data)


class WritesWhenClosed(LayeredWriter):
    def write(self, data: bytes | memoryview) -> None:
        if not self._closed:
            super().write(data)


class DoesNotNoticeAGonePeer(LayeredWriter):
    async def _transmit(self, data: bytes | memoryview) -> None:
        try:
            await self.inner.send(data)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()


WRITER_FAULTS: list[tuple[type[LayeredWriter], str]] = [
    (SendsAtOnce, "only appends"),
    (CountsNothing, "`unflushed_bytes` should be 3, not 0"),
    (SwapsTheOrder, "arrived"),
    (ClaimsToHaveSent, "keeps the rest for the next flush"),
    (LetsTwoFlush, "BusyResourceError"),
    (NeverEnds, "it hangs"),
    (WritesPastTheEnd, "write\\(\\) after send_eof\\(\\)"),
    (WritesWhenClosed, "write\\(\\) after aclose\\(\\)"),
    (DoesNotNoticeAGonePeer, "BrokenResourceError"),
]


class DropsTheUnflushed(LayeredPipe):
    async def aclose(self) -> None:
        self.writer.end(closed=True)
        await super().aclose()


class StaysOpenWhenCancelled(LayeredPipe):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        await super().aclose()


class ClosesOnce(LayeredPipe):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        self.closed = True
        await super().aclose()


class ClosesOnlyItself(LayeredPipe):
    async def aclose(self) -> None:
        self.reader.end(closed=True)
        self.writer.end(closed=True)


class DoesNotAbort(LayeredPipe):
    def abort(self) -> None:
        pass


class ClosesByAborting(LayeredPipe):
    async def aclose(self) -> None:
        self.inner.abort()
        await super().aclose()


PIPE_FAULTS: list[tuple[type[LayeredPipe], str]] = [
    (DropsTheUnflushed, "`aclose\\(\\)` flushes"),
    (StaysOpenWhenCancelled, "cancelled"),
    (ClosesOnce, "ClosedResourceError"),
    (ClosesOnlyItself, "it hangs"),
    (DoesNotAbort, "abort"),
    (ClosesByAborting, "`aclose\\(\\)` flushes"),
]


def with_reader(faulty: type[LayeredReader]) -> type[LayeredPipe]:
    class WithReader(LayeredPipe):
        reader_class = faulty

    return WithReader


def with_writer(faulty: type[LayeredWriter]) -> type[LayeredPipe]:
    class WithWriter(LayeredPipe):
        writer_class = faulty

    return WithWriter


@pytest.mark.parametrize(
    ("pipe_class", "told"),
    [
        *(pytest.param(with_reader(c), told, id=c.__name__) for c, told in READER_FAULTS),
        *(pytest.param(with_writer(c), told, id=c.__name__) for c, told in WRITER_FAULTS),
        *(pytest.param(c, told, id=c.__name__) for c, told in PIPE_FAULTS),
    ],
)
@pytest.mark.parametrize("faulty_end", ["near", "far"])
async def test_a_fault_is_found_and_named(
    pipe_class: type[LayeredPipe], told: str, faulty_end: str, autojump_clock: MockClock
) -> None:
    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        near, far = duplex_pipe_pair()
        if faulty_end == "near":
            return pipe_class(near), far
        return near, pipe_class(far)

    with pytest.raises(AssertionError, match=told):
        await check_pipe(make_pair)


async def test_a_fetch_that_does_not_yield_is_found(autojump_clock: MockClock) -> None:
    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        incoming, outgoing = Pipe(), Pipe()

        class FetchesWithoutYielding(LayeredReader):
            async def _fetch(self) -> None:
                chunk = incoming.take()
                if chunk:
                    self._feed(chunk)
                    incoming.note_examined(len(chunk))
                else:
                    await super()._fetch()

        near = with_reader(FetchesWithoutYielding)(MemoryDuplexPipe(incoming, outgoing))
        return near, MemoryDuplexPipe(outgoing, incoming)

    with pytest.raises(AssertionError, match="`read\\(\\)` checkpoints whenever it fetches"):
        await check_pipe(make_pair)


async def test_a_pipe_without_bounds_is_found(autojump_clock: MockClock) -> None:
    async def make_pair() -> tuple[DuplexPipe, DuplexPipe]:
        return duplex_pipe_pair(1 << 30)

    with pytest.raises(AssertionError, match=r"flush\(\) should wait, but \d+ bytes went out"):
        await check_pipe(make_pair)
