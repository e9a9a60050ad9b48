from typing import Any

import pytest

from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_middleware.asgi import StrictTransportSecurity
from kestrel_middleware.asgi.scope import Scope
from tests.asgi_call import Recorder, call, request_scope, websocket_scope

NAME = b"strict-transport-security"
HOST = (b"host", b"example.com")
YEAR_SECONDS = 365 * 24 * 60 * 60


async def told(
    scope: Scope,
    **options: Any,  # noqa: ANN401  # as the class takes them
) -> bytes | None:
    recorder = Recorder((b"x-own", b"1"))
    sent = await call(StrictTransportSecurity(recorder, **options), scope)
    assert sent.field(b"x-own") == b"1"
    return sent.field(NAME)


async def test_only_over_https() -> None:
    assert await told(request_scope(HOST, scheme="https")) == b"max-age=2592000"
    assert await told(request_scope(scheme="https")) == b"max-age=2592000"
    assert await told(request_scope(HOST)) is None
    assert await told(websocket_scope(HOST, scheme="wss")) == b"max-age=2592000"
    assert await told(websocket_scope(HOST)) is None


async def test_what_it_says() -> None:
    scope = request_scope(HOST, scheme="https")
    assert await told(scope, max_age_seconds=0) == b"max-age=0"
    assert await told(scope, include_subdomains=True) == b"max-age=2592000; includeSubDomains"
    value = await told(scope, max_age_seconds=YEAR_SECONDS, include_subdomains=True, preload=True)
    assert value == b"max-age=31536000; includeSubDomains; preload"


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:8443", b"app.localhost", b"127.0.0.1:1", b"[::1]:8443"]
)
async def test_excluded_hosts(host: bytes) -> None:
    scope = request_scope((b"host", host), scheme="https")
    assert await told(scope) is None
    assert await told(scope, excluded=["other.test"]) == b"max-age=2592000"
    assert await told(scope, excluded=[]) == b"max-age=2592000"


async def test_an_application_that_says_it_itself_is_right() -> None:
    recorder = Recorder((b"Strict-Transport-Security", b"max-age=1"))
    sent = await call(StrictTransportSecurity(recorder), request_scope(HOST, scheme="https"))
    assert sent.field(b"Strict-Transport-Security") == b"max-age=1"
    assert sent.field(NAME) is None


async def test_lifespans_pass() -> None:
    recorder = Recorder()
    scope: Scope = {"type": "lifespan", "headers": []}
    await call(StrictTransportSecurity(recorder), scope)
    assert recorder.scopes == [scope]


def test_options() -> None:
    text = "hsts:max-age-seconds=31536000,include-subdomains=true,preload=true,excluded=a.test"
    made = plugin_from_text(StrictTransportSecurity, PluginText.parse(text), Recorder())
    assert isinstance(made, StrictTransportSecurity)
    assert (made.max_age_seconds, made.preload, made.excluded) == (YEAR_SECONDS, True, ("a.test",))
    with pytest.raises(ValueError, match="preload: browsers list a site only with"):
        StrictTransportSecurity(Recorder(), preload=True, include_subdomains=True)
    with pytest.raises(ValueError, match="preload: browsers list a site only with"):
        StrictTransportSecurity(Recorder(), preload=True, max_age_seconds=YEAR_SECONDS)
    with pytest.raises(ValueError, match="max_age_seconds: it is no less"):
        StrictTransportSecurity(Recorder(), max_age_seconds=-1)
