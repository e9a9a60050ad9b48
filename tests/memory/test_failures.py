"""What a server tells of the faults of handlers, middleware and applications."""

import trio

from kestrel_core import Connection, Failure, Server
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.transport import open_transport_context
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http1 import Http1
from kestrel_transports.memory import MemoryTransport
from tests.http1_site import ServerLog, answer
from tests.raw_client import GET, RawClient


class Told:
    """Serves one client who asks once, and remembers what the server told of it."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    async def ask(self, handler: ConnectionHandler, *middleware: Middleware) -> bytes:
        server = Server(on_failure=self.failures.append)
        server.listen("memory://told", handler, middleware=middleware)
        async with trio.open_nursery() as nursery:
            (endpoint,) = await nursery.start(server.serve)
            async with open_transport_context() as context:
                connection = await MemoryTransport().connect(endpoint, context)
                await connection.transport.output.send(GET)
                await connection.transport.output.send_eof()
                received = b""
                try:
                    async for chunk in connection.transport.input:
                        received += chunk
                except trio.BrokenResourceError:
                    pass
                await connection.aclose()
            await server.drain(1)
        return received


async def test_an_application_that_raises(log: ServerLog) -> None:
    told, fault = Told(), ValueError("not today")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise fault

    assert (await told.ask(Http1(AsgiApplication(app)))).startswith(b"HTTP/1.1 500 ")
    (failure,) = told.failures
    assert failure.error is fault
    assert failure.message == "the application failed on GET /"
    assert failure.connection.remote is not None
    record = log.take()
    assert record.getMessage() == failure.message
    assert vars(record)["connection_id"] == failure.connection.id


async def test_an_application_that_leaves_without_an_answer(log: ServerLog) -> None:
    told = Told()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    assert (await told.ask(Http1(AsgiApplication(app)))).startswith(b"HTTP/1.1 500 ")
    (failure,) = told.failures
    assert failure.error is None
    assert failure.message == "the application returned without starting a response to GET /"
    assert log.take_error() == failure.message


async def test_a_handler_and_a_middleware_that_raise(log: ServerLog) -> None:
    told, fault = Told(), ValueError("not today")

    async def handler(connection: Connection) -> None:
        raise fault

    async def middleware(connection: Connection, following: ConnectionHandler) -> None:
        try:
            await following(connection)
        except ValueError as error:
            raise KeyError("worse") from error

    assert await told.ask(handler) == b""
    assert await told.ask(handler, middleware) == b""
    assert [record.exc_info is not None for record in log.records] == [True, True]
    log.records.clear()
    first, second = told.failures
    assert first.error is fault
    assert first.message.endswith(": its handler raised")
    assert isinstance(second.error, KeyError)


async def test_nothing_to_tell(log: ServerLog) -> None:
    """A client that leaves, and one that is answered, are nobody's fault here."""
    told = Told()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"fine")

    async def gone(connection: Connection) -> None:
        raise trio.BrokenResourceError("the peer is gone")

    assert (await told.ask(Http1(AsgiApplication(app)))).endswith(b"fine")
    await told.ask(gone)
    assert told.failures == []


async def test_a_listener_that_raises_changes_nothing(log: ServerLog) -> None:
    def on_failure(failure: Failure) -> None:
        raise RuntimeError("cannot listen")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("not today")

    server = Server(on_failure=on_failure)
    server.listen("memory://told", Http1(AsgiApplication(app)))
    async with trio.open_nursery() as nursery:
        (endpoint,) = await nursery.start(server.serve)
        async with open_transport_context() as context:
            client = RawClient(await MemoryTransport().connect(endpoint, context))
            for _ in range(2):
                assert (await client.ask(GET)).status == 500
            await client.connection.aclose()
        await server.drain(1)
    messages = [record.getMessage() for record in log.records]
    log.records.clear()
    assert messages == ["the application failed on GET /", "`on_failure` raised"] * 2
