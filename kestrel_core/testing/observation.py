"""What a server under test has done so far, counted from outside."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import ClassVar

import attrs

from kestrel_core.admission import Admission
from kestrel_core.application import ServedExchange
from kestrel_core.connection import Connection, Failure
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.memory import MemoryPool
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.transport import Listener

__all__ = ["Metrics", "Observation"]


@attrs.frozen(kw_only=True)
class Metrics:
    """Counts at one moment; two of them compare equal if all counts do."""

    accepted_connections: int
    """Those that the transport has accepted, whatever became of them."""
    open_connections: int
    ended_connections: Mapping[EndReason, int]
    """How many ended, by the reason for it."""
    requests: int
    """Requests that have ended, of the application given to `serve`."""
    responses: Mapping[int, int]
    """How many requests got a response, by its status."""
    failures: int
    rented_blocks: int
    """Blocks of the memory pool that are rented."""

    def __str__(self) -> str:
        ends = _list(f"{count} {reason.value}" for reason, count in self.ended_connections.items())
        statuses = _list(f"{count} with {status}" for status, count in self.responses.items())
        return (
            f"connections: {self.accepted_connections} accepted, {self.open_connections} open{ends};"
            f" requests: {self.requests}{statuses}; failures: {self.failures};"
            f" blocks rented: {self.rented_blocks}"
        )


def _list(parts: Iterable[str]) -> str:
    text = ", ".join(parts)
    return text and f" ({text})"


class Observation(Admission):
    """Sees every connection that a server accepts, and changes none.

    It stands inside of all other admissions, so that it also sees whom those refuse.
    """

    name: ClassVar[str] = "observation"

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        """All that were accepted, in that order; they are kept to the end."""
        self.failures: list[Failure] = []
        self.memory_pool: MemoryPool | None = None
        self._requests = 0
        self._responses: Counter[int] = Counter()

    def wrap(self, listener: Listener) -> Listener:
        """Return a listener that tells of what it accepts."""
        return _ObservedListener(listener, self.connections)

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Note `connection`, where something else than an admission stands outside."""
        self.connections.append(connection)
        await following(connection)

    def note_exchange(self, exchange: ServedExchange) -> None:
        """Count one exchange that has ended."""
        self._requests += 1
        if exchange.status is not None:
            self._responses[exchange.status] += 1

    def metrics(self) -> Metrics:
        """Return the counts of this moment."""
        ended = [connection for connection in self.connections if connection.closed]
        return Metrics(
            accepted_connections=len(self.connections),
            open_connections=len(self.connections) - len(ended),
            ended_connections=Counter(
                connection.end_reason for connection in ended if connection.end_reason is not None
            ),
            requests=self._requests,
            responses=Counter(self._responses),
            failures=len(self.failures),
            rented_blocks=0 if self.memory_pool is None else self.memory_pool.statistics.rented,
        )


class _ObservedListener(Listener):
    def __init__(self, inner: Listener, connections: list[Connection]) -> None:
        self._inner = inner
        self._connections = connections

    @property
    def endpoint(self) -> Endpoint:
        return self._inner.endpoint

    async def accept(self) -> Connection:
        connection = await self._inner.accept()
        self._connections.append(connection)
        return connection

    async def unbind(self) -> None:
        await self._inner.unbind()

    async def aclose(self) -> None:
        await self._inner.aclose()
