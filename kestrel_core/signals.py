"""A one-shot signal that tasks wait for and plain code listens to."""

from collections.abc import Callable

import trio

__all__ = ["Signal"]


class Signal:
    """An event that is set once, and costs next to nothing until somebody waits.

    `trio.Event` carries a parking lot; a server holds two signals for each idle connection, so
    this one holds two references. Its listeners are called in the setter's task, at once.
    """

    __slots__ = ("_listeners", "is_set")

    def __init__(self) -> None:
        self.is_set: bool = False
        """Whether the signal has been set. Read only."""
        self._listeners: list[Callable[[], None]] | None = None

    def __bool__(self) -> bool:
        """Tell whether the signal has been set."""
        return self.is_set

    def __deepcopy__(self, memo: dict[int, object]) -> "Signal":
        """Return the signal itself: a copy of it would never be set."""
        return self

    def set(self) -> None:
        """Set the signal; a second call does nothing."""
        if self.is_set:
            return
        self.is_set = True
        listeners = self._listeners
        if listeners is not None:
            listeners.reverse()
            while listeners:  # one at a time, as one may `unlisten` another, or cancel its task
                listeners.pop()()
            self._listeners = None

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` once when the signal is set, or now if it already is.

        A listener must not raise and must not wait.
        """
        if self.is_set:
            listener()
        elif self._listeners is None:
            self._listeners = [listener]
        else:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Forget `listener`; one that is not known is ignored."""
        if self._listeners is not None and listener in self._listeners:
            self._listeners.remove(listener)

    async def wait(self) -> None:
        """Wait until the signal is set; always a checkpoint. Any number of tasks may wait."""
        if self.is_set:
            await trio.lowlevel.checkpoint()
            return
        task = trio.lowlevel.current_task()

        def wake() -> None:
            trio.lowlevel.reschedule(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.unlisten(wake)
            return trio.lowlevel.Abort.SUCCEEDED

        self.listen(wake)
        await trio.lowlevel.wait_task_rescheduled(abort)
