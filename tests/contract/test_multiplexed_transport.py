"""No multiplexed transport with a fault passes the contract suite; the fault is named."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.connection import Connection, ConnectionContext, MultiplexedConnection
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.testing import check_multiplexed_transport, check_transport
from kestrel_core.transport import Listener, Transport, TransportContext
from kestrel_transports.memory import MemoryTransport
from kestrel_transports.memory_streams import MemoryStreamsTransport


class Wrapping(MultiplexedConnection):
    """Does what another connection does; the faulty ones below derive from it."""

    def __init__(self, inner: MultiplexedConnection) -> None:
        super().__init__(inner.transport, inner.context, local=inner.local, remote=inner.remote)
        self.inner = inner
        inner.closed.listen(self.closed.set)

    async def accept_stream(self) -> Connection:
        return self.made(await self.inner.accept_stream())

    async def open_stream(self) -> Connection:
        return self.made(await self.inner.open_stream())

    def made(self, stream: Connection) -> Connection:
        return stream

    def request_close(self) -> None:
        super().request_close()
        self.inner.request_close()

    def abort(self, reason: EndReason) -> None:
        super().abort(reason)
        self.inner.abort(reason)

    async def aclose(self) -> None:
        await self.inner.aclose()


class WrappingListener(Listener):
    def __init__(self, inner: Listener, wrap: Callable[[Connection], Connection]) -> None:
        self.inner = inner
        self.wrap = wrap

    @property
    def endpoint(self) -> Endpoint:
        return self.inner.endpoint

    async def accept(self) -> Connection:
        return self.wrap(await self.inner.accept())

    async def unbind(self) -> None:
        await self.inner.unbind()

    async def aclose(self) -> None:
        await self.inner.aclose()


class WrappingTransport(Transport):
    """The in-memory transport, with connections of another class on both sides."""

    scheme = "memory-streams"
    multiplexed = True

    def __init__(self, connection_class: type[Wrapping]) -> None:
        self.inner = MemoryStreamsTransport()
        self.connection_class = connection_class

    def wrap(self, connection: Connection) -> Connection:
        assert isinstance(connection, MultiplexedConnection)
        return self.connection_class(connection)

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        return WrappingListener(await self.inner.bind(endpoint, context), self.wrap)

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        return self.wrap(await self.inner.connect(endpoint, context))


ENDPOINT = "memory-streams://name?max_concurrent_streams=30"


async def test_the_wrapper_itself_has_no_fault(autojump_clock: MockClock) -> None:
    await check_multiplexed_transport(WrappingTransport(Wrapping), ENDPOINT)


# The faults -------------------------------------------------------------------------------------


class CarriesBytes(Wrapping):
    def __init__(self, inner: MultiplexedConnection) -> None:
        super().__init__(inner)
        self.transport, _ = duplex_pipe_pair()


class NamesStreamsAfterNobody(Wrapping):
    def made(self, stream: Connection) -> Connection:
        stream.remote = None
        return stream


class GivesStreamsAContextOfTheirOwn(Wrapping):
    def made(self, stream: Connection) -> Connection:
        stream.context = ConnectionContext()
        return stream


class AcceptsDeadStreams(Wrapping):
    async def accept_stream(self) -> Connection:
        stream = await super().accept_stream()
        stream.closed.set()
        return stream


class AcceptsItself(Wrapping):
    async def accept_stream(self) -> Connection:
        stream = await super().accept_stream()
        self.transport = stream.transport
        return self


class KeepsOnlyTheNewestStream(Wrapping):
    async def accept_stream(self) -> Connection:
        stream = await super().accept_stream()
        with trio.move_on_after(0.001):
            while True:
                stream = await super().accept_stream()
        return stream


class MixesStreamsUp(Wrapping):
    def __init__(self, inner: MultiplexedConnection) -> None:
        super().__init__(inner)
        self.last: Connection | None = None

    async def accept_stream(self) -> Connection:
        stream = await super().accept_stream()
        if self.last is not None:
            stream.transport, self.last.transport = self.last.transport, stream.transport
        self.last = stream
        return stream


class LosesWhatArrivesAtACancellation(Wrapping):
    async def accept_stream(self) -> Connection:
        stream = await super().accept_stream()
        await trio.lowlevel.checkpoint()
        return stream


class SendsOnOneStreamAtATime(Wrapping):
    def __init__(self, inner: MultiplexedConnection) -> None:
        super().__init__(inner)
        self.lock = trio.Lock()

    def made(self, stream: Connection) -> Connection:
        lock = self.lock

        class Writer(LayerWriter):
            async def _transmit(self, data: bytes | memoryview) -> None:
                async with lock:
                    await super()._transmit(data)

        pipe = stream.transport
        stream.transport = LayeredPipe(pipe, LayerReader(pipe.input), Writer(pipe.output))
        return stream


class CannotHalfClose(Wrapping):
    def made(self, stream: Connection) -> Connection:
        pipe = stream.transport

        class Writer(LayerWriter):
            async def _transmit_eof(self) -> None:
                await pipe.aclose()

        stream.transport = LayeredPipe(pipe, LayerReader(pipe.input), Writer(pipe.output))
        return stream


class ClosesHalfClosedStreams(Wrapping):
    def made(self, stream: Connection) -> Connection:
        class Reader(LayerReader):
            def arrived(self, data: bytes) -> bytes:
                if not data:
                    stream.closed.set()
                return data

        pipe = stream.transport
        stream.transport = LayeredPipe(pipe, Reader(pipe.input), LayerWriter(pipe.output))
        return stream


class EndsWithItsFirstStream(Wrapping):
    def made(self, stream: Connection) -> Connection:
        stream.closed.listen(lambda: self.inner.abort(EndReason.OTHER_ERROR))
        return stream


class OfAnotherClass(Wrapping):
    """Has streams of a class of its own, over the pipes of the real ones."""

    stream_class: type[Connection]

    def made(self, stream: Connection) -> Connection:
        other = self.stream_class(
            stream.transport, stream.context, local=stream.local, remote=stream.remote
        )
        stream.closed.listen(other.closed.set)
        stream.close_requested.listen(other.request_close)
        return other


class HasStreamsThatAbortAlone(OfAnotherClass):
    class stream_class(Connection):
        def abort(self, reason: EndReason) -> None:
            self.record_end(reason)
            self.closed.set()


class HasStreamsThatForgetWhy(OfAnotherClass):
    class stream_class(Connection):
        def abort(self, reason: EndReason) -> None:
            super().abort(EndReason.OTHER_ERROR)


class HasStreamsThatCloseWithoutFlushing(OfAnotherClass):
    class stream_class(Connection):
        async def aclose(self) -> None:
            self.transport.abort()
            await super().aclose()


class KeepsCloseRequestsToItself(Wrapping):
    def request_close(self) -> None:
        self.close_requested.set()


class PassesCloseRequestsOnOnce(Wrapping):
    def __init__(self, inner: MultiplexedConnection) -> None:
        super().__init__(inner)
        self.streams: list[Connection] = []

    def made(self, stream: Connection) -> Connection:
        self.streams.append(stream)
        return stream

    def request_close(self) -> None:
        self.close_requested.set()
        for stream in self.streams:
            stream.request_close()


class RefusesOneStreamTooMany(Wrapping):
    async def open_stream(self) -> Connection:
        with trio.move_on_after(0.001):
            return await super().open_stream()
        raise trio.BrokenResourceError("too many streams")


class CountsStreamsForEver(Wrapping):
    def __init__(self, inner: MultiplexedConnection) -> None:
        super().__init__(inner)
        self.opened = 0

    async def open_stream(self) -> Connection:
        if self.opened == 30:
            await self.inner.wait_closed()
        self.opened += 1
        return await super().open_stream()


class OpensThoughCancelled(Wrapping):
    async def open_stream(self) -> Connection:
        try:
            return await super().open_stream()
        except trio.Cancelled:
            context = self.context
            assert isinstance(context, TransportContext)
            context.nursery.start_soon(self.open_another)
            raise

    async def open_another(self) -> None:
        stream = await self.inner.open_stream()
        await stream.transport.output.send(b"\xff")


class AcceptsForEver(Wrapping):
    async def accept_stream(self) -> Connection:
        try:
            return await super().accept_stream()
        except trio.EndOfChannel:
            await trio.sleep_forever()


class EndsAcceptingOtherwise(Wrapping):
    async def accept_stream(self) -> Connection:
        try:
            return await super().accept_stream()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError from None


class EndsOpeningOtherwise(Wrapping):
    async def open_stream(self) -> Connection:
        try:
            return await super().open_stream()
        except trio.BrokenResourceError:
            raise trio.ClosedResourceError from None


class WaitsForRoomForEver(Wrapping):
    async def open_stream(self) -> Connection:
        if self.closed:
            return await super().open_stream()
        try:
            return await super().open_stream()
        except trio.BrokenResourceError:
            await trio.sleep_forever()


class AbortsNothing(Wrapping):
    def abort(self, reason: EndReason) -> None:
        self.record_end(reason)
        self.closed.set()


class LetsTheLastReasonWin(Wrapping):
    def abort(self, reason: EndReason) -> None:
        super().abort(reason)
        self.end_reason = reason


class ClosesNothing(Wrapping):
    async def aclose(self) -> None:
        self.closed.set()


class ClosesOnlyWhatWasAccepted(Wrapping):
    async def aclose(self) -> None:
        with trio.move_on_after(0.001), suppress(trio.EndOfChannel):
            await self.inner.accept_stream()
            self.closed.set()
            return
        await super().aclose()


class ClosesOnlyWhenNotCancelled(Wrapping):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        await super().aclose()


NO_BYTES = "The connection's own `transport` carries no bytes"
SOUND = "A stream has its connection's addresses and limits"
QUEUED = "Streams that are opened while nobody accepts are accepted later"
FULL = "A stream that nobody reads makes its sender wait, and holds up no other"
ABORT_ONE = "`abort\\(\\)` of a stream breaks both of its ends and touches no other"
HALF_CLOSE = "A peer that merely ended its side of a stream has not closed it"
REQUEST = "`request_close\\(\\)` of a connection asks its streams, too, and those that"
ROOM = "`open_stream\\(\\)` waits while the peer allows no more, and goes on"
ABORT_ALL = "`abort\\(\\)` of a connection ends all of its streams, on both sides"


@pytest.mark.parametrize(
    ("connection_class", "told"),
    [
        pytest.param(faulty, told, id=faulty.__name__)
        for faulty, told in (
            (CarriesBytes, f"{NO_BYTES}.*hangs"),
            (NamesStreamsAfterNobody, f"{SOUND}.*should not be a stream of"),
            (GivesStreamsAContextOfTheirOwn, f"{SOUND}.*`context` should be the connection's"),
            (AcceptsDeadStreams, f"{SOUND}.*`closed` should not be set on a new stream"),
            (AcceptsItself, f"{SOUND}.*should have an id of its own"),
            (KeepsOnlyTheNewestStream, f"{QUEUED}.*hangs"),
            (MixesStreamsUp, ".*lets live connections go on: it hangs"),
            (LosesWhatArrivesAtACancellation, "An `accept_stream\\(\\)` that was cancelled"),
            (SendsOnOneStreamAtATime, f"{FULL}.*hangs"),
            (CannotHalfClose, "Many clients at once get their own bytes back"),
            (ClosesHalfClosedStreams, f"{HALF_CLOSE}.*should not be set by a half-close"),
            (EndsWithItsFirstStream, "Many streams at once.*the peer is gone"),
            (HasStreamsThatAbortAlone, f"{ABORT_ONE}.*hangs"),
            (HasStreamsThatForgetWhy, f"{ABORT_ONE}.*should be what abort\\(\\) was given"),
            (HasStreamsThatCloseWithoutFlushing, "Many streams at once.*the peer is gone"),
            (KeepsCloseRequestsToItself, f"{REQUEST}.*should be set"),
            (PassesCloseRequestsOnOnce, f"{REQUEST}.*should be set"),
            (RefusesOneStreamTooMany, f"{ROOM}.*too many streams"),
            (CountsStreamsForEver, f"{ROOM}.*one more should be opened, not 0"),
            (OpensThoughCancelled, f"{ROOM}"),
            (WaitsForRoomForEver, "An `open_stream\\(\\)` that waits raises.*hangs"),
            (AcceptsForEver, ".*hangs"),
            (EndsAcceptingOtherwise, ".*should raise EndOfChannel, not ClosedResourceError"),
            (EndsOpeningOtherwise, ".*should raise BrokenResourceError, not ClosedResourceError"),
            (AbortsNothing, "An `open_stream\\(\\)` that waits raises.*hangs"),
            (LetsTheLastReasonWin, f"{ABORT_ALL}.*the first reason should win"),
            (ClosesNothing, "Many clients at once get .*hangs"),
            (ClosesOnlyWhatWasAccepted, ".*that the peer opened and nobody accepted: it hangs"),
            (ClosesOnlyWhenNotCancelled, "`aclose\\(\\)` of a connection that is cancelled"),
        )
    ],
)
async def test_a_fault_is_found_and_named(
    connection_class: type[Wrapping], told: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(AssertionError, match=f"^(?:{told})"):
        await check_multiplexed_transport(WrappingTransport(connection_class), ENDPOINT)


async def test_streams_that_never_fill_are_found(autojump_clock: MockClock) -> None:
    endless = f"{ENDPOINT}&pause_at_bytes=1000000000"
    with pytest.raises(AssertionError, match=f"^{FULL} stream: .*flush\\(\\) should wait"):
        await check_multiplexed_transport(WrappingTransport(Wrapping), endless)


class CallsItselfPlain(WrappingTransport):
    multiplexed = False


class ConnectsPlainly(WrappingTransport):
    def wrap(self, connection: Connection) -> Connection:
        return Connection(connection.transport, connection.context)


async def test_a_transport_says_what_its_connections_are(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match=r"^`multiplexed` is true where"):
        await check_multiplexed_transport(CallsItselfPlain(Wrapping), ENDPOINT)
    with pytest.raises(AssertionError, match=r"^What was bound can be .* be a Multiplexed"):
        await check_multiplexed_transport(ConnectsPlainly(Wrapping), ENDPOINT)


class CallsItselfMultiplexed(MemoryTransport):
    multiplexed = True


async def test_a_plain_transport_does_too(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="where `multiplexed` is True there should be no"):
        await check_transport(CallsItselfMultiplexed(), "memory://name")
