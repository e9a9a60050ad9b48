from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_middleware.asgi import HostFilter
from kestrel_middleware.asgi.host_value import HostValue, read_host
from kestrel_middleware.asgi.scope import Scope
from tests.asgi_call import Call, Recorder, call, request_scope, websocket_scope


async def ask(
    scope: Scope,
    *allowed: str,
    **options: Any,  # noqa: ANN401  # as the class takes them
) -> tuple[Call, bool]:
    """Return what was sent, and whether the application was called."""
    recorder = Recorder()
    sent = await call(HostFilter(recorder, allowed=allowed, **options), scope)
    return sent, bool(recorder.scopes)


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        (b"example.com", "example.com"),
        (b"Example.COM", "EXAMPLE.com"),
        (b"example.com:8000", "example.com"),
        (b"example.com:", "example.com"),
        (b"example.com.", "example.com"),
        (b"www.example.com", "*.example.com"),
        (b"a.b.example.com:1", "*.example.com"),
        (b"xn--mnchen-3ya.example", "münchen.example"),
        (b"my_container", "my_container"),
        (b"127.0.0.1:80", "127.0.0.1"),
        (b"[::1]", "[::1]"),
        (b"[::1]:8000", "::1"),
        (b"[0:0::0001]", "[::1]"),
        (b"anything.test", "*"),
        (b"[2001:db8::1]", "*"),
    ],
)
async def test_allowed(host: bytes, pattern: str) -> None:
    sent, was_called = await ask(request_scope((b"host", host)), "other.test", pattern)
    assert was_called
    assert sent.status == 200


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        (b"example.org", "example.com"),
        (b"evil-example.com", "*.example.com"),
        (b"example.com", "*.example.com"),
        (b".example.com", "example.com"),
        (b"example.com.evil.test", "example.com"),
        (b"example.com@evil.test", "example.com"),
        (b"evil.test/example.com", "*"),
        (b"evil.test#.example.com", "*.example.com"),
        (b"example.com:80:80", "example.com"),
        (b"example.com:65536", "example.com"),
        (b"example.com:http", "example.com"),
        (b"example.com ", "example.com"),
        (b"[::1", "*"),
        (b"::1", "*"),
        (b"[::g]", "*"),
        (b"[127.0.0.1]", "*"),
        (b".", "*"),
        (b"\xff", "*"),
    ],
)
async def test_refused(host: bytes, pattern: str) -> None:
    sent, was_called = await ask(request_scope((b"host", host)), pattern)
    assert not was_called
    assert (sent.status, sent.body) == (400, b"This host is not served here.\n")
    assert sent.field(b"content-length") == b"30"
    assert sent.field(b"content-type") == b"text/plain; charset=utf-8"


@pytest.mark.parametrize("allow_missing", [True, False])
async def test_missing_hosts(allow_missing: bool) -> None:
    for scope in (request_scope(), request_scope((b"host", b""))):
        _, was_called = await ask(scope, "example.com", allow_missing=allow_missing)
        assert was_called is allow_missing
    two = request_scope((b"host", b"example.com"), (b"host", b"example.com"))
    assert not (await ask(two, "*", allow_missing=allow_missing))[1]


async def test_the_answer_to_head_has_no_body() -> None:
    sent, _ = await ask(request_scope((b"host", b"x"), method="HEAD"), "example.com")
    assert (sent.status, sent.body, sent.field(b"content-length")) == (400, b"", b"30")


async def test_websockets() -> None:
    sent, was_called = await ask(websocket_scope((b"host", b"example.com")), "example.com")
    assert was_called
    sent, was_called = await ask(websocket_scope((b"host", b"evil.test")), "example.com")
    assert not was_called
    assert sent.events == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    scope = websocket_scope((b"host", b"evil.test"), denial=True)
    sent, was_called = await ask(scope, "example.com")
    assert not was_called
    assert [event["type"] for event in sent.events] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (sent.status, sent.body) == (400, b"This host is not served here.\n")


async def test_lifespans_pass() -> None:
    assert (await ask({"type": "lifespan", "headers": []}, "example.com"))[1]


@pytest.mark.parametrize(
    "pattern",
    ["", "*.", "*example.com", "a.*.com", "example.com:80", "http://x", "[::1", "*.1.2.3.4"],
)
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no pattern of hosts"):
        HostFilter(Recorder(), allowed=[pattern])


def test_options_as_text() -> None:
    text = PluginText.parse("hosts:allowed=example.com,allowed=*.example.com,allow-missing=yes")
    made = plugin_from_text(HostFilter, text, Recorder())
    assert isinstance(made, HostFilter)
    assert (made.allowed, made.allow_missing) == (("example.com", "*.example.com"), True)
    made = plugin_from_text(HostFilter, PluginText.parse("hosts:allowed=one.test"), Recorder())
    assert isinstance(made, HostFilter)
    assert made.allowed == ("one.test",)
    with pytest.raises(ValueError, match="allowed: it is empty"):
        HostFilter(Recorder(), allowed=[])


hosts = st.one_of(
    st.from_regex(r"[a-z0-9_-]{1,8}(\.[a-z0-9_-]{1,8}){0,3}", fullmatch=True),
    st.ip_addresses(v=6).map(str),
)


@given(hosts, st.none() | st.integers(0, 65535))
def test_what_is_written_is_read(name: str, port: int | None) -> None:
    host = HostValue(name, port)
    assert read_host(str(host)) == read_host(str(host).encode()) == host


@given(st.binary(max_size=40) | st.text("a.:[]0@/ ", max_size=20).map(str.encode))
def test_reading_never_raises(value: bytes) -> None:
    host = read_host(value)
    assert host is None or read_host(str(host)) == host
