import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import ClassVar

import attrs
import pytest

from kestrel_core.admission import Admission
from kestrel_core.cli.connection_stack import ConnectionStack, make_stack, self_signed_for
from kestrel_core.cli.tls_options import TlsRequest
from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, MissingExtraError
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware
from kestrel_core.plugin_options import PluginText
from kestrel_core.protocol import Protocol, Sniff, SniffedLayer
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.transport import Listener


@attrs.define(kw_only=True, eq=False)
class Passing(Layer):
    name: ClassVar[str] = "passing"
    only_inside_of: str = ""

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        names = [each.name for each in outer if isinstance(each, Layer)]
        if self.only_inside_of and self.only_inside_of not in names:
            raise ConfigurationError(f"not inside of {self.only_inside_of}")

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)


class Door(Admission):
    name = "door"

    def wrap(self, listener: Listener) -> Listener:
        return listener

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)


class Sniffed(SniffedLayer):
    def sniff(self, prefix: bytes) -> Sniff:
        return Sniff.NO

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)


class Preamble(Sniffed):
    name = "preamble"


@attrs.define(kw_only=True, eq=False)
class FakeTls(Sniffed):
    name: ClassVar[str] = "tls"
    certificate: str | bytes = ""
    minimum_version: float = 1.2
    hosts: Mapping[str, object] = attrs.field(factory=dict[str, object])

    def __attrs_post_init__(self) -> None:
        if self.minimum_version > 1.3:
            raise ValueError(f"minimum_version cannot be {self.minimum_version}, with the key")


class Speaking(Protocol):
    def sniff(self, prefix: bytes) -> Sniff:
        return Sniff.YES if prefix == self.name.encode() else Sniff.NO

    async def __call__(self, connection: Connection) -> None: ...


class Http(Speaking):
    name = "http"
    alpn: ClassVar[Sequence[str]] = ("http/1.1",)


class Ssh(Speaking):
    name = "ssh"


@attrs.define
class FakeDetect:
    entries: Sequence[object]
    seconds: float = 30

    async def __call__(self, connection: Connection) -> None: ...


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    for name, plugin in [
        ("tls", FakeTls),
        ("passing", Passing),
        ("door", Door),
        ("preamble", Preamble),
        ("detect", FakeDetect),
    ]:
        registry.register(PluginKind.MIDDLEWARE, name, plugin)
    return registry


def request(*, serves_plain: bool = False, **values: object) -> TlsRequest:
    return TlsRequest(
        values={"certificate": "a.pem", **values},
        hosts=(),
        is_self_signed=False,
        serves_plain=serves_plain,
    )


def stack_of(
    registry: Registry, texts: str, tls: TlsRequest | None, certificate: bytes | None = None
) -> ConnectionStack:
    return make_stack(
        registry, [PluginText.parse(each) for each in texts.split()], tls, certificate
    )


def names(middleware: Sequence[object]) -> str:
    return " ".join(each.name if isinstance(each, Layer) else repr(each) for each in middleware)


def parted(
    entries: ConnectionHandler | Sequence[Protocol | SniffedLayer],
) -> tuple[SniffedLayer, list[Protocol]]:
    """Return what detection chooses among: TLS, and the protocols after it."""
    assert not callable(entries)
    [tls] = [each for each in entries[:1] if isinstance(each, SniffedLayer)]
    return tls, [each for each in entries[1:] if isinstance(each, Protocol)]


@pytest.mark.parametrize(
    ("given", "placed"),
    [
        ("", "tls"),
        ("passing", "tls passing"),
        ("door passing", "door tls passing"),
        ("preamble passing", "preamble tls passing"),
        ("door preamble passing", "door preamble tls passing"),
        ("passing preamble passing door passing", "passing preamble passing door tls passing"),
        ("tls door", "tls door"),
        ("passing tls passing", "passing tls passing"),
        ("door passing tls", "door passing tls"),
    ],
)
def test_where_tls_stands(registry: Registry, given: str, placed: str) -> None:
    stack = stack_of(registry, given, request())
    http = Http()
    middleware, handler = stack.over([http])
    assert names(middleware) == placed
    assert handler is http
    assert stack.note == "TLS"
    without, _ = stack.without_tls().over([http])
    assert names(without).split() == [each for each in placed.split() if each != "tls"]
    assert stack.without_tls().note == ""


def test_without_tls_there_is_none(registry: Registry) -> None:
    stack = stack_of(registry, "door passing", None)
    assert names(stack.over([Http()])[0]) == "door passing"
    assert stack.tls is None
    assert stack.note == ""


def test_tls_with_options_of_its_own(registry: Registry) -> None:
    stack = stack_of(registry, "door tls:certificate=b.pem passing", None)
    middleware, _ = stack.over([Http()])
    assert names(middleware) == "door tls passing"
    assert isinstance(stack.tls, FakeTls)
    assert stack.tls.certificate == "b.pem"
    assert stack.note == "TLS"
    assert names(stack.without_tls().over([Http()])[0]) == "door passing"


