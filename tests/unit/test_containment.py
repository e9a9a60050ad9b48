"""What goes wrong when one connection is closed stays with it."""

import pytest
import trio
import trio.testing

from kestrel_core.connection import Connection, Failure
from kestrel_core.containment import close_contained
from kestrel_core.end_reason import EndReason
from kestrel_core.memory_pipe import MemoryDuplexPipe, Pipe
from kestrel_core.transport import open_transport_context
from tests.http1_site import watch_log


class Faulty(MemoryDuplexPipe):
    """A pipe that cannot be closed, at once or otherwise."""

    __slots__ = ()

    async def aclose(self) -> None:
        raise ZeroDivisionError

    def close_nowait(self) -> bool:
        raise ZeroDivisionError


class FaultyLater(MemoryDuplexPipe):
    """A pipe that cannot be closed, which it finds out only when it tries."""

    __slots__ = ()

    async def aclose(self) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Faulty, FaultyLater])
async def test_a_fault_is_told_and_not_raised(kind: type[MemoryDuplexPipe]) -> None:
    failures: list[Failure] = []
    with watch_log() as log:
        async with open_transport_context() as context:
            context.on_failure = failures.append
            connection = Connection(kind(Pipe(), Pipe()), context)
            await close_contained(connection, 1)
        fault = log.take_error(ZeroDivisionError)
    assert fault == f"connection {connection.id}: its transport cannot be closed"
    assert connection.end_reason is EndReason.OTHER_ERROR
    assert connection.closed
    assert [failure.message for failure in failures] == [fault]


async def test_what_closes_at_once_runs_no_checkpoint() -> None:
    async with open_transport_context() as context:
        connection = Connection(MemoryDuplexPipe(Pipe(), Pipe()), context)
        with trio.testing.assert_no_checkpoints():
            await close_contained(connection, 1)
        assert connection.closed
