from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_middleware.asgi import ForwardedField, ForwardedHeaders, Removal
from kestrel_middleware.asgi.scope import Field, Scope
from tests.asgi_call import Recorder, call, request_scope, websocket_scope

PROXY = ("10.0.0.1", 33333)
HOST = (b"host", b"inside.test")
X_FORWARDED = [each for each in ForwardedField if each is not ForwardedField.FORWARDED]


def x_for(value: str) -> Field:
    return (b"x-forwarded-for", value.encode())


def proto(value: bytes) -> Field:
    return (b"x-forwarded-proto", value)


async def corrected(
    scope: Scope,
    trusted: str = "10.0.0.0/8",
    **options: Any,  # noqa: ANN401  # as the class takes them
) -> Scope:
    recorder = Recorder()
    await call(ForwardedHeaders(recorder, trusted=trusted, **options), scope)
    (seen,) = recorder.scopes
    return seen


async def test_the_client_and_the_scheme_are_those_of_the_proxy() -> None:
    scope = request_scope(HOST, x_for("203.0.113.7"), proto(b"https"), client=PROXY)
    seen = await corrected(scope)
    assert seen["client"] == ("203.0.113.7", 0)
    assert seen["scheme"] == "https"
    assert seen["headers"] == [HOST]
    same = {key: seen[key] for key in scope if key not in ("client", "scheme", "headers")}
    assert same == {key: scope[key] for key in same}


