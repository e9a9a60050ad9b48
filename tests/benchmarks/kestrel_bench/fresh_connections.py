"""The client of many short connections: each is opened, used once or refused, and closed.

wrk can't be it. Over TLS it resumes its sessions, so that hardly any handshake is a full one, and
it counts responses, which a refused connection does not have. Several processes take turns, each
with one connection at a time, so that the server always has somebody to serve. A handshake is hard
work for a client, too: the shares of the cores tell who of the two was the slower.
"""

import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext

from attrs import frozen

from applications import PLAINTEXT_BODY
from kestrel_bench.client_socket import connect
from kestrel_bench.idle_connections import open_connections
from kestrel_bench.outcomes import WorkloadFailedError
from kestrel_bench.servers import ADMITTED_CONNECTIONS, Setup
from kestrel_bench.workloads import ConnectionsWorkload

_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_ANSWER_SECONDS = 5.0
_READ_BYTES = 65536

# Until all processes are there.
_START_SECONDS = 0.2


@frozen(kw_only=True)
class FreshReport:
    """How many connections went as they should in that time, and what went wrong with others."""

    connections: int
    seconds: float
    errors: dict[str, int]


@frozen(kw_only=True)
class _Task:
    port: int
    tls: bool
    refused: bool
    begin: float
    end: float


def crowd(workload: ConnectionsWorkload, *, port: int) -> AbstractContextManager[object]:
    """What has to stay open for the others to be refused, if they are to be."""
    if not workload.refused:
        return nullcontext()
    return open_connections(port, ADMITTED_CONNECTIONS)


def visit(workload: ConnectionsWorkload, *, port: int, seconds: float) -> FreshReport:
    """Opens connections one after another in each process, beside the `crowd`.

    Raises:
        WorkloadFailedError: not one connection went as it should.
    """
    fork = multiprocessing.get_context("fork")
    counts: Counter[str] = Counter()
    with ProcessPoolExecutor(workload.processes, mp_context=fork) as pool:
        begin = time.monotonic() + _START_SECONDS
        task = _Task(
            port=port,
            tls=workload.setup is Setup.TLS,
            refused=workload.refused,
            begin=begin,
            end=begin + seconds,
        )
        for part in pool.map(_work, [task] * workload.processes):
            counts.update(part)
        elapsed = time.monotonic() - begin
    connections = counts.pop("", 0)
    if not connections:
        raise WorkloadFailedError(f"no connection went as it should: {dict(counts)}")
    return FreshReport(connections=connections, seconds=elapsed, errors=dict(counts))


def _work(task: _Task) -> Counter[str]:
    """What became of each connection, counted; "" is what should."""
    use = _be_refused if task.refused else _be_served
    counts: Counter[str] = Counter()
    time.sleep(max(0.0, task.begin - time.monotonic()))
    while time.monotonic() < task.end:
        try:
            counts[use(task)] += 1
        except OSError as error:
            counts[type(error).__name__] += 1
    return counts


def _be_served(task: _Task) -> str:
    with connect(task.port, tls=task.tls, seconds=_ANSWER_SECONDS) as connection:
        connection.sendall(_REQUEST)
        answer = b""
        while piece := connection.recv(_READ_BYTES):
            answer += piece
    served = answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(PLAINTEXT_BODY)
    return "" if served else "other answer"


def _be_refused(task: _Task) -> str:
    try:
        with connect(task.port, tls=task.tls, seconds=_ANSWER_SECONDS) as connection:
            return "not refused" if connection.recv(_READ_BYTES) else ""
    except ConnectionResetError:
        return ""
