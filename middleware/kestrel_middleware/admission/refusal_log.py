"""Warnings about refused connections, few however many they are."""

import logging
import math
from collections import Counter

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.timers import Deadline

__all__ = ["RefusalLog"]

_log = logging.getLogger("kestrel.admission")

_SECONDS_BETWEEN = 10.0


class RefusalLog:
    """Tells of the first refusal at once, and of those that follow together, each ten seconds."""

    def __init__(self) -> None:
        self._untold = Counter[EndReason]()
        self._deadline: Deadline | None = None
        self._silent_until = -math.inf

    def note(self, connection: Connection, reason: EndReason) -> None:
        """Count a refusal, and tell of it now or later."""
        self._untold[reason] += 1
        if connection.deadline.now() >= self._silent_until:
            if self._deadline is not None:  # whose server has ended before it was due
                self._deadline.close()
            self._deadline = connection.context.timers.deadline()
            self._deadline.on_expiry = self._tell
            self._tell()

    def _tell(self) -> None:
        """Tell of what was not told, if there is anything, and be silent for a while."""
        deadline = self._deadline
        if deadline is None:
            return
        if not self._untold:
            deadline.close()
            self._deadline = None
            self._silent_until = -math.inf
            return
        _log.warning(
            "refused %d connections: %s (told each %g s at most)",
            self._untold.total(),
            ", ".join(f"{count} {reason.value}" for reason, count in self._untold.items()),
            _SECONDS_BETWEEN,
        )
        self._untold.clear()
        self._silent_until = deadline.now() + _SECONDS_BETWEEN
        deadline.set(self._silent_until)
