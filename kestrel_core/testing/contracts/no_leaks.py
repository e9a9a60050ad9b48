"""Whether a block of a test leaves anything behind: tasks, threads, descriptors, connections."""

import gc
import os
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import compress
from types import FrameType

import attrs
import trio

from kestrel_core.byteless_pipe import BytelessPipe
from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.memory import MemoryPool
from kestrel_core.testing.contracts.expectations import Pending
from kestrel_core.transport import Listener

__all__ = ["check_no_leaks"]

# So many steps of other tasks follow the block in any case, as some start others only then, and so
# many while there is something that might end.
_LEAST_CHECKPOINTS = 10
_MOST_CHECKPOINTS = 100

# A thread that has done its work needs real time to end; for each of those steps it has this much.
_THREAD_SECONDS = 0.001

# For a listener to find out that it is closed; nothing that it would wait for comes in this time.
_PROBE_SECONDS = 1.0

# Where a descriptor is listed, on Linux and on the others.
_DESCRIPTOR_FOLDERS = ("/proc/self/fd", "/dev/fd")

# Modules whose objects have descriptors, and whose `fileno()` may be called on any of them.
_DESCRIPTOR_OWNERS = {"_io", "select", "socket"}

# Code that everybody waits in, which says nothing about who waits.
_PLUMBING = ("trio", "outcome", "threading", "queue", "selectors", "concurrent")


@asynccontextmanager
async def check_no_leaks(*, memory_pools: Iterable[MemoryPool] = ()) -> AsyncGenerator[None]:
    """Run the block, and expect that what came into being within it is gone when it ends.

    That is trio tasks, threads, open file descriptors (where the system lists them), connections
    that are not closed, listeners that are not unbound, and blocks of `memory_pools`. What is about
    to end has time for a hundred checkpoints; idle threads of trio's cache do not count.

    What was there before does not count: a test starts its own background tasks outside of the
    block, as in a nursery around it. Whatever these open while the block runs does count, so no two
    such blocks can run side by side. Looking for connections and listeners goes through all objects
    of the program, which takes tens of milliseconds.

    Raises:
        AssertionError: something is left; the text names all of it. If the block raised, that
            comes out instead, with the text as a note; but not if it was cancelled.
    """
    before = _Inventory.now(tuple(memory_pools))
    try:
        yield
    except trio.Cancelled as cancelled:
        left = await before.wait_left()
        if left:
            raise AssertionError(left) from cancelled
        raise
    except Exception as error:
        left = await before.wait_left()
        if left:
            error.add_note(left)
        raise
    left = await before.wait_left()
    if left:
        raise AssertionError(left)


@attrs.frozen
class _Inventory:
    """What there is at one moment."""

    tasks: set[trio.lowlevel.Task]
    threads: set[threading.Thread]
    descriptors: dict[int, str]
    listeners: Sequence[Listener]
    newest_connection_id: str
    rented: Sequence[tuple[MemoryPool, int]]

    @classmethod
    def now(cls, memory_pools: Sequence[MemoryPool]) -> "_Inventory":
        return cls(
            tasks=set(_tasks()),
            threads=set(threading.enumerate()),
            descriptors=_descriptors(),
            listeners=_living()[1],
            newest_connection_id=Connection(BytelessPipe(), ConnectionContext()).id,
            rented=[(pool, pool.statistics.rented) for pool in memory_pools],
        )

    async def wait_left(self) -> str:
        """Let end what is about to end, and tell what has come since and is left, or ""."""
        for number in range(_MOST_CHECKPOINTS):
            await trio.lowlevel.cancel_shielded_checkpoint()
            threads = self._new_threads()
            for thread in threads:
                thread.join(_THREAD_SECONDS / len(threads))
            ended = not threads and self.tasks.issuperset(_tasks())
            if ended and number >= _LEAST_CHECKPOINTS:
                break
        connections, listeners = _living()
        left = [
            *self._left_tasks(),
            *self._left_threads(),
            *self._left_connections(connections),
            *[line async for line in self._left_listeners(listeners)],
            *self._left_descriptors(),
            *self._left_blocks(),
        ]
        if not left:
            return ""
        return "\n  ".join(["What comes into being in a block is gone at its end; left is", *left])

    def _left_tasks(self) -> Iterator[str]:
        for task in _tasks():
            if task not in self.tasks:
                yield f"the task {task.name}, which waits at {_place_of_task(task)}"

    def _new_threads(self) -> list[threading.Thread]:
        frames = _frames_of_threads()
        new = [thread for thread in threading.enumerate() if thread not in self.threads]
        return [thread for thread in new if not _is_idle(frames.get(thread.ident or 0))]

    def _left_threads(self) -> Iterator[str]:
        threads = self._new_threads()
        frames = _frames_of_threads()
        for thread in threads:
            place = _place([*_outwards(frames.get(thread.ident or 0))])
            yield f"the thread {thread.name!r}, which is at {place}"

    def _left_connections(self, connections: Sequence[Connection]) -> Iterator[str]:
        found = {each.id: each for each in connections if not each.closed.is_set}
        for name in sorted(found):
            if name > self.newest_connection_id:
                yield f"a connection that is not closed, {found[name]!r}"

    async def _left_listeners(self, listeners: Sequence[Listener]) -> AsyncGenerator[str]:
        known = {id(listener) for listener in self.listeners}
        for listener in listeners:
            if id(listener) not in known and await _still_accepts(listener):
                yield f"a listener that is not unbound, {type(listener).__name__} on {listener.endpoint}"

    def _left_descriptors(self) -> Iterator[str]:
        for number, what in _descriptors().items():
            if self.descriptors.get(number) != what:
                yield f"the file descriptor {number}, {_owner_of(number) or what}"

    def _left_blocks(self) -> Iterator[str]:
        for pool, rented in self.rented:
            count = pool.statistics.rented - rented
            if count > 0:
                yield f"{count} block{'s' * (count > 1)} of {pool!r}, not given back"