async def test_a_peer_that_is_not_trusted_is_not_believed() -> None:
    spoofed = (
        x_for("10.0.0.9"),
        proto(b"https"),
        (b"x-forwarded-user", b"admin"),
        (b"forwarded", b"for=10.0.0.9"),
        (b"x-real-ip", b"10.0.0.9"),
        (b"x_forwarded_for", b"10.0.0.9"),
        (b"x-real_ip", b"10.0.0.9"),
    )
    seen = await corrected(request_scope(*spoofed[:3], HOST, *spoofed[3:]))
    assert (seen["client"], seen["scheme"]) == (("192.0.2.1", 4711), "http")
    assert seen["headers"] == [HOST]


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7, 10.0.0.2, 10.0.0.3", "203.0.113.7"),
        ("203.0.113.7,, ,10.0.0.2,", "203.0.113.7"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("2001:db8::1, 10.0.0.2", "2001:db8::1"),
        ("[2001:db8::1]:99, 10.0.0.2", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, ::ffff:10.0.0.2", "203.0.113.7"),
        # Hidden, or wrong: the last address that is known.
        ("203.0.113.7, unknown, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.7, _hidden", "10.0.0.1"),
        ("203.0.113.7, nonsense", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
async def test_the_chain_is_walked_from_the_right(chain: str, client: str) -> None:
    seen = await corrected(request_scope(x_for(chain), client=PROXY))
    assert seen["client"][0] == client


async def test_a_chain_in_several_fields_is_one() -> None:
    fields = (x_for("6.6.6.6"), HOST, x_for("203.0.113.7:5000"), x_for("10.0.0.2"))
    seen = await corrected(request_scope(*fields, client=PROXY))
    assert seen["client"] == ("203.0.113.7", 5000)


@pytest.mark.parametrize(("max_hops", "client"), [(1, "10.0.0.3"), (2, "10.0.0.2"), (9, "6.6.6.6")])
async def test_max_hops(max_hops: int, client: str) -> None:
    chain = x_for("6.6.6.6, 10.0.0.2, 10.0.0.3")
    seen = await corrected(request_scope(chain, client=PROXY), max_hops=max_hops)
    assert seen["client"][0] == client
    seen = await corrected(request_scope(chain, client=PROXY), "*", max_hops=max_hops)
    assert seen["client"][0] == client


addresses = st.ip_addresses().map(str)
inside = st.ip_addresses(network="10.0.0.0/8").map(str)
outside = addresses.filter(lambda text: not text.startswith(("10.", "::ffff:")))
noise = st.lists(addresses | st.text(st.characters(max_codepoint=0xFF)), max_size=4)


@given(noise, outside, st.lists(inside, max_size=4))
async def test_what_a_client_writes_never_counts(
    forged: list[str], client: str, proxies: list[str]
) -> None:
    chain = ", ".join([*forged, client, *proxies]).encode("latin-1")
    seen = await corrected(request_scope((b"x-forwarded-for", chain), client=PROXY))
    assert seen["client"][0] == client


@given(noise, outside, st.lists(inside, max_size=4))
async def test_nor_in_forwarded(forged: list[str], client: str, proxies: list[str]) -> None:
    told = [f'for="[{each}]"' if ":" in each else f"for={each}" for each in (client, *proxies)]
    chain = ", ".join([*forged, *told]).encode("latin-1")
    scope = request_scope((b"forwarded", chain), client=PROXY)
    seen = await corrected(scope, believed=[ForwardedField.FORWARDED])
    assert seen["client"][0] == client


async def test_unix_sockets() -> None:
    told = (x_for("203.0.113.7"), proto(b"https"))
    for peer in (None, ("", 0), ("/run/proxy.sock", 0)):
        scope = request_scope(*told, client=peer)
        assert (await corrected(scope, "unix"))["client"] == ("203.0.113.7", 0)
        assert (await corrected(scope, "127.0.0.1"))["client"] == peer
    # Whoever is named in a chain is not at a Unix socket, whatever the name.
    scope = request_scope(x_for("203.0.113.7, unix, _x"), client=None)
    assert (await corrected(scope, "unix"))["client"] is None


@pytest.mark.parametrize(
    ("told", "http", "websocket"),
    [
        (b"https", "https", "wss"),
        (b"WSS", "https", "wss"),
        (b"http", "http", "ws"),
        (b"ws", "http", "ws"),
        (b"gopher", "http", "ws"),
        (b"", "http", "ws"),
    ],
)
async def test_schemes(told: bytes, http: str, websocket: str) -> None:
    assert (await corrected(request_scope(proto(told), client=PROXY)))["scheme"] == http
    seen = await corrected(websocket_scope(proto(told), client=PROXY))
    assert (seen["type"], seen["scheme"]) == ("websocket", websocket)


@pytest.mark.parametrize(
    ("chain", "protos", "scheme"),
    [
        ("6.6.6.6, 203.0.113.7, 10.0.0.2", b"http, https, http", "https"),
        ("203.0.113.7, 10.0.0.2", b"https", "https"),
        ("203.0.113.7", b"https, http", "http"),
        ("", b"https, http", "http"),
        ("", b"http, https", "https"),
    ],
)
async def test_the_scheme_that_goes_with_the_client(chain: str, protos: bytes, scheme: str) -> None:
    seen = await corrected(request_scope(x_for(chain), proto(protos), client=PROXY))
    assert seen["scheme"] == scheme


async def test_by_default_the_host_and_the_prefix_are_not_believed() -> None:
    told = ((b"x-forwarded-host", b"evil.test"), (b"x-forwarded-prefix", b"/evil"))
    seen = await corrected(request_scope(HOST, *told, client=PROXY))
    assert seen["headers"] == [HOST]
    assert (seen["path"], seen["root_path"]) == ("/", "")


@pytest.mark.parametrize(
    ("host", "port", "scheme", "expected"),
    [
        (b"example.com", None, b"https", b"example.com"),
        (b"Example.com:8443", None, b"https", b"example.com:8443"),
        (b"example.com", b"8443", b"https", b"example.com:8443"),
        (b"example.com:1", b"443", b"https", b"example.com"),
        (b"example.com", b"80", b"https", b"example.com:80"),
        (b"[2001:db8::1]", b"81", b"http", b"[2001:db8::1]:81"),
        (None, b"8080", b"http", b"inside.test:8080"),
        (b"evil.test/path", None, b"http", b"inside.test"),
        (b"evil test", b"0", b"http", b"inside.test"),
        (b"a@evil.test", b"99999", b"http", b"inside.test"),
        (b"", "²".encode("latin-1"), b"http", b"inside.test"),
        (None, b"0000080", b"http", b"inside.test"),
    ],
)
async def test_hosts(
    host: bytes | None, port: bytes | None, scheme: bytes, expected: bytes
) -> None:
    fields = [proto(scheme)]
    fields += [] if host is None else [(b"x-forwarded-host", host)]
    fields += [] if port is None else [(b"x-forwarded-port", port)]
    scope = request_scope(HOST, *fields, client=PROXY)
    seen = await corrected(scope, believed=X_FORWARDED)
    assert seen["headers"] == [(b"host", expected)]
    assert seen["server"] == scope["server"]


async def test_a_host_is_added_where_there_is_none() -> None:
    scope = request_scope((b"x-forwarded-host", b"example.com"), client=PROXY)
    seen = await corrected(scope, believed=X_FORWARDED)
    assert seen["headers"] == [(b"host", b"example.com")]
    scope = request_scope((b"x-forwarded-port", b"81"), client=PROXY)
    assert (await corrected(scope, believed=X_FORWARDED))["headers"] == []


@pytest.mark.parametrize(
    ("prefix", "root_path", "raw_path"),
    [
        (b"/api", "/api/app", b"/api/app/x"),
        (b"/api/v1/", "/api/v1/app", b"/api/v1/app/x"),
        (b"/caf%C3%A9", "/caf\xe9/app", b"/caf%C3%A9/app/x"),
        (b"/", "/app", b"/app/x"),
        (b"api", "/app", b"/app/x"),
        (b"//evil.test", "/app", b"/app/x"),
        (b"/a/../b", "/app", b"/app/x"),
        (b"/a/%2e%2E/b", "/app", b"/app/x"),
        (b"/a%0d%0ab", "/app", b"/app/x"),
        (b"/a?b", "/app", b"/app/x"),
        (b"http://evil.test/", "/app", b"/app/x"),
    ],
)
async def test_prefixes(prefix: bytes, root_path: str, raw_path: bytes) -> None:
    told = (b"x-forwarded-prefix", prefix)
    scope = request_scope(told, path="/app/x", root_path="/app", client=PROXY)
    seen = await corrected(scope, believed=X_FORWARDED)
    assert (seen["root_path"], seen["raw_path"]) == (root_path, raw_path)
    assert seen["path"] == f"{root_path}/x"
    scope["raw_path"] = None
    seen = await corrected(scope, believed=X_FORWARDED)
    assert (seen["path"], seen["raw_path"]) == (f"{root_path}/x", None)


async def test_forwarded() -> None:
    value = b'for=6.6.6.6;proto=http, For="[2001:db8::1]:99";proto=https;host="example.com:8443",'
    value += b" for=10.0.0.2;by=_x;proto=http;host=inside.test"
    scope = request_scope(HOST, (b"forwarded", value), x_for("6.6.6.6"), client=PROXY)
    seen = await corrected(scope, believed=[ForwardedField.FORWARDED])
    assert seen["client"] == ("2001:db8::1", 99)
    assert seen["scheme"] == "https"
    assert seen["headers"] == [(b"host", b"example.com:8443")]


@pytest.mark.parametrize(
    ("value", "client", "scheme"),
    [
        (b"for=203.0.113.7, for=unknown;proto=https", "10.0.0.1", "https"),
        (b"for=203.0.113.7, proto=https", "10.0.0.1", "https"),
        (b"for=203.0.113.7;proto=https, nonsense", "10.0.0.1", "http"),
        (b"for=203.0.113.7;proto=https, nonsense, for=10.0.0.2", "10.0.0.2", "http"),
        (b'for="6.6.6.6;proto=https, for=203.0.113.7;proto=http', "203.0.113.7", "http"),
        (b"", "10.0.0.1", "http"),
    ],
)
async def test_forwarded_that_tells_little(value: bytes, client: str, scheme: str) -> None:
    scope = request_scope((b"forwarded", value), client=PROXY)
    seen = await corrected(scope, believed=[ForwardedField.FORWARDED])
    assert (seen["client"][0], seen["scheme"]) == (client, scheme)


async def test_one_kind_is_not_mixed_with_the_other() -> None:
    fields = ((b"forwarded", b"for=203.0.113.7;proto=https"), x_for("198.51.100.1"))
    seen = await corrected(request_scope(*fields, client=PROXY))
    assert (seen["client"][0], seen["scheme"]) == ("198.51.100.1", "http")
    assert seen["headers"] == []


async def test_what_is_removed() -> None:
    told = (x_for("203.0.113.7"), proto(b"https"))
    others = ((b"x-forwarded-host", b"x"), (b"forwarded", b"for=x"), (b"x_forwarded_for", b"x"))
    kept = (HOST, (b"x-forwarded-user", b"ada"), (b"x-real-ip", b"203.0.113.7"))
    scope = request_scope(*told, *others, *kept, client=PROXY)
    stranger = {**scope, "client": ("192.0.2.1", 1)}

    async def left(scope: Scope, removed: Removal) -> list[Field]:
        headers: list[Field] = (await corrected(scope, removed=removed))["headers"]
        return headers

    assert await left(scope, Removal.ALL) == [*kept]
    assert await left(scope, Removal.UNBELIEVED) == [*told, *kept]
    assert await left(scope, Removal.NOTHING) == scope["headers"]
    assert await left(stranger, Removal.ALL) == [HOST]
    assert await left(stranger, Removal.UNBELIEVED) == [HOST]
    assert await left(stranger, Removal.NOTHING) == scope["headers"]


async def test_lifespans_pass() -> None:
    scope: Scope = {"type": "lifespan", "headers": []}
    assert await corrected(scope) is scope


def test_options_as_text() -> None:
    text = "forwarded:trusted=10.0.0.0/8,trusted=unix,believed=forwarded,max-hops=2,removed=nothing"
    made = plugin_from_text(ForwardedHeaders, PluginText.parse(text), Recorder())
    assert isinstance(made, ForwardedHeaders)
    assert made.trusted.texts == ("10.0.0.0/8", "unix")
    assert made.believed == (ForwardedField.FORWARDED,)
    assert (made.max_hops, made.removed) == (2, Removal.NOTHING)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"trusted": "10.0.0.1/8"}, "no network"),
        ({"trusted": "*"}, "trusted: with everybody trusted each client chooses"),
        ({"trusted": "unix", "max_hops": 0}, "max_hops: there is one proxy"),
        ({"trusted": "unix", "believed": []}, "believed: it is empty"),
        ({"trusted": "unix", "believed": list(ForwardedField)}, "believed: either Forwarded or"),
    ],
)
def test_bad_options(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ForwardedHeaders(Recorder(), **options)
