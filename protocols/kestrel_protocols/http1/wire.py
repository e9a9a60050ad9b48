"""A connection's bytes as HTTP/1 sees them: read and not yet used, and whether there is a next."""

import trio

from kestrel_core.connection import Connection
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter

__all__ = ["Wire"]


class Wire:
    """What the loop over requests and the exchange of the moment share."""

    __slots__ = (
        "arrived_at",
        "connection",
        "data",
        "driving",
        "keep_alive",
        "position",
        "reader",
        "told_gone",
        "torn",
        "writer",
    )

    def __init__(self, connection: Connection) -> None:
        self.connection: Connection = connection
        self.reader: PipeReader = connection.transport.input
        self.writer: PipeWriter = connection.transport.output
        self.data: bytes = b""
        """What the reader held when it was last asked; used up to `position`."""
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

    def consume(self) -> None:
        """Tell the reader what was used; from then on the reader itself has what is left."""
        if self.position:
            self.reader.advance(self.position)
            self.position = 0
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
        if self.writer.unflushed_bytes:
            self.writer.flush_nowait()
