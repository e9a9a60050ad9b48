"""A test that finds out whether a handler gives back what it rents: pytest unit_test_memory_pool.py

It needs pytest-trio.
"""

import pytest

from kestrel_core import Connection
from kestrel_core.testing import DiagnosticMemoryPool, open_server


async def greet(connection: Connection) -> None:
    with connection.memory_pool.rent() as block:
        block.view[:5] = b"Hello"
        await connection.transport.output.send(block.view[:5])


@pytest.mark.trio
async def test_every_block_comes_back() -> None:
    async with open_server(greet, memory_pool=DiagnosticMemoryPool) as opened:
        connection = await opened.connect()
        assert await connection.transport.input.read_exactly(6) == b"Hello"
        await connection.aclose()
    # The server closes the pool, which raises what was wrong.
