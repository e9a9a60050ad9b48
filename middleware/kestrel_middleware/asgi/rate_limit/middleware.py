"""The middleware that limits how often requests come."""

import logging
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any

import attrs

from kestrel_core.errors import MissingExtraError
from kestrel_core.validators import above_zero_and_finite
from kestrel_middleware.asgi.answer import Answer
from kestrel_middleware.asgi.rate_limit.exempt_paths import check_paths, is_exempt, paths
from kestrel_middleware.asgi.rate_limit.limiter import Limiter, StorageUnavailable, Verdict
from kestrel_middleware.asgi.rate_limit.partition_key import BY_CLIENT, PartitionKey, partition_key
from kestrel_middleware.asgi.rate_limit.quota_fields import (
    policy_field,
    quota_field,
    retry_after_field,
)
from kestrel_middleware.asgi.rate_limit.rate import Rate, rates
from kestrel_middleware.asgi.rate_limit.token_bucket import TokenBucketLimiter
from kestrel_middleware.asgi.scope import AsgiApp, Event, Field, Receive, Scope, Send, is_request

__all__ = ["RateLimit", "StorageFailure", "Strategy"]

_log = logging.getLogger("kestrel.rate_limit")

_IN_PROCESS = "memory://"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_TOO_MANY = b"Too many requests.\n"

# What RFC 9110, 15.6.4 has for "try again"; nobody knows when the storage is back.
_UNAVAILABLE = Answer(503, b"Requests cannot be counted.\n", (retry_after_field(1),))


class Strategy(Enum):
    """How requests are counted."""

    FIXED_WINDOW = "fixed_window"
    """From a key's first request, so many in a period; around its end twice as many may come."""
    SLIDING_WINDOW = "sliding_window"
    """So many in any period, about: the last window counts by how much of it is still in sight."""
    TOKEN_BUCKET = "token_bucket"
    """A steady rate, and bursts after a pause; in this process alone."""


class StorageFailure(Enum):
    """What becomes of requests while the storage does not answer."""

    ALLOW = "allow"
    """They pass, uncounted."""
    REFUSE = "refuse"
    """They are answered 503."""


def _check_name(instance: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    if not _NAME.fullmatch(value):
        raise ValueError("name: it is made of letters, digits, dots, hyphens and underscores")


@attrs.define(eq=False)
class RateLimit:
    """Answers 429, with Retry-After, to requests beyond the rates of `limit`.

    A request for a WebSocket counts as one. Windows need the library `limits`, the extra
    `rate-limit`; its storages hold the counters for many processes and machines. Runs on trio alone.
    """

    app: AsgiApp

    limit: tuple[Rate, ...] = attrs.field(kw_only=True, converter=rates)
    """The rates, such as 100/minute; all of several hold."""

    strategy: Strategy = attrs.field(default=Strategy.FIXED_WINDOW, kw_only=True)
    """How requests are counted."""

    by: PartitionKey = attrs.field(default=BY_CLIENT, kw_only=True, converter=partition_key)
    """What has a count of its own: client (of IPv6 its /64), path, header:NAME or everybody."""

    burst: int | None = attrs.field(default=None, kw_only=True)
    """How many tokens a bucket holds, if not as many as the rate's count."""

    storage: str = attrs.field(default=_IN_PROCESS, kw_only=True)
    """Where counters of windows are: a URI of the library limits, such as redis://host:6379."""

    storage_seconds: float = attrs.field(default=1.0, kw_only=True, validator=above_zero_and_finite)
    """How long a request waits for the storage."""

    on_storage_failure: StorageFailure = attrs.field(default=StorageFailure.ALLOW, kw_only=True)
    """What becomes of requests while the storage does not answer."""

    name: str = attrs.field(default="default", kw_only=True, validator=_check_name)
    """Limits of one name share their counters in a storage; RateLimit fields show it."""

    exempt_paths: tuple[str, ...] = attrs.field(
        default=(), kw_only=True, converter=paths, validator=check_paths
    )
    """Paths that are not counted, nor what is below them."""

    quota_fields: bool = attrs.field(default=False, kw_only=True)
    """Whether responses tell what is left: RateLimit and RateLimit-Policy, of an IETF draft."""

    _limiter: Limiter = attrs.field(init=False)
    _policy: Field = attrs.field(init=False)
    _is_storage_failing: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        is_bucket = self.strategy is Strategy.TOKEN_BUCKET
        if is_bucket and self.storage != _IN_PROCESS:
            raise ValueError("storage: token buckets are in this process; take a window, or none")
        if self.burst is not None and (not is_bucket or len(self.limit) > 1 or self.burst < 1):
            raise ValueError("burst: it is 1 at least, and for a token bucket with one rate")
        self._policy = policy_field(self.name, self.limit)
        self._limiter = TokenBucketLimiter(self.limit, self.burst) if is_bucket else self._windows()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request; call the application, or answer in its place."""
        if not is_request(scope) or is_exempt(scope, self.exempt_paths):
            await self.app(scope, receive, send)
            return
        key = self.by(scope)
        if key is None:
            await self.app(scope, receive, send)
            return
        try:
            verdict = await self._limiter.hit(key, with_quotas=self.quota_fields)
        except StorageUnavailable as error:
            self._note_failure(error)
            if self.on_storage_failure is StorageFailure.ALLOW:
                await self.app(scope, receive, send)
            else:
                await _UNAVAILABLE.send(scope, receive, send)
            return
        if self._is_storage_failing:
            self._is_storage_failing = False
            _log.warning("the limit %r: its storage answers again", self.name)
        if not verdict.is_allowed:
            await self._refusal(verdict).send(scope, receive, send)
        elif self.quota_fields:
            await self.app(scope, receive, self._with_fields(verdict, send))
        else:
            await self.app(scope, receive, send)

    def _windows(self) -> Limiter:
        try:
            from kestrel_middleware.asgi.rate_limit.windows import open_windows
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "limits":
                raise
            raise MissingExtraError(
                "counting in windows needs the library 'limits';"
                " install it with: pip install 'trio-kestrel[rate-limit]'"
            ) from error
        return open_windows(
            self.storage,
            self.limit,
            name=self.name,
            is_sliding=self.strategy is Strategy.SLIDING_WINDOW,
            storage_seconds=self.storage_seconds,
        )

    def _note_failure(self, error: StorageUnavailable) -> None:
        """Log it, once for as long as it lasts."""
        if not self._is_storage_failing:
            self._is_storage_failing = True
            fate = "pass" if self.on_storage_failure is StorageFailure.ALLOW else "are refused"
            _log.error("the limit %r: its storage fails (%s); requests %s", self.name, error, fate)

    def _refusal(self, verdict: Verdict) -> Answer:
        fields = (retry_after_field(verdict.retry_after_seconds), *self._fields(verdict))
        return Answer(429, _TOO_MANY, fields)

    def _fields(self, verdict: Verdict) -> tuple[Field, ...]:
        if not self.quota_fields:
            return ()
        return (self._policy, quota_field(self.name, verdict.quotas))

    def _with_fields(self, verdict: Verdict, send: Send) -> Send:
        async def send_with_fields(event: Event) -> None:
            if event["type"] in _STARTS:
                fields: Iterable[Field] = event.get("headers") or ()
                event = {**event, "headers": [*fields, *self._fields(verdict)]}
            await send(event)

        return send_with_fields
