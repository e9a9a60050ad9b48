"""The middleware that limits how many requests are under way at once.

Theory of operation. A key's `_Slots` exist while one of its requests is under way. A request that
ends hands its slot to the one that has waited longest, so that nobody who comes in between gets
it; with nobody waiting the slot is free.
"""

from math import inf
from typing import Any

import attrs
import trio

from kestrel_core.validators import above_zero, at_least_one, not_negative, or_none
from kestrel_middleware.asgi.answer import Answer
from kestrel_middleware.asgi.rate_limit.exempt_paths import check_paths, is_exempt, paths
from kestrel_middleware.asgi.rate_limit.partition_key import BY_NOTHING, PartitionKey, partition_key
from kestrel_middleware.asgi.rate_limit.quota_fields import retry_after_field
from kestrel_middleware.asgi.scope import AsgiApp, Receive, Scope, Send, is_request

__all__ = ["ConcurrencyLimit"]

# Nobody knows when another one ends. This is the shortest time that can be written.
_RETRY_AFTER_SECONDS = 1


class _Slots:
    __slots__ = ("taken", "waiting")

    def __init__(self) -> None:
        self.taken = 0
        self.waiting: trio.lowlevel.ParkingLot | None = None  # until somebody has to


def _check_status(instance: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    if value not in (429, 503):
        raise ValueError("status: it is 429, too many requests, or 503, service unavailable")


@attrs.define(eq=False)
class ConcurrencyLimit:
    """Lets `max_concurrent` requests run at once, and refuses those beyond, or has them wait.

    Those that wait go in order of arrival. A WebSocket is under way until it is closed. The count is
    this process's own. Runs on trio alone.
    """

    app: AsgiApp

    max_concurrent: int = attrs.field(kw_only=True, validator=at_least_one)
    """How many may be under way."""

    max_queued: int = attrs.field(default=0, kw_only=True, validator=not_negative)
    """How many may wait for their turn."""

    queue_seconds: float | None = attrs.field(
        default=None, kw_only=True, validator=or_none(above_zero)
    )
    """How long one waits before it is refused."""

    by: PartitionKey = attrs.field(default=BY_NOTHING, kw_only=True, converter=partition_key)
    """What has a count of its own: client (of IPv6 its /64), path, header:NAME or everybody."""

    status: int = attrs.field(default=429, kw_only=True, validator=_check_status)
    """What those that are refused get, 429 or 503."""

    exempt_paths: tuple[str, ...] = attrs.field(
        default=(), kw_only=True, converter=paths, validator=check_paths
    )
    """Paths that are not counted, nor what is below them."""

    _slots: dict[str, _Slots] = attrs.field(init=False, factory=dict[str, _Slots])
    _refusal: Answer = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.queue_seconds is not None and not self.max_queued:
            raise ValueError("queue_seconds: nobody waits, as max_queued is 0")
        fields = (retry_after_field(_RETRY_AFTER_SECONDS),)
        self._refusal = Answer(self.status, b"Too many requests at once.\n", fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application when there is room, or answer in its place."""
        key = None
        if is_request(scope) and not is_exempt(scope, self.exempt_paths):
            key = self.by(scope)
        if key is None:
            await self.app(scope, receive, send)
        elif await self._acquire(key):
            try:
                await self.app(scope, receive, send)
            finally:
                self._release(key)
        else:
            await self._refusal.send(scope, receive, send)

    async def _acquire(self, key: str) -> bool:
        """Take a slot; tell whether there was one in time."""
        slots = self._slots.get(key)
        if slots is None:
            slots = self._slots[key] = _Slots()
        if slots.taken < self.max_concurrent:
            slots.taken += 1
            return True
        if slots.waiting is None:
            slots.waiting = trio.lowlevel.ParkingLot()
        if len(slots.waiting) >= self.max_queued:
            return False
        with trio.move_on_after(inf if self.queue_seconds is None else self.queue_seconds):
            await slots.waiting.park()
            return True
        return False

    def _release(self, key: str) -> None:
        slots = self._slots[key]
        if slots.waiting:
            slots.waiting.unpark()  # which takes the slot over
            return
        slots.taken -= 1
        if not slots.taken:
            del self._slots[key]
