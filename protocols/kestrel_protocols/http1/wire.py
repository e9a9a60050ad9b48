"""A connection's bytes as HTTP/1 sees them: read and not yet used, and whether there is a next."""

import errno
import math
from collections.abc import Callable
from enum import Enum, auto

import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.file_blocks import FileBlocks
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_protocols.http.exchange import TooManyUpgrades
from kestrel_protocols.http.scheme import scheme_of
from kestrel_protocols.http1.pace import Pace

__all__ = ["Phase", "Wire"]


# What a kernel says that cannot send this file, or not to such a socket, though it can be read.
_NOT_BY_THE_KERNEL = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSOCK})

# The most that is sent before patience is asked again; a regular piece takes no such time.
_MOST_FILE_BYTES = 1024 * 1024


class Phase(Enum):
    """What a connection waits for, as far as its deadline is concerned."""

    IDLE = auto()
    HEAD = auto()
    EXCHANGE = auto()
    DRAIN = auto()
    LAST_FLUSH = auto()
    IDLE_EXPIRED = auto()
    HEAD_EXPIRED = auto()
    DRAIN_EXPIRED = auto()
    LINGERED = auto()


# The phases in which the deadline ends a wait, and those that say that it did.
_EXPIRED = {
    Phase.IDLE: Phase.IDLE_EXPIRED,
    Phase.HEAD: Phase.HEAD_EXPIRED,
    Phase.DRAIN: Phase.DRAIN_EXPIRED,
    Phase.LINGERED: Phase.LINGERED,
}


class Wire:
    """What the loop over requests and the exchange of the moment share."""

    __slots__ = (
        "added_bytes",
        "arrived_at",
        "connection",
        "data",
        "driving",
        "keep_alive",
        "pace",
        "phase",
        "pieces_in_a_row",
        "position",
        "reader",
        "request_scope",
        "retires_at",
        "scheme",
        "stamp",
        "told_gone",
        "torn",
        "upgraded",
        "writer",
    )

    def __init__(self, connection: Connection, stamp: Callable[[], bytes]) -> None:
        self.connection: Connection = connection
        self.stamp: Callable[[], bytes] = stamp
        """Returns the lines that every response has."""
        self.reader: PipeReader = connection.transport.input
        self.writer: PipeWriter = connection.transport.output
        self.scheme: str = scheme_of(connection)
        self.data: bytes = b""
        """What the reader held when it was last asked; used up to `position`."""
        self.added_bytes: int = 0
        """By how much the first head of `data` grew when its line ends were rewritten."""
        self.arrived_at: float = 0.0
        """When that was read, in `trio.current_time()`'s seconds."""
        self.position: int = 0
        self.keep_alive: bool = True
        """Whether another request may follow the current one."""
        self.driving: bool = False
        """Whether the application runs and has not waited for anything yet."""
        self.told_gone: bool = False
        """Whether an application was told that the client is gone."""
        self.torn: bool = False
        """Whether a send was cancelled in the middle, so that nothing sensible can follow it."""
        self.pieces_in_a_row: int = 0
        """How many pieces of a body were sent since the application last waited for anything."""
        self.upgraded: bool = False
        """Whether the bytes are the application's now."""
        self.phase: Phase = Phase.IDLE
        self.pace: Pace | None = None
        """The exchange's minimum rates, once it has waited for the client."""
        self.request_scope: trio.CancelScope | None = None
        """Around the application's call, where its time is limited."""
        self.retires_at: float = math.inf
        """From when on no further request is served."""

    @property
    def exchange_pace(self) -> Pace:
        """The minimum rates of the exchange that is under way."""
        if self.pace is None:
            self.pace = Pace(self.connection)
        return self.pace

    def on_deadline(self) -> None:
        """Do what the phase asks for when its time is up."""
        if self.phase is Phase.LAST_FLUSH:
            self.connection.abort(EndReason.REQUEST_BODY_DRAIN_TIMEOUT)
        elif self.phase is not Phase.EXCHANGE:
            self.phase = _EXPIRED[self.phase]
            self.reader.cancel_pending_read()
        else:  # maybe the time to keep alive, which the hot path does not clear
            if self.pace is not None:
                self.pace.check()
            self.watch_age()

    def on_close_requested(self) -> None:
        """Let this request be the last, and do not wait for one."""
        self.keep_alive = False
        if self.phase is Phase.IDLE:
            self.reader.cancel_pending_read()

    def watch_age(self) -> None:
        """Let this request be the last if `retires_at` has come, else be told when it comes."""
        deadline = self.connection.deadline
        if self.retires_at <= deadline.now():
            self.connection.record_end(EndReason.MAX_CONNECTION_AGE_REACHED)
            self.keep_alive = False
        elif self.retires_at < deadline.expires_at:
            deadline.set(self.retires_at)

    def consume(self) -> None:
        """Tell the reader what was used; from then on the reader itself has what is left."""
        if self.position:
            self.reader.advance(max(0, self.position - self.added_bytes))
            self.position = 0
        self.added_bytes = 0
        self.data = b""

    async def look(self) -> None:
        """Take what is at hand, even in a cancelled scope.

        Frameworks ask inside a scope that they have cancelled whether there is something; a read
        would raise there, and would be right to.
        """
        reader = self.reader
        if not reader.buffered:
            reader.look()
            if reader.buffered:
                await trio.lowlevel.cancel_shielded_checkpoint()  # others want a turn, too

    def before_waiting(self) -> None:
        """Send what is written, as far as it goes: the application is about to wait."""
        self.driving = False
        self.pieces_in_a_row = 0
        if self.writer.unflushed_bytes:
            self.writer.flush_nowait()

    def begin_upgrade(self) -> None:
        """Let the application have the bytes that follow this request.

        Raises:
            TooManyUpgrades: as many connections are upgraded as may be.
        """
        if not self.connection.context.claim_upgrade():
            raise TooManyUpgrades("the server has no room for another upgraded connection")
        self.upgraded = True
        self.keep_alive = False
        self.retires_at = math.inf
        self.consume()
        if self.request_scope is not None:
            self.request_scope.deadline = math.inf

    async def flush(self) -> None:
        """Send what is written; a client that is too slow in taking it is cut off.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        writer = self.writer
        writer.flush_nowait()
        if not writer.unflushed_bytes:
            await writer.flush()  # which tells if the client turned out to be gone
            return
        pace = self.exchange_pace
        pace.begin_response()
        try:
            await writer.flush()
        finally:
            pace.end_response()

    async def send_file(self, file: int, offset: int, count: int) -> int:
        """Send what is written and `count` bytes of a file; return how many of those there were.

        Raises:
            trio.BrokenResourceError: the client is gone.
            OSError: the file cannot be read.
        """
        writer = self.writer
        await self.flush()
        sent = 0
        if writer.sends_files:
            pace = self.exchange_pace
            try:
                while sent < count:
                    most = min(count - sent, _MOST_FILE_BYTES)
                    pace.begin_response(most)
                    try:
                        just_sent = await writer.send_file(file, offset + sent, most)
                    finally:
                        pace.end_response()
                    sent += just_sent
                    if not just_sent:
                        return sent
                    await trio.lowlevel.checkpoint()
            except OSError as error:
                if error.errno not in _NOT_BY_THE_KERNEL:
                    raise
            else:
                return sent
        memory_pool = self.connection.memory_pool
        with FileBlocks(file, offset + sent, count - sent, memory_pool) as blocks:
            while block := await blocks.read():
                # Nothing is left to flush; but if another task were flushing, it would get the block.
                await writer.flush()
                writer.write(block)
                await self.flush()
                sent += len(block)
        return sent
