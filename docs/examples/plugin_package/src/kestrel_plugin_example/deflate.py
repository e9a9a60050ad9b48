"""Compression of everything on a connection, in both directions: zlib streams (RFC 1950).

Each flush ends with all that was written so far in the peer's hands. Both ends are alike, so the
same middleware serves a client. A stream that stops without its end and its checksum was cut, or
changed, and is an error to whoever reads.

What is inflated at once is bounded, however much a few bytes stand for: the rest waits, compressed,
until the reader has asked for more.
"""

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress

import attrs
import trio

from kestrel_core import (
    ConfigurationError,
    Connection,
    ConnectionHandler,
    DuplexPipe,
    EndReason,
    Layer,
    LayeredPipe,
    LayerReader,
    LayerWriter,
    Middleware,
    PipeReader,
    PipeWriter,
    serve_over,
)

__all__ = ["Deflate", "DeflatePipe"]


@attrs.frozen(kw_only=True, eq=False)
class Deflate(Layer):
    """Compresses what is sent and inflates what is received, as the peer has to do, too.

    Whoever can see how long messages are, and put text of his own beside a secret in them, can find
    that out (CRIME): not for such connections.
    """

    name = "deflate"

    level: int = attrs.field(default=6, validator=[attrs.validators.ge(1), attrs.validators.le(9)])
    """How hard to compress, from 1, the fastest, to 9 (zlib's default: 6)."""

    max_inflated_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(1))
    """How much is inflated at once, at most."""

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        if any(isinstance(each, Layer) and each.name == "tls" for each in inner):
            raise ConfigurationError(
                "deflate outside of tls would get what is encrypted, which cannot be compressed;"
                " put it behind tls"
            )

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        pipe = DeflatePipe(
            connection.transport, self.level, self.max_inflated_bytes, connection.abort
        )
        await serve_over(pipe, connection, following)


class _Inflating(LayerReader):
    def __init__(
        self, inner: PipeReader, most_bytes: int, abort: Callable[[EndReason], None]
    ) -> None:
        super().__init__(inner)
        self._most_bytes = most_bytes
        self._abort = abort
        self._stream = zlib.decompressobj()
        self._has_begun = False

    def arrived(self, data: bytes) -> bytes:
        if data:
            self._has_begun = True
            return self._inflate(data)
        if self._has_begun:  # and so not ended: the pipe would not have been asked for more
            self._abort(EndReason.UNEXPECTED_END_OF_INPUT)
            raise trio.BrokenResourceError("the peer went away in the middle of a zlib stream")
        return b""

    def _release(self) -> bytes:
        return self._inflate(self._stream.unconsumed_tail)

    def _inflate(self, data: bytes) -> bytes:
        try:
            shown = self._stream.decompress(data, self._most_bytes)
            if self._stream.unused_data:
                raise zlib.error("it goes on behind its end")
        except zlib.error as error:
            self._abort(EndReason.INVALID_INPUT)
            raise trio.BrokenResourceError(f"what came is no zlib stream: {error}") from error
        self._at_eof = self._stream.eof
        # A full measure may leave a part of what is consumed already, too.
        self._holds = not self._at_eof and len(shown) == self._most_bytes
        return shown


class _Deflating(LayerWriter):
    def __init__(self, inner: PipeWriter, level: int) -> None:
        super().__init__(inner)
        self._stream = zlib.compressobj(level)
        self._can_end = True  # not yet ended, nor cut in the middle

    async def _transmit(self, data: bytes | memoryview) -> None:
        compressed = self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        self._can_end = False
        await self.inner.send(compressed)
        self._can_end = True

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return 0  # what is compressed cannot be taken back: it waits for a flush

    async def _transmit_eof(self) -> None:
        await self.end_stream()
        await self.inner.send_eof()

    async def end_stream(self) -> None:
        """Send the end of the zlib stream, unless that was done or is in vain."""
        if self._can_end:
            self._can_end = False
            await self.inner.send(self._stream.flush(zlib.Z_FINISH))


class DeflatePipe(LayeredPipe):
    """A pipe of compressed bytes over `inner`; `abort` is called if what comes is none, or is cut."""

    def __init__(
        self,
        inner: DuplexPipe,
        level: int,
        max_inflated_bytes: int,
        abort: Callable[[EndReason], None],
    ) -> None:
        reader = _Inflating(inner.input, max_inflated_bytes, abort)
        self._deflating = _Deflating(inner.output, level)
        super().__init__(inner, reader, self._deflating)

    async def finish(self) -> None:
        await super().finish()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self._deflating.end_stream()
