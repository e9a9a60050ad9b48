"""How a connection ended, by the client's side and by the server's."""

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.end_reason import EndReason
from kestrel_core.testing import OpenServer
from tests.raw_client import RawClient, UnexpectedEnd

__all__ = ["Ending", "connect", "ending"]


@attrs.frozen(kw_only=True)
class Ending:
    """What the client was told last, and when which side was done."""

    at: float
    """When the client saw that the server says no more: exactly, so not a moment before either."""
    reason: EndReason
    """Why, as the server knows it."""
    said: bytes = b""
    """The first line of what the client read until then, if there was anything."""
    reset: bool = False
    """Whether the connection was broken off."""
    gone_at: float = attrs.field(default=attrs.Factory(lambda self: self.at, takes_self=True))
    """When the server's end was gone, which is later where it lingers."""


async def connect(
    server: OpenServer, *, address: str | None = None, tls: bool | None = None
) -> RawClient:
    """Return a client that can say what it likes, when it likes."""
    return RawClient(await server.connect(address=address, tls=tls))


async def ending(server: OpenServer, client: RawClient) -> Ending:
    """Wait for the end of a connection; its client reads, and sends nothing more."""
    await wait_all_tasks_blocked()  # so that it is accepted
    local = client.connection.local
    (connection,) = [each for each in server.connections if each.remote == local]
    gone_at: list[float] = []
    connection.closed.listen(lambda: gone_at.append(trio.current_time()))
    said, reset = b"", False
    try:
        said = await client.receive_rest()
    except UnexpectedEnd:
        reset = True
    at = trio.current_time()
    await connection.wait_closed()
    await wait_all_tasks_blocked()
    assert connection.end_reason is not None
    return Ending(
        at=at,
        reason=connection.end_reason,
        said=said.partition(b"\r\n")[0],
        reset=reset,
        gone_at=gone_at[0],
    )
