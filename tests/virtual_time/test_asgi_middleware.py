"""The middleware of ASGI applications."""

import threading
from collections.abc import Generator
from typing import ClassVar

import pytest
import trio
from limits.storage import Storage
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.testing import serve
from kestrel_middleware.asgi import (
    ConcurrencyLimit,
    Health,
    RateLimit,
    StorageFailure,
    Strategy,
)
from kestrel_protocols.asgi.events import Receive, Scope, Send
from tests.http1_site import answer, hello
from tests.virtual_time.proofs import proves

# Rates ------------------------------------------------------------------------------------------


@proves("rate_limit.limit")
async def test_a_fixed_window_begins_with_its_first_request(autojump_clock: MockClock) -> None:
    app = RateLimit(hello, limit=["2/minute"])
    async with serve(app) as server, server.httpx_client() as client:
        statuses: list[int] = []
        for at in (10, 69.999, 69.999, 70):
            await trio.sleep_until(at)
            response = await client.get("/")
            statuses.append(response.status_code)
        assert statuses == [200, 200, 429, 200]


@proves("rate_limit.limit", "kestrel_middleware.asgi.rate_limit.windows._EDGE_SECONDS")
@pytest.mark.parametrize(
    ("strategy", "seconds"),
    [
        (Strategy.FIXED_WINDOW, 60),
        (Strategy.SLIDING_WINDOW, 61),
        (Strategy.TOKEN_BUCKET, 30),
    ],
)
async def test_who_waits_as_long_as_it_is_told_is_served(
    strategy: Strategy, seconds: int, autojump_clock: MockClock
) -> None:
    app = RateLimit(hello, limit=["2/minute"], strategy=strategy)
    async with serve(app) as server, server.httpx_client() as client:
        assert [(await client.get("/")).status_code for _ in range(2)] == [200, 200]
        refused = await client.get("/")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, str(seconds))
        await trio.sleep(seconds - 1)
        assert (await client.get("/")).status_code == 429
        await trio.sleep(1)
        assert (await client.get("/")).status_code == 200


class HangingStorage(Storage):
    """A storage as of a third party, which does not answer until it is told to."""

    STORAGE_SCHEME: list[str] | None = ["hanging"]  # noqa: RUF012  # as its base has it
    may_answer: ClassVar[threading.Event] = threading.Event()

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        assert self.may_answer.wait(30)
        return 1

    def get(self, key: str) -> int:
        return 0

    def get_expiry(self, key: str) -> float:
        return 0.0

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        raise NotImplementedError

    def clear(self, key: str) -> None:
        raise NotImplementedError


@pytest.fixture
def hanging_storage() -> Generator[str]:
    HangingStorage.may_answer.clear()
    yield "hanging://"
    HangingStorage.may_answer.set()


@proves("rate_limit.storage_seconds", "kestrel_middleware.asgi.rate_limit.windows._PAUSE_SECONDS")
async def test_a_storage_that_does_not_answer_is_given_up_and_left_alone(
    hanging_storage: str, autojump_clock: MockClock
) -> None:
    """The thread that waits for it does not keep the clock from jumping."""
    app = RateLimit(
        hello,
        limit=["1/minute"],
        storage=hanging_storage,
        storage_seconds=5,
        on_storage_failure=StorageFailure.REFUSE,
    )
    answered_at: list[float] = []
    async with serve(app) as server, server.httpx_client() as client:
        for asked_at in (0, 5.999, 6):
            await trio.sleep_until(asked_at)
            assert (await client.get("/")).status_code == 503
            answered_at.append(trio.current_time())
    assert answered_at == [5, 5.999, 11]


# Queues and checks ------------------------------------------------------------------------------


async def sleep(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after as many seconds as the path says."""
    await trio.sleep(float(scope["path"][1:]))
    await answer(send)


@proves("concurrency_limit.queue_seconds")
@pytest.mark.parametrize(("taken", "at", "status"), [("10.001", 10, 429), ("9.999", 9.999, 200)])
async def test_a_request_is_queued_for_so_long(
    taken: str, at: float, status: int, autojump_clock: MockClock
) -> None:
    app = ConcurrencyLimit(sleep, max_concurrent=1, max_queued=1, queue_seconds=10)
    async with (
        serve(app) as server,
        server.httpx_client() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.get, f"/{taken}")
        await wait_all_tasks_blocked()
        response = await client.get("/0")
        assert (trio.current_time(), response.status_code) == (at, status)


@proves("health.check_seconds")
@pytest.mark.parametrize(("seconds", "at", "status"), [(3.001, 3, 503), (2.999, 2.999, 200)])
async def test_a_check_has_so_long(
    seconds: float, at: float, status: int, autojump_clock: MockClock
) -> None:
    async def check() -> None:
        await trio.sleep(seconds)

    app = Health(hello, checks={"database": check}, check_seconds=3)
    async with serve(app) as server, server.httpx_client() as client:
        response = await client.get("/readyz")
        assert (trio.current_time(), response.status_code) == (at, status)
