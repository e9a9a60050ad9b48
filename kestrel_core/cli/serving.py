"""Serves until a signal says stop, and turns every way in which that can end into an exit code.

Theory of operation. The application's lifespan is around the server's `serve`, all of it inside
one cancel scope; a task beside it obeys signals. What a signal means depends on how far we are:

* starting (until every endpoint is bound): give up, by cancelling everything;
* the first one after that: drain, which may begin with a time in which everything goes on and
  health checks say not ready;
* a second: abort the server, and let the application's lifespan still shut down;
* one more, or a second when nothing is left but that shutdown: cancel everything.
"""

import logging
import signal
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import chain, repeat

import trio

from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, KestrelError
from kestrel_core.server import Server

__all__ = ["ServingFailed", "serve_until_stopped"]

_log = logging.getLogger("kestrel.cli")

# Exit codes. 2 is also what click uses for a wrong command line, 3 also what uvicorn uses for an
# application that could not start; 128 and the signal's number is the shells' convention.
EXIT_FAILED_LATER = 1
EXIT_WRONG_USAGE = 2
EXIT_CANNOT_START = 3
EXIT_SIGNAL_BASE = 128


class ServingFailed(KestrelError):
    """Serving could not start, or ended with an error; `user_traceback` may be ""."""

    def __init__(self, message: str, *, exit_code: int, user_traceback: str = "") -> None:
        super().__init__(message)
        self.exit_code: int = exit_code
        self.user_traceback: str = user_traceback


async def serve_until_stopped(
    server: Server,
    lifespan: AbstractAsyncContextManager[None],
    signals: AsyncIterator[int],
    *,
    drain_seconds: float,
    lifespan_failure: type[Exception],
    not_ready_seconds: float = 0.0,
    endpoint_notes: Sequence[str] = (),
) -> int:
    """Serve inside `lifespan` until `signals` have ended it; return the exit code.

    `endpoint_notes` is what the log says of each endpoint, such as "TLS", or "".

    That is 0 however long draining took and whatever it had to cut, and 128 plus the signal's
    number after a second signal.

    Raises:
        ServingFailed: it could not start, or ended by itself with an error.
    """
    run = _Run(server, not_ready_seconds, drain_seconds, endpoint_notes)
    failure: ServingFailed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.obey, signals, nursery)
        with run.everything:
            try:
                async with lifespan:
                    failure = await run.serve()
            except lifespan_failure as error:
                lifespan_failed = _lifespan_failed(error, started=run.has_listened)
                if failure is None:
                    failure = lifespan_failed
                else:  # there is one sentence at the end, and the first failure has it
                    _log.error("%s", lifespan_failed)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return run.exit_code


class _Run:
    """One run of the server, how far it is, and what signals do to it."""

    def __init__(
        self,
        server: Server,
        not_ready_seconds: float,
        drain_seconds: float,
        endpoint_notes: Sequence[str],
    ) -> None:
        self.everything = trio.CancelScope()
        self.exit_code = 0
        self.has_listened = False
        self._server = server
        self._not_ready_seconds = not_ready_seconds
        self._drain_seconds = drain_seconds
        self._endpoint_notes = endpoint_notes
        self._serving_ended = False
        self._aborted = False
        self._cut = 0

    def started(self, value: list[Endpoint] | None = None) -> None:
        """Be the `trio.TaskStatus` that hears from the server what it has bound."""
        self.has_listened = True
        for endpoint, note in zip(
            value or (), chain(self._endpoint_notes, repeat("")), strict=False
        ):
            _log.info("listening on %s%s", endpoint, f" ({note})" if note else "")

    async def serve(self) -> ServingFailed | None:
        """Serve until drained or aborted; return what went wrong, if anything did."""
        try:
            await self._server.serve(task_status=self)
        except (KestrelError, OSError) as error:
            return _server_failed(error, started=self.has_listened)
        finally:
            self._serving_ended = True
        _log.info("stopped; connections cut: %d", self._cut)
        return None

    async def obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        """Do what each signal asks for."""
        draining = False
        async for number in signals:
            name = signal.Signals(number).name
            if not self.has_listened:
                _log.info("%s: start-up given up", name)
                self.everything.cancel()
            elif not draining:
                draining = True
                nursery.start_soon(self._drain, name)
            elif self._aborted or self._serving_ended:
                self.exit_code = EXIT_SIGNAL_BASE + number
                _log.warning("%s again: not waiting for the application's shutdown", name)
                self.everything.cancel()
            else:
                self.exit_code = EXIT_SIGNAL_BASE + number
                self._abort(name)

    async def _drain(self, name: str) -> None:
        _log.info(
            "%s: %sdraining for at most %g s; connections to wait for: %d",
            name,
            f"not ready, for {self._not_ready_seconds:g} s; then "
            if self._not_ready_seconds
            else "",
            self._drain_seconds,
            len(self._server.connections),
        )
        cut = await self._server.drain(self._drain_seconds, notice_seconds=self._not_ready_seconds)
        if not self._aborted:  # which has counted them
            self._cut = cut

    def _abort(self, name: str) -> None:
        self._aborted = True
        self._cut = len(self._server.connections)
        _log.warning("%s again: not waiting for connections", name)
        self._server.abort()


def _server_failed(error: KestrelError | OSError, *, started: bool) -> ServingFailed:
    if started:
        return ServingFailed(f"the server stopped: {error}", exit_code=EXIT_FAILED_LATER)
    wrong = isinstance(error, ConfigurationError)
    code = EXIT_WRONG_USAGE if wrong else EXIT_CANNOT_START
    return ServingFailed(str(error), exit_code=code)


def _lifespan_failed(error: Exception, *, started: bool) -> ServingFailed:
    """Tell of an application that could not start or stop.

    Many applications, Starlette's among them, send a whole traceback as their message.
    """
    message = str(error).strip()
    user_traceback = ""
    if error.__cause__ is not None:
        user_traceback = "".join(traceback.format_exception(error.__cause__))
        message = f"{message}: {traceback.format_exception_only(error.__cause__)[-1].strip()}"
    elif "\n" in message:
        user_traceback = f"{message}\n"
        message = message.rpartition("\n")[2]
    return ServingFailed(
        f"the application could not {'stop' if started else 'start'}: {message}",
        exit_code=EXIT_FAILED_LATER if started else EXIT_CANNOT_START,
        user_traceback=user_traceback,
    )
