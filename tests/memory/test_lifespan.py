"""The lifespan of ASGI applications: those that take part, those that do not, those that fail."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.testing import OpenServer, open_server
from kestrel_protocols.asgi import AsgiApplication, LifespanFailed
from kestrel_protocols.asgi.events import Event, Receive, Scope, Send
from kestrel_protocols.http1 import Http1
from tests.http1_site import ServerLog, answer
from tests.raw_client import GET, RawClient

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}


class Application:
    """Answers every request with the steps of its lifespan; a subclass says what those do."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await self.live(scope, receive, send)
            except BaseException as error:
                self.steps.append(type(error).__name__)
                raise
            self.steps.append("returned")
        else:
            await answer(send, " ".join(self.steps).encode())

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == STARTUP
        await self.start(scope["state"], send)
        assert await receive() == SHUTDOWN
        await self.stop(send)

    async def start(self, state: dict[str, Any], send: Send) -> None:
        self.steps.append("started")
        await send({"type": "lifespan.startup.complete"})

    async def stop(self, send: Send) -> None:
        self.steps.append("stopped")
        await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def living(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
) -> AsyncGenerator[OpenServer]:
    """Serve `app` inside its lifespan."""
    application = AsgiApplication(app)
    async with open_server(Http1(application), lifespan=application.lifespan()) as opened:
        yield opened


async def ask(opened: OpenServer) -> bytes:
    client = RawClient(await opened.connect())
    response = await client.ask(GET)
    assert response.status == 200
    return response.body


def expect(record: logging.LogRecord, level: int, message: str) -> None:
    assert (record.name, record.levelno) == ("kestrel.asgi", level)
    assert record.getMessage() == message


# Those that take part ---------------------------------------------------------------------------


async def test_start_and_stop(log: ServerLog) -> None:
    app = Application()
    async with living(app) as opened:
        assert await ask(opened) == b"started"
    assert app.steps[:2] == ["started", "stopped"]


async def test_the_scope(log: ServerLog) -> None:
    seen: list[Scope] = []

    class Curious(Application):
        async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(dict(scope))
            await super().live(scope, receive, send)

    async with living(Curious()):
        pass
    assert seen == [
        {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    ]


async def test_nothing_is_bound_before_it_has_started(
    log: ServerLog, autojump_clock: MockClock
) -> None:
    class Slow(Application):
        async def start(self, state: dict[str, Any], send: Send) -> None:
            await trio.sleep(100)
            await super().start(state, send)

    application = AsgiApplication(Slow())
    async with open_server(
        Http1(application), lifespan=application.lifespan(), endpoint="memory://slow"
    ) as opened:
        assert autojump_clock.current_time() == 100
        assert await ask(opened) == b"started"


async def test_requests_end_before_it_is_stopped(log: ServerLog) -> None:
    class Busy(Application):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await closing.wait()
                await trio.lowlevel.checkpoint()
                self.steps.append("answered")
            await super().__call__(scope, receive, send)

    app, closing = Busy(), trio.Event()
    async with trio.open_nursery() as nursery, living(app) as opened:
        client = RawClient(await opened.connect())
        await client.send(GET)
        await wait_all_tasks_blocked()
        (connection,) = opened.server.connections
        connection.close_requested.listen(closing.set)
        nursery.start_soon(opened.server.drain, 10)
        assert (await client.receive()).body == b"started answered"
    assert app.steps[:3] == ["started", "answered", "stopped"]


async def test_state(log: ServerLog) -> None:
    """Each request has a copy of its own, and not a deep one."""
    states: list[dict[str, Any]] = []
    shared: list[int] = []

    class Stateful(Application):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                states.append(dict(scope["state"]))
                scope["state"]["mine"] = 1
                scope["state"]["shared"].append(len(states))
            await super().__call__(scope, receive, send)

        async def start(self, state: dict[str, Any], send: Send) -> None:
            state["shared"] = shared
            await super().start(state, send)
            state["later"] = True

    async with living(Stateful()) as opened:
        await wait_all_tasks_blocked()
        for _ in range(2):
            await ask(opened)
    assert states == [{"shared": shared, "later": True}] * 2
    assert states[0]["shared"] is shared
    assert shared == [1, 2]


async def test_two_servers_of_one_application_object_share_its_state(log: ServerLog) -> None:
    class Stateful(Application):
        async def start(self, state: dict[str, Any], send: Send) -> None:
            state["key"] = "value"
            await super().start(state, send)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                assert scope["state"] == {"key": "value"}
            await super().__call__(scope, receive, send)

    application = AsgiApplication(Stateful())
    async with application.lifespan():
        for _ in range(2):
            async with open_server(Http1(application)) as opened:
                await ask(opened)


async def test_whoever_waits_for_more_events_is_cancelled(log: ServerLog) -> None:
    class Looping(Application):
        async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
            while True:
                event = await receive()
                await send({"type": event["type"] + ".complete"})

    app = Looping()
    async with living(app) as opened:
        assert await ask(opened) == b""
    assert app.steps == ["Cancelled"]


async def test_tasks_of_its_own(log: ServerLog, autojump_clock: MockClock) -> None:
    class Working(Application):
        async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.work)
                await super().live(scope, receive, send)
                nursery.cancel_scope.cancel()

        async def work(self) -> None:
            while True:
                await trio.sleep(1)
                self.steps.append("worked")

    async with living(Working()) as opened:
        await trio.sleep(3.5)
        assert await ask(opened) == b"started worked worked worked"


