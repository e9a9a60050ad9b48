"""A pipe that lets bytes pass as they are, and tells a tap of them while there is one."""

import trio

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_middleware.wiretap.pcapng import PacketDirection
from kestrel_middleware.wiretap.tap import Tap

__all__ = ["TappedPipe"]

_INBOUND, _OUTBOUND = PacketDirection.INBOUND, PacketDirection.OUTBOUND

# Recorded, or nothing is, where a transport found that the peer is gone.
_PEERS_DOING = {None, EndReason.CONNECTION_RESET, EndReason.PEER_CLOSED}


class _TappedReader(LayerReader):
    __slots__ = ("tap",)

    def __init__(self, inner: PipeReader) -> None:
        super().__init__(inner)
        self.tap: Tap | None = None
        self._looks = False

    def switch(self, tap: Tap | None) -> None:
        """Let `tap`, or nobody, hear what arrives."""
        self.tap = tap
        self._looks = tap is not None

    def arrived(self, data: bytes) -> bytes:
        tap = self.tap
        if tap is not None:
            if data:
                tap.data(_INBOUND, data)
            else:
                tap.end(_INBOUND)
        return data


class _TappedWriter(LayerWriter):
    __slots__ = ("tap",)

    def __init__(self, inner: PipeWriter) -> None:
        super().__init__(inner)
        self.tap: Tap | None = None
        self._looks = False

    def switch(self, tap: Tap | None) -> None:
        """Let `tap`, or nobody, hear what leaves."""
        self.tap = tap
        self._looks = tap is not None

    @property
    def is_broken(self) -> bool:
        """Whether a write or a flush found that the peer is gone."""
        return self._broken and not self._closed

    def leaving(self, data: bytes | memoryview) -> None:
        tap = self.tap
        if tap is not None:
            tap.data(_OUTBOUND, data)

    async def _transmit_eof(self) -> None:
        await super()._transmit_eof()
        if self.tap is not None:
            self.tap.end(_OUTBOUND)


class TappedPipe(LayeredPipe):
    """The bytes of `inner`, heard by `tap` while there is one."""

    __slots__ = ("_tapped_reader", "_tapped_writer", "tap")

    def __init__(self, inner: DuplexPipe) -> None:
        self._tapped_reader = _TappedReader(inner.input)
        self._tapped_writer = _TappedWriter(inner.output)
        super().__init__(inner, self._tapped_reader, self._tapped_writer)
        self.tap: Tap | None = None
        """Who hears; to be changed by `switch`."""

    def switch(self, tap: Tap | None) -> None:
        """Let `tap`, or nobody, hear what happens from now on."""
        self.tap = tap
        self._tapped_reader.switch(tap)
        self._tapped_writer.switch(tap)

    async def aclose(self) -> None:
        """Flush, and close the pipe below."""
        try:
            await super().aclose()
        finally:
            if self.tap is not None:
                self.tap.finish()

    def abort(self) -> None:
        """Abort the pipe below."""
        super().abort()
        if self.tap is not None:
            self.tap.abort("by what follows")

    def end(self, connection: Connection, error: BaseException | None) -> None:
        """Tell the tap how it ended when what follows returned, or raised `error`.

        The server closes and aborts the pipe that the transport made, below all layers, so that
        this has to be concluded from what is known.
        """
        tap, reason = self.tap, connection.end_reason
        if tap is None:
            return
        if error is None and not self._broke_off(connection):
            tap.finish()
        elif reason in _PEERS_DOING and (error is None or _is_peer_gone(error)):
            tap.reset()
        else:
            tap.abort(reason.value if reason is not None else type(error).__name__)

    def _broke_off(self, connection: Connection) -> bool:
        """Tell whether the pipe below was closed or broken before everything was said."""
        if self._tapped_writer.is_broken:
            return True
        return connection.closed.is_set and not self._tapped_reader.at_eof


def _is_peer_gone(error: BaseException) -> bool:
    match error:
        case BaseExceptionGroup(exceptions=parts):
            return all(_is_peer_gone(part) for part in parts)
        case _:
            return isinstance(error, trio.BrokenResourceError)
