"""Health endpoints, which answer without the application: alive, and ready for requests.

Not ready is what a load balancer shall hear before the server stops accepting, so that it looks
elsewhere in time.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, TypeAlias

import attrs
import trio

from kestrel_core.validators import above_zero_and_finite
from kestrel_middleware.asgi.answer import Answer
from kestrel_middleware.asgi.scope import AsgiApp, Receive, Scope, Send, route_path

__all__ = ["CheckResult", "Health", "ReadinessCheck"]

_log = logging.getLogger("kestrel.health")

ReadinessCheck: TypeAlias = Callable[[], Awaitable[object]]

_METHODS = ("GET", "HEAD")
_NOT_ALLOWED = Answer(405, b"", ((b"allow", b"GET, HEAD"),))
_NOT_STORED = ((b"cache-control", b"no-store"),)


class CheckResult(Enum):
    """How a readiness check went; the value stands in the answer."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"


def _check_path(instance: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    if not value.startswith("/"):
        raise ValueError(f"{attribute.name}: a path begins with a slash")


@attrs.define(eq=False)
class Health:
    """Answers requests for `live_path` and `ready_path` itself, and hands on all others.

    Alive means that it answers: 200. Ready is 200, too, or 503 while the server is draining or if a
    check does not pass. A server tells that it drains by `scope["extensions"]["kestrel.server"]`,
    in which "draining" has a truth value. The answers are JSON; why a check failed is only logged.
    Checks run together, in the request's task and its children, for each request anew.
    """

    app: AsgiApp

    live_path: str = attrs.field(default="/livez", kw_only=True, validator=_check_path)
    """Below the application's root; Kubernetes' own name."""

    ready_path: str = attrs.field(default="/readyz", kw_only=True, validator=_check_path)
    """Below the application's root; Kubernetes' own name."""

    checks: Mapping[str, ReadinessCheck] = attrs.field(
        factory=dict[str, ReadinessCheck], kw_only=True
    )
    """Async functions by name. One passes if it returns something else than False in time."""

    check_seconds: float = attrs.field(default=1.0, kw_only=True, validator=above_zero_and_finite)
    """How long each check may take; as long as Kubernetes waits for a probe."""

    def __attrs_post_init__(self) -> None:
        if self.live_path == self.ready_path:
            raise ValueError("ready_path: it is another than live_path")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe, or call the application."""
        if scope["type"] == "http":
            path = route_path(scope)
            if path == self.live_path or path == self.ready_path:
                answer = await self._answer(scope, path)
                await answer.send(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, path: str) -> Answer:
        if scope["method"] not in _METHODS:
            return _NOT_ALLOWED
        if path == self.live_path:
            return _as_json(200, {"status": "alive"})
        if scope.get("extensions", {}).get("kestrel.server", {}).get("draining"):
            return _as_json(503, {"status": "draining"})
        results = await self._run_checks()
        is_ready = all(result is CheckResult.PASSED for result in results.values())
        told = {name: result.value for name, result in results.items()}
        status = "ready" if is_ready else "not ready"
        return _as_json(200 if is_ready else 503, {"status": status, "checks": told})

    async def _run_checks(self) -> dict[str, CheckResult]:
        """Return how all checks went, in the order in which they were given."""
        results: dict[str, CheckResult] = dict.fromkeys(self.checks, CheckResult.TIMED_OUT)

        async def run(name: str, check: ReadinessCheck) -> None:
            with trio.move_on_after(self.check_seconds) as scope:
                results[name] = await _run_check(name, check)
            if scope.cancelled_caught:
                _log.warning("the check %r took more than %g s", name, self.check_seconds)

        if self.checks:
            async with trio.open_nursery() as nursery:
                for name, check in self.checks.items():
                    nursery.start_soon(run, name, check)
        return results


async def _run_check(name: str, check: ReadinessCheck) -> CheckResult:
    try:
        if await check() is not False:
            return CheckResult.PASSED
    except Exception as error:  # somebody else's function: whatever it raises is a failure
        _log.warning("the check %r failed", name, exc_info=error)
    else:
        _log.warning("the check %r returned False", name)
    return CheckResult.FAILED


def _as_json(status: int, content: Mapping[str, object]) -> Answer:
    return Answer(status, json.dumps(content).encode() + b"\n", _NOT_STORED, b"application/json")
