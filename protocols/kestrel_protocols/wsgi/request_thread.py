"""The one worker thread of a request, and its way back into the event loop.

Theory of operation. `run` opens a nursery, starts the thread and waits for it. What the thread
asks for through `call` becomes a task in that nursery, and the thread waits for its outcome. So a
call never outlives its request: whatever ends the request, the nursery first ends the calls.

A thread cannot be cancelled. When the request is, the thread is abandoned: `run` ends at once, and
the thread learns of it when it next calls, or from the call in which it waits.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar, TypeVarTuple

import trio

from kestrel_protocols.http.exchange import ClientDisconnected

__all__ = ["RequestThread"]

ResultT = TypeVar("ResultT")
Ts = TypeVarTuple("Ts")

# As much as the system shows of a thread's name.
_THREAD_NAME = "kestrel wsgi"


class RequestThread:
    """Runs one function in a worker thread, and that thread's calls in the event loop.

    Made in the event loop, for one `run`.
    """

    __slots__ = ("_nursery", "_token", "abandoned")

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._nursery: trio.Nursery | None = None
        self.abandoned: bool = False
        """Whether the request was cancelled while the thread was at work."""

    async def run(self, work: Callable[[], ResultT], limiter: trio.CapacityLimiter) -> ResultT:
        """Wait for a thread that `limiter` grants, and for `work` in it; return its result.

        Raises what `work` raises. If cancelled, it leaves the thread to itself; that keeps its
        place in `limiter` until it ends.
        """
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                return await trio.to_thread.run_sync(
                    work, thread_name=_THREAD_NAME, abandon_on_cancel=True, limiter=limiter
                )
            except Exception as error:  # raised below, where no nursery wraps it
                failure = error
            except trio.Cancelled:
                self.abandoned = True
                raise
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()  # calls of threads that the application started
        assert failure is not None
        raise failure

    def call(self, function: Callable[[*Ts], Awaitable[ResultT]], *arguments: *Ts) -> ResultT:
        """Call `function` in the event loop; wait for what it returns, or raise what it raises.

        For any thread but the event loop's own, and for several at once.

        Raises:
            ClientDisconnected: the request is over, or ended meanwhile.
            RuntimeError: this is the event loop's thread, which must not wait.
        """
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("this waits for the event loop; call it from a worker thread")
        outcome: Future[ResultT] = Future()
        try:
            self._token.run_sync_soon(self._start, function, arguments, outcome)
        except trio.RunFinishedError as error:
            raise ClientDisconnected("the server has stopped") from error
        return outcome.result()

    def _start(
        self,
        function: Callable[[*Ts], Awaitable[ResultT]],
        arguments: tuple[*Ts],
        outcome: Future[ResultT],
    ) -> None:
        if self._nursery is None:
            outcome.set_exception(ClientDisconnected("the request is over"))
        else:
            self._nursery.start_soon(_settle, function, arguments, outcome)


async def _settle(
    function: Callable[[*Ts], Awaitable[ResultT]],
    arguments: tuple[*Ts],
    outcome: Future[ResultT],
) -> None:
    try:
        result = await function(*arguments)
    except Exception as error:  # the caller's, who waits in a thread
        outcome.set_exception(error)
    except BaseException:
        outcome.set_exception(ClientDisconnected("the request was given up"))
        raise
    else:
        outcome.set_result(result)
