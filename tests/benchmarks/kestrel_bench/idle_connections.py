"""The resident memory that one idle keep-alive connection costs a server."""

import contextlib
import resource
import selectors
import socket
from collections.abc import Generator

from attrs import frozen

from applications import PLAINTEXT_BODY
from kestrel_bench.outcomes import WorkloadFailedError
from kestrel_bench.resident_memory import settled_resident_kib

_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_ANSWER_SECONDS = 10.0
_SPARE_FILES = 100

# Few connections with many requests warm what a server allocates once (code caches, pools, worker
# threads) and leave behind little that a later connection could reuse unseen.
_WARM_UP_CONNECTIONS = 8
_WARM_UP_REQUESTS = 100


@frozen(kw_only=True)
class IdleReport:
    """Resident memory before and after, and what became of the connections meanwhile."""

    connections: int
    lost: int
    before_kib: int
    after_kib: int

    @property
    def kib_per_connection(self) -> float:
        """The growth, divided by the connections that were still open at the end."""
        return (self.after_kib - self.before_kib) / max(1, self.connections - self.lost)


def allow_many_open_files() -> None:
    """Raises the soft limit of open files to the hard one, for this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure_idle_connections(*, port: int, pid: int, wanted: int) -> IdleReport:
    """Opens the connections one after another, each with one request, and weighs the server.

    Where the limit of open files is too low, it opens as many as fit; the report has the number.

    Raises:
        WorkloadFailedError: a connection was refused or not answered.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(wanted, soft - _SPARE_FILES)
    with open_connections(port, _WARM_UP_CONNECTIONS) as connections:
        for _ in range(_WARM_UP_REQUESTS):
            for connection in connections:
                _request(connection)
    before = settled_resident_kib(pid)
    with open_connections(port, count) as connections:
        after = settled_resident_kib(pid)
        lost = _count_closed(connections)
    return IdleReport(connections=count, lost=lost, before_kib=before, after_kib=after)


@contextlib.contextmanager
def open_connections(port: int, count: int) -> Generator[list[socket.socket]]:
    """Connections that had one request each and stay open until the block ends.

    Raises:
        WorkloadFailedError: one was refused or not answered.
    """
    connections: list[socket.socket] = []
    try:
        while len(connections) < count:
            try:
                connection = socket.create_connection(("127.0.0.1", port), _ANSWER_SECONDS)
                connections.append(connection)
                _request(connection)
            except OSError as error:
                opened = f"connection {len(connections)} of {count}"
                raise WorkloadFailedError(f"{opened} failed: {error!r}") from error
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _request(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)
    answer = b""
    while not answer.endswith(PLAINTEXT_BODY):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError("the server closed the connection before its answer")
        answer += piece


def _count_closed(connections: list[socket.socket]) -> int:
    """How many connections the server has closed; nothing else can make an idle one readable."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        return len(selector.select(0))
