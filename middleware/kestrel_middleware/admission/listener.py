"""Accepting with an entrance in front: what is refused here costs no task."""

import trio

from kestrel_core.connection import Connection
from kestrel_core.containment import close_contained, log_end
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.signals import Signal
from kestrel_core.transport import Listener
from kestrel_middleware.admission.entrance import Entrance, Verdict

__all__ = ["AdmittingListener"]

# Connections that are refused in a row before other tasks get a turn: as many as a listener over
# sockets accepts in a row.
_REFUSALS_PER_TURN = 64

# How long one that is refused may take to be closed; what a transport of ours does at once.
_CLOSE_SECONDS = 1.0


class AdmittingListener(Listener):
    """Accepts from `inner` what `entrance` lets in.

    While it waits for room it may hold one connection that was accepted before the room was gone:
    `accept` keeps it when it is cancelled, and `unbind` ends it.
    """

    def __init__(self, inner: Listener, entrance: Entrance) -> None:
        self._inner = inner
        self._entrance = entrance
        self._held: Connection | None = None
        self._unbound = Signal()

    @property
    def endpoint(self) -> Endpoint:
        """What was really bound."""
        return self._inner.endpoint

    async def accept(self) -> Connection:
        """Accept what may come in; refuse what may not, and go on."""
        entrance, unbound = self._entrance, self._unbound
        refusals = 0
        while not unbound:
            connection = self._held
            if connection is None:
                if not entrance.may_accept():
                    await entrance.wait_for_room(unbound)
                    continue
                connection = self._held = await self._inner.accept()
            elif connection.closed:
                self._held = None
                await _end(connection, EndReason.CONNECTION_RESET)
                continue
            judgement = entrance.judge(connection)
            if judgement is Verdict.MUST_WAIT:
                await entrance.wait_for_room(unbound, connection)
                continue
            self._held = None
            if isinstance(judgement, EndReason):
                await entrance.turn_away(connection, judgement)
                await _end(connection, judgement)
                refusals += 1
                if refusals % _REFUSALS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
            else:
                return connection
        raise trio.ClosedResourceError(f"{self.endpoint} is no longer bound")

    async def unbind(self) -> None:
        """Stop accepting; who was held until there is room is reset."""
        self._unbound.set()
        held, self._held = self._held, None
        if held is not None:
            held.abort(EndReason.SHUTDOWN)
            await _end(held, EndReason.SHUTDOWN)
        await self._inner.unbind()

    async def aclose(self) -> None:
        """Unbind, and release what is left of the inner listener."""
        await self.unbind()
        await self._inner.aclose()


async def _end(connection: Connection, reason: EndReason) -> None:
    """Close a connection that nobody serves, and log its end as the server does."""
    connection.record_end(reason)
    await close_contained(connection, _CLOSE_SECONDS)
    log_end(connection)
