"""A line of tasks that wait for room, first come, first served."""

from collections import OrderedDict

import trio

__all__ = ["Line", "Place"]


class Line:
    """Who waits, in the order in which they came.

    It knows nothing of room. Whoever makes some calls the first; who finds none stays, and who
    leaves calls the next.
    """

    def __init__(self) -> None:
        self._places = OrderedDict["Place", None]()

    def join(self) -> "Place":
        """Return a new place at the end."""
        place = Place()
        self._places[place] = None
        return place

    def is_first(self, place: "Place") -> bool:
        """Tell whether nobody is before `place`."""
        return next(iter(self._places)) is place

    def leave(self, place: "Place") -> None:
        """Give up `place`, and call who is the first now."""
        del self._places[place]
        self.call()

    def call(self) -> None:
        """Let the first look whether there is room."""
        if self._places:
            next(iter(self._places)).call()


class Place:
    """One task's place in a line."""

    def __init__(self) -> None:
        self._called = trio.Event()

    def call(self) -> None:
        """Let the task look again; the call is kept until it does."""
        self._called.set()

    async def wait_called(self, until: float) -> None:
        """Wait until somebody has called since this was last asked, or until that time."""
        with trio.move_on_at(until):
            await self._called.wait()
        self._called = trio.Event()
