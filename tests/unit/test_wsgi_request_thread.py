"""The way from a worker thread to the event loop and back."""

import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import active_thread_count, wait_all_tasks_blocked

from kestrel_protocols.http import ClientDisconnected
from kestrel_protocols.wsgi.request_thread import RequestThread

ONE = trio.CapacityLimiter(1)


@pytest.fixture
async def thread() -> RequestThread:
    return RequestThread()


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number


async def fail() -> None:
    raise LookupError("not here")


async def test_the_thread_calls_and_its_result_is_the_outcome(thread: RequestThread) -> None:
    def work() -> tuple[int, bool]:
        return thread.call(double, 21), threading.current_thread() is threading.main_thread()

    assert await thread.run(work, ONE) == (42, False)
    assert ONE.borrowed_tokens == 0
    assert active_thread_count() == 0
    assert not thread.abandoned


async def test_what_a_call_raises_is_raised_in_the_thread(thread: RequestThread) -> None:
    def work() -> str:
        with pytest.raises(LookupError) as caught:
            thread.call(fail)
        return str(caught.value)

    assert await thread.run(work, ONE) == "not here"


async def test_what_the_thread_raises_is_raised_as_it_is(thread: RequestThread) -> None:
    with pytest.raises(LookupError, match="not here"):
        await thread.run(lambda: thread.call(fail), ONE)


async def test_threads_of_the_application_may_call_too_even_at_once(thread: RequestThread) -> None:
    results: list[int] = []
    here, there = trio.Event(), trio.Event()

    async def meet(mine: trio.Event, other: trio.Event) -> int:
        mine.set()
        await other.wait()
        return 1

    def work() -> None:
        other = threading.Thread(target=lambda: results.append(thread.call(meet, there, here)))
        other.start()
        results.append(thread.call(meet, here, there))
        other.join()

    await thread.run(work, ONE)
    assert results == [1, 1]


async def test_a_call_is_cancelled_with_the_request(thread: RequestThread) -> None:
    raised: list[Exception] = []
    ended = threading.Event()
    ends: list[str] = []

    async def wait_for_ever() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends.append("call")

    def work() -> None:
        try:
            thread.call(wait_for_ever)
        except ClientDisconnected as error:
            raised.append(error)
        ended.set()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, work, ONE)
            await wait_for_call(lambda: scope.cancel())
    ends.append("run")
    assert ends == ["call", "run"]
    assert thread.abandoned
    await trio.to_thread.run_sync(ended.wait)
    assert [str(error) for error in raised] == ["the request was given up"]


async def wait_for_call(then: Callable[[], None]) -> None:
    """Let the thread come to its call, which is the only task that can be waiting for ever."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    while not any("_settle" in task.name for task in tasks_below(root)):
        await wait_all_tasks_blocked()
    then()


def tasks_below(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [task, *(below for child in children for below in tasks_below(child))]


async def test_a_busy_thread_is_not_waited_for_and_keeps_its_place(thread: RequestThread) -> None:
    limiter = trio.CapacityLimiter(1)
    begun, go_on, ended = trio.Event(), threading.Event(), threading.Event()
    raised: list[Exception] = []

    def work() -> None:
        trio.from_thread.run_sync(begun.set)
        go_on.wait()
        try:
            thread.call(double, 1)
        except ClientDisconnected as error:
            raised.append(error)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.run, work, limiter)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert thread.abandoned
    assert limiter.borrowed_tokens == 1
    go_on.set()
    async with limiter:  # free again once the thread has ended
        assert ended.is_set()
    assert [str(error) for error in raised] == ["the request is over"]


async def test_calls_of_threads_that_outlive_the_request_end_with_it(thread: RequestThread) -> None:
    errors: list[str] = []
    called = trio.Event()

    async def wait_for_ever() -> None:
        called.set()
        await trio.sleep_forever()

    def stay() -> None:
        try:
            thread.call(wait_for_ever)
        except ClientDisconnected as error:
            errors.append(str(error))

    other = threading.Thread(target=stay)

    def work() -> None:
        other.start()
        trio.from_thread.run(called.wait)

    await thread.run(work, ONE)
    await trio.to_thread.run_sync(other.join)
    assert errors == ["the request was given up"]


async def test_the_event_loop_itself_must_not_call(thread: RequestThread) -> None:
    with pytest.raises(RuntimeError, match="call it from a worker thread"):
        thread.call(double, 1)


def test_when_the_event_loop_has_ended_calls_say_so() -> None:
    async def make() -> RequestThread:
        return RequestThread()

    thread = trio.run(make)
    with pytest.raises(ClientDisconnected, match="the server has stopped"):
        thread.call(double, 1)
