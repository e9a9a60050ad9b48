"""A tap: what is told, in the log and in the capture, of one connection while it is switched on."""

import logging

from kestrel_middleware.wiretap.capture_file import CapturedStream
from kestrel_middleware.wiretap.hex_dump import hex_dump
from kestrel_middleware.wiretap.pcapng import PacketDirection

__all__ = ["Tap"]

_log = logging.getLogger("kestrel.wiretap")

_INBOUND, _OUTBOUND = PacketDirection.INBOUND, PacketDirection.OUTBOUND


class Tap:
    """Hears what happens on one connection, until it is closed.

    `name` is what the log calls the connection. `max_bytes` is how much of each event the log
    shows, or None for no log. Of several ends of the connection the first counts.
    """

    __slots__ = (
        "_concluded",
        "_connection_id",
        "_ended",
        "_max_bytes",
        "_name",
        "_offsets",
        "_stream",
    )

    def __init__(
        self, connection_id: str, name: str, max_bytes: int | None, stream: CapturedStream | None
    ) -> None:
        self._connection_id = connection_id
        self._name = name
        self._max_bytes = max_bytes
        self._stream = stream
        self._offsets = {_INBOUND: 0, _OUTBOUND: 0}
        self._ended: set[PacketDirection] = set()
        self._concluded = False

    def note(self, what: str) -> None:
        """Log `what` happened."""
        if self._max_bytes is not None:
            _log.info("%s: %s", self._name, what, extra={"connection_id": self._connection_id})

    def data(self, direction: PacketDirection, data: bytes | memoryview) -> None:
        """Hear of bytes; a view is good until this returns."""
        offset = self._offsets[direction]
        self._offsets[direction] = offset + len(data)
        if self._max_bytes is not None and _log.isEnabledFor(logging.INFO):
            done = "received" if direction is _INBOUND else "sent"
            self.note(f"{done} {len(data)} bytes at {offset}{self._dump(data, offset)}")
        if self._stream is not None:
            self._stream.data(direction, data)

    def end(self, direction: PacketDirection) -> None:
        """Hear that nothing more comes in `direction`."""
        self._ended.add(direction)
        done = "received" if direction is _INBOUND else "sent"
        self.note(f"{done} the end, after {self._offsets[direction]} bytes")
        if self._stream is not None:
            self._stream.end(direction)

    def finish(self) -> None:
        """Hear that our side closed the connection."""
        if self._conclude("closed") and self._stream is not None and _OUTBOUND not in self._ended:
            self._stream.end(_OUTBOUND)

    def abort(self, why: str) -> None:
        """Hear that our side broke the connection off."""
        if self._conclude(f"aborted ({why})") and self._stream is not None:
            self._stream.reset(_OUTBOUND, why)

    def reset(self) -> None:
        """Hear that the peer broke the connection off."""
        if self._conclude("the peer is gone") and self._stream is not None:
            self._stream.reset(_INBOUND)

    def switch_off(self) -> None:
        """Hear that the rest will not be heard."""
        self._conclude("switched off")

    def close(self) -> None:
        """Let go of the capture file."""
        if self._stream is not None:
            self._stream.close()

    def _conclude(self, what: str) -> bool:
        """Log how it ends; tell whether that was not known yet."""
        if self._concluded:
            return False
        self._concluded = True
        received, sent = self._offsets[_INBOUND], self._offsets[_OUTBOUND]
        self.note(f"{what}; received {received} bytes, sent {sent}")
        return True

    def _dump(self, data: bytes | memoryview, offset: int) -> str:
        """Return the lines that show `data`, as many as may be, each behind a line end."""
        shown = bytes(data[: self._max_bytes])
        lines = f"\n{hex_dump(shown, offset)}" if shown else ""
        left_out = len(data) - len(shown)
        return f"{lines}\n... and {left_out} bytes more" if left_out else lines
