import bdb
import math
import random
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.timers import Deadline, Timers


@asynccontextmanager
async def running() -> AsyncGenerator[Timers]:
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await wait_all_tasks_blocked()
        yield timers
        nursery.cancel_scope.cancel()


class Recorder:
    """A deadline that notes when it expired."""

    def __init__(self, timers: Timers) -> None:
        self.times: list[float] = []
        self.deadline: Deadline = timers.deadline()
        self.deadline.on_expiry = lambda: self.times.append(trio.current_time())


async def test_it_expires_exactly_once_and_exactly_then(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        recorder.deadline.set(start + 130)
        await trio.sleep(129.999)
        assert recorder.times == []
        await trio.sleep(1000)
        assert recorder.times == [start + 130]
        assert recorder.deadline.expires_at == math.inf


async def test_it_can_be_set_from_now(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        assert recorder.deadline.now() == start
        recorder.deadline.set_after(100)
        assert recorder.deadline.expires_at == start + 100
        await trio.sleep(1)
        recorder.deadline.set_after(5)
        await trio.sleep(1)
        recorder.deadline.set_after(5)
        await trio.sleep(1000)
        assert recorder.times == [start + 7]


async def test_it_can_be_set_again_after_it_expired(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        recorder.deadline.set(start + 1)
        await trio.sleep(5)
        recorder.deadline.set(start + 7)
        await trio.sleep(5)
        assert recorder.times == [start + 1, start + 7]


async def test_it_can_be_set_from_its_own_expiry(autojump_clock: MockClock) -> None:
    async with running() as timers:
        deadline = timers.deadline()
        start = trio.current_time()
        times: list[float] = []

        def again() -> None:
            times.append(trio.current_time())
            if len(times) < 3:
                deadline.set(trio.current_time() + 2)

        deadline.on_expiry = again
        deadline.set(start + 2)
        await trio.sleep(20)
        assert times == [start + 2, start + 4, start + 6]


async def test_it_may_be_moved_later(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        for step in range(1, 10):
            recorder.deadline.set(start + step + 5)
            await trio.sleep(1)
        await trio.sleep(100)
        assert recorder.times == [start + 14]


async def test_it_may_be_moved_earlier(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        recorder.deadline.set(start + 100)
        await trio.sleep(1)
        recorder.deadline.set(start + 5)
        await trio.sleep(1)
        recorder.deadline.set(start + 3)
        await trio.sleep(200)
        assert recorder.times == [start + 3]


async def test_it_may_be_moved_earlier_and_later_again(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        for seconds in (50, 10, 60, 20, 70):
            recorder.deadline.set(start + seconds)
        await trio.sleep(200)
        assert recorder.times == [start + 70]


async def test_it_may_be_cleared(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        recorder.deadline.set(start + 5)
        recorder.deadline.clear()
        await trio.sleep(20)
        assert recorder.times == []
        recorder.deadline.set(start + 30)
        await trio.sleep(20)
        assert recorder.times == [start + 30]


async def test_a_time_that_has_passed_expires_at_once(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        await trio.sleep(0.5)
        recorder.deadline.set(trio.current_time())
        await wait_all_tasks_blocked()
        assert recorder.times == [trio.current_time()]


async def test_a_closed_one_does_not_expire_and_forgets_its_owner(
    autojump_clock: MockClock,
) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        recorder.deadline.set(trio.current_time() + 5)
        recorder.deadline.close()
        recorder.deadline.close()
        assert recorder.deadline.on_expiry is None
        assert recorder.deadline.expires_at == math.inf
        await trio.sleep(20)
        assert recorder.times == []


async def test_one_without_an_owner_expires_in_silence(autojump_clock: MockClock) -> None:
    async with running() as timers:
        deadline = timers.deadline()
        deadline.set(trio.current_time() + 5)
        await trio.sleep(20)
        assert deadline.expires_at == math.inf


async def test_many_expire_each_at_its_time(autojump_clock: MockClock) -> None:
    async with running() as timers:
        start = trio.current_time()
        recorders = [Recorder(timers) for _ in range(100)]
        for number, recorder in enumerate(recorders):
            recorder.deadline.set(start + (number * 37) % 100)
        await trio.sleep(200)
        for number, recorder in enumerate(recorders):
            assert recorder.times == [start + (number * 37) % 100]


async def test_an_expiry_may_close_others_that_are_due(autojump_clock: MockClock) -> None:
    async with running() as timers:
        first, second = Recorder(timers), Recorder(timers)
        first.deadline.on_expiry = second.deadline.close
        first.deadline.set(trio.current_time() + 5)
        second.deadline.set(trio.current_time() + 5)
        await trio.sleep(20)
        assert second.times == []


async def test_short_connections_leave_nothing_behind(autojump_clock: MockClock) -> None:
    async with running() as timers:
        lasting = [Recorder(timers) for _ in range(50)]
        start = trio.current_time()
        for number, recorder in enumerate(lasting):
            recorder.deadline.set(start + 100 + number)
        for _ in range(20_000):
            deadline = timers.deadline()
            deadline.set(start + 130)
            deadline.close()
            assert len(timers._heap) < 1000  # pyright: ignore[reportPrivateUsage]  # nothing else tells
        await trio.sleep(200)
        assert [recorder.times for recorder in lasting] == [[start + 100 + n] for n in range(50)]
        assert timers._heap == []  # pyright: ignore[reportPrivateUsage]  # nothing else tells


async def test_those_that_last_stay_in_order_among_those_that_do_not(
    autojump_clock: MockClock,
) -> None:
    dice = random.Random(7)
    async with running() as timers:
        start = trio.current_time()
        seconds = [dice.randrange(1, 1000) for _ in range(300)]
        lasting = [Recorder(timers) for _ in seconds]
        for recorder, after in zip(lasting, seconds, strict=True):
            recorder.deadline.set(start + after)
            passing = [timers.deadline() for _ in range(20)]
            for deadline in passing:
                deadline.set(start + dice.randrange(1, 1000))
            for deadline in passing:
                deadline.close()
        await trio.sleep(2000)
        assert [recorder.times for recorder in lasting] == [[start + after] for after in seconds]


async def test_moving_back_and_forth_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        for number in range(20_000):
            recorder.deadline.set(start + 50_000 - number)
            recorder.deadline.set(start + 60_000)
            assert len(timers._heap) < 1000  # pyright: ignore[reportPrivateUsage]  # nothing else tells
        recorder.deadline.set(start + 10)
        await trio.sleep(70_000)
        assert recorder.times == [start + 10]


async def test_the_peer_is_not_blamed_for_our_own_lateness(mock_clock: MockClock) -> None:
    async with running() as timers:
        punctual, late, far = Recorder(timers), Recorder(timers), Recorder(timers)
        punctual.deadline.set(5)
        late.deadline.set(7)
        far.deadline.set(11)
        mock_clock.jump(10)  # as after a suspended process: five seconds late
        await wait_all_tasks_blocked()
        assert punctual.times == late.times == []
        assert punctual.deadline.expires_at == late.deadline.expires_at == 15
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert far.times == [11]
        mock_clock.jump(4)
        await wait_all_tasks_blocked()
        assert punctual.times == late.times == [15]


async def test_a_little_lateness_is_nothing_to_make_up_for(mock_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        recorder.deadline.set(5)
        mock_clock.jump(5.9)
        await wait_all_tasks_blocked()
        assert recorder.times == [5.9]


async def test_what_moved_in_time_is_not_touched_by_lateness(mock_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        recorder.deadline.set(5)
        recorder.deadline.set(12)
        mock_clock.jump(10)
        await wait_all_tasks_blocked()
        assert recorder.deadline.expires_at == 12
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
        assert recorder.times == [12]


async def test_nothing_expires_while_a_debugger_is_attached(autojump_clock: MockClock) -> None:
    async with running() as timers:
        recorder = Recorder(timers)
        start = trio.current_time()
        recorder.deadline.set(start + 5)
        debugger = bdb.Bdb()
        debugger.reset()
        already_tracing = sys.gettrace()  # as a measurement of coverage does
        sys.settrace(debugger.trace_dispatch)
        try:
            await trio.sleep(60)
        finally:
            sys.settrace(already_tracing)
        assert recorder.times == []
        await trio.sleep(60)
        assert len(recorder.times) == 1
