"""Connections within one program: the real server stack without sockets.

`memory://name` is a name that is free or taken in one run of trio. Nothing is faked above the
wire: back-pressure, half-close, resets, a full accept queue and refused connections are as on a
network, only that they take no time.

Options, for `bind` and `connect` alike, so that a bound endpoint can be connected to as it is:

* `backlog=512`: how many connections may wait to be accepted before the next `connect` waits.
* `pause_at_bytes=65536`: how much each direction holds before the sender waits.
* `client=203.0.113.7:4711` and `server=192.0.2.1:443`: the addresses of the two ends; a text
  without a colon is an address without a port. Unless given, the server's end is called what the
  endpoint is called, and the client's that with `-client`.

What `connect` gives comes before what `bind` gave, except for `backlog`, which is `bind`'s alone.
"""

from typing import ClassVar

import attrs

from kestrel_core.connection import Connection
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.transport import TransportContext
from kestrel_transports._memory_listener import NamedTransport, Wire

__all__ = ["MemoryTransport"]


@attrs.frozen
class _PipeWire(Wire):
    """Connections that carry bytes."""

    def join(
        self, name: str, client: TransportContext, server: TransportContext
    ) -> tuple[Connection, Connection]:
        here, there = self.addresses(name)
        near, far = duplex_pipe_pair(self.pause_at_bytes)
        client_end = Connection(near, client, local=here, remote=there)
        server_end = Connection(far, server, local=there, remote=here)
        for gone in (near.peer_gone, far.peer_gone):  # either, as `closed` is of our side, too
            gone.listen(client_end.closed.set)
            gone.listen(server_end.closed.set)
        return client_end, server_end


class MemoryTransport(NamedTransport):
    """`memory://name`: binds and connects within one run of trio, whichever instance is asked."""

    scheme = "memory"
    wire: ClassVar[type[Wire]] = _PipeWire
