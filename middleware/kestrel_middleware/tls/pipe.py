"""TLS as a pipe over a pipe.

Theory of operation. OpenSSL works between two buffers in memory (`ssl.MemoryBIO`): `incoming` is
filled with what the pipe below brings, `outgoing` is emptied into the pipe below. There is no task
and no stream in between. Whatever is read below is decrypted at once and to the end, so `incoming`
is empty, or holds a part of a record, whenever somebody else looks; asking OpenSSL for more than it
has would raise an exception, which costs more than decrypting a small request, so it is asked only
as long as `incoming` holds something.

What is encrypted can not be taken back. So what the pipe below does not take at once stays there,
unflushed; and this pipe's `unflushed_bytes` count that, too, so that nobody believes it sent.

Reading may make OpenSSL want to write: an alert, or the answer to a key update. That is handed down
at once, between two flushes or even in one, which is sound because the pipe below keeps the order.

The end. `send_eof` sends close_notify, which ends our direction alone (RFC 8446, 6.1). The peer's
close_notify is the end of the input. An input that ends without one may have been cut short by
anybody on the way, and is `trio.BrokenResourceError`.
"""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.end_reason import EndReason
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter

__all__ = ["TlsPipe"]

# The most plaintext that one record carries (RFC 8446, 5.1).
_RECORD_BYTES = 16 * 1024

# How much is encrypted before the layer below is asked to take it, so that a large write does not
# lie in memory twice. Four records: a socket takes as much at a time.
_SLICE_BYTES = 4 * _RECORD_BYTES


class TlsPipe(LayeredPipe):
    """TLS over `inner`; `do_handshake` comes before everything else.

    `record_end` hears why TLS ended if it did not end well.

    Raises:
        ValueError: `server_name` is no host name.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls_reader", "_tls_writer", "session")

    def __init__(
        self,
        inner: DuplexPipe,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        resume: ssl.SSLSession | None = None,
        record_end: Callable[[EndReason], None] | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.session: ssl.SSLObject = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_name,
            session=resume,
        )
        """OpenSSL's view of the connection; to look at, not to read or write through."""
        self._tls_writer = _TlsWriter(inner.output, self.session, self._outgoing)
        self._tls_reader = _TlsReader(
            inner.input, self.session, self._incoming, self._tls_writer, record_end or _ignore
        )
        super().__init__(inner, self._tls_reader, self._tls_writer)

    async def do_handshake(self) -> None:
        """Agree with the peer; what is left to send afterwards goes out with the first flush.

        Raises:
            ssl.SSLError: it failed. The alert that tells the peer so has been sent, if there is one
                and the layer below took it without waiting.
            trio.BrokenResourceError: the peer is gone.
        """
        session, incoming, writer = self.session, self._incoming, self._tls_writer
        below = self.inner.input
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                writer.push()
                await writer.flush()
            except ssl.SSLError:
                writer.push()
                raise
            else:
                writer.push()
                self._tls_reader.prime()
                return
            data = await below.read()
            if data:
                below.advance(len(data))
                incoming.write(data)
            elif below.at_eof:
                incoming.write_eof()

    async def finish(self) -> None:
        """Flush and send close_notify, where that still makes sense.

        For a middleware, which restores the pipe below and leaves closing it to others. That the
        peer is gone, or the pipe is closed, is no error here.
        """
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self._tls_writer.finish()

    async def _finish(self) -> None:
        await self.finish()


def _ignore(reason: EndReason) -> None:
    pass


class _TlsReader(LayerReader):
    __slots__ = ("_failure", "_incoming", "_record_end", "_session", "_writer")

    def __init__(
        self,
        inner: PipeReader,
        session: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        writer: "_TlsWriter",
        record_end: Callable[[EndReason], None],
    ) -> None:
        super().__init__(inner)
        self._session = session
        self._incoming = incoming
        self._writer = writer
        self._record_end = record_end
        self._failure: trio.BrokenResourceError | None = None

    def prime(self) -> None:
        """Show what came along with the end of the handshake."""
        if self._incoming.pending:
            self._buffer = self._decrypt()

    def arrived(self, data: bytes) -> bytes:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return self._decrypt()

    def _fetch(self) -> Awaitable[None]:
        if self._failure is not None:
            raise self._failure
        inner = self.inner
        if inner._buffer or inner._at_eof:
            return super()._fetch()
        return self

    def _decrypt(self) -> bytes:
        """Return all that can be decrypted now.

        Raises:
            trio.BrokenResourceError: there is nothing, and never will be.
        """
        read, incoming, outgoing = self._session.read, self._incoming, self._writer.outgoing
        parts: list[bytes] = []
        try:
            # All of the first record is shown at once: nearly always it is the only one.
            plain = read(_RECORD_BYTES)
            while plain:
                if not parts and not incoming.pending and not incoming.eof:
                    return plain
                parts.append(plain)
                plain = read(_RECORD_BYTES)
            self._at_eof = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # what b"" becomes after we have sent our own close_notify
            self._at_eof = True
        except ssl.SSLError as error:
            self._failure = self._explain(error)
            if not parts:
                raise self._failure from error
        finally:
            if outgoing.pending:
                self._writer.push()
        return b"".join(parts)

    def _explain(self, error: ssl.SSLError) -> trio.BrokenResourceError:
        if isinstance(error, ssl.SSLEOFError):
            self._record_end(EndReason.TLS_TRUNCATED)
            return trio.BrokenResourceError(
                "the peer went away without ending TLS, so something may be missing"
            )
        self._record_end(EndReason.TLS_ERROR)
        return trio.BrokenResourceError(f"what the peer sent is no sound TLS: {error}")


