"""Counters in a real Redis, which several limits share."""

import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
import trio

from kestrel_middleware.asgi import RateLimit, StorageFailure, Strategy
from tests.asgi_call import Recorder, call, request_scope
from tests.interop.conftest import program


class Redis:
    """A server on a Unix socket of its own, which keeps nothing."""

    def __init__(self, path: str, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        command = [
            path,
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        lines = iter(self._process.stdout)
        assert any("ready to accept connections" in line for line in lines)

    @property
    def uri(self) -> str:
        return f"redis+unix://{self.socket}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def redis() -> Generator[Redis]:
    path = program("redis-server")
    folder = Path(tempfile.mkdtemp())  # short, as the path of a Unix socket has to be
    server = Redis(path, folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


def limited(redis: Redis, strategy: Strategy, name: str = "shared") -> RateLimit:
    return RateLimit(
        Recorder(),
        limit=["3/hour", "100/day"],
        strategy=strategy,
        storage=redis.uri,
        storage_seconds=20,
        name=name,
        on_storage_failure=StorageFailure.REFUSE,
        quota_fields=True,
    )


@pytest.mark.parametrize("strategy", [Strategy.FIXED_WINDOW, Strategy.SLIDING_WINDOW])
async def test_limits_of_one_name_share_their_counters(strategy: Strategy, redis: Redis) -> None:
    one, other = limited(redis, strategy), limited(redis, strategy)
    for app in (one, other, one):
        sent = await call(app, request_scope())
        assert sent.status == 200
    assert (sent.field(b"ratelimit") or b"").startswith(b'"shared-3600s";r=0;t=')
    for app in (one, other):
        sent = await call(app, request_scope())
        assert sent.status == 429
        assert 3590 < int(sent.field(b"retry-after") or 0) <= 3601
    assert (await call(one, request_scope(client=("192.0.2.2", 1)))).status == 200
    assert (await call(limited(redis, strategy, "own"), request_scope())).status == 200


async def test_requests_at_once_do_not_get_past_the_limit(redis: Redis) -> None:
    app = limited(redis, Strategy.FIXED_WINDOW)
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await call(app, request_scope())).status)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(ask)
    assert sorted(statuses) == [200] * 3 + [429] * 27


async def test_a_redis_that_is_gone(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    app = limited(redis, Strategy.FIXED_WINDOW)
    assert (await call(app, request_scope())).status == 200
    redis.stop()
    assert (await call(app, request_scope())).status == 503
    assert "the limit 'shared': its storage fails (ConnectionError: " in caplog.text
