"""Readiness of many sockets for the price of one: an edge-triggered epoll inside trio's loop.

Theory of operation. trio's `wait_readable` arms the kernel anew for every wait, which costs a
system call and some bookkeeping for each request. Here every socket is registered once, edge
triggered, with an epoll of our own; that epoll is itself a descriptor that trio waits for. One
task wakes when anything happened, asks what, and reschedules the tasks concerned.

Edge triggered means that an event is told once: a socket stays marked readable until a read found
less than it asked for. That is not always all there is: the end of the peer's output may be queued
behind those last bytes without an edge of its own, and so may what follows urgent data, before
which a read stops. Once an event told of either, only a read that finds nothing clears the mark.

Where there is no epoll, trio's own `wait_readable` serves, and what only events can tell (that a
peer is gone while nobody reads) is found out by reading and writing.
"""

import select
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import suppress
from typing import ClassVar, TypeVar

import outcome
import trio

from kestrel_core.transport import TransportContext

__all__ = ["Pollable", "Poller", "TrioPoller"]

ResultT = TypeVar("ResultT")

# Events taken in one go. Each one that matters costs a task switch, so more would not go faster.
_MOST_EVENTS = 512


class _Woken(outcome.Outcome[None]):
    """What a woken task is sent: nothing. One serves for all, which `outcome.Value` forbids."""

    __slots__ = ()

    def unwrap(self) -> None:
        return None

    def send(self, gen: Generator[ResultT, None, object]) -> ResultT:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[ResultT, None]) -> ResultT:
        return await agen.asend(None)


_WOKEN = _Woken()


class Pollable(ABC):
    """One or several descriptors whose readiness one task waits for."""

    __slots__ = ("_trap", "filenos", "readable", "waiting")

    def __init__(self, *filenos: int) -> None:
        self.filenos: tuple[int, ...] = filenos
        """What is watched; empty once the poller has removed it."""
        self.readable: bool = False
        """Whether a read may find something. Set by events, cleared by the reader."""
        self.waiting: trio.lowlevel.Task | None = None
        # What `wait_task_rescheduled` yields to trio. It is the same each time, so it is made once
        # and yielded again, which spares each wait a coroutine and an object.
        asleep = trio.lowlevel.wait_task_rescheduled(  # noqa: ASYNC105  # driven by hand, below
            self.stop_waiting
        )
        self._trap: object = asleep.send(None)
        asleep.close()

    def __await__(self) -> Generator[object, outcome.Outcome[None], None]:
        """Sleep until rescheduled, as `trio.lowlevel.wait_task_rescheduled` does."""
        self.waiting = trio.lowlevel.current_task()
        (yield self._trap).unwrap()

    @abstractmethod
    def alert(self, *, dead: bool) -> None:
        """Note that more than bytes is there: an end, urgent data or, if `dead`, the socket's death.

        It must not raise.
        """

    def stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """Be trio's abort function for the waiting task."""
        self.waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


class Poller(ABC):
    """Waits for many sockets; get the one of a context by `context.shared(Poller.of)`."""

    tells_unasked: ClassVar[bool]
    """Whether it marks what has become readable while nobody waits, too."""

    @staticmethod
    def of(context: TransportContext) -> "Poller":
        """Return the best poller that this system has, running in `context`'s nursery."""
        if sys.platform == "linux":
            poller = EpollPoller()
            context.nursery.start_soon(poller.run)
            return poller
        return TrioPoller()

    @property
    @abstractmethod
    def watched(self) -> int:
        """How many descriptors are watched all the time, whether somebody waits or not."""

    @abstractmethod
    def add(self, pollable: Pollable) -> None:
        """Begin to watch `pollable`.

        Raises:
            OSError: there is no room; nothing is watched.
        """

    @abstractmethod
    def remove(self, pollable: Pollable) -> None:
        """End watching `pollable`, which has been woken, before its descriptors are closed."""

    @abstractmethod
    def wait_readable(self, pollable: Pollable) -> Awaitable[None]:
        """Wait until `pollable` may be readable, or somebody wakes it; always a checkpoint.

        To be awaited at once.
        """

    @abstractmethod
    def wake(self, pollable: Pollable) -> None:
        """Let the task that waits for `pollable`, if any, look again."""