class _TlsWriter(LayerWriter):
    __slots__ = ("_in_transit_bytes", "_session", "_torn", "outgoing")

    def __init__(self, inner: PipeWriter, session: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
        super().__init__(inner)
        self._session = session
        self.outgoing = outgoing
        self._in_transit_bytes = 0
        self._torn = False  # whether a flush was cut, so that nothing sound can follow

    @property
    def backlog_bytes(self) -> int:
        unencrypted = sum(map(len, self._chunks)) + self._in_transit_bytes
        return unencrypted + self.inner.backlog_bytes

    def push(self) -> None:
        """Hand what OpenSSL wants to say to the layer below, which sends it if it can at once."""
        inner = self.inner
        if not (inner._closed or inner._broken or inner._eof_sent):
            inner.write(self.outgoing.read())
            inner.flush_nowait()
            self.unflushed_bytes = sum(map(len, self._chunks)) + inner.unflushed_bytes

    async def flush(self) -> None:
        if self._flushing:
            raise trio.BusyResourceError("another task is already flushing this pipe")
        if self._closed or self._broken:
            self._raise_unusable()
        if self.unflushed_bytes:
            self._flushing = True
            try:
                await self._transmit(self._take() if self._chunks else b"")
            finally:
                self._flushing = False

    def flush_nowait(self) -> None:
        if self._flushing or self._closed or self._broken:
            return
        chunks, inner = self._chunks, self.inner
        if inner.unflushed_bytes:
            inner.flush_nowait()
        if chunks and not inner.unflushed_bytes:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            taken = self._transmit_nowait(data)
            if taken < len(data):
                chunks.append(memoryview(data)[taken:])
                self.unflushed_bytes = len(data) - taken + inner.unflushed_bytes
                return
        self.unflushed_bytes = inner.unflushed_bytes + (sum(map(len, chunks)) if chunks else 0)

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        """Encrypt as much of `data` as the layer below takes, and what it held of it at last."""
        inner = self.inner
        if inner._closed or inner._broken:
            self._closed, self._broken = inner._closed, True
            return len(data)
        taken = 0
        while taken < len(data) and not inner.unflushed_bytes:
            piece = data
            if len(data) > _SLICE_BYTES:
                piece = memoryview(data)[taken : taken + _SLICE_BYTES]
            encrypted = self._encrypt(piece)
            taken += len(piece)
            sent = inner._transmit_nowait(encrypted)
            if inner._broken:
                self._broken = True
                return len(data)
            if sent < len(encrypted):
                inner.write(memoryview(encrypted)[sent:])
        return taken

    async def _transmit(self, data: bytes | memoryview) -> None:
        inner = self.inner
        rest = memoryview(data)
        self._torn = True
        try:
            await inner.flush()
            while rest:
                piece, rest = rest[:_SLICE_BYTES], rest[_SLICE_BYTES:]
                self._in_transit_bytes = len(rest)
                await inner._transmit(self._encrypt(piece))
        except trio.BrokenResourceError:
            self._broken = True
            raise
        finally:
            self._in_transit_bytes = 0
        self._torn = False

    def _encrypt(self, data: bytes | memoryview) -> bytes:
        self._session.write(data)
        return self.outgoing.read()

    async def _transmit_eof(self) -> None:
        # Asks for the peer's close_notify, too, which the reader will find if it is not there yet.
        with suppress(ssl.SSLError):
            self._session.unwrap()
        await self.inner.send(self.outgoing.read())

    async def finish(self) -> None:
        """Flush, and send close_notify unless that was done or is in vain."""
        if self._torn or self._broken or self._closed:
            return
        await self.send_eof()
