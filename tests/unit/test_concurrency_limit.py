from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_middleware.asgi import ConcurrencyLimit
from kestrel_middleware.asgi.scope import Receive, Scope, Send
from tests.asgi_call import Call, Recorder, call, request_scope, websocket_scope


class Slow:
    """An application that waits to be told to answer, and notes who it is working for."""

    def __init__(self) -> None:
        self.working: list[str] = []
        self._gates: dict[str, trio.Event] = {}

    def finish(self, path: str) -> None:
        self._gates[path].set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        self._gates[path] = trio.Event()
        self.working.append(path)
        try:
            await self._gates[path].wait()
        finally:
            self.working.remove(path)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})


class Crowd:
    """Clients of one application, each in a task of its own."""

    def __init__(
        self,
        nursery: trio.Nursery,
        **options: Any,  # noqa: ANN401  # as the class takes them
    ) -> None:
        self.slow = Slow()
        self.limit = ConcurrencyLimit(self.slow, **options)
        self.answers: dict[str, int] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self._nursery = nursery

    async def come(
        self,
        *paths: str,
        **more: Any,  # noqa: ANN401  # as scopes have it
    ) -> None:
        for path in paths:
            self._nursery.start_soon(self._ask, path, more)
            await wait_all_tasks_blocked()

    async def finish(self, path: str) -> None:
        self.slow.finish(path)
        await wait_all_tasks_blocked()

    async def leave(self, path: str) -> None:
        self.scopes[path].cancel()
        await wait_all_tasks_blocked()

    async def _ask(self, path: str, more: dict[str, Any]) -> None:
        with trio.CancelScope() as self.scopes[path]:
            self.answers[path] = (await call(self.limit, request_scope(path=path, **more))).status


async def test_those_beyond_are_refused() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, max_concurrent=2)
        await crowd.come("/a", "/b", "/c")
        assert crowd.slow.working == ["/a", "/b"]
        assert crowd.answers == {"/c": 429}
        await crowd.finish("/a")
        await crowd.come("/d", "/e")
        assert crowd.slow.working == ["/b", "/d"]
        assert crowd.answers == {"/c": 429, "/a": 200, "/e": 429}
        await crowd.finish("/b")
        await crowd.finish("/d")
        await crowd.come("/f")
        await crowd.finish("/f")
        assert crowd.answers["/f"] == 200


async def test_those_who_wait_come_in_order() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, max_concurrent=1, max_queued=2, status=503)
        await crowd.come("/a", "/b", "/c", "/d")
        assert crowd.answers == {"/d": 503}
        await crowd.finish("/a")
        assert crowd.slow.working == ["/b"]
        await crowd.come("/e")  # takes the place in the queue, not the slot
        assert crowd.slow.working == ["/b"]
        for path in ("/b", "/c", "/e"):
            await crowd.finish(path)
        assert crowd.answers == {"/d": 503, "/a": 200, "/b": 200, "/c": 200, "/e": 200}


async def test_who_leaves_gives_its_place_back() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, max_concurrent=1, max_queued=1)
        await crowd.come("/a", "/b")
        await crowd.leave("/b")
        await crowd.come("/c")
        await crowd.leave("/a")  # in the middle of the application
        assert crowd.slow.working == ["/c"]
        await crowd.finish("/c")
        await crowd.come("/d")
        await crowd.finish("/d")
        assert crowd.answers == {"/c": 200, "/d": 200}


async def test_who_has_waited_long_is_refused(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, max_concurrent=1, max_queued=5, queue_seconds=3)
        await crowd.come("/a", "/b")
        await trio.sleep(2)
        await crowd.come("/c")
        await trio.sleep(2)
        assert crowd.answers == {"/b": 429}
        await crowd.finish("/a")
        await crowd.finish("/c")
        assert crowd.answers == {"/b": 429, "/a": 200, "/c": 200}


async def test_a_count_for_each_client() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, max_concurrent=1, by="client", exempt_paths="/free")
        await crowd.come("/a", client=("192.0.2.1", 1))
        await crowd.come("/b", client=("192.0.2.2", 1))
        await crowd.come("/c", "/free", client=("192.0.2.1", 2))
        assert crowd.slow.working == ["/a", "/b", "/free"]
        assert crowd.answers == {"/c": 429}
        for path in list(crowd.slow.working):
            await crowd.finish(path)


async def test_an_application_that_raises_is_over() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    limit = ConcurrencyLimit(broken, max_concurrent=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await call(limit, request_scope())


async def test_websockets_and_lifespans() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, max_concurrent=1)
        await crowd.come("/a")
        sent: Call = await call(crowd.limit, websocket_scope())
        assert [event["type"] for event in sent.events] == ["websocket.close"]
        sent = await call(crowd.limit, websocket_scope(denial=True))
        assert (sent.status, sent.field(b"retry-after")) == (429, b"1")
        assert sent.body == b"Too many requests at once.\n"
        await crowd.finish("/a")
    recorder = Recorder()
    await call(ConcurrencyLimit(recorder, max_concurrent=1), {"type": "lifespan", "headers": []})
    assert len(recorder.scopes) == 1


def test_options() -> None:
    text = "concurrency_limit:max-concurrent=9,max-queued=3,queue-seconds=2.5,by=client,status=503"
    made = plugin_from_text(ConcurrencyLimit, PluginText.parse(text), Recorder())
    assert isinstance(made, ConcurrencyLimit)
    assert (made.max_concurrent, made.max_queued, made.queue_seconds) == (9, 3, 2.5)
    assert (str(made.by), made.status) == ("client", 503)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"max_concurrent": 0}, "max_concurrent must be at least 1, not 0"),
        ({"max_concurrent": 1, "max_queued": -1}, "max_queued must be zero or above, not -1"),
        ({"max_concurrent": 1, "queue_seconds": 1}, "queue_seconds: nobody waits"),
        (
            {"max_concurrent": 1, "max_queued": 1, "queue_seconds": 0},
            "queue_seconds must be above zero, not 0",
        ),
        ({"max_concurrent": 1, "status": 500}, "status: it is 429"),
    ],
)
def test_bad_options(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ConcurrencyLimit(Recorder(), **options)
