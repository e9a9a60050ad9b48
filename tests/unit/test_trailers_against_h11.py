"""Trailers as this server reads them against h11: the rules are those for the fields of a head."""

import re

import h11
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kestrel_core import Limits, Pipe
from kestrel_protocols.http import BadRequest, ClientDisconnected, Headers
from kestrel_protocols.http1.body import ChunkedBody
from kestrel_protocols.http1.request_head import FieldBlocks
from tests.request_strategies import FIELDS, mutated

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"

BLOCKS = st.lists(FIELDS, max_size=4).map(lambda fields: "".join(fields).encode("latin-1"))

# What h11 takes in trailers and this server does not: another line end than CRLF, a folded line, a
# control character, a field that frames or routes the message.
STRICTER = re.compile(
    rb"(?<!\r)\n|\n[ \t]|[\x01-\x08\x0e-\x1f\x7f]|(^|\n)(content-length|host|transfer-encoding):",
    re.IGNORECASE,
)


async def read(data: bytes, pieces: int) -> Headers | None:
    """Return the trailers that are all there is of a chunked body, or None if they are refused."""
    pipe = Pipe()
    body = ChunkedBody(pipe.reader, Limits(), head_bytes=0, field_count=0)

    async def send() -> None:
        size = max(1, len(data) // pieces)
        for start in range(0, len(data), size):
            await pipe.writer.send(data[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        pipe.close_writer()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            while not body.complete:
                assert await body.receive() == b""
        except (BadRequest, ClientDisconnected):
            return None
        finally:
            nursery.cancel_scope.cancel()
    return body.trailers


def read_by_h11(data: bytes) -> Headers | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEAD + data)
    assert isinstance(connection.next_event(), h11.Request)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage):
        return None
    return [(bytes(name), bytes(value)) for name, value in event.headers]


@settings(max_examples=600, deadline=None)
@given(mutated(BLOCKS), st.integers(1, 3))
@example(b"x: y\r\n z\r\n", 2)
@example(b"x : y\r\n", 1)
@example(b"\n", 1)
@example(b"content-length: 5\r\n", 1)
def test_trailers_are_read_alike_or_refused(block: bytes, pieces: int) -> None:
    data = b"0\r\n" + block + b"\r\n"
    ours, theirs = trio.run(read, data, pieces), read_by_h11(data)
    if ours is not None:
        assert ours == theirs
    elif theirs is not None:
        assert STRICTER.search(block + b"\r\n")


@settings(max_examples=300, deadline=None)
@given(mutated(BLOCKS))
def test_trailers_are_fields_like_those_of_a_head(block: bytes) -> None:
    trailers = trio.run(read, b"0\r\n" + block + b"\r\n", 1)
    fields = FieldBlocks()[block]
    if trailers is not None and b"\r\n\r\n" not in b"\r\n" + block:
        assert fields is not None
        assert trailers == fields.fields
    if fields is not None:
        framing = [fields.hosts, fields.lengths, fields.transfer_codings]
        assert (trailers is None) == any(framing)
