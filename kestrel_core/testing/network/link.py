"""One direction of a connection on the simulated network, while it lasts.

Theory of operation. Two tasks carry the bytes from `source` to `sink`. *Departing*: `depart` looks
at what the sender has in its buffer, waits for company if it should (coalescing), waits until the
line is free (bandwidth, stalls) and until less than a window is on its way (back-pressure), and only
then takes one segment. When that has left the line its time of arrival is known: latency and jitter
later, and never before its predecessor's. *Arriving*: `arrive` sleeps until that time, gives the
segment to the receiver, waits while the receiver has no room, and only then is it no longer on its
way. Everything is decided by arithmetic on times, so that under an autojump clock it is exact.

How a direction ends:

    the sender ends its output   an end departs behind the bytes; when it arrives the receiver's
                                 input ends, and `on_end` is called
    `eof_after_bytes` departed   the same; whatever departs from then on is lost
    the sender breaks            a reset departs behind the bytes that have departed; what the
                                 sender still held is lost. When it arrives, `on_reset` is called,
                                 although earlier bytes may be waiting for a receiver without room
    the receiver is gone         found out when bytes arrive; a reset departs in the `opposite`
                                 direction, and `on_reset` is called when it arrives there
    a `Cut` counts its last byte  it does what it was made for, a microsecond later

A sender that has ended its output can still break, so `depart` watches it until the connection is
over. `on_reset`, and each cut, breaks both ends and cancels these tasks; see `carrier`. An arrival at infinity,
after an endless stall, never comes: then nobody learns of anything.
"""

import math
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.signals import Signal
from kestrel_core.testing.network.conditions import Direction

__all__ = ["Cut", "Link"]

# What comes apart arrives at least so far apart: on an autojump clock any time is enough for
# everybody to do what there is to do.
_APART_SECONDS = 1e-6

# What pipes raise when the peer is gone, or when our own side, such as the multiplexed connection
# that a stream belongs to, was closed.
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

# What a TCP segment holds where a packet holds 1500 bytes, as on Ethernet.
_ETHERNET_SEGMENT_BYTES = 1460


class Cut:
    """A number of bytes whose arrival ends a connection; several links may count together."""

    def __init__(self, after_bytes: int, on_reached: Callable[[], None]) -> None:
        self.left_bytes: int = after_bytes
        """How many may still arrive."""
        self.on_reached: Callable[[], None] = on_reached
        """Called when that many have arrived, and the receiver had time to read them."""


@attrs.frozen
class _Flying:
    """A segment, or the end if it is empty, on its way."""

    arrives_at: float
    data: bytes


