"""Chunked bodies, however they are chunked and however they arrive."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from kestrel_core import Limits, Pipe
from kestrel_protocols.http import BadRequest, ClientDisconnected, Headers
from kestrel_protocols.http1.body import ChunkedBody

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";", b";a=b", b';a="q\tx"', b";\xff"])
TRAILERS = st.lists(
    st.sampled_from([(b"x", b"1"), (b"etag", b'"a b"'), (b"empty", b"")]), max_size=3
)
SPLITS = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def encode(pieces: list[bytes], extension: bytes, trailers: Headers) -> bytes:
    chunks = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    fields = b"".join(b"%b: %b \r\n" % field for field in trailers)
    return chunks + b"000" + extension + b"\r\n" + fields + b"\r\n"


async def decode(wire: bytes, splits: list[int]) -> tuple[bytes, Headers, bytes]:
    """What a body makes of `wire`, sent in pieces of those sizes: bytes, trailers, what is left."""
    pipe = Pipe()
    body = ChunkedBody(pipe.reader, Limits(), head_bytes=0, field_count=0)
    received: list[bytes] = []

    async def send() -> None:
        position, turn = 0, 0
        while position < len(wire):
            size = splits[turn % len(splits)]
            await pipe.writer.send(wire[position : position + size])
            await trio.lowlevel.checkpoint()
            position, turn = position + size, turn + 1
        pipe.close_writer()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while not body.complete:
            received.append(await body.receive())
    return b"".join(received), body.trailers, b"".join([part async for part in pipe.reader])


@settings(max_examples=200, deadline=None)
@given(PIECES, EXTENSIONS, TRAILERS, SPLITS, st.sampled_from([b"", b"GET / HTTP/1.1\r\n"]))
def test_what_was_encoded_is_decoded(
    pieces: list[bytes], extension: bytes, trailers: Headers, splits: list[int], following: bytes
) -> None:
    wire = encode(pieces, extension, trailers) + following

    assert trio.run(decode, wire, splits) == (b"".join(pieces), trailers, following)


@settings(max_examples=200, deadline=None)
@given(
    PIECES,
    EXTENSIONS,
    TRAILERS,
    SPLITS,
    st.integers(0, 400),
    st.sampled_from(["drop", "double", "replace", "cut"]),
    st.sampled_from([b"\n", b"\r", b"\0", b"g", b";", b" ", b"0"]),
)
def test_mangled_framing_ends_in_an_answer(
    pieces: list[bytes],
    extension: bytes,
    trailers: Headers,
    splits: list[int],
    place: int,
    damage: str,
    other: bytes,
) -> None:
    wire = encode(pieces, extension, trailers)
    place %= len(wire)
    replacement = {
        "drop": b"",
        "double": wire[place : place + 1] * 2,
        "replace": other,
        "cut": None,
    }[damage]
    tail = b"" if replacement is None else replacement + wire[place + 1 :]
    received, failure = b"", None
    try:
        received, _, _ = trio.run(decode, wire[:place] + tail, splits)
    except BaseExceptionGroup as group:
        failure = group

    assert len(received) <= len(wire)
    if failure is not None:
        refusals = failure.subgroup((BadRequest, ClientDisconnected))
        assert refusals is not None
        assert len(refusals.exceptions) == 1
        # The sender may be surprised in the middle; nothing else may go wrong.
        assert failure.split((BadRequest, ClientDisconnected, trio.BrokenResourceError))[1] is None