# Those that do not ------------------------------------------------------------------------------


class Raising(Application):
    """Knows requests only, and says so."""

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError(scope["type"])


class RaisingInAGroup(Application):
    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.fail)

    async def fail(self) -> None:
        raise NotImplementedError


class Returning(Application):
    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await trio.lowlevel.checkpoint()


class ReturningLater(Application):
    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()


class Answering(Application):
    """Does not look at the type: everything is a request."""

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(send)


@pytest.mark.parametrize("kind", [Raising, RaisingInAGroup, Returning, ReturningLater, Answering])
async def test_not_supported(kind: type[Application], log: ServerLog) -> None:
    app = kind()
    async with living(app) as opened:
        assert await ask(opened) == app.steps[0].encode()
    record = log.take()
    assert (record.name, record.levelno) == ("kestrel.asgi", logging.DEBUG)
    assert record.getMessage().startswith("the application has no lifespan: ")
    assert len(app.steps) == 1


async def test_raising_in_the_startup(log: ServerLog) -> None:
    """The specification has the server go on; but nobody would expect it to keep quiet."""

    class Failing(Application):
        async def start(self, state: dict[str, Any], send: Send) -> None:
            raise ZeroDivisionError

    async with living(Failing()) as opened:
        assert await ask(opened) == b"ZeroDivisionError"
        record = log.take()
    expect(record, logging.WARNING, "the application raised in its startup; serving without it")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


# Those that fail --------------------------------------------------------------------------------


class FailingToStart(Application):
    def __init__(self, answer: Event) -> None:
        super().__init__()
        self.answer = answer

    async def start(self, state: dict[str, Any], send: Send) -> None:
        await send({"type": "lifespan.startup.failed", **self.answer})
        raise ZeroDivisionError  # as Starlette does


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"message": "no database"}, "no database"),
        ({"message": ""}, "the application failed in its startup"),
        ({}, "the application failed in its startup"),
    ],
)
async def test_startup_failed(more: Event, message: str, log: ServerLog) -> None:
    with pytest.raises(LifespanFailed, match=f"^{message}$"):
        async with living(FailingToStart(more)):
            pytest.fail("it was served")  # pragma: no cover
    assert log.ends == []


async def test_shutdown_failed(log: ServerLog) -> None:
    class Failing(Application):
        async def stop(self, send: Send) -> None:
            await send({"type": "lifespan.shutdown.failed", "message": "not flushed"})

    with pytest.raises(LifespanFailed, match=r"^not flushed$"):
        async with living(Failing()) as opened:
            assert await ask(opened) == b"started"


async def test_raising_in_the_shutdown(log: ServerLog) -> None:
    class Failing(Application):
        async def stop(self, send: Send) -> None:
            raise ZeroDivisionError

    with pytest.raises(LifespanFailed, match=r"^the application failed in its shutdown$") as caught:
        async with living(Failing()):
            pass
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_returning_in_the_shutdown_without_an_answer(log: ServerLog) -> None:
    class Leaving(Application):
        async def stop(self, send: Send) -> None:
            self.steps.append("left")

    app = Leaving()
    async with living(app):
        pass
    assert app.steps == ["started", "left", "returned"]


