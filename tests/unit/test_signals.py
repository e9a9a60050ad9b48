import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from kestrel_core.signals import Signal


def test_it_is_false_until_it_is_set() -> None:
    signal = Signal()
    assert not signal
    signal.set()
    assert signal
    signal.set()
    assert signal


def test_listeners_are_called_once_each_in_their_order() -> None:
    calls: list[str] = []
    signal = Signal()
    signal.listen(lambda: calls.append("first"))
    signal.listen(lambda: calls.append("second"))
    assert calls == []
    signal.set()
    signal.set()
    assert calls == ["first", "second"]


def test_a_late_listener_is_called_at_once() -> None:
    calls: list[str] = []
    signal = Signal()
    signal.set()
    signal.listen(lambda: calls.append("late"))
    assert calls == ["late"]


def test_a_listener_can_be_forgotten() -> None:
    calls: list[str] = []

    def listener() -> None:
        calls.append("called")

    signal = Signal()
    signal.unlisten(listener)
    signal.listen(listener)
    signal.unlisten(listener)
    signal.unlisten(listener)
    signal.set()
    signal.unlisten(listener)
    assert calls == []


def test_a_listener_may_listen_again() -> None:
    calls: list[str] = []
    signal = Signal()
    signal.listen(lambda: signal.listen(lambda: calls.append("inner")))
    signal.set()
    assert calls == ["inner"]


async def test_it_wakes_all_who_wait() -> None:
    signal = Signal()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await signal.wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
        await wait_all_tasks_blocked()
        assert woken == []
        signal.set()
    assert sorted(woken) == [0, 1, 2]


async def test_waiting_is_a_checkpoint_even_when_it_is_set() -> None:
    signal = Signal()
    signal.set()
    with assert_checkpoints():
        await signal.wait()


async def test_a_cancelled_waiter_is_forgotten() -> None:
    signal = Signal()
    with trio.move_on_after(0) as scope:
        await signal.wait()
    assert scope.cancelled_caught
    signal.set()  # would reschedule a task that does not wait, which trio does not survive
    await signal.wait()


def test_a_listener_may_have_another_one_forgotten() -> None:
    calls: list[str] = []

    def never() -> None:
        calls.append("never")

    signal = Signal()
    signal.listen(lambda: signal.unlisten(never))
    signal.listen(never)
    signal.listen(lambda: calls.append("last"))
    signal.set()
    assert calls == ["last"]


async def test_a_listener_may_cancel_who_waits() -> None:
    signal = Signal()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            signal.listen(scope.cancel)
            nursery.start_soon(signal.wait)
            await wait_all_tasks_blocked()
            signal.set()  # the task is woken by its cancellation, and must not be a second time
    assert scope.cancelled_caught
