"""What the contract suites say things with: each failure is one `AssertionError`, in words."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, TypeVar

import trio
import trio.testing

__all__ = [
    "Pending",
    "concurrently",
    "expect",
    "hold",
    "holding",
    "pending",
    "promise_of",
    "raises",
    "settle",
]

ResultT = TypeVar("ResultT")

# What hangs is given up after this long; on trio's autojump clock that takes no time.
_HANG_SECONDS = 10.0

# A kernel moves bytes between two sockets without asking trio; this much real time lets it.
_SETTLE_SECONDS = 0.001


def expect(condition: bool, sentence: str) -> None:
    """Raise `AssertionError` with `sentence`, which tells what should be, unless it is so."""
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def raises(kinds: type[Exception] | tuple[type[Exception], ...], what: str) -> Generator[None]:
    """Expect the block, which is `what` in a sentence, to raise one of `kinds`."""
    wanted = _names(kinds)
    try:
        yield
    except kinds:
        return
    except Exception as error:
        raise AssertionError(f"{what} should raise {wanted}, not {error!r}") from error
    raise AssertionError(f"{what} should raise {wanted}")


async def settle() -> None:
    """Wait until every other task waits for something that does not come by itself."""
    await trio.testing.wait_all_tasks_blocked(_SETTLE_SECONDS)


async def concurrently(*operations: Callable[[], Awaitable[object]]) -> None:
    """Run all of `operations` at once and wait for them."""

    async def run(operation: Callable[[], Awaitable[object]]) -> None:
        await operation()

    async with trio.open_nursery() as nursery:
        for operation in operations:
            nursery.start_soon(run, operation)


class Pending(Generic[ResultT]):
    """An operation that was started in a task of its own; see `pending`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._results: list[ResultT] = []
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether it has returned or raised."""
        return bool(self._results) or self._error is not None

    @property
    def error(self) -> Exception | None:
        """What it raised."""
        return self._error

    @property
    def result(self) -> ResultT:
        """What it returned; an `AssertionError` if it raised or is not done."""
        if self._error is not None:
            raise AssertionError(f"{self._what} raised {self._error!r}") from self._error
        expect(self.done, f"{self._what} should have returned")
        return self._results[0]

    def expect_raised(self, kinds: type[Exception] | tuple[type[Exception], ...]) -> None:
        """Expect that it raised one of `kinds`."""
        with raises(kinds, self._what):
            if self._error is not None:
                raise self._error

    async def run(self, operation: Callable[[], Awaitable[ResultT]]) -> None:
        """Run `operation` and keep what comes of it."""
        try:
            self._results.append(await operation())
        except Exception as error:
            self._error = error


@asynccontextmanager
async def pending(
    operation: Callable[[], Awaitable[ResultT]], what: str
) -> AsyncGenerator[Pending[ResultT]]:
    """Start `operation`, expect that it has to wait, run the block, and wait for its end."""
    async with trio.open_nursery() as nursery:
        started: Pending[ResultT] = Pending(what)
        nursery.start_soon(started.run, operation)
        await settle()
        if started.done:
            raise AssertionError(f"{what} should wait, but it gave {started.result!r}")
        yield started


def promise_of(check: Callable[..., object]) -> str:
    """Return the promise that a check stands for: the first line of its docstring."""
    return (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")


@contextmanager
def holding(sentence: str) -> Generator[None]:
    """Turn what goes wrong in the block into an `AssertionError` that begins with `sentence`.

    Raises:
        AssertionError: the block raised any `Exception`.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(lambda error: not isinstance(error, Exception)) is not None:
            raise
        raise AssertionError(f"{sentence}: {_words(_first(group))}") from group
    except Exception as error:
        raise AssertionError(f"{sentence}: {_words(error)}") from error


async def hold(sentence: str, check: Callable[[], Awaitable[object]]) -> None:
    """Run `check`, and turn what goes wrong into an `AssertionError` that begins with `sentence`.

    Raises:
        AssertionError: it raised any `Exception`, or hung.
    """
    with holding(sentence):
        with trio.move_on_after(_HANG_SECONDS) as limit:
            await check()
        expect(not limit.cancelled_caught, "it hangs")


def _names(kinds: type[Exception] | Sequence[type[Exception]]) -> str:
    return kinds.__name__ if isinstance(kinds, type) else " or ".join(k.__name__ for k in kinds)


def _first(error: BaseException) -> BaseException:
    match error:
        case BaseExceptionGroup(exceptions=(first, *_)):
            return _first(first)
        case _:
            return error


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, AssertionError) and str(error) else repr(error)