async def test_raising_while_served(log: ServerLog) -> None:
    """It is told at once, and is the reason for not ending well."""
    fail = trio.Event()

    class Failing(Application):
        async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.start(scope["state"], send)
            await fail.wait()
            raise ZeroDivisionError

    caught: LifespanFailed | None = None
    try:
        async with living(Failing()) as opened:
            fail.set()
            await wait_all_tasks_blocked()
            expect(log.take(), logging.ERROR, "the application's lifespan ended early")
            assert await ask(opened) == b"started ZeroDivisionError"
    except LifespanFailed as error:
        caught = error
    assert str(caught) == "the application's lifespan ended early"
    assert caught is not None
    assert isinstance(caught.__cause__, ZeroDivisionError)


async def test_raising_right_after_the_startup(log: ServerLog) -> None:
    class Failing(Application):
        async def start(self, state: dict[str, Any], send: Send) -> None:
            await super().start(state, send)
            raise ZeroDivisionError

    with pytest.raises(LifespanFailed, match="ended early"):
        async with living(Failing()):
            await wait_all_tasks_blocked()
    expect(log.take(), logging.ERROR, "the application's lifespan ended early")


async def test_returning_while_served(log: ServerLog) -> None:
    class Leaving(Application):
        async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await self.start(scope["state"], send)

    async with living(Leaving()) as opened:
        await wait_all_tasks_blocked()
        assert await ask(opened) == b"started returned"


@pytest.mark.parametrize(
    "kind",
    ["lifespan.startup.complete", "lifespan.shutdown.complete", "http.response.start"],
)
async def test_answering_what_was_not_asked(kind: str, log: ServerLog) -> None:
    class Talking(Application):
        async def start(self, state: dict[str, Any], send: Send) -> None:
            await super().start(state, send)
            with pytest.raises(RuntimeError, match=kind):
                await send({"type": kind})
            self.steps.append("refused")

    async with living(Talking()) as opened:
        await wait_all_tasks_blocked()
        assert await ask(opened) == b"started refused"


# Being cancelled, and errors of the body ----------------------------------------------------------


async def test_hanging_in_the_startup(log: ServerLog, autojump_clock: MockClock) -> None:
    class Hanging(Application):
        async def start(self, state: dict[str, Any], send: Send) -> None:
            await trio.sleep_forever()

    app = Hanging()
    with trio.move_on_after(5) as scope:
        async with living(app):
            pytest.fail("it was served")  # pragma: no cover
    assert scope.cancelled_caught
    assert app.steps == ["Cancelled"]
    assert autojump_clock.current_time() == 5


async def test_hanging_in_the_shutdown(log: ServerLog, autojump_clock: MockClock) -> None:
    class Hanging(Application):
        async def stop(self, send: Send) -> None:
            await trio.sleep_forever()

    app = Hanging()
    with trio.move_on_after(5) as scope:
        async with living(app):
            pass
    assert scope.cancelled_caught
    assert app.steps == ["started", "Cancelled"]


async def test_cancelled_while_served(log: ServerLog, autojump_clock: MockClock) -> None:
    app = Application()
    with trio.move_on_after(5) as scope:
        async with living(app):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert app.steps == ["started", "Cancelled"]


async def test_an_error_of_the_body_comes_out_as_it_is(log: ServerLog) -> None:
    """And the application is stopped, as it was started."""
    app = Application()
    with pytest.raises(ZeroDivisionError):
        async with AsgiApplication(app).lifespan():
            raise ZeroDivisionError
    assert app.steps[:2] == ["started", "stopped"]


async def test_an_error_of_the_body_comes_before_one_of_the_shutdown(log: ServerLog) -> None:
    class Failing(Application):
        async def stop(self, send: Send) -> None:
            raise LookupError

    with pytest.raises(ZeroDivisionError):
        async with AsgiApplication(Failing()).lifespan():
            raise ZeroDivisionError
    record = log.take()
    expect(record, logging.ERROR, "the application failed in its shutdown")
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


async def test_an_error_that_stops_everything(log: ServerLog) -> None:
    """Control-C is nobody's to delay."""
    app = Application()
    with pytest.RaisesGroup(KeyboardInterrupt, allow_unwrapped=True, flatten_subgroups=True):
        async with AsgiApplication(app).lifespan():
            raise KeyboardInterrupt
    assert app.steps == ["started", "Cancelled"]