class TrioPoller(Poller):
    """trio's own waiting, for systems without epoll."""

    tells_unasked = False

    @property
    def watched(self) -> int:
        """None: trio forgets a descriptor when nobody waits for it."""
        return 0

    def add(self, pollable: Pollable) -> None:
        """Hold nothing."""

    def remove(self, pollable: Pollable) -> None:
        """Keep tasks that are about to wait from descriptors that are about to be closed."""
        pollable.filenos = ()

    async def wait_readable(self, pollable: Pollable) -> None:
        """Wait through trio; for several descriptors that takes a task each."""
        pollable.waiting = trio.lowlevel.current_task()
        try:
            if len(pollable.filenos) == 1:
                await _wait_readable_or_woken(pollable.filenos[0])
            else:
                async with trio.open_nursery() as nursery:
                    for fileno in pollable.filenos:
                        nursery.start_soon(
                            _wait_then_cancel, pollable, fileno, nursery.cancel_scope
                        )
        finally:
            pollable.waiting = None
        pollable.readable = True

    def wake(self, pollable: Pollable) -> None:
        """Wake everybody who waits for the descriptors; a writer among them waits again."""
        if pollable.waiting is not None:
            for fileno in pollable.filenos:
                trio.lowlevel.notify_closing(fileno)


async def _wait_readable_or_woken(fileno: int) -> None:
    with suppress(trio.ClosedResourceError):  # that was `wake`: nothing was closed
        await trio.lowlevel.wait_readable(fileno)


async def _wait_then_cancel(pollable: Pollable, fileno: int, scope: trio.CancelScope) -> None:
    if fileno in pollable.filenos:  # else it was removed, and closed, before this task had a turn
        await _wait_readable_or_woken(fileno)
    scope.cancel()


if sys.platform == "linux":
    _EVENTS = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET

    class EpollPoller(Poller):
        """One edge-triggered epoll for all sockets of a context; needs `run` in a task."""

        tells_unasked = True

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._pollables: dict[int, Pollable] = {}

        @property
        def watched(self) -> int:
            """How many descriptors are registered."""
            return len(self._pollables)

        def add(self, pollable: Pollable) -> None:
            """Register each descriptor once, for good; one that is readable already has an edge."""
            for fileno in pollable.filenos:
                try:
                    self._epoll.register(fileno, _EVENTS)
                except OSError:
                    self.remove(pollable)
                    raise
                self._pollables[fileno] = pollable

        def remove(self, pollable: Pollable) -> None:
            """Unregister; after the poller has ended there is nothing to do."""
            for fileno in pollable.filenos:
                if self._pollables.pop(fileno, None) is not None and not self._epoll.closed:
                    self._epoll.unregister(fileno)
            pollable.filenos = ()

        def wait_readable(self, pollable: Pollable) -> Awaitable[None]:
            """Sleep until `run` or `wake` reschedules the task."""
            return pollable

        def wake(self, pollable: Pollable) -> None:
            """Reschedule the waiting task."""
            task = pollable.waiting
            if task is not None:
                pollable.waiting = None
                trio.lowlevel.reschedule(task, _WOKEN)

        async def run(self) -> None:
            """Hand events to the pollables until cancelled."""
            epoll, pollables = self._epoll, self._pollables
            reschedule = trio.lowlevel.reschedule
            try:
                while True:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    for fileno, events in epoll.poll(0, _MOST_EVENTS):
                        pollable = pollables.get(fileno)
                        if pollable is None:
                            continue  # removed by whom an earlier event has alerted
                        pollable.readable = True
                        if events != select.EPOLLIN:
                            dead = events & (select.EPOLLHUP | select.EPOLLERR)
                            pollable.alert(dead=bool(dead))
                        task = pollable.waiting
                        if task is not None:
                            pollable.waiting = None
                            reschedule(task, _WOKEN)
            finally:
                epoll.close()
