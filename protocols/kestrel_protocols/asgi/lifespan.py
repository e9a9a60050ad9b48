"""The lifespan protocol: an application's start before the server's, and its end after it.

Theory of operation. The application's lifespan call runs in a task of its own for as long as the
server does. `startup` and `shutdown` each hand it one event and wait for its answer, or for the
task to end. An application that raises before it has asked for the first event does not know the
protocol, which is fine.
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


class _Lifespan:
    def __init__(self, app: AsgiApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._events_in, self._events = trio.open_memory_channel[Event](1)
        self._answer = trio.Event()
        self._answered: Event | None = None
        self._ended = trio.Event()
        self._supported = True
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
        except Exception as error:  # the application's; `ask` tells what it means
            self._error = error
        finally:
            self._ended.set()
            self._answer.set()

    async def _receive(self) -> Event:
        return await self._events.receive()

    async def _send(self, event: Event) -> None:
        await trio.lowlevel.checkpoint()
        if self._answered is not None:
            raise RuntimeError(f"the lifespan event {event['type']!r} comes too often")
        self._answered = event
        self._answer.set()

    async def startup(self) -> None:
        """Start the application.

        Raises:
            LifespanFailed: it said that it failed.
        """
        answer = await self._ask("startup")
        if answer is None:
            if self._error is not None:
                _log.debug("the application has no lifespan: %r", self._error)
            self._supported = False

    async def shutdown(self) -> None:
        """Stop the application.

        Raises:
            LifespanFailed: it said that it failed, or raised.
        """
        if not self._supported or self._ended.is_set():
            if self._supported and self._error is not None:
                raise LifespanFailed("the application's lifespan ended early") from self._error
            return
        if await self._ask("shutdown") is None and self._error is not None:
            raise LifespanFailed("the application failed in its shutdown") from self._error

    async def _ask(self, phase: str) -> Event | None:
        """Send an event and wait for the answer; None if the call ended without one."""
        self._answer = trio.Event()
        self._answered = None
        if self._ended.is_set():
            return None
        self._events_in.send_nowait({"type": f"lifespan.{phase}"})
        await self._answer.wait()
        answer = self._answered
        if answer is None:
            return None
        if answer["type"] == f"lifespan.{phase}.failed":
            raise LifespanFailed(answer.get("message") or f"the application failed in its {phase}")
        if answer["type"] != f"lifespan.{phase}.complete":
            raise LifespanFailed(f"the application answered its {phase} with {answer['type']!r}")
        return answer


@asynccontextmanager
async def run_lifespan(app: AsgiApp, state: dict[str, Any]) -> AsyncGenerator[None]:
    """Start `app`, run the body, stop `app`; `state` is what it shares with its requests.

    Raises:
        LifespanFailed: the application said so, or raised in its shutdown.
    """
    failure: LifespanFailed | None = None
    async with trio.open_nursery() as nursery:
        lifespan = _Lifespan(app, state)
        nursery.start_soon(lifespan.run)
        try:
            await lifespan.startup()
            yield
            await lifespan.shutdown()
        except LifespanFailed as error:
            failure = error  # raised below, not in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
