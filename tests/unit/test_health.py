import json
import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_core.signals import Signal
from kestrel_middleware.asgi import Health
from kestrel_middleware.asgi.scope import Scope
from tests.asgi_call import Call, Recorder, call, request_scope, websocket_scope


async def ask(
    scope: Scope,
    **options: Any,  # noqa: ANN401  # as the class takes them
) -> tuple[Call, bool]:
    recorder = Recorder()
    sent = await call(Health(recorder, **options), scope)
    return sent, bool(recorder.scopes)


async def probe(
    path: str,
    **options: Any,  # noqa: ANN401  # as the class takes them
) -> tuple[int, Any]:
    """Return the status and the content of an answer that the application did not give."""
    sent, was_called = await ask(request_scope(path=path), **options)
    assert not was_called
    assert sent.field(b"content-type") == b"application/json"
    assert sent.field(b"cache-control") == b"no-store"
    return sent.status, json.loads(sent.body)


async def passes() -> None:
    await trio.lowlevel.checkpoint()


async def hangs() -> None:
    await trio.sleep_forever()


async def fails() -> None:
    raise ConnectionRefusedError("the database is at 10.1.2.3")


async def says_no() -> bool:
    return False


async def test_alive_and_ready() -> None:
    assert await probe("/livez") == (200, {"status": "alive"})
    assert await probe("/readyz") == (200, {"status": "ready", "checks": {}})
    assert await probe("/up", live_path="/up", ready_path="/go") == (200, {"status": "alive"})


async def test_all_else_is_for_the_application() -> None:
    for path in ("/", "/livez/", "/livezz", "/x/livez"):
        assert (await ask(request_scope(path=path)))[1]
    assert (await ask(websocket_scope(path="/livez")))[1]
    assert (await ask({"type": "lifespan", "headers": []}))[1]


async def test_below_the_root() -> None:
    scope = request_scope(path="/app/livez", root_path="/app")
    assert not (await ask(scope))[1]
    assert (await ask(request_scope(path="/application/livez", root_path="/app")))[1]


async def test_methods() -> None:
    sent, _ = await ask(request_scope(path="/readyz", method="HEAD"))
    whole, _ = await ask(request_scope(path="/readyz"))
    assert (sent.status, sent.body) == (200, b"")
    assert sent.field(b"content-length") == b"%d" % len(whole.body)
    sent, was_called = await ask(request_scope(path="/livez", method="POST"))
    assert (sent.status, sent.field(b"allow"), was_called) == (405, b"GET, HEAD", False)


async def test_a_server_that_drains_is_not_ready() -> None:
    draining = Signal()
    scope = request_scope(path="/readyz", extensions={"kestrel.server": {"draining": draining}})
    asked: list[bool] = []

    async def check() -> None:
        asked.append(bool(draining))

    assert (await ask(scope, checks={"one": check}))[0].status == 200
    draining.set()
    sent, _ = await ask(scope, checks={"one": check})
    assert (sent.status, json.loads(sent.body)) == (503, {"status": "draining"})
    assert asked == [False]
    sent, _ = await ask({**scope, "path": "/livez"})
    assert sent.status == 200


async def test_checks(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    checks = {"fine": passes, "hangs": hangs, "broken": fails, "no": says_no, "slow": hangs}
    started_at = trio.current_time()
    status, content = await probe("/readyz", checks=checks, check_seconds=3)
    assert trio.current_time() - started_at == pytest.approx(3)  # all at once
    results = {
        "fine": "passed",
        "hangs": "timed out",
        "broken": "failed",
        "no": "failed",
        "slow": "timed out",
    }
    assert (status, content) == (503, {"status": "not ready", "checks": results})
    assert list(content["checks"]) == list(checks)
    assert sorted(caplog.record_tuples) == [
        ("kestrel.health", logging.WARNING, "the check 'broken' failed"),
        ("kestrel.health", logging.WARNING, "the check 'hangs' took more than 3 s"),
        ("kestrel.health", logging.WARNING, "the check 'no' returned False"),
        ("kestrel.health", logging.WARNING, "the check 'slow' took more than 3 s"),
    ]
    [failure] = [record for record in caplog.records if record.exc_info]
    assert failure.exc_info is not None
    assert failure.exc_info[0] is ConnectionRefusedError
    status, content = await probe("/readyz", checks={"fine": passes})
    assert (status, content) == (200, {"status": "ready", "checks": {"fine": "passed"}})


async def test_a_cancelled_probe_cancels_its_checks(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def check() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("check")

    with trio.move_on_after(0.5) as scope:
        await ask(request_scope(path="/readyz"), checks={"one": check})
    assert scope.cancelled_caught
    assert ended == ["check"]


def test_options() -> None:
    text = PluginText.parse("health:live-path=/up,ready-path=/go,check-seconds=2")
    made = plugin_from_text(Health, text, Recorder())
    assert isinstance(made, Health)
    assert (made.live_path, made.ready_path, made.check_seconds) == ("/up", "/go", 2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"live_path": "up"}, "live_path: a path begins"),
        ({"ready_path": "up"}, "ready_path: a path begins"),
        ({"ready_path": "/livez"}, "ready_path: it is another"),
        ({"check_seconds": 0}, "check_seconds must be above zero and finite, not 0"),
    ]
    for options, fault in cases:
        with pytest.raises(ValueError, match=fault):
            Health(Recorder(), **options)
