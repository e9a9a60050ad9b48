"""The one entrance that all endpoints share which were given one admission.

Theory of operation. `judge` decides about a connection at once: it came in and is counted, or it is
refused, or it must wait. Who must wait does so in `wait_for_room` and then is judged again, since
its address may be full by then. A place inside is free again as soon as the connection is gone
(`Connection.closed`), and then the first in line is called. There is no handing over: who comes by
in the meantime may take the place, and the first in line stays the first.
"""

import math
from collections import Counter
from collections.abc import Mapping
from enum import Enum, auto
from functools import partial
from typing import TypeAlias

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.signals import Signal
from kestrel_middleware.admission.answer import Answer, tell
from kestrel_middleware.admission.gate import Gate, Visitor
from kestrel_middleware.admission.line import Line
from kestrel_middleware.admission.refusal_log import RefusalLog

__all__ = ["AdmissionStatistics", "Entrance", "Judgement", "Verdict", "WhenFull"]


class WhenFull(Enum):
    """What becomes of a connection for which there is no room now, whoever it comes from."""

    REFUSE = "refuse"
    WAIT = "wait"
    """It waits, in the kernel's queue if there is one: meanwhile nothing is accepted."""


class Verdict(Enum):
    """What `judge` says where it does not refuse."""

    ADMITTED = auto()
    MUST_WAIT = auto()


Judgement: TypeAlias = Verdict | EndReason
"""A verdict, or else why the connection is refused."""


@attrs.frozen
class AdmissionStatistics:
    """What an admission has counted, on all of its endpoints, since it was made."""

    open: int
    """Connections inside now."""

    accepted: int
    """Connections that came in."""

    refused: Mapping[EndReason, int]
    """Connections that did not, by reason."""

    waiting: int
    """Accepted connections that are held until there is room. Who waits in the kernel's queue is
    not known."""

    remembered: int
    """Entries in the tables of addresses and prefixes."""


class Entrance:
    """Lets connections in, has them wait, or turns them away; see the module."""

    def __init__(self, gate: Gate, when_full: WhenFull, answer: Answer) -> None:
        self._gate = gate
        self._waits = when_full is WhenFull.WAIT
        self._answer = answer
        self._line = Line()
        self._log = RefusalLog()
        self._accepted = 0
        self._refused = Counter[EndReason]()
        self._waiting = 0

    @property
    def statistics(self) -> AdmissionStatistics:
        """What was counted until now."""
        return AdmissionStatistics(
            open=self._gate.inside,
            accepted=self._accepted,
            refused=dict(self._refused),
            waiting=self._waiting,
            remembered=self._gate.remembered,
        )

    def may_accept(self) -> bool:
        """Tell whether accepting makes sense now, even if what comes can only be refused."""
        if not self._waits:
            return True
        now = trio.current_time()
        return self._gate.room_at(now) <= now

    def judge(self, connection: Connection) -> Judgement:
        """Let `connection` in, if it may and there is room; or tell that, or why, it may not."""
        gate, now = self._gate, trio.current_time()
        room_at = gate.room_at(now)
        if room_at > now and not self._waits:
            if room_at == math.inf:
                return EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED
            return EndReason.CONNECTION_RATE_EXCEEDED
        visitor = gate.visitor(connection.remote)
        reason = gate.refusal(visitor, connection.remote, now)
        if reason is not None:
            return reason
        if room_at > now:
            return Verdict.MUST_WAIT
        gate.enter(visitor, now)
        self._accepted += 1
        connection.closed.listen(partial(self._leave, visitor))
        return Verdict.ADMITTED

    async def wait_for_room(self, stop: Signal, connection: Connection | None = None) -> None:
        """Wait in line until there is room, or `stop` is set, or `connection` is gone.

        `connection` is the one that is held meanwhile, if there is one.
        """
        signals = [stop] if connection is None else [stop, connection.closed]
        place = self._line.join()
        for signal in signals:
            signal.listen(place.call)
        self._waiting += connection is not None
        try:
            while not any(signals):
                now = trio.current_time()
                room_at = self._gate.room_at(now) if self._line.is_first(place) else math.inf
                if room_at <= now:
                    break
                await place.wait_called(room_at)
        finally:
            self._waiting -= connection is not None
            for signal in signals:
                signal.unlisten(place.call)
            self._line.leave(place)

    async def turn_away(self, connection: Connection, reason: EndReason) -> None:
        """Count and answer a connection that is refused; the caller closes it."""
        self._refused[reason] += 1
        self._log.note(connection, reason)
        await tell(self._answer, connection, reason)

    def _leave(self, visitor: Visitor) -> None:
        self._gate.leave(visitor)
        self._line.call()
