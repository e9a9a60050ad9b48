"""A time limit that costs nothing until something has to wait.

Entering and leaving a cancel scope costs as much as a third of a small request. Closing a
connection hardly ever waits; so a limit around it is entered when it does, and not before.
"""

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

import trio

__all__ = ["run_within"]


@coroutine
def run_within(
    seconds: float, call: Coroutine[Any, Any, None], *, shield: bool = False
) -> Generator[Any, Any, bool]:
    """Run `call`, and cancel it when it has waited for `seconds`; tell whether it came to its end.

    With `shield` it is cancelled by nothing else. A `call` that never waits runs no checkpoint.
    Raises what `call` raises.
    """
    try:
        trap = call.send(None)
    except StopIteration:
        return True
    with trio.move_on_after(seconds, shield=shield) as scope:
        try:
            while True:
                try:
                    answer = yield trap
                except (
                    BaseException
                ) as error:  # what trio, or the interpreter, throws in: passed on
                    trap = call.throw(error)
                else:
                    trap = call.send(answer)
        except StopIteration:
            pass
    return not scope.cancelled_caught