def test_what_the_options_say_reaches_tls(registry: Registry) -> None:
    tls = stack_of(registry, "", request(minimum_version="1.3")).tls
    assert isinstance(tls, FakeTls)
    assert (tls.certificate, tls.minimum_version) == ("a.pem", 1.3)
    tls = stack_of(registry, "", request(), b"PEM").tls
    assert isinstance(tls, FakeTls)
    assert tls.certificate == b"PEM"


def test_hosts_are_options_of_tls(registry: Registry) -> None:
    texts = (
        PluginText.parse("a.example:certificate=a.pem"),
        PluginText.parse("*:certificate=b.pem,key=b.key"),
    )
    tls = make_stack(registry, [], attrs.evolve(request(), hosts=texts), None).tls
    assert isinstance(tls, FakeTls)
    assert list(tls.hosts) == ["a.example", "*"]
    with pytest.raises(ConfigurationError, match=r"--sni has two entries for a\.example"):
        make_stack(registry, [], attrs.evolve(request(), hosts=(texts[0], texts[0])), None)


def test_with_and_without_tls_what_is_inside_is_around_each_protocol(registry: Registry) -> None:
    stack = stack_of(registry, "door passing", request(serves_plain=True))
    http, ssh = Http(), Ssh()
    middleware, entries = stack.over([http, ssh])
    assert names(middleware) == "door"
    tls, protocols = parted(entries)
    assert tls is stack.tls
    assert [each.name for each in protocols] == ["http", "ssh"]
    assert protocols[0].alpn == ("http/1.1",)
    assert protocols[0].sniff(b"http") is Sniff.YES
    assert protocols[0].sniff(b"ssh") is Sniff.NO
    assert stack.note == "TLS, and without"


async def test_the_middleware_inside_serves_in_its_place(registry: Registry) -> None:
    seen: list[str] = []

    async def tap(connection: Connection, following: ConnectionHandler) -> None:
        seen.append("tap")
        await following(connection)

    class Noted(Http):
        async def __call__(self, connection: Connection) -> None:
            seen.append("http")

    registry.register(PluginKind.MIDDLEWARE, "tap", tap)
    _, entries = stack_of(registry, "tap", request(serves_plain=True)).over([Noted()])
    [noted] = parted(entries)[1]
    await noted(Connection(duplex_pipe_pair()[0], ConnectionContext()))
    assert seen == ["tap", "http"]


def test_the_place_of_what_is_inside_is_checked(registry: Registry) -> None:
    tls = request(serves_plain=True)
    stack_of(registry, "passing:only-inside-of=tls", tls).over([Http()])
    stack = stack_of(registry, "passing:only-inside-of=preamble", tls)
    with pytest.raises(ConfigurationError, match="not inside of preamble"):
        stack.over([Http()])


def test_one_protocol_needs_no_detection_and_several_do(registry: Registry) -> None:
    stack = stack_of(registry, "", None)
    http, ssh = Http(), Ssh()
    assert stack.over([http]) == ([], http)
    assert stack.over([http, ssh]) == ([], [http, ssh])


def test_detection_with_options(registry: Registry) -> None:
    stack = stack_of(registry, "passing detect:seconds=5", None)
    http = Http()
    middleware, handler = stack.over([http])
    assert names(middleware) == "passing"
    assert handler == FakeDetect([http], 5.0)
    _, handler = stack_of(registry, "detect", request(serves_plain=True)).over([http])
    assert isinstance(handler, FakeDetect)
    assert len(handler.entries) == 2


@pytest.mark.parametrize(
    ("texts", "tls", "fault"),
    [
        ("tls", None, "--middleware tls is the place of the TLS that --certfile configures"),
        ("tls:certificate=b", request(), "TLS is configured in two ways"),
        ("tls tls:certificate=b", request(), "TLS is configured in two ways"),
        ("detect passing", None, "detect chooses among the protocols"),
        ("", request(minimum_version="2"), "--tls-min-version cannot be 2.0, with the key"),
        ("nothing", None, "there is no middleware called 'nothing'; known: "),
    ],
)
def test_what_does_not_fit(
    registry: Registry, texts: str, tls: TlsRequest | None, fault: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        stack_of(registry, texts, tls).over([Http()])
    assert fault in str(caught.value)


def test_a_self_signed_certificate_is_for_the_hosts_of_the_endpoints() -> None:
    urls = ["tcp://*:1", "tcp://[::]:1", "tcp://shop.example:1", "unix:///a", "tcp://127.0.0.1:1"]
    with ExitStack() as during:
        made = self_signed_for([Endpoint.parse(url) for url in urls], during)
        assert list(made.names) == ["localhost", "127.0.0.1", "::1", "shop.example"]
        assert made.authority.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
        assert b"PRIVATE KEY" not in made.authority.read_bytes()
        assert b"PRIVATE KEY" in made.certificate
        assert "PRIVATE" not in repr(made)
    assert not made.authority.parent.exists()


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with (
        ExitStack() as during,
        pytest.raises(MissingExtraError, match=r"'trio-kestrel\[self-signed\]'"),
    ):
        self_signed_for([], during)
