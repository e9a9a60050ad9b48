import pytest

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import (
    ConnectionHandler,
    Middleware,
    compose,
    needs_bytes,
    serve_over,
)
from kestrel_core.transport import open_transport_context


def a_connection() -> Connection:
    return Connection(duplex_pipe_pair()[0], ConnectionContext())


def recording(name: str, calls: list[str]) -> Middleware:
    async def middleware(connection: Connection, following: ConnectionHandler) -> None:
        calls.append(f"{name} in")
        try:
            await following(connection)
        finally:
            calls.append(f"{name} out")

    return middleware


async def test_the_first_middleware_is_the_outermost() -> None:
    calls: list[str] = []

    async def handler(connection: Connection) -> None:
        calls.append("handler")

    composed = compose([recording("first", calls), recording("second", calls)], handler)
    await composed(a_connection())
    assert calls == ["first in", "second in", "handler", "second out", "first out"]


async def test_without_middleware_the_handler_stays_what_it_is() -> None:
    async def handler(connection: Connection) -> None:
        pass

    assert compose([], handler) is handler


async def test_all_get_the_same_connection_and_a_composition_serves_many() -> None:
    seen: list[Connection] = []

    async def middleware(connection: Connection, following: ConnectionHandler) -> None:
        seen.append(connection)
        await following(connection)

    async def handler(connection: Connection) -> None:
        seen.append(connection)

    composed = compose([middleware, middleware], handler)
    first, second = a_connection(), a_connection()
    await composed(first)
    await composed(second)
    assert seen == [first] * 3 + [second] * 3


async def test_errors_unwind_through_all_of_it() -> None:
    calls: list[str] = []

    async def handler(connection: Connection) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await compose([recording("only", calls)], handler)(a_connection())
    assert calls == ["only in", "only out"]


async def test_a_middleware_may_end_the_connection_by_itself() -> None:
    async def refuse(connection: Connection, following: ConnectionHandler) -> None:
        pass

    async def handler(connection: Connection) -> None:
        raise AssertionError("refused connections do not come here")

    await compose([refuse], handler)(a_connection())


async def test_what_needs_bytes_is_a_middleware_like_any_other() -> None:
    calls: list[str] = []
    marked = needs_bytes(recording("marked", calls))
    assert isinstance(marked, needs_bytes)

    async def handler(connection: Connection) -> None:
        calls.append("handler")

    await compose([marked], handler)(a_connection())
    assert calls == ["marked in", "handler", "marked out"]


async def test_what_a_layer_says_last_is_said() -> None:
    """Though it wrote nothing, and overrides `finish` alone."""

    class Polite(LayeredPipe):
        __slots__ = ()

        async def finish(self) -> None:
            await self.output.send(b"good-bye")
            await super().finish()

    async def be_polite(connection: Connection, following: ConnectionHandler) -> None:
        inner = connection.transport
        pipe = Polite(inner, LayerReader(inner.input), LayerWriter(inner.output))
        await serve_over(pipe, connection, following)

    near, far = duplex_pipe_pair()
    async with open_transport_context() as context:
        connection = Connection(near, context)

        async def say_nothing(connection: Connection) -> None: ...

        await be_polite(connection, say_nothing)
        assert await far.input.read() == b"good-bye"
        await connection.aclose()
