"""The lifespan protocol: an application's start before the server's, and its end after it.

Theory of operation. The application's lifespan call runs in a task of its own for as long as the
server does. `startup` and `shutdown` each hand it one event and wait for its answer, or for the
task to end.

An application whose call ends before it has answered the start does not take part; the
specification has the server go on without it, whatever was raised. What ends it afterwards is an
error.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio

from kestrel_protocols.asgi.events import AsgiApp, Event

__all__ = ["LifespanFailed", "run_lifespan"]

_log = logging.getLogger("kestrel.asgi")


class LifespanFailed(Exception):
    """The application could not start, or could not stop; the text is its own."""


class _NotLifespan(RuntimeError):
    """The application sent something else than an answer, as those do that know HTTP only."""


class _Lifespan:
    def __init__(self, app: AsgiApp, state: dict[str, Any], *, must_start: bool) -> None:
        self._app = app
        self._must_start = must_start
        self._state = state
        self._events_in, self._events = trio.open_memory_channel[Event](1)
        self._asked: str | None = "startup"  # what is still to be answered
        self._answer: Event | None = None
        self._progress = trio.Event()
        self._started = False
        self._received = False
        self._ended = False
        self._error: Exception | None = None

    async def run(self) -> None:
        """Be the application's lifespan call, whatever it raises."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:  # the application's; what it means depends on when it came
            self._error = error
            if self._answer is not None and self._answer["type"] == "lifespan.startup.complete":
                _log.error("the application's lifespan ended early", exc_info=error)
        finally:
            self._ended = True
            self._progress.set()

    async def _receive(self) -> Event:
        event = await self._events.receive()
        self._received = True
        return event

    async def _send(self, event: Event) -> None:
        kind = event["type"]
        if self._asked is None:
            raise _NotLifespan(f"{kind!r} answers nothing: no lifespan event is open")
        if kind not in (f"lifespan.{self._asked}.complete", f"lifespan.{self._asked}.failed"):
            raise _NotLifespan(f"{kind!r} is no answer to lifespan.{self._asked}")
        self._asked = None
        self._answer = event
        self._progress.set()
        await trio.lowlevel.checkpoint()

    async def startup(self) -> None:
        """Start the application.

        Raises:
            LifespanFailed: it said that it failed, or raised and must not.
        """
        self._started = await self._ask("startup")
        if self._started:
            return
        if self._error is None or isinstance(self._error, _NotLifespan) or not self._received:
            _log.debug("the application has no lifespan: %r", self._error)
        elif self._must_start:
            raise LifespanFailed("the application failed in its startup") from self._error
        else:
            _log.warning(
                "the application raised in its startup; serving without it", exc_info=self._error
            )

    async def shutdown(self) -> None:
        """Stop the application.

        Raises:
            LifespanFailed: it said that it failed, or raised.
        """
        if not self._started:
            return
        if self._ended:
            if self._error is not None:
                raise LifespanFailed("the application's lifespan ended early") from self._error
        elif not await self._ask("shutdown") and self._error is not None:
            raise LifespanFailed("the application failed in its shutdown") from self._error

    async def _ask(self, phase: str) -> bool:
        """Send an event and wait for the answer; tell whether one came before the call ended."""
        self._asked = phase
        self._answer = None
        self._progress = trio.Event()
        self._events_in.send_nowait({"type": f"lifespan.{phase}"})
        if not self._ended:
            await self._progress.wait()
        answer = self._answer
        if answer is None:
            return False
        if answer["type"] == f"lifespan.{phase}.failed":
            raise LifespanFailed(answer.get("message") or f"the application failed in its {phase}")
        return True


@asynccontextmanager
async def run_lifespan(
    app: AsgiApp, state: dict[str, Any], *, must_start: bool = False
) -> AsyncGenerator[None]:
    """Start `app`, run the body, stop `app`; `state` is what it shares with its requests.

    `must_start` says that raising in its startup is no way to say that it has no lifespan.

    The application is stopped when the body raises, too, but not when it is cancelled: then so is
    the application.

    Raises:
        LifespanFailed: the application said so, or raised in its shutdown.
    """
    failure: Exception | None = None  # raised at the end, not in a group
    async with trio.open_nursery() as nursery:
        lifespan = _Lifespan(app, state, must_start=must_start)
        nursery.start_soon(lifespan.run)
        try:
            await lifespan.startup()
            try:
                yield
            except Exception as error:
                failure = error
            await lifespan.shutdown()
        except LifespanFailed as error:
            if failure is None:
                failure = error
            else:
                _log.error("%s", error, exc_info=error.__cause__)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
