"""The lifespan of ASGI applications: started before the server, stopped after it."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from kestrel_core.testing.http_client import open_http_client
from kestrel_protocols.asgi import AsgiApplication, LifespanFailed
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http1 import Http1


class Recorded:
    """An application that notes the events it gets, and answers them as it is told to."""

    def __init__(self, **answers: dict[str, str]) -> None:
        self.events: list[str] = []
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        scope["state"]["started"] = "yes"
        for phase in ("startup", "shutdown"):
            event = await receive()
            self.events.append(event["type"])
            await send({"type": f"lifespan.{phase}.complete", **self.answers.get(phase, {})})


async def test_start_and_stop() -> None:
    app = Recorded()
    async with AsgiApplication(app).lifespan():
        assert app.events == ["lifespan.startup"]
    assert app.events == ["lifespan.startup", "lifespan.shutdown"]


async def test_the_application_is_stopped_when_the_body_raises() -> None:
    app = Recorded()
    with pytest.raises(ZeroDivisionError):
        async with AsgiApplication(app).lifespan():
            raise ZeroDivisionError
    assert app.events == ["lifespan.startup", "lifespan.shutdown"]


async def test_what_failed_to_start_says_why() -> None:
    app = Recorded(startup={"type": "lifespan.startup.failed", "message": "no database"})
    with pytest.raises(LifespanFailed, match=r"^no database$"):
        async with AsgiApplication(app).lifespan():
            pytest.fail("it was served")


async def test_what_failed_to_stop_says_why() -> None:
    app = Recorded(shutdown={"type": "lifespan.shutdown.failed", "message": "still busy"})
    with pytest.raises(LifespanFailed, match=r"^still busy$"):
        async with AsgiApplication(app).lifespan():
            pass


async def answers_as_to_a_request(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})


async def raises_in_its_startup(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise ZeroDivisionError


async def test_one_that_raises_in_its_startup_is_served_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The specification has it so; that something is wrong must be seen all the same."""
    async with AsgiApplication(raises_in_its_startup).lifespan():
        (record,) = caplog.records
    assert (record.name, record.levelname) == ("kestrel.asgi", "WARNING")
    assert record.exc_info is not None


async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError(scope["type"])


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("app", [raises_at_once, returns_at_once, answers_as_to_a_request])
async def test_an_application_without_lifespan_is_fine(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
) -> None:
    served = False
    async with AsgiApplication(app).lifespan():
        served = True
    assert served


async def test_one_that_raises_in_its_shutdown_has_failed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ZeroDivisionError

    with pytest.raises(LifespanFailed) as raised:
        async with AsgiApplication(app).lifespan():
            pass
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


async def test_a_start_that_hangs_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep_forever()

    with trio.move_on_after(5) as scope:
        async with AsgiApplication(app).lifespan():
            pytest.fail("it was served")
    assert scope.cancelled_caught


async def test_requests_see_a_copy_of_the_state() -> None:
    seen: list[dict[str, object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["numbers"] = [1]
            await Recorded()(scope, receive, send)
            return
        seen.append(dict(scope["state"]))
        scope["state"]["mine"] = "alone"
        scope["state"]["numbers"].append(2)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    application = AsgiApplication(app)
    async with open_http_client(Http1(application), lifespan=application.lifespan()) as client:
        for _ in range(2):
            assert (await client.get("/")).status_code == 204

    # The copy is shallow, as the specification has it.
    numbers = [1, 2, 2]
    assert seen == [{"numbers": numbers, "started": "yes"}] * 2
