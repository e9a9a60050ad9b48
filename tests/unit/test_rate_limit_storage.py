"""What becomes of requests when the storage is slow, or fails. In real time: it is asked in threads."""

import logging
import threading
from typing import ClassVar

import pytest
import trio
from limits.storage import SlidingWindowCounterSupport, Storage

from kestrel_core.errors import ConfigurationError
from kestrel_middleware.asgi import RateLimit, StorageFailure, Strategy
from tests.asgi_call import Recorder, call, request_scope


class StorageDown(Exception):
    pass


class FakeStorage(Storage):
    """A storage as of a third party; `behave` is what it does when it is asked."""

    STORAGE_SCHEME: list[str] | None = ["fake"]  # noqa: RUF012  # as its base has it
    is_down = False
    answers = threading.Event()
    threads: ClassVar[set[str]] = set()

    def __init__(self, uri: str, wrap_exceptions: bool = False) -> None:
        super().__init__(uri, wrap_exceptions)
        self.counts: dict[str, int] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return StorageDown

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        self.threads.add(threading.current_thread().name)
        assert self.answers.wait(30)
        if self.is_down:
            raise StorageDown("connection refused")
        self.counts[key] = self.counts.get(key, 0) + amount
        return self.counts[key]

    def get(self, key: str) -> int:
        return self.counts.get(key, 0)

    def get_expiry(self, key: str) -> float:
        return 0.0

    def check(self) -> bool:
        return not self.is_down

    def reset(self) -> int:
        raise NotImplementedError

    def clear(self, key: str) -> None:
        raise NotImplementedError


class SlidingFakeStorage(FakeStorage, SlidingWindowCounterSupport):
    STORAGE_SCHEME: list[str] | None = ["sliding-fake"]  # noqa: RUF012

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        return self.incr(key, expiry, amount) <= limit

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        return 0, 0.0, self.get(key), expiry + 20.0

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch) -> type[FakeStorage]:
    monkeypatch.setattr(FakeStorage, "is_down", False)
    monkeypatch.setattr(FakeStorage, "answers", threading.Event())
    monkeypatch.setattr(FakeStorage, "threads", set[str]())
    FakeStorage.answers.set()
    return FakeStorage


def limited(on_failure: StorageFailure, seconds: float = 20) -> RateLimit:
    return RateLimit(
        Recorder(),
        limit="2/hour",
        storage="fake://there",
        storage_seconds=seconds,
        on_storage_failure=on_failure,
    )


async def statuses(app: RateLimit, count: int) -> list[int]:
    return [(await call(app, request_scope())).status for _ in range(count)]


async def test_it_is_asked_in_a_thread(storage: type[FakeStorage]) -> None:
    app = limited(StorageFailure.REFUSE)
    assert await statuses(app, 3) == [200, 200, 429]
    assert storage.threads
    assert threading.main_thread().name not in storage.threads


async def test_sliding_windows() -> None:
    app = RateLimit(
        Recorder(),
        limit="2/hour",
        storage="sliding-fake://there",
        strategy=Strategy.SLIDING_WINDOW,
        storage_seconds=20,
    )
    assert await statuses(app, 2) == [200, 200]
    sent = await call(app, request_scope())
    assert (sent.status, sent.field(b"retry-after")) == (
        429,
        b"1221",
    )  # 20 s and a third of an hour


def test_a_storage_that_cannot_do_it_is_told_of() -> None:
    with pytest.raises(ConfigurationError, match="not implemented for storage"):
        RateLimit(Recorder(), limit="2/hour", storage="fake://x", strategy=Strategy.SLIDING_WINDOW)


@pytest.mark.parametrize(
    ("on_failure", "status", "fate"),
    [(StorageFailure.ALLOW, 200, "pass"), (StorageFailure.REFUSE, 503, "are refused")],
)
async def test_a_storage_that_fails(
    on_failure: StorageFailure,
    status: int,
    fate: str,
    storage: type[FakeStorage],
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = limited(on_failure)
    storage.is_down = True
    assert await statuses(app, 5) == [status] * 5
    # One line, however many requests there were.
    told = (
        f"the limit 'default': its storage fails (StorageDown: connection refused); requests {fate}"
    )
    assert caplog.record_tuples == [("kestrel.rate_limit", logging.ERROR, told)]
    storage.is_down = False
    storage.threads.clear()
    assert await statuses(app, 1) == [status]
    assert not storage.threads  # it is left alone for a second
    await trio.sleep(1.1)
    assert await statuses(app, 3) == [200, 200, 429]
    told = "the limit 'default': its storage answers again"
    assert caplog.record_tuples[1:] == [("kestrel.rate_limit", logging.WARNING, told)]


async def test_a_storage_that_does_not_answer(
    storage: type[FakeStorage], caplog: pytest.LogCaptureFixture
) -> None:
    app = limited(StorageFailure.REFUSE, seconds=0.05)
    storage.answers.clear()
    try:
        sent = await call(app, request_scope())
    finally:
        storage.answers.set()
    assert (sent.status, sent.field(b"retry-after")) == (503, b"1")
    assert "its storage fails (no answer in 0.05 s)" in caplog.text


async def test_an_error_of_the_programs_own_is_not_taken_for_a_failure(
    storage: type[FakeStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def incr(self: FakeStorage, key: str, expiry: int, amount: int = 1) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(storage, "incr", incr)
    with pytest.raises(ZeroDivisionError):
        await call(limited(StorageFailure.ALLOW), request_scope())
