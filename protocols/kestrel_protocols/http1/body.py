"""Request bodies: by length, or chunked (RFC 9112, 6 and 7)."""

import re
from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import ClassVar

import trio

from kestrel_core.limits import Limits
from kestrel_core.pipe_reader import PipeReader
from kestrel_protocols.http.exchange import BadRequest, ClientDisconnected, Headers
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http1.request_head import FIELD_VALUE, is_field_block, split_fields

__all__ = ["Body", "ChunkedBody", "LengthBody"]

# Nine digits would be over 64 GiB in one chunk; Kestrel takes eight as well.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(;" + FIELD_VALUE + rb")?\r\n")

_SIZE_AND_EXTENSION = re.compile(rb"[0-9A-Fa-f]{1,8};")

# The beginning of such a line. What does not match is refused without waiting for a line end, which
# might never come.
_CHUNK_LINE_SO_FAR = re.compile(rb"(?:[0-9A-Fa-f]{1,8}(?:;" + FIELD_VALUE + rb")?\r?)?")

# RFC 9110, 6.5.1: fields that frame or route a message mean nothing good after it.
_NOT_IN_TRAILERS = {b"content-length", b"host", b"transfer-encoding"}

# A chunk's size with its extensions. Nobody is known to use extensions; this leaves room for them.
_MOST_CHUNK_LINE_BYTES = 4096


# Slices of more than this are worth a view.
_MOST_COPIED_TWICE_BYTES = 4096


class Body(ABC):
    """The body of one request, read from the connection as the application asks for it."""

    __slots__ = (
        "_reader",
        "_remaining",
        "asked_for",
        "complete",
        "max_bytes",
        "received_bytes",
        "trailers",
    )

    may_wait_for_more: ClassVar[bool]
    """Whether `receive` may have to wait though there is input at hand."""

    def __init__(self, reader: PipeReader, limits: Limits, length: int = 0) -> None:
        self._reader = reader
        self._remaining = length  # as far as that is known
        self.complete: bool = False
        """Whether its end has been read."""
        self.asked_for: bool = False
        """Whether the application wanted any of it yet."""
        self.trailers: Headers = []
        self.max_bytes: int | None = limits.max_request_body_bytes
        self.received_bytes: int = 0
        """Bytes taken off the connection for it, framing included."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Wait for the next piece; b"" when complete, or when the read was cancelled.

        Raises:
            BadRequest: the framing is wrong or the body too large.
            ClientDisconnected: the input ended before the body did.
            trio.BrokenResourceError: the client is gone.
        """

    def check_length(self) -> None:
        """Refuse a body of which it is known beforehand that it is too large.

        Raises:
            BadRequest: it is.
        """
        if self.max_bytes is not None and self.received_bytes + self._remaining > self.max_bytes:
            raise BadRequest(Rejection.BODY_TOO_LARGE)

    def count(self, more_bytes: int) -> None:
        """Count bytes towards the limit.

        Raises:
            BadRequest: the body is too large.
        """
        self.received_bytes += more_bytes
        if self.max_bytes is not None and self.received_bytes > self.max_bytes:
            raise BadRequest(Rejection.BODY_TOO_LARGE)


class LengthBody(Body):
    """A body of the length that Content-Length says."""

    __slots__ = ()

    may_wait_for_more = False

    async def receive(self) -> bytes:
        """Take what has arrived of it; a length over the limit fails before the first byte."""
        self.check_length()
        data = await self._reader.receive(self._remaining)
        if not data and not self._reader.read_cancelled:
            raise ClientDisconnected("the client went away in the middle of its request")
        self.count(len(data))
        self._remaining -= len(data)
        self.complete: bool = self._remaining == 0
        return data


class _Next(Enum):
    """What a chunked body's next byte belongs to."""

    SIZE = auto()
    DATA = auto()
    SUFFIX = auto()
    TRAILERS = auto()