# Tasks and threads ------------------------------------------------------------------------------


def _tasks() -> Iterator[trio.lowlevel.Task]:
    """Return all tasks of this run of trio."""
    root = trio.lowlevel.current_root_task()
    found = [] if root is None else [root]
    while found:
        task = found.pop()
        yield task
        for nursery in task.child_nurseries:
            found += nursery.child_tasks


def _place_of_task(task: trio.lowlevel.Task) -> str:
    return _place([*task.iter_await_frames()][::-1])


def _frames_of_threads() -> Mapping[int, FrameType]:
    return sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # documented all the same


def _outwards(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _place(frames: Sequence[tuple[FrameType, int]]) -> str:
    """Return the file and line of the first of `frames` that says something about who waits."""
    telling = [place for place in frames if not _is_plumbing(place[0])] or frames
    if not telling:
        return "a place that is not known"
    frame, line = telling[0]
    return f"{frame.f_code.co_filename}:{line}"


def _is_plumbing(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _PLUMBING


def _is_idle(frame: FrameType | None) -> bool:
    """Tell whether a thread is one that trio keeps for later, or has ended."""
    return frame is None or frame.f_globals.get("__name__") == "trio._core._thread_cache"


# Connections and listeners ----------------------------------------------------------------------


def _living() -> tuple[list[Connection], list[Listener]]:
    """Return all connections and listeners that there are, open or not."""
    # By the types' ids: objects may lie about their class, and classes need not be hashable. With
    # nothing but functions in C, as there may be half a million objects.
    kinds = {id(each) for kind in (Connection, Listener) for each in _subclasses(kind)}
    objects: list[object] = gc.get_objects()
    found = list(compress(objects, map(kinds.__contains__, map(id, map(type, objects)))))
    return (
        [each for each in found if isinstance(each, Connection)],
        [each for each in found if isinstance(each, Listener)],
    )


def _subclasses(kind: type[object]) -> Iterator[type[object]]:
    yield kind
    for subclass in type.__subclasses__(kind):
        yield from _subclasses(subclass)


async def _still_accepts(listener: Listener) -> bool:
    """Tell whether `listener` is bound: only if it is not, `accept()` says so at once."""
    accepting: Pending[Connection] = Pending("accept()")
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _PROBE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepting.run, listener.accept)
            for _ in range(_MOST_CHECKPOINTS):
                await trio.lowlevel.checkpoint()
                if accepting.done:
                    break
            nursery.cancel_scope.cancel()
    return not isinstance(accepting.error, trio.ClosedResourceError)


# File descriptors -------------------------------------------------------------------------------


def _descriptors() -> dict[int, str]:
    """Return what is open, and what each is; nothing where the system does not tell."""
    for folder in _DESCRIPTOR_FOLDERS:
        try:
            numbers = [int(name) for name in os.listdir(folder)]
        except OSError:
            continue
        found = ((number, _what_is(number, folder)) for number in numbers)
        return {number: what for number, what in found if what is not None}
    return {}


def _what_is(number: int, folder: str) -> str | None:
    try:
        status = os.fstat(number)
    except OSError:  # it was that of the folder, while that was listed
        return None
    try:
        return os.readlink(f"{folder}/{number}")
    except OSError:
        return f"{stat.filemode(status.st_mode)} {status.st_dev}:{status.st_ino}"


def _owner_of(number: int) -> str | None:
    """Return what the Python object says of itself that has the descriptor `number`, if one has."""
    objects: list[object] = gc.get_objects()
    for each in objects:
        if type(each).__module__ in _DESCRIPTOR_OWNERS:
            try:
                if getattr(each, "fileno", _no_descriptor)() == number:
                    return repr(each)
            except (OSError, ValueError):  # closed, or without a descriptor
                continue
    return None


def _no_descriptor() -> None:
    return None
