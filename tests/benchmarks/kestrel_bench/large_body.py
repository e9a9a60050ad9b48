"""The client of large bodies: one upload or download over a connection of its own.

Sending and receiving are calls on large buffers, so that a client in Python needs a fraction of the
time that any server needs for the same bytes. The response is read by the standard library.
"""

import http.client
import socket
import time

from kestrel_bench.client_socket import connect
from kestrel_bench.outcomes import WorkloadFailedError
from kestrel_bench.workloads import Transfer

_STALLED_SECONDS = 30.0
_CHUNK_BYTES = 64 * 1024
_WRITE_BYTES = 16 * _CHUNK_BYTES
_READ_BYTES = 256 * 1024
_CHUNK = b"%x\r\n%b\r\n" % (_CHUNK_BYTES, b"u" * _CHUNK_BYTES)
_LAST_CHUNK = b"0\r\n\r\n"


def transfer(kind: Transfer, *, port: int, path: str, body_bytes: int, tls: bool = False) -> float:
    """Moves one body and returns the seconds that it took, without those of connecting.

    The size of a chunked upload must be a multiple of 1 MiB.

    Raises:
        WorkloadFailedError: the server broke off, stalled, or counted other bytes than were sent.
    """
    try:
        with connect(port, tls=tls, seconds=_STALLED_SECONDS) as connection:
            began = time.monotonic()
            if kind is Transfer.DOWNLOAD:
                _download(connection, path, body_bytes)
            else:
                _upload(connection, path, body_bytes, chunked=kind is Transfer.CHUNKED_UPLOAD)
            return time.monotonic() - began
    except (OSError, http.client.HTTPException) as error:
        raise WorkloadFailedError(f"the {kind.value} failed: {error!r}") from error


def upload_head(path: str, body_bytes: int | None) -> bytes:
    """The head of an upload with its length, or of a chunked one if there is no length."""
    framing = (
        "Transfer-Encoding: chunked" if body_bytes is None else f"Content-Length: {body_bytes}"
    )
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}\r\n\r\n".encode()


def download_head(path: str, body_bytes: int) -> bytes:
    """The request for a body of that size."""
    return f"GET {path}?bytes={body_bytes} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def _upload(connection: socket.socket, path: str, body_bytes: int, *, chunked: bool) -> None:
    connection.sendall(upload_head(path, None if chunked else body_bytes))
    if chunked:
        chunks = _CHUNK * (_WRITE_BYTES // _CHUNK_BYTES)
        for _ in range(body_bytes // _WRITE_BYTES):
            connection.sendall(chunks)
        connection.sendall(_LAST_CHUNK)
    else:
        body = memoryview(bytes(_WRITE_BYTES))
        for sent in range(0, body_bytes, _WRITE_BYTES):
            connection.sendall(body[: body_bytes - sent])
    with http.client.HTTPResponse(connection, method="POST") as response:
        response.begin()
        answer = response.read()
    if (response.status, answer) != (200, b"%d" % body_bytes):
        raise WorkloadFailedError(f"the upload was answered with {response.status} {answer[:80]!r}")


def _download(connection: socket.socket, path: str, body_bytes: int) -> None:
    connection.sendall(download_head(path, body_bytes))
    received = 0
    with http.client.HTTPResponse(connection, method="GET") as response:
        response.begin()
        buffer = bytearray(_READ_BYTES)
        while count := response.readinto(buffer):
            received += count
    if (response.status, received) != (200, body_bytes):
        raise WorkloadFailedError(f"the download was {response.status} with {received} bytes")
