"""An HTTP/1 client that says exactly what a test wants said, and believes little of the answer."""

from contextlib import suppress

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason

Headers = list[tuple[bytes, bytes]]

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
"""The smallest good request."""


def request(*lines: bytes, first: bytes = b"GET / HTTP/1.1", body: bytes = b"") -> bytes:
    """Return a request with these field lines, and Host, and `body` behind it as it is."""
    return b"\r\n".join([first, b"host: a", *lines, b"", body])


def post(body: bytes, *lines: bytes) -> bytes:
    """Return a request with a body of known length."""
    length = b"content-length: %d" % len(body)
    return request(*lines, length, first=b"POST / HTTP/1.1", body=body)


def post_chunked(chunks: bytes, *lines: bytes) -> bytes:
    """Return a request whose body, already framed, is `chunks`."""
    chunked = b"transfer-encoding: chunked"
    return request(*lines, chunked, first=b"POST / HTTP/1.1", body=chunks)


class UnexpectedEnd(Exception):
    """The server ended the connection in the middle of a response, or before one."""


@attrs.frozen
class Response:
    """One response, its body without framing."""

    status: int
    headers: Headers
    body: bytes
    until_close: bool = False
    """Whether nothing but the end of the connection tells where the body ends."""

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of every field of that name."""
        return [value for known, value in self.headers if known == name]

    @property
    def keeps_alive(self) -> bool:
        """Whether nothing in it says that the connection ends."""
        return b"close" not in self.all(b"connection") and not self.until_close


class RawClient:
    """Sends bytes as they are given, and takes responses apart.

    With `byte_by_byte` each byte is a flush of its own, and the server has seen it before the next.
    """

    def __init__(self, connection: Connection, *, byte_by_byte: bool = False) -> None:
        self.connection = connection
        self.byte_by_byte = byte_by_byte
        self._reader = connection.transport.input
        self._writer = connection.transport.output

    async def send(self, data: bytes) -> None:
        """Send `data`; what comes after the server has closed the connection is lost."""
        pieces = [data[i : i + 1] for i in range(len(data))] if self.byte_by_byte else [data]
        for piece in pieces:
            try:
                await self._writer.send(piece)
            except trio.BrokenResourceError:
                return
            if self.byte_by_byte:
                await wait_all_tasks_blocked()

    async def send_in_one(self, data: bytes) -> None:
        """Send `data` in one flush in any case."""
        await self._writer.send(data)

    async def send_eof(self) -> None:
        """End the client's side, if the connection is still there."""
        with suppress(trio.BrokenResourceError):
            await self._writer.send_eof()

    def reset(self) -> None:
        """Break the connection."""
        self.connection.abort(EndReason.ABORTED_BY_APP)

    async def aclose(self) -> None:
        """Close the connection, and before it what stands on it."""
        await self.connection.transport.aclose()
        await self.connection.aclose()

    async def ask(self, data: bytes, *, to_head: bool = False) -> Response:
        """Send a request and receive the response."""
        await self.send(data)
        return await self.receive(to_head=to_head)

    async def receive(self, *, to_head: bool = False) -> Response:
        """Receive one final response.

        Raises:
            UnexpectedEnd: there is none, or not all of one.
        """
        status, headers = await self.receive_head()
        assert status >= 200, f"nobody asked for {status}"
        lengths = [int(value) for name, value in headers if name == b"content-length"]
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        assert len(lengths) + len(codings) <= 1, headers
        if to_head or status in (204, 304):
            return Response(status, headers, b"")
        if codings:
            assert codings == [b"chunked"]
            return Response(status, headers, await self._receive_chunks())
        if lengths:
            return Response(status, headers, await self._receive_exactly(lengths[0]))
        return Response(status, headers, await self.receive_rest(), until_close=True)

    async def receive_head(self) -> tuple[int, Headers]:
        """Receive the head of a response, maybe an informational one."""
        first, *lines = (await self._receive_until(b"\r\n\r\n"))[:-4].split(b"\r\n")
        version, status, _reason = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers: Headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon
            assert name == name.strip() != b""
            headers.append((name.lower(), value.strip()))
        return int(status), headers

    async def receive_rest(self) -> bytes:
        """Receive everything until the server ends its side.

        Raises:
            UnexpectedEnd: it reset the connection.
        """
        try:
            return b"".join([chunk async for chunk in self._reader])
        except trio.BrokenResourceError as error:
            raise UnexpectedEnd("reset") from error

    async def receive_some(self) -> bytes:
        """Receive what is there, waiting for a byte at least; b"" at the end."""
        return await self._reader.receive()

    async def received_by_now(self) -> bytes:
        """Receive what there is once the server has nothing more to do."""
        await wait_all_tasks_blocked()
        with suppress(trio.BrokenResourceError):
            self._reader.look()
        return await self._reader.receive() if self._reader.buffered else b""

    async def is_reset(self) -> bool:
        """Wait for the end; tell whether that was a reset."""
        try:
            await self.receive_rest()
        except UnexpectedEnd:
            return True
        return False

    async def _receive_chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size = int((await self._receive_until(b"\r\n"))[:-2], 16)
            parts.append(await self._receive_exactly(size))
            assert await self._receive_exactly(2) == b"\r\n"
            if size == 0:
                return b"".join(parts)

    async def _receive_until(self, separator: bytes) -> bytes:
        received = b""
        while not received.endswith(separator):
            received += await self._receive_exactly(1)
        return received

    async def _receive_exactly(self, count: int) -> bytes:
        try:
            data = await self._reader.read_exactly(count)
        except trio.BrokenResourceError as error:
            raise UnexpectedEnd("reset") from error
        if len(data) < count:
            raise UnexpectedEnd(f"{count - len(data)} bytes are missing")
        return data
