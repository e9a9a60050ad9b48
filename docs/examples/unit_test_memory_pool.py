"""A test that finds out whether a handler gives back what it rents: pytest unit_test_memory_pool.py

It needs pytest-trio.
"""

import pytest
import trio

from kestrel_core import Connection, Registry, Server, open_transport_context
from kestrel_core.testing import DiagnosticMemoryPool


async def greet(connection: Connection) -> None:
    with connection.memory_pool.rent() as block:
        block.view[:5] = b"Hello"
        await connection.transport.output.send(block.view[:5])


@pytest.mark.trio
async def test_every_block_comes_back() -> None:
    server = Server(memory_pool=DiagnosticMemoryPool)
    server.listen("memory://greetings", greet)
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        async with open_transport_context() as context:
            connection = await Registry().transport(bound.scheme).connect(bound, context)
            assert await connection.transport.input.read_exactly(6) == b"Hello"
            await connection.aclose()
        await server.drain(1)  # `serve` closes the pool, which raises what was wrong