class Link:
    """Carries bytes from `source` to `sink` under `conditions`; see the head of this file.

    `source_gone` is set when the sender is gone for good, `note` hears of events.
    """

    def __init__(
        self,
        conditions: Direction,
        dice: random.Random,
        *,
        source: PipeReader,
        source_gone: Signal,
        sink: PipeWriter,
        cuts: Sequence[Cut],
        note: Callable[[str], None],
        on_end: Callable[[], None],
        on_reset: Callable[[], None],
    ) -> None:
        self.opposite: Link = self
        """The other direction of the same connection, which whoever makes both has to set."""
        self.waits_for_room: bool = False
        """Whether bytes have arrived that the receiver does not take. Read only."""
        self._conditions = conditions
        self._dice = dice
        self._source = source
        self._source_gone = source_gone
        self._sink = sink
        self._cuts = cuts
        self._note = note
        self._on_end = on_end
        self._on_reset = on_reset

        self._stalls = deque(conditions.stalls)
        self._segments = conditions.segment_bytes
        if self._segments is None and conditions.bytes_per_second is not None:
            self._segments = (_ETHERNET_SEGMENT_BYTES, _ETHERNET_SEGMENT_BYTES)
        self._apart_seconds = 0.0 if conditions.segment_bytes is None else _APART_SECONDS

        self._departed_bytes = 0
        self._line_free_at = -math.inf
        self._last_arrival_at = -math.inf
        self._cut_off = False
        self._flying: deque[_Flying] = deque()
        self._flying_bytes = 0
        self._departed = trio.lowlevel.ParkingLot()
        self._arrived = trio.lowlevel.ParkingLot()

    # Departing ----------------------------------------------------------------------------------

    async def depart(self) -> None:
        """Send on their way all bytes, and how they end."""
        self._source_gone.listen(self._look_again)
        try:
            self._reach_marks()
            await self._depart_bytes()
            if not self._cut_off:
                self._take_off(b"", self._arrival_of_an_end())
            await self._source_gone.wait()
            await self._source.read()  # raises if it broke, though it had ended before
        except _GONE:
            await self.carry_reset("reset")
        finally:
            self._source_gone.unlisten(self._look_again)

    async def carry_reset(self, text: str) -> None:
        """Break the connection when a reset that departs now, or as soon as it can, has arrived."""
        await trio.sleep_until(self._arrival_of_an_end(_APART_SECONDS))
        self._note(text)
        self._on_reset()

    async def _depart_bytes(self) -> None:
        source = self._source
        while await source.read():
            if self._conditions.coalesce_seconds:
                await trio.sleep(self._conditions.coalesce_seconds)
                source.look()
            while source.buffered:
                if self._line_free_at > trio.current_time():
                    await trio.sleep_until(self._line_free_at)
                most_bytes = min(await self._room_bytes(), self._bytes_to_next_mark())
                if self._segments is not None:
                    most_bytes = min(most_bytes, self._dice.randint(*self._segments))
                await self._depart_segment(await source.receive(most_bytes))

    async def _room_bytes(self) -> int:
        """Wait until the window has room, and return how much."""
        while self._flying_bytes >= self._conditions.window_bytes:
            await self._arrived.park()
            self._source.look()  # raises if the sender broke meanwhile
        return self._conditions.window_bytes - self._flying_bytes

    def _look_again(self) -> None:
        self._arrived.unpark_all()

    async def _depart_segment(self, data: bytes) -> None:
        self._flying_bytes += len(data)
        departs_at = trio.current_time()
        if self._conditions.bytes_per_second is not None:
            departs_at += len(data) / self._conditions.bytes_per_second
            self._line_free_at = departs_at
            await trio.sleep_until(departs_at)
        self._departed_bytes += len(data)
        if self._cut_off:
            self._flying_bytes -= len(data)
            await trio.lowlevel.checkpoint()
        else:
            self._take_off(data, self._arrival(departs_at, self._apart_seconds))
        self._reach_marks()

    def _take_off(self, data: bytes, arrives_at: float) -> None:
        self._flying.append(_Flying(arrives_at, data))
        self._departed.unpark()

    def _arrival(self, departs_at: float, apart_seconds: float) -> float:
        delay_seconds = self._conditions.latency_seconds
        if self._conditions.jitter_seconds:
            delay_seconds += self._dice.uniform(0, self._conditions.jitter_seconds)
        arrives_at = max(departs_at + delay_seconds, self._last_arrival_at + apart_seconds)
        self._last_arrival_at = arrives_at
        return arrives_at

    def _arrival_of_an_end(self, apart_seconds: float = 0.0) -> float:
        return self._arrival(max(trio.current_time(), self._line_free_at), apart_seconds)

    # Marks: bytes at which something happens ----------------------------------------------------

    def _bytes_to_next_mark(self) -> int:
        marks = [sys.maxsize, *(stall.after_bytes for stall in self._stalls)]
        if self._conditions.eof_after_bytes is not None and not self._cut_off:
            marks.append(self._conditions.eof_after_bytes)
        return min(marks) - self._departed_bytes

    def _reach_marks(self) -> None:
        """Do what happens when just so many bytes have departed."""
        departed_bytes = self._departed_bytes
        while self._stalls and self._stalls[0].after_bytes == departed_bytes:
            seconds = self._stalls.popleft().seconds
            self._line_free_at = max(trio.current_time(), self._line_free_at) + seconds
            duration = f"for {seconds:g} s" if seconds < math.inf else "for ever"
            self._note(f"stalled {duration} after {departed_bytes} bytes")
        if self._conditions.eof_after_bytes == departed_bytes and not self._cut_off:
            self._cut_off = True
            self._note(f"cut off after {departed_bytes} bytes")
            self._take_off(b"", self._arrival_of_an_end())

    # Arriving -----------------------------------------------------------------------------------

    async def arrive(self) -> None:
        """Give the receiver what has arrived, and how it ends."""
        for cut in self._cuts:
            if not cut.left_bytes:
                await trio.sleep_until(self._arrival_of_an_end(_APART_SECONDS))
                cut.on_reached()
        while True:
            while not self._flying:
                await self._departed.park()
            flying = self._flying.popleft()
            if flying.arrives_at > trio.current_time():
                await trio.sleep_until(flying.arrives_at)
            if not flying.data:
                break
            try:
                await self._arrive_segment(flying.data)
            except _GONE:
                await self.opposite.carry_reset("reset, as bytes came that nobody receives")
                return
        try:
            await self._sink.send_eof()
        except _GONE:
            self._note("end, which nobody receives")
        else:
            self._note("end")
        self._on_end()

    async def _arrive_segment(self, data: bytes) -> None:
        allowed_bytes = min([len(data), *(cut.left_bytes for cut in self._cuts)])
        if not allowed_bytes:  # another link counted the last byte, and is about to reset
            await trio.sleep_forever()
        for cut in self._cuts:
            cut.left_bytes -= allowed_bytes
        reached = [cut for cut in self._cuts if not cut.left_bytes]
        self.waits_for_room = True
        await self._sink.send(data[:allowed_bytes])
        self.waits_for_room = False
        if reached:
            await trio.sleep(_APART_SECONDS)
            reached[0].on_reached()
        self._flying_bytes -= len(data)
        self._arrived.unpark()
