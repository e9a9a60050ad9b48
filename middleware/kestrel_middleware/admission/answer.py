"""What those are told who may not come in."""

from enum import Enum

import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason

__all__ = ["Answer", "tell"]

_HTTP_503 = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"  # RFC 9110

# In the first the poller of a new socket is woken, and may run after us; in the second it has run.
_TURNS_TO_HEAR_OF_INPUT = 2


class Answer(Enum):
    """How a connection that is refused ends, as its peer sees it."""

    RESET = "reset"
    """Reset at once. It costs least, and leaves nothing behind in the kernel."""

    CLOSE = "close"
    """An orderly end without a byte. What the peer has sent by then makes the kernel reset it."""

    HTTP_503 = "http_503"
    """An HTTP/1.1 response 503, and then the end.

    As far as that goes without waiting: a peer whose request is still on its way may be reset
    before it has read the response. It is sent as it is: where TLS is spoken further inside, it is
    no answer."""


async def tell(answer: Answer, connection: Connection, reason: EndReason) -> None:
    """Answer `connection`, which is refused for `reason` and is to be closed now.

    Waits for nobody.
    """
    if answer is Answer.RESET:
        connection.abort(reason)
        return
    connection.record_end(reason)
    if answer is Answer.HTTP_503:
        pipe = connection.transport
        try:
            pipe.output.write(_HTTP_503)
            pipe.output.flush_nowait()
            # Closing with input that nobody has read resets the connection, and some systems then
            # drop what the peer has not read yet. A socket is told of input by another task.
            for _ in range(_TURNS_TO_HEAR_OF_INPUT):
                await trio.lowlevel.checkpoint()
            pipe.input.look()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # nobody is left to be told
        if pipe.output.unflushed_bytes:
            connection.abort(reason)
