"""How long one side waits for the other: minimum data rates as an account of seconds.

Theory of operation. The account opens with the grace. Waiting spends it, second by second; every
byte that the client moves meanwhile earns the time it may take at the minimum rate. While somebody
waits, `due` is when the account will be empty. Whoever watches the clock then calls `renew` with
what was moved since, and if `due` has not moved into the future the client was too slow.

Time in which nobody waits costs the client nothing: an application that thinks is not its fault.
What it can save up is bounded, so that a client that was fast for a gigabyte cannot stall for a
month afterwards (as with Kestrel's average over the whole body it could).
"""

import math

__all__ = ["Patience"]

# nginx waits this long between two reads of a body, and between two writes of a response
# (client_body_timeout and send_timeout).
_MOST_SECONDS = 60.0

# Whoever watches the clock ends a wait that is due. One that lasts this much longer found our own
# process too busy for that, and the client may have moved bytes that we did not see (see Timers).
_STARVED_SECONDS = 1.0


class Patience:
    """What one client has left of one direction's grace; a grace above 60 s is its own bound."""

    __slots__ = ("_bytes_per_second", "_most_seconds", "_seconds", "due")

    def __init__(self, bytes_per_second: float, grace_seconds: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._seconds = grace_seconds
        self._most_seconds = max(grace_seconds, _MOST_SECONDS)
        self.due: float = math.inf
        """When patience ends, in `trio.current_time()`'s seconds; infinity while nobody waits."""

    def earn(self, moved_bytes: int) -> None:
        """Credit bytes, whenever they were moved."""
        if moved_bytes > 0:
            self._seconds = min(
                self._seconds + moved_bytes / self._bytes_per_second, self._most_seconds
            )

    def begin(self, now: float) -> None:
        """Note that somebody waits from `now` on."""
        self.due = now + self._seconds

    def end(self, now: float) -> None:
        """Note that the wait is over; one that is over long after it was due costs nothing."""
        left = self.due - now
        if left > -_STARVED_SECONDS:
            self._seconds = max(0.0, left)
        self.due = math.inf

    def renew(self, now: float, moved_bytes: int) -> None:
        """Credit what was moved since the wait began, or was last renewed, and wait on."""
        self._seconds = max(0.0, self.due - now)
        self.earn(moved_bytes)
        self.begin(now)
