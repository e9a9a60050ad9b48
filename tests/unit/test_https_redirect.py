from typing import Any

import pytest

from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_middleware.asgi import HttpsRedirect
from kestrel_middleware.asgi.scope import Scope
from tests.asgi_call import Call, Recorder, call, request_scope, websocket_scope


async def ask(
    scope: Scope,
    **options: Any,  # noqa: ANN401  # as the class takes them
) -> tuple[Call, bool]:
    recorder = Recorder()
    sent = await call(HttpsRedirect(recorder, **options), scope)
    return sent, bool(recorder.scopes)


@pytest.mark.parametrize(
    ("host", "port", "target", "query", "location"),
    [
        (b"example.com", 443, b"/", b"", b"https://example.com/"),
        (b"example.com:80", 443, b"/a%2Fb", b"c=d&e", b"https://example.com/a%2Fb?c=d&e"),
        (b"Example.com:8080", 8443, b"/x", b"", b"https://example.com:8443/x"),
        (b"[2001:DB8::1]:80", 443, b"/", b"", b"https://[2001:db8::1]/"),
        (b"example.com", 443, b"//evil.test", b"", b"https://example.com//evil.test"),
        (b"example.com", 443, b"*", b"", b"https://example.com/"),
        (
            b"example.com",
            443,
            b"/\xc3\xa9\r\n",
            b'\x7f"',
            b"https://example.com/%C3%A9%0D%0A?%7F%22",
        ),
    ],
)
async def test_redirects(
    host: bytes, port: int, target: bytes, query: bytes, location: bytes
) -> None:
    scope = request_scope((b"host", host), path="?", raw_path=target, query_string=query)
    sent, was_called = await ask(scope, port=port)
    assert not was_called
    assert (sent.status, sent.field(b"location"), sent.body) == (308, location, b"")


async def test_without_a_raw_path_the_path_is_written_anew() -> None:
    scope = request_scope((b"host", b"x.test"), path="/50% ?é", raw_path=None)
    sent, _ = await ask(scope)
    assert sent.field(b"location") == b"https://x.test/50%25%20%3F%C3%A9"


async def test_https_passes() -> None:
    assert (await ask(request_scope(scheme="https")))[1]
    assert (await ask(websocket_scope(scheme="wss")))[1]
    assert (await ask({"type": "lifespan", "headers": []}))[1]


@pytest.mark.parametrize("host", [None, b"", b"evil.test/", b"a b"])
async def test_without_a_host_there_is_no_place_to_go(host: bytes | None) -> None:
    sent, was_called = await ask(request_scope(*([] if host is None else [(b"host", host)])))
    assert not was_called
    assert sent.status == 400


async def test_websockets() -> None:
    scope = websocket_scope((b"host", b"x.test"), path="/chat", denial=True)
    sent, was_called = await ask(scope)
    assert not was_called
    assert (sent.status, sent.field(b"location")) == (308, b"wss://x.test/chat")
    sent, _ = await ask(websocket_scope((b"host", b"x.test")))
    assert [event["type"] for event in sent.events] == ["websocket.close"]


async def test_options() -> None:
    text = PluginText.parse("https_redirect:status=307,port=8443")
    made = plugin_from_text(HttpsRedirect, text, Recorder())
    assert isinstance(made, HttpsRedirect)
    sent = await call(made, request_scope((b"host", b"x.test")))
    assert (sent.status, sent.field(b"location")) == (307, b"https://x.test:8443/")
    with pytest.raises(ValueError, match="status: a redirect is"):
        HttpsRedirect(Recorder(), status=303)
    with pytest.raises(ValueError, match="port: it is between"):
        HttpsRedirect(Recorder(), port=0)
