"""Fixtures for pytest: a server that tells, when a test fails, what went over the wire and when.

pytest finds them by itself, and imports this module at each start, with whatever package it would be
in; therefore it is in none. Until a test asks for a fixture nothing is done, and nothing of the
framework is imported. They are synchronous, so that they serve tests that pytest-trio
runs as well as those that anyio's plug-in runs on trio.
"""

import os
import traceback
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trio.testing import MockClock

    from kestrel_core.testing import OpenServer, Serve

__all__ = ["kestrel_clock", "kestrel_seed", "kestrel_serve"]

_SEED_VARIABLE = "KESTREL_SEED"

# Of one test; one that opens hundreds, such as hypothesis' for its examples, fails in the last.
_MOST_SERVERS = 10


class _Given:
    """What the fixtures gave to one test."""

    def __init__(self) -> None:
        self.servers: deque[OpenServer] = deque(maxlen=_MOST_SERVERS)
        self.opened_servers = 0
        self.clock: MockClock | None = None
        self.seed: int | None = None


_given_key = pytest.StashKey[_Given]()


def _given(item: pytest.Item) -> _Given:
    return item.stash.setdefault(_given_key, _Given())


@pytest.fixture
def kestrel_serve(request: pytest.FixtureRequest) -> "Serve":
    """`kestrel_core.testing.serve`, whose servers tell what happened when the test fails.

    The report has a section for each of them, of many the last ones, instead of a note at the
    exception. It can be used wherever trio runs, in other fixtures too.

    Raises:
        RuntimeError: on entering it, the test does not run on trio, or not by the `kestrel_clock`
            that it asked for.
    """
    import trio

    from kestrel_core.testing import serve

    given = _given(request.node)

    @wraps(serve)
    @asynccontextmanager
    async def remembered(app: object, **options: Any) -> AsyncGenerator["OpenServer"]:  # noqa: ANN401  # they are passed on
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "kestrel_serve needs trio: mark the test with pytest.mark.trio, or have anyio's"
                ' plug-in run it on trio by a fixture anyio_backend that returns "trio"'
            )
        if given.clock not in {None, trio.lowlevel.current_clock()}:
            raise RuntimeError(
                "kestrel_clock was asked for, but this test runs by another clock: for pytest-trio"
                " it must be an argument of the test itself, for anyio's plug-in the fixture"
                ' anyio_backend must return "trio", {"clock": kestrel_clock}'
            )
        options.setdefault("adds_notes", False)  # the section says the same
        async with serve(app, **options) as opened:
            given.servers.append(opened)
            given.opened_servers += 1
            yield opened

    return remembered


@pytest.fixture
def kestrel_clock(request: pytest.FixtureRequest) -> "MockClock":
    """Virtual time: trio's clock jumps as soon as every task waits for it.

    pytest-trio uses it for a test that has it as an argument. For anyio's plug-in, have a fixture
    `anyio_backend` that returns `"trio", {"clock": kestrel_clock}`. Nothing outside of trio may be
    waited for, such as a socket or a thread: the clock would jump meanwhile.
    """
    from trio.testing import MockClock

    clock = MockClock(autojump_threshold=0)
    _given(request.node).clock = clock
    return clock


@pytest.fixture
def kestrel_seed(request: pytest.FixtureRequest) -> int:
    """A seed for what is random in this test, such as a simulated network; a failure shows it.

    It is the number in the environment variable KESTREL_SEED. Unless that is set, each test has its
    own, made of the test's id, and so the same each time.
    """
    text = os.environ.get(_SEED_VARIABLE)
    try:
        seed = int(text) if text else zlib.crc32(request.node.nodeid.encode())
    except ValueError:
        pytest.fail(f"{_SEED_VARIABLE} must be a whole number, not {text!r}", pytrace=False)
    _given(request.node).seed = seed
    return seed


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the fixtures know to the report of a failure; forget it when the test is over."""
    report = yield
    given = item.stash.get(_given_key, None)
    if given is not None:
        if report.failed:
            report.sections += _sections(given)
        if call.when == "teardown":
            del item.stash[_given_key]
    return report


def _sections(given: _Given) -> Iterator[tuple[str, str]]:
    if given.seed is not None:
        yield "kestrel: seed", f"{given.seed}; to have it again, set {_SEED_VARIABLE}={given.seed}"
    first = given.opened_servers - len(given.servers) + 1
    for number, server in enumerate(given.servers, first):
        yield f"kestrel: server {number}", _report(server)


def _report(server: "OpenServer") -> str:
    """Return the server's report; one that fails must not hide why the test did, nor end pytest."""
    try:
        return server.report()
    except Exception:
        return f"its report could not be made:\n{traceback.format_exc()}"