class ChunkedBody(Body):
    """A chunked body; its framing counts towards the limit, its trailers as header fields.

    All taking apart is done without waiting, on what the reader holds, and consumes it in one
    step; so a cancelled `receive` has consumed nothing that it did not return.
    """

    __slots__ = (
        "_fields_left",
        "_in_chunk",
        "_next",
        "_trailer_bytes_left",
        "_trailer_bytes_seen",
    )

    received_bytes: int

    may_wait_for_more = True

    def __init__(
        self, reader: PipeReader, limits: Limits, *, head_bytes: int, field_count: int
    ) -> None:
        super().__init__(reader, limits)
        self._next = _Next.SIZE
        self._in_chunk = 0
        self._trailer_bytes_left = max(2, limits.max_request_headers_bytes - head_bytes)
        self._trailer_bytes_seen = 0  # in whole lines that are fields, while more are to come
        self._fields_left = limits.max_request_header_count - field_count

    async def receive(self) -> bytes:
        """Take all that has arrived of any number of chunks."""
        reader = self._reader
        while not self.complete:
            data = self._decode(reader.buffered)
            if data or self.complete:
                return data
            held = len(reader.buffered)
            reader.look()  # what has arrived is there for those in a cancelled scope, too
            if len(reader.buffered) > held:
                await trio.lowlevel.cancel_shielded_checkpoint()
                continue
            reader.advance(0, held)
            try:
                await reader.read()
            finally:
                reader.advance(0)  # what was only looked at is still to be read
            if reader.read_cancelled:  # which is said once, whether or not something came with it
                return b""
            if len(reader.buffered) == held:
                raise ClientDisconnected("the client went away in the middle of its request")
        return b""

    def _decode(self, data: bytes) -> bytes:
        """Take apart as much of `data` as can be, consume that, and return the body in it."""
        parts: list[bytes | memoryview] = []
        position = 0
        # What is copied once, into what is returned, need not be copied out of `data` before.
        source = memoryview(data) if len(data) > _MOST_COPIED_TWICE_BYTES else data
        while not self.complete:
            if self._next is _Next.DATA:
                part = source[position : position + self._in_chunk]
                if not part:
                    break
                parts.append(part)
                position += len(part)
                self._in_chunk -= len(part)
                if not self._in_chunk:
                    self._next = _Next.SUFFIX
                continue
            if self._next is _Next.SIZE:
                consumed = self._take_size(data, position)
            elif self._next is _Next.SUFFIX:
                consumed = self._take_suffix(data, position)
            else:
                consumed = self._take_trailers(data, position)
            if not consumed:
                break
            position += consumed
        self._reader.advance(position)
        self.count(position)
        return b"".join(parts)

    def _take_size(self, data: bytes, start: int) -> int:
        limit = start + _MOST_CHUNK_LINE_BYTES
        end = data.find(b"\n", start, limit)
        if end < 0 and len(data) < limit and _CHUNK_LINE_SO_FAR.fullmatch(data, start):
            return 0
        match = _CHUNK_LINE.fullmatch(data, start, end + 1)
        if match is None:
            extended = _SIZE_AND_EXTENSION.match(data, start)
            raise BadRequest(
                Rejection.BAD_CHUNK_EXTENSION if extended else Rejection.BAD_CHUNK_SIZE
            )
        self._in_chunk = int(match[1], 16)
        self._next = _Next.DATA if self._in_chunk else _Next.TRAILERS
        return end + 1 - start

    def _take_suffix(self, data: bytes, start: int) -> int:
        suffix = data[start : start + 2]
        if suffix == b"\r\n":
            self._next = _Next.SIZE
            return 2
        if suffix and suffix != b"\r":
            raise BadRequest(Rejection.BAD_CHUNK_SUFFIX)
        return 0

    def _take_trailers(self, data: bytes, start: int) -> int:
        if data.startswith(b"\r\n", start):
            self.complete = True
            self.received_bytes -= 2  # as below
            return 2
        last_line_end = data.find(b"\r\n\r\n", start)
        complete = last_line_end >= 0
        end = last_line_end + 2 if complete else data.rfind(b"\n", start) + 1
        size = (end + 2 if complete else len(data)) - start
        if size > self._trailer_bytes_left:
            raise BadRequest(Rejection.HEADERS_TOO_LARGE)
        if not is_field_block(data[start + self._trailer_bytes_seen : end]):
            raise BadRequest(Rejection.INVALID_REQUEST_HEADER)
        self._trailer_bytes_seen = max(0, end - start)
        if data.count(b"\n", start, end) > self._fields_left:
            raise BadRequest(Rejection.TOO_MANY_HEADERS)
        if not complete:
            return 0
        self.trailers: Headers = split_fields(data[start:end])
        if any(name in _NOT_IN_TRAILERS for name, _ in self.trailers):
            raise BadRequest(Rejection.INVALID_REQUEST_HEADER)
        self.complete: bool = True
        self.count(-size)  # they were counted as header bytes
        return size
