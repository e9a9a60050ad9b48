"""Bodies that their receiver takes slowly, for as long as it takes to see what the server holds.

The sender always has more: what it may send, and nobody has taken, lies in the kernel's buffers or
in the server's memory. The client breaks off at the end instead of waiting for the rest.
"""

import socket
import time

from kestrel_bench.large_body import download_head, upload_head
from kestrel_bench.outcomes import WorkloadFailedError
from kestrel_bench.workloads import SlowPeerWorkload, Transfer

_STALLED_SECONDS = 5.0
_WRITE_BYTES = 1024 * 1024
_PATIENCE_SECONDS = 0.05

# 32 KiB each 10 ms are 3 MiB a second; a server sends a hundred times that. The receive buffer is
# small so that the kernel holds little, and before connecting, which is when it takes effect.
_READ_BYTES = 32 * 1024
_READ_PAUSE_SECONDS = 0.01
_RECEIVE_BUFFER_BYTES = 64 * 1024


def exchange_slowly(workload: SlowPeerWorkload, *, port: int) -> int:
    """Carries the exchange on for the workload's seconds and returns the bytes that went through.

    Raises:
        WorkloadFailedError: the server ended the exchange, or nothing went through.
    """
    downloading = workload.transfer is Transfer.DOWNLOAD
    with socket.socket() as connection:
        try:
            connection.settimeout(_STALLED_SECONDS)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            connection.connect(("127.0.0.1", port))
            moved = (_read_slowly if downloading else _send_eagerly)(connection, workload)
        except OSError as error:
            raise WorkloadFailedError(f"the exchange failed: {error!r}") from error
    if moved == 0:
        raise WorkloadFailedError("nothing was exchanged")
    return moved


def _read_slowly(connection: socket.socket, workload: SlowPeerWorkload) -> int:
    connection.sendall(download_head(workload.path, workload.body_bytes))
    received = 0
    end = time.monotonic() + workload.seconds
    while time.monotonic() < end:
        piece = connection.recv(_READ_BYTES)
        if not piece:
            raise WorkloadFailedError(f"the server broke off after {received} bytes")
        received += len(piece)
        time.sleep(_READ_PAUSE_SECONDS)
    return received


def _send_eagerly(connection: socket.socket, workload: SlowPeerWorkload) -> int:
    connection.sendall(upload_head(workload.path, workload.body_bytes))
    connection.settimeout(_PATIENCE_SECONDS)
    body = bytes(_WRITE_BYTES)
    sent = 0
    end = time.monotonic() + workload.seconds
    while time.monotonic() < end and sent + _WRITE_BYTES <= workload.body_bytes:
        try:
            sent += connection.send(body)
        except TimeoutError:
            continue
    # A server that took all of it has it in memory, and must be seen with it for the whole time.
    time.sleep(max(0.0, end - time.monotonic()))
    return sent
