"""How `RateLimit` counts, in windows and buckets, by trio's clock."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from kestrel_core.errors import ConfigurationError, MissingExtraError
from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_middleware.asgi import Rate, RateLimit, StorageFailure, Strategy
from kestrel_middleware.asgi.rate_limit.limiter import Limiter
from kestrel_middleware.asgi.rate_limit.process_storage import ProcessStorage
from kestrel_middleware.asgi.rate_limit.rate import rates
from kestrel_middleware.asgi.rate_limit.token_bucket import TokenBucketLimiter
from kestrel_middleware.asgi.rate_limit.windows import WindowLimiter
from kestrel_middleware.asgi.scope import Scope
from tests.asgi_call import Call, Recorder, call, request_scope, websocket_scope

FIXED = Strategy.FIXED_WINDOW
SLIDING = Strategy.SLIDING_WINDOW
BUCKET = Strategy.TOKEN_BUCKET


def limited(
    limit: str | list[str],
    strategy: Strategy = FIXED,
    **options: Any,  # noqa: ANN401  # as the class takes them
) -> RateLimit:
    return RateLimit(Recorder(), limit=limit, strategy=strategy, **options)


async def statuses(app: RateLimit, count: int, scope: Scope | None = None) -> list[int]:
    return [(await call(app, scope or request_scope())).status for _ in range(count)]


async def ask(app: RateLimit, scope: Scope | None = None) -> Call:
    return await call(app, scope or request_scope())


@pytest.mark.parametrize("strategy", Strategy)
async def test_too_many(strategy: Strategy, autojump_clock: MockClock) -> None:
    app = limited("3/minute", strategy)
    assert await statuses(app, 5) == [200, 200, 200, 429, 429]
    sent = await ask(app)
    assert sent.body == b"Too many requests.\n"
    assert sent.field(b"ratelimit") is None
    waits = {FIXED: b"60", SLIDING: b"61", BUCKET: b"20"}
    assert sent.field(b"retry-after") == waits[strategy]
    # Others have counts of their own.
    assert await statuses(app, 1, request_scope(client=("192.0.2.2", 1))) == [200]


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("begins_at", [0.0, 17.3, 59.5])
async def test_who_waits_as_long_as_it_was_told_may_pass(
    strategy: Strategy, begins_at: float, autojump_clock: MockClock
) -> None:
    app = limited("7/minute", strategy)
    await trio.sleep(begins_at)
    assert await statuses(app, 8) == [200] * 7 + [429]
    wait = (await ask(app)).field(b"retry-after")
    assert wait is not None
    await trio.sleep(int(wait) - 1)
    assert await statuses(app, 1) == [429]
    await trio.sleep(1)
    assert await statuses(app, 1) == [200]


async def test_a_fixed_window_begins_with_a_keys_first_request(autojump_clock: MockClock) -> None:
    app = limited("2/minute")
    await trio.sleep(45)
    assert await statuses(app, 1) == [200]
    await trio.sleep(59)
    assert await statuses(app, 2) == [200, 429]
    await trio.sleep(1)
    assert await statuses(app, 3) == [200, 200, 429]


async def test_a_sliding_window_remembers_the_last(autojump_clock: MockClock) -> None:
    app = limited("10/minute", SLIDING)
    await trio.sleep(59)
    assert await statuses(app, 11) == [200] * 10 + [429]
    await trio.sleep(1.0)  # the next window begins; the last counts in full
    assert await statuses(app, 1) == [429]
    await trio.sleep(30)  # and now half
    assert await statuses(app, 6) == [200] * 5 + [429]
    wait = (await ask(app)).field(b"retry-after")
    assert wait == b"1"  # at exactly half, no more than a moment
    await trio.sleep(1)
    assert await statuses(app, 2) == [200, 429]
    wait = (await ask(app)).field(b"retry-after")
    assert wait == b"6"  # a tenth of the last window has to get out of sight, less that second
    await trio.sleep(6)
    assert await statuses(app, 2) == [200, 429]
    await trio.sleep(120)
    assert await statuses(app, 11) == [200] * 10 + [429]


async def test_a_token_bucket_allows_a_burst_after_a_pause(autojump_clock: MockClock) -> None:
    app = limited("60/minute", BUCKET, burst=5)
    assert await statuses(app, 6) == [200] * 5 + [429]
    await trio.sleep(2.5)
    assert await statuses(app, 3) == [200, 200, 429]
    assert (await ask(app)).field(b"retry-after") == b"1"
    await trio.sleep(3600)
    assert await statuses(app, 6) == [200] * 5 + [429]


@pytest.mark.parametrize("strategy", Strategy)
async def test_several_rates_all_hold(strategy: Strategy, autojump_clock: MockClock) -> None:
    app = limited(["6/hour", "4/minute"], strategy)
    assert await statuses(app, 5) == [200] * 4 + [429]
    await trio.sleep(120)  # the minute is over, also for sliding windows
    assert await statuses(app, 3) == [200, 200, 429]
    wait = (await ask(app)).field(b"retry-after")
    assert wait is not None
    assert int(wait) > 60


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from("ab")), max_size=60))
async def test_no_strategy_lets_too_many_pass(arrivals: list[tuple[float, str]]) -> None:
    """In any minute: a bucket twice its count at most, a sliding window about its count."""
    clock = MockClock()
    passed: dict[tuple[Strategy, str], list[float]] = {}

    async def arrive() -> None:
        limiters: dict[Strategy, Limiter] = {
            FIXED: WindowLimiter(ProcessStorage(), rates("5/minute"), name="x", is_sliding=False),
            SLIDING: WindowLimiter(ProcessStorage(), rates("5/minute"), name="x", is_sliding=True),
            BUCKET: TokenBucketLimiter(rates("5/minute")),
        }
        for seconds, key in arrivals:
            clock.jump(seconds)
            for strategy, limiter in limiters.items():
                verdict = await limiter.hit(key, with_quotas=True)
                (quota,) = verdict.quotas
                assert 0 <= quota.remaining < 5
                assert 0 <= quota.reset_seconds <= 120
                if verdict.is_allowed:
                    passed.setdefault((strategy, key), []).append(trio.current_time())
                else:
                    assert verdict.retry_after_seconds <= 60

    await run_by(clock, arrive)
    for times in passed.values():
        for first in times:
            assert sum(first <= time < first + 60 for time in times) <= 10


async def run_by(clock: MockClock, main: Callable[[], Any]) -> None:
    """Run `main` in a trio of its own, by `clock`, in another thread."""
    await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))


async def test_quota_fields(autojump_clock: MockClock) -> None:
    app = limited(["2/minute", "10/hour"], name="api", quota_fields=True)
    sent = await ask(app)
    policy = b'"api-60s";q=2;w=60, "api-3600s";q=10;w=3600'
    assert sent.field(b"ratelimit-policy") == policy
    assert sent.field(b"ratelimit") == b'"api-60s";r=1;t=60, "api-3600s";r=9;t=3600'
    await trio.sleep(10)
    await ask(app)
    sent = await ask(app)
    assert (sent.status, sent.field(b"ratelimit-policy")) == (429, policy)
    assert (sent.field(b"ratelimit"), sent.field(b"retry-after")) == (b'"api-60s";r=0;t=50', b"50")
    bucket = limited("60/minute", BUCKET, burst=4, quota_fields=True)
    assert (await ask(bucket)).field(b"ratelimit") == b'"default-60s";r=3;t=1'
    scope = websocket_scope()
    assert (await ask(bucket, scope)).field(b"ratelimit") == b'"default-60s";r=2;t=2'


async def test_websockets_count_and_are_denied() -> None:
    app = limited("1/minute")
    assert (await ask(app, websocket_scope())).events[0]["type"] == "websocket.accept"
    assert (await ask(app, websocket_scope())).events[0]["type"] == "websocket.close"
    assert (await ask(app, websocket_scope(denial=True))).status == 429


async def test_exempt_paths_and_lifespans_are_not_counted() -> None:
    app = limited("1/hour", exempt_paths=["/static/", "/livez"])
    for path in ("/static", "/static/a.css", "/livez"):
        assert await statuses(app, 2, request_scope(path=path)) == [200, 200]
    assert await statuses(app, 1, request_scope(path="/a/static/x", root_path="/a")) == [200]
    assert await statuses(app, 2, request_scope(path="/statics")) == [200, 429]
    assert (await call(app, {"type": "lifespan", "headers": []})).events == []


KEY = (b"x-api-key", b"ada")


@pytest.mark.parametrize(
    ("by", "one", "other", "are_same"),
    [
        ("client", {"client": ("192.0.2.1", 1)}, {"client": ("192.0.2.1", 2)}, True),
        ("client", {"client": ("192.0.2.1", 1)}, {"client": ("192.0.2.2", 1)}, False),
        ("client", {"client": ("192.0.2.1", 1)}, {"client": ("::ffff:192.0.2.1", 1)}, True),
        ("client", {"client": ("2001:db8::1", 1)}, {"client": ("2001:db8:0:0:ff::2", 1)}, True),
        ("client", {"client": ("2001:db8::1", 1)}, {"client": ("2001:db8:0:1::1", 1)}, False),
        ("client", {"client": None}, {"client": ("", 0)}, True),
        ("client", {"client": None}, {"client": ("/run/x.sock", 0)}, False),
        ("path", {"path": "/a"}, {"path": "/a"}, True),
        ("path", {"path": "/a"}, {"path": "/b"}, False),
        ("path", {"path": "/" + "a" * 100}, {"path": "/" + "a" * 100 + "b"}, False),
        ("path", {"path": "/é"}, {"path": "/é"}, True),
        ("everybody", {"path": "/a"}, {"path": "/b", "client": None}, True),
        ("header:X-API-Key", {"headers": [KEY]}, {"headers": [KEY], "client": None}, True),
        ("header:x-api-key", {"headers": [KEY]}, {"headers": [(KEY[0], b"bob")]}, False),
        ("header:x-api-key", {"headers": [KEY]}, {"headers": []}, False),
        ("header:x-api-key", {"headers": [KEY, KEY]}, {"headers": []}, True),
        ("header:x-api-key", {}, {"client": ("192.0.2.2", 1)}, False),
        (["path", "client"], {"path": "/a"}, {"path": "/a"}, True),
        (["path", "client"], {"path": "/a"}, {"path": "/b"}, False),
        (["path", "client"], {}, {"client": None}, False),
    ],
)
async def test_what_has_a_count_of_its_own(
    by: str | list[str], one: dict[str, Any], other: dict[str, Any], are_same: bool
) -> None:
    app = limited("1/hour", by=by)
    assert await statuses(app, 2, request_scope(**one)) == [200, 429]
    assert await statuses(app, 1, request_scope(**other)) == [429 if are_same else 200]


async def test_a_function_of_ones_own() -> None:
    def by_tenant(scope: Scope) -> str | None:
        tenant: str = scope["path"].partition("/")[2]
        return tenant or None

    app = limited("1/hour", by=by_tenant)
    assert await statuses(app, 3) == [200] * 3  # of nobody: not counted
    assert await statuses(app, 2, request_scope(path="/ada")) == [200, 429]
    assert await statuses(app, 1, request_scope(path="/bob")) == [200]


async def test_keys_that_are_over_are_forgotten(autojump_clock: MockClock) -> None:
    storage = ProcessStorage()
    limiters: list[Limiter] = [
        WindowLimiter(storage, rates("5/minute"), name="x", is_sliding=False),
        WindowLimiter(storage, rates("5/minute"), name="x", is_sliding=True),
    ]
    bucket = TokenBucketLimiter(rates("5/minute"))
    limiters.append(bucket)
    for part in range(40):
        for number in range(100):
            for limiter in limiters:
                await limiter.hit(f"{part} {number}", with_quotas=False)
        await trio.sleep(60)
    assert storage.keys <= 1024
    assert bucket.keys <= 1024
    assert storage.reset() > 0
    assert storage.keys == 0


async def test_the_storage_keeps_to_the_contract_of_the_library() -> None:
    storage = ProcessStorage()
    assert storage.check()
    assert (storage.get("a"), storage.incr("a", 60, 2), storage.get("a")) == (0, 2, 2)
    storage.clear("a")
    assert storage.get("a") == 0
    assert storage.acquire_sliding_window_entry("a", 1, 60)
    assert not storage.acquire_sliding_window_entry("a", 1, 60)
    storage.clear_sliding_window("a", 60)
    assert storage.get_sliding_window("a", 60)[::2] == (0, 0)


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [
        ("100/minute", 100, 60),
        ("5/s", 5, 1),
        ("1 per 5 Minutes", 1, 300),
        (" 10 / 2h ", 10, 7200),
        ("3/days", 3, 86400),
    ],
)
def test_rates(text: str, count: int, seconds: int) -> None:
    rate = Rate.parse(text)
    assert rate == Rate(count, seconds)
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    "text", ["", "5", "5/", "/s", "5/fortnight", "0/s", "5/0s", "-1/s", "1.5/s"]
)
def test_bad_rates(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        Rate.parse(text)


def test_options_as_text() -> None:
    text = (
        "rate_limit:limit=100/minute,limit=5/second,strategy=sliding_window,by=header:x-api-key,"
        "name=api,exempt-paths=/a,exempt-paths=/b,quota-fields=yes,on-storage-failure=refuse"
    )
    made = plugin_from_text(RateLimit, PluginText.parse(text), Recorder())
    assert isinstance(made, RateLimit)
    assert made.limit == (Rate(5, 1), Rate(100, 60))
    assert (made.strategy, str(made.by)) == (SLIDING, "header:x-api-key")
    assert (made.name, made.exempt_paths, made.quota_fields) == ("api", ("/a", "/b"), True)
    assert made.on_storage_failure is StorageFailure.REFUSE


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"limit": []}, "there is one rate at least"),
        ({"limit": ["5/minute", "6/60s"]}, "each has a period of its own"),
        ({"limit": "5/s", "strategy": BUCKET, "storage": "redis://x"}, "storage: token buckets"),
        ({"limit": "5/s", "burst": 5}, "burst: it is 1 at least, and for a token bucket"),
        ({"limit": ["5/s", "9/m"], "strategy": BUCKET, "burst": 5}, "burst: "),
        ({"limit": "5/s", "strategy": BUCKET, "burst": 0}, "burst: "),
        ({"limit": "5/s", "name": 'a"b'}, "name: it is made of"),
        ({"limit": "5/s", "by": "colour"}, "'colour' is nothing to tell requests apart by"),
        ({"limit": "5/s", "by": "header:"}, "nothing to tell requests apart by"),
        ({"limit": "5/s", "by": []}, "told apart by something"),
        (
            {"limit": "5/s", "storage_seconds": 0},
            "storage_seconds must be above zero and finite, not 0",
        ),
        ({"limit": "5/s", "exempt_paths": "/"}, "exempt_paths: '' is no path"),
        ({"limit": "5/s", "exempt_paths": "static"}, "exempt_paths: 'static' is no path"),
    ],
)
def test_bad_options(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        RateLimit(Recorder(), **options)


@pytest.mark.parametrize(
    ("storage", "fault"),
    [
        ("async+redis://localhost", "needs asyncio, and this is trio"),
        ("nonsense://x", "unknown storage scheme"),
        ("valkey://localhost", "prerequisite not available"),
    ],
)
def test_storages_that_cannot_be(storage: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        limited("5/s", storage=storage)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("windows", "process_storage"):
        monkeypatch.delitem(sys.modules, f"kestrel_middleware.asgi.rate_limit.{module}")
    monkeypatch.setitem(sys.modules, "limits", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'trio-kestrel\[rate-limit\]'"):
        limited("5/s")
    assert limited("5/s", BUCKET).limit == (Rate(5, 1),)
