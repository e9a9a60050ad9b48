"""Fuzz target: chunked bodies, however they are cut into pieces, against h11."""

import attrs
import trio

from kestrel_core import Limits, Pipe
from kestrel_protocols.http import BadRequest, ClientDisconnected, Headers
from kestrel_protocols.http1.body import ChunkedBody
from tests.fuzz.delivery import Delivery
from tests.fuzz.h11_opinion import h11_opinion

__all__ = ["check"]

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@attrs.frozen
class Decoded:
    """What became of a body: all of it, or as much as came, or why it was refused."""

    data: bytes
    trailers: Headers
    rest: bytes
    complete: bool
    refused: bool


def check(data: bytes) -> None:
    """Decode `data` whole and in pieces: that makes no difference, and h11 understands the same."""
    delivery = Delivery.of(data)
    whole = trio.run(decode, [delivery.text] if delivery.text else [])
    if delivery.sizes:
        pieces = trio.run(decode, list(delivery.pieces()))
        assert (pieces.complete, pieces.refused) == (whole.complete, whole.refused)
        if not whole.refused:
            assert pieces == whole
        assert whole.refused or whole.data.startswith(pieces.data)
    opinion = h11_opinion(HEAD + delivery.text)
    if whole.complete:
        assert opinion is not None
        assert opinion.complete, "h11 refuses it, or wants more"
        assert (opinion.body, opinion.trailers) == (whole.data, whole.trailers)
        assert opinion.rest == whole.rest


async def decode(pieces: list[bytes]) -> Decoded:
    """Decode what is sent in these pieces, and then ends."""
    pipe = Pipe()
    body = ChunkedBody(pipe.reader, Limits(), head_bytes=len(HEAD), field_count=2)
    received: list[bytes] = []
    refused = False
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for piece in pieces:
                await pipe.writer.send(piece)
                await trio.lowlevel.checkpoint()
            pipe.close_writer()

        nursery.start_soon(send)
        try:
            while not body.complete:
                received.append(await body.receive())
        except BadRequest:
            refused = True
        except ClientDisconnected:
            pass
        rest = b"".join([part async for part in pipe.reader])
    return Decoded(b"".join(received), body.trailers, rest, body.complete, refused)
