"""Many uploads that are under way at once: all of them begun and nearly sent before any may end."""

import contextlib
import http.client
import selectors
import socket
import time
from collections.abc import Iterable

from kestrel_bench.large_body import upload_head
from kestrel_bench.outcomes import WorkloadFailedError
from kestrel_bench.workloads import BurstWorkload

_STALLED_SECONDS = 30.0

# In turns of this size, so that every upload is in its middle while the others are.
_TURN_BYTES = 32 * 1024
_WITHHELD_BYTES = 1024


def upload_all_at_once(workload: BurstWorkload, *, port: int) -> None:
    """Returns after every upload was answered and every connection closed.

    Raises:
        WorkloadFailedError: a connection was refused or broken off, stalled, or answered wrongly.
    """
    request = upload_head(workload.path, workload.body_bytes) + bytes(workload.body_bytes)
    with contextlib.ExitStack() as opened:
        connections: list[socket.socket] = []
        try:
            for _ in range(workload.connections):
                connection = socket.create_connection(("127.0.0.1", port), _STALLED_SECONDS)
                connections.append(opened.enter_context(connection))
            _send_in_turns(connections, memoryview(request)[:-_WITHHELD_BYTES])
            for connection in connections:
                connection.settimeout(_STALLED_SECONDS)
                connection.sendall(request[-_WITHHELD_BYTES:])
            for connection in connections:
                _check_answer(connection, workload.body_bytes)
        except (OSError, http.client.HTTPException) as error:
            opened_now = f"{len(connections)} of {workload.connections} connections open"
            raise WorkloadFailedError(f"with {opened_now}: {error!r}") from error


def _send_in_turns(connections: Iterable[socket.socket], request: memoryview) -> None:
    give_up = time.monotonic() + _STALLED_SECONDS
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_WRITE, 0)
        while unfinished := len(selector.get_map()):
            if time.monotonic() > give_up:
                raise WorkloadFailedError(f"{unfinished} uploads stalled")
            for key, _ in selector.select(1.0):
                sender = key.fileobj
                assert isinstance(sender, socket.socket)
                sent: int = key.data
                with contextlib.suppress(BlockingIOError):
                    sent += sender.send(request[sent : sent + _TURN_BYTES])
                if sent == len(request):
                    selector.unregister(sender)
                else:
                    selector.modify(sender, selectors.EVENT_WRITE, sent)


def _check_answer(connection: socket.socket, body_bytes: int) -> None:
    with http.client.HTTPResponse(connection, method="POST") as response:
        response.begin()
        answer = response.read()
    if (response.status, answer) != (200, b"%d" % body_bytes):
        raise WorkloadFailedError(f"an upload got {response.status} {answer[:80]!r}")
