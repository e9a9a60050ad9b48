"""The pollers themselves: what tasks wait for, and what must not confuse them."""

import socket
import sys
from collections.abc import Generator
from tempfile import TemporaryFile
from typing import IO, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kestrel_core.transport import TransportContext, open_transport_context
from kestrel_transports._poller import Pollable, Poller
from tests.socket_ends import MakePoller, Task

needs_epoll = pytest.mark.skipif(sys.platform != "linux", reason="this system has no epoll")
only_epoll = pytest.mark.parametrize("make_poller", [Poller.of], ids=["epoll"])


Ends: TypeAlias = tuple[socket.socket, socket.socket]


class Watched(Pollable):
    """A pollable that notes its alerts, and may do something about them."""

    __slots__ = ("alerts", "poller", "then_remove")

    def __init__(self, poller: Poller, *files: socket.socket | IO[bytes]) -> None:
        super().__init__(*(each.fileno() for each in files))
        self.poller = poller
        self.alerts: list[bool] = []
        self.then_remove: list[Pollable] = []
        poller.add(self)

    def alert(self, *, dead: bool) -> None:
        self.alerts.append(dead)
        for other in self.then_remove:
            self.poller.remove(other)

    async def wait(self) -> None:
        await self.poller.wait_readable(self)


@pytest.fixture
def poller(make_poller: MakePoller, context: TransportContext) -> Poller:
    return context.shared(make_poller)


@pytest.fixture
def ends() -> Generator[Ends]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        yield one, other


@pytest.fixture
def more_ends() -> Generator[Ends]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        yield one, other


async def test_a_context_has_one_poller(make_poller: MakePoller, context: TransportContext) -> None:
    assert context.shared(make_poller) is context.shared(make_poller)


async def test_a_task_waits_until_there_is_something_to_read(poller: Poller, ends: Ends) -> None:
    ours, peer = ends
    watched = Watched(poller, ours)
    async with trio.open_nursery() as nursery:
        waiting = Task(nursery, watched.wait)
        await wait_all_tasks_blocked()
        assert watched.waiting is not None
        assert not watched.readable
        peer.send(b"x")
    assert waiting.done
    assert watched.waiting is None
    assert watched.readable
    poller.remove(watched)


async def test_what_is_readable_before_it_is_watched_is_told(poller: Poller, ends: Ends) -> None:
    ours, peer = ends
    peer.send(b"x")
    watched = Watched(poller, ours)
    await watched.wait()
    assert watched.readable
    poller.remove(watched)


async def test_a_waiting_task_can_be_woken_and_wait_again(poller: Poller, ends: Ends) -> None:
    ours, peer = ends
    watched = Watched(poller, ours)
    poller.wake(watched)  # nobody waits
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            waiting = Task(nursery, watched.wait)
            await wait_all_tasks_blocked()
            poller.wake(watched)
            poller.wake(watched)
        assert waiting.error is None
    async with trio.open_nursery() as nursery:
        waiting = Task(nursery, watched.wait)
        await wait_all_tasks_blocked()
        assert not waiting.done
        peer.send(b"x")
    poller.remove(watched)


async def test_a_cancelled_task_waits_no_more(poller: Poller, ends: Ends) -> None:
    ours, peer = ends
    watched = Watched(poller, ours)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            Task(nursery, watched.wait)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert watched.waiting is None
    poller.wake(watched)
    peer.send(b"x")
    await watched.wait()
    poller.remove(watched)


async def test_any_of_several_descriptors_ends_the_wait(
    poller: Poller, ends: Ends, more_ends: Ends
) -> None:
    for peer in (ends[1], more_ends[1]):
        watched = Watched(poller, ends[0], more_ends[0])
        async with trio.open_nursery() as nursery:
            Task(nursery, watched.wait)
            await wait_all_tasks_blocked()
            peer.send(b"x")
        poller.remove(watched)


async def test_waking_ends_the_wait_for_several_descriptors(
    poller: Poller, ends: Ends, more_ends: Ends
) -> None:
    watched = Watched(poller, ends[0], more_ends[0])
    async with trio.open_nursery() as nursery:
        Task(nursery, watched.wait)
        await wait_all_tasks_blocked()
        poller.wake(watched)
    poller.remove(watched)


@pytest.mark.parametrize("count", [1, 2])
async def test_what_is_removed_as_a_task_begins_to_wait_ends_the_wait(
    poller: Poller, ends: Ends, more_ends: Ends, count: int
) -> None:
    for _ in range(10):  # in whichever order the tasks run
        sockets = [socket.socket(fileno=each[0].dup().detach()) for each in (ends, more_ends)]
        watched = Watched(poller, *sockets[:count])
        async with trio.open_nursery() as nursery:
            waiting = Task(nursery, watched.wait)
            while watched.waiting is None:
                await trio.lowlevel.checkpoint()
            poller.wake(watched)
            poller.remove(watched)
            for each in sockets:
                each.close()
        assert waiting.error is None
        assert watched.filenos == ()


@needs_epoll
@only_epoll
async def test_removing_twice_does_nothing(poller: Poller, ends: Ends) -> None:
    watched = Watched(poller, ends[0])
    assert poller.watched == 1
    poller.remove(watched)
    poller.remove(watched)
    assert poller.watched == 0


@needs_epoll
@only_epoll
async def test_an_end_is_an_alert_and_so_is_death(poller: Poller, ends: Ends) -> None:
    ours, peer = ends
    watched = Watched(poller, ours)
    peer.send(b"x")
    await watched.wait()
    assert watched.alerts == []
    peer.shutdown(socket.SHUT_WR)
    await watched.wait()
    assert watched.alerts == [False]
    peer.close()
    await watched.wait()
    assert watched.alerts == [False, True]
    poller.remove(watched)


@needs_epoll
@only_epoll
async def test_an_alert_may_remove_others_that_have_events_too(
    poller: Poller, ends: Ends, more_ends: Ends
) -> None:
    one, other = Watched(poller, ends[0]), Watched(poller, more_ends[0])
    one.then_remove, other.then_remove = [other], [one]
    for _, peer in (ends, more_ends):
        peer.shutdown(socket.SHUT_WR)
    await wait_all_tasks_blocked(0.001)
    assert one.alerts + other.alerts == [False], "the first to be alerted removed the other"
    for watched in (one, other):
        poller.remove(watched)


@needs_epoll
@only_epoll
async def test_what_cannot_be_watched_is_not_half_watched(poller: Poller, ends: Ends) -> None:
    with TemporaryFile() as file, pytest.raises(PermissionError):  # epoll takes no regular file
        Watched(poller, ends[0], file)
    assert poller.watched == 0


@needs_epoll
@only_epoll
async def test_more_events_than_are_taken_in_one_go_are_all_told(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(700)]
    watched = [Watched(poller, ours) for ours, _ in pairs]
    async with trio.open_nursery() as nursery:
        for each in watched:
            nursery.start_soon(each.wait)
        await wait_all_tasks_blocked()
        for _, peer in pairs:
            peer.send(b"x")
    for each in watched:
        poller.remove(each)
    for ours, peer in pairs:
        ours.close()
        peer.close()


@needs_epoll
@only_epoll
async def test_a_poller_whose_context_has_ended_can_still_be_told_to_remove(
    make_poller: MakePoller, ends: Ends
) -> None:
    async with open_transport_context() as context:
        poller = context.shared(make_poller)
        watched = Watched(poller, ends[0])
    poller.remove(watched)
    assert poller.watched == 0
