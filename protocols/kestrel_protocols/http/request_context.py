"""Runs an application's coroutine in this task, in a `contextvars` context of its own.

A connection serves one request after the other in one task, so without this a variable that one
request sets would be seen by the next. A task for each request would do it too, at ten times the
price. trio's traps pass through unchanged: the coroutine runs in this task in every other respect.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any

__all__ = ["run_in_fresh_context"]


def run_in_fresh_context(
    call: Coroutine[Any, Any, None], before_waiting: Callable[[], None]
) -> Awaitable[None] | None:
    """Run `call` in a copy of this task's context: to its end, or until it waits.

    Returns None if it has ended, otherwise the rest of it, to be awaited at once.
    `before_waiting` is called, in this task's own context, each time `call` is about to wait; it
    must not wait itself, and must not raise.
    """
    run = copy_context().run
    try:
        trap = run(call.send, None)
    except StopIteration:
        return None
    before_waiting()
    return _resume(run, call, trap, before_waiting)


@coroutine
def _resume(
    run: Callable[..., Any],
    call: Coroutine[Any, Any, None],
    trap: object,
    before_waiting: Callable[[], None],
) -> Generator[Any, Any, None]:
    try:
        while True:
            try:
                answer = yield trap
            except BaseException as error:  # what trio, or the interpreter, throws in: passed on
                trap = run(call.throw, error)
            else:
                trap = run(call.send, answer)
            before_waiting()
    except StopIteration:
        return
