"""TLS as a pipe over a pipe.

Theory of operation. OpenSSL works between two buffers in memory (`ssl.MemoryBIO`): `incoming` is
filled with what the pipe below brings, `outgoing` is emptied into the pipe below. There is no task
and no stream in between. Whatever is read below is decrypted at once and to the end, so `incoming`
is empty, or holds a part of a record, whenever somebody else looks; asking OpenSSL for more than it
has would raise an exception, which costs more than decrypting a small request, so it is asked only
as long as `incoming` holds something.

What is encrypted can not be taken back. So what the pipe below does not take at once stays there,
unflushed; and of what was given the last byte counts as not taken, and is skipped when it is given
again: so whoever stands above knows that there is something left to flush.

Reading may make OpenSSL want to write: an alert, or the answer to a key update. That is handed down
at once; or while a flush is under way, which may be in the middle of a record, with its end. A peer
that has us answer and never takes the answers is cut off.

The end. `send_eof` sends close_notify, which ends our direction alone (RFC 8446, 6.1). The peer's
close_notify is the end of the input. An input that ends without one may have been cut short by
anybody on the way, and is `trio.BrokenResourceError`.
"""

import ssl
import weakref
from collections.abc import Callable
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

# How much may lie encrypted, with answers of OpenSSL's own on top, while the peer makes it answer:
# more than a slice becomes, and then some hundred answers.
_MOST_UNSENT_BYTES = 2 * _SLICE_BYTES


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
        self._tls_writer.reader = weakref.ref(self._tls_reader)  # no cycle holds OpenSSL's memory
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
                # At once, though a server's tickets could wait for its first answer: with them goes
                # the TCP ACK that a client's Nagle algorithm waits for, 40 ms otherwise.
                writer.push()
                if not (session.server_side and session.version() == "TLSv1.3"):
                    await writer.flush()  # or the peer does not hear that it is done, too
                self._tls_reader.begin()
                return
            data = await below.read()
            if data:
                below.advance(len(data))
                incoming.write(data)
            elif below.at_eof:
                incoming.write_eof()

    async def finish(self) -> None:
        """Flush and send close_notify, where that still makes sense; see `LayeredPipe.finish`."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self._tls_writer.finish()


def _ignore(reason: EndReason) -> None:
    pass


class _TlsReader(LayerReader):
    __slots__ = (
        "__weakref__",
        "_failure",
        "_has_part",
        "_incoming",
        "_record_end",
        "_session",
        "_writer",
    )

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
        self._has_part = False  # whether OpenSSL may hold the beginning of a record

    def begin(self) -> None:
        """Remember what came along with the end of the handshake, for the first read.

        Not before: if it is no sound TLS, OpenSSL will tell nothing more of the handshake.
        """
        self._holds = self._incoming.pending > 0

    def take_along(self) -> None:
        """Show now what came along with the end of the handshake.

        Otherwise OpenSSL would look for the peer's close_notify among it, and find fault with it.
        """
        if self._holds and self._failure is None:
            with suppress(trio.BrokenResourceError):  # which the next fetch raises, too
                self._take_over()

    def arrived(self, data: bytes) -> bytes:
        if data:
            self._incoming.write(data)
            # A record is longer than what is in it; and what is asked for is allocated.
            return self._decrypt(_RECORD_BYTES if self._has_part else min(len(data), _RECORD_BYTES))
        self._incoming.write_eof()
        return self._decrypt(_RECORD_BYTES)

    def _release(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        self._holds = False
        return self._decrypt(_RECORD_BYTES)

    def _decrypt(self, most_bytes: int) -> bytes:
        """Return all that can be decrypted now; the first record has `most_bytes` at most.

        Raises:
            trio.BrokenResourceError: there is nothing, and never will be.
        """
        read, incoming, writer = self._session.read, self._incoming, self._writer
        parts: list[bytes] = []
        try:
            # All of the first record is shown at once: nearly always it is the only one.
            plain = read(most_bytes)
            while plain:
                if not parts and not incoming.pending and not incoming.eof:
                    self._has_part = False
                    return plain
                parts.append(plain)
                plain = read(_RECORD_BYTES)
            self._at_eof = True
        except ssl.SSLWantReadError:
            self._has_part = True
        except ssl.SSLZeroReturnError:  # what b"" becomes after we have sent our own close_notify
            self._at_eof = True
        except ssl.SSLError as error:
            failure = self._fail(error)
            if not parts:
                raise failure from error
        finally:
            if writer.outgoing.pending:
                writer.push()
                if writer.unsent_bytes > _MOST_UNSENT_BYTES:
                    self._fail("the peer has us answer, and does not take the answers")
        return b"".join(parts)

    def _fail(self, why: ssl.SSLError | str) -> trio.BrokenResourceError:
        """Have every later fetch fail; return what they raise."""
        if isinstance(why, ssl.SSLEOFError):
            self._record_end(EndReason.TLS_TRUNCATED)
            why = "the peer went away without ending TLS, so something may be missing"
        else:
            self._record_end(EndReason.TLS_ERROR)
            why = f"what the peer sent is no sound TLS: {why}"
        self._failure = trio.BrokenResourceError(why)
        self._holds = True
        return self._failure


class _TlsWriter(LayerWriter):
    __slots__ = (
        "_in_transit_bytes",
        "_session",
        "_skipped_bytes",
        "_transmitting",
        "outgoing",
        "reader",
    )

    def __init__(self, inner: PipeWriter, session: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
        super().__init__(inner)
        self._session = session
        self.outgoing = outgoing
        self.reader: weakref.ref[_TlsReader] | None = None
        self._in_transit_bytes = 0
        self._skipped_bytes = 0  # of what is given next, for they were encrypted already
        self._transmitting = False  # also when that was cut, so that nothing sound can follow

    @property
    def backlog_bytes(self) -> int:
        return self.unflushed_bytes + self._in_transit_bytes + self.inner.backlog_bytes

    @property
    def unsent_bytes(self) -> int:
        """How much is encrypted that the layer below has not begun to send."""
        return self.outgoing.pending + self.inner.unflushed_bytes

    def push(self) -> None:
        """Hand what OpenSSL wants to say to the layer below, which sends it if it can at once."""
        inner = self.inner
        if not (self._transmitting or inner._closed or inner._broken or inner._eof_sent):
            inner.write(self.outgoing.read())
            inner.flush_nowait()

    async def flush(self) -> None:
        if self._flushing:
            raise trio.BusyResourceError("another task is already flushing this pipe")
        if self._closed or self._broken:
            self._raise_unusable()
        if self._chunks or self.inner.unflushed_bytes:  # which may be what `push` left there
            self._flushing = True
            try:
                await self._transmit(self._take() if self._chunks else b"")
            finally:
                self._flushing = False

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        """Encrypt as much of `data` as the layer below takes, and what it held of it at last."""
        inner = self.inner
        if inner._closed or inner._broken:
            self._closed, self._broken = inner._closed, True
            return len(data)
        if inner.unflushed_bytes:
            inner.flush_nowait()
            if inner.unflushed_bytes:
                return 0
        taken, self._skipped_bytes = self._skipped_bytes, 0
        while taken < len(data) and not inner.unflushed_bytes:
            piece = data
            if taken or len(data) > _SLICE_BYTES:
                piece = memoryview(data)[taken : taken + _SLICE_BYTES]
            try:
                encrypted = self._encrypt(piece)
            except trio.BrokenResourceError:
                return len(data)
            taken += len(piece)
            sent = inner._transmit_nowait(encrypted)
            if inner._broken:
                self._broken = True
                return len(data)
            if sent < len(encrypted):
                inner.write(memoryview(encrypted)[sent:])
        if inner.unflushed_bytes:
            self._skipped_bytes = 1
            taken -= 1
        return taken

    async def _transmit(self, data: bytes | memoryview) -> None:
        inner = self.inner
        rest = memoryview(data)
        self._in_transit_bytes = len(rest)
        self._transmitting = True
        try:
            await inner.flush()
            if rest:
                rest, self._skipped_bytes = rest[self._skipped_bytes :], 0
            while rest:
                piece, rest = rest[:_SLICE_BYTES], rest[_SLICE_BYTES:]
                self._in_transit_bytes = len(rest)
                await inner._transmit(self._encrypt(piece))
            while self.outgoing.pending:  # what OpenSSL wanted to say meanwhile
                await inner._transmit(self.outgoing.read())
        except trio.BrokenResourceError:
            self._broken = True
            raise
        finally:
            self._in_transit_bytes = 0
        self._transmitting = False

    def _encrypt(self, data: bytes | memoryview) -> bytes:
        """Return the records for `data`, behind what OpenSSL wanted to say itself.

        Raises:
            trio.BrokenResourceError: TLS has failed, as the reader knows.
        """
        try:
            self._session.write(data)
        except ssl.SSLError as error:
            self._broken, self._transmitting = True, False
            if self.outgoing.pending:  # the alert that says so
                self.push()
            raise trio.BrokenResourceError("TLS has failed, and carries nothing more") from error
        return self.outgoing.read()

    async def _transmit_eof(self) -> None:
        # Asks for the peer's close_notify, too, which the reader will find if it is not there yet.
        reader = None if self.reader is None else self.reader()
        if reader is not None:
            reader.take_along()
        with suppress(ssl.SSLError):
            self._session.unwrap()
        await self.inner.send(self.outgoing.read())

    async def finish(self) -> None:
        """Flush, and send close_notify unless that was done or is in vain."""
        if self._transmitting or self._broken or self._closed:
            return
        await self.send_eof()
