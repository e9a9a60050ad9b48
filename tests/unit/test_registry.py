import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kestrel_core.connection import Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import MissingExtraError, PluginError
from kestrel_core.registry import PluginInfo, PluginKind, Registry
from kestrel_core.transport import Listener, Transport, TransportContext


class FakeTransport(Transport):
    scheme = "fake"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        raise NotImplementedError

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        raise NotImplementedError


class Site:
    """A place for made-up distributions that the import system can see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, name: str, entry_points: str, requires: tuple[str, ...] = ()) -> None:
        """Install a distribution that has only metadata."""
        info = self.path / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        metadata = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.5"]
        metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(metadata) + "\n")
        (info / "entry_points.txt").write_text(entry_points)

    def module(self, name: str, text: str) -> None:
        """Add a module."""
        (self.path / f"{name}.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType]  # pytest's is half typed
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def test_the_built_in_ones_come_through_entry_points() -> None:
    registry = Registry()
    assert "memory" in registry.names(PluginKind.TRANSPORT)
    assert registry.transport("memory").scheme == "memory"


def test_a_registered_one_is_found_and_belongs_to_its_registry() -> None:
    registry = Registry()
    plugin = object()
    registry.register(PluginKind.MIDDLEWARE, "mine", plugin)
    assert registry.load(PluginKind.MIDDLEWARE, "mine") is plugin
    assert "mine" in registry.names(PluginKind.MIDDLEWARE)
    assert "mine" not in registry.names(PluginKind.PROTOCOL)
    with pytest.raises(PluginError):
        Registry().load(PluginKind.MIDDLEWARE, "mine")


def test_a_name_is_registered_once() -> None:
    registry = Registry()
    registry.register(PluginKind.MIDDLEWARE, "mine", object())
    registry.register(PluginKind.PROTOCOL, "mine", object())
    with pytest.raises(PluginError, match="a middleware called 'mine' is already registered"):
        registry.register(PluginKind.MIDDLEWARE, "mine", object())


def test_a_registered_one_comes_before_an_installed_one() -> None:
    registry = Registry()
    transport = FakeTransport()
    registry.register(PluginKind.TRANSPORT, "memory", transport)
    assert registry.transport("memory") is transport


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(PluginError, match=r"no transport called 'nothing'; known: .*memory"):
        Registry().load(PluginKind.TRANSPORT, "nothing")


def test_an_installed_one_is_imported_when_it_is_asked_for(site: Site) -> None:
    site.module("fake_lazy", "class Plugin:\n    inner = 'found'\n")
    site.install("fake-lazy", "[kestrel.middleware]\nlazy = fake_lazy:Plugin.inner\n")
    registry = Registry()
    assert "lazy" in registry.names(PluginKind.MIDDLEWARE)
    assert "fake_lazy" not in sys.modules
    assert registry.load(PluginKind.MIDDLEWARE, "lazy") == "found"


def test_a_module_and_attribute_will_do(site: Site) -> None:
    site.module("fake_plain", "def middleware(): pass\n")
    plugin = Registry().load(PluginKind.MIDDLEWARE, "fake_plain:middleware")
    assert getattr(plugin, "__name__", None) == "middleware"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("fake_absent:middleware", "no module 'fake_absent'"),
        ("fake_plain:absent", "cannot be loaded: .*absent"),
        ("fake_plain.sub:middleware", "no module 'fake_plain.sub'"),
    ],
)
def test_a_module_or_attribute_that_is_not_there(site: Site, name: str, fault: str) -> None:
    site.module("fake_plain", "def middleware(): pass\n")
    with pytest.raises(PluginError, match=fault):
        Registry().load(PluginKind.MIDDLEWARE, name)


def test_two_distributions_with_one_name_are_both_named(site: Site) -> None:
    site.module("fake_one", "plugin = 1\n")
    site.module("fake_two", "plugin = 2\n")
    site.install("fake-one", "[kestrel.protocols]\nrival = fake_one:plugin\n")
    site.install("fake-two", "[kestrel.protocols]\nrival = fake_two:plugin\n")
    registry = Registry()
    with pytest.raises(PluginError, match="'rival' is provided by fake-one and by fake-two"):
        registry.load(PluginKind.PROTOCOL, "rival")
    registry.register(PluginKind.PROTOCOL, "rival", 3)
    assert registry.load(PluginKind.PROTOCOL, "rival") == 3


def test_a_missing_library_names_the_extra(site: Site) -> None:
    site.module("fake_needy", "import fake_library\n")
    site.install(
        "fake-needy",
        "[kestrel.transports]\nneedy = fake_needy:Plugin\n",
        ("trio", "fake_library>=2; extra == 'fast'"),
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'fake-needy\[fast\]'"):
        Registry().load(PluginKind.TRANSPORT, "needy")


def test_a_missing_library_without_an_extra_is_named_itself(site: Site) -> None:
    site.module("fake_needy", "import fake_library.part\n")
    site.install("fake-needy", "[kestrel.transports]\nneedy = fake_needy:Plugin\n", ("trio",))
    with pytest.raises(MissingExtraError, match="needs the library 'fake_library'"):
        Registry().load(PluginKind.TRANSPORT, "needy")


def test_a_plugin_that_fails_to_import_is_a_plugin_error(site: Site) -> None:
    site.module("fake_broken", "1 / 0\n")
    site.install("fake-broken", "[kestrel.transports]\nbroken = fake_broken:Plugin\n")
    with pytest.raises(PluginError, match="'broken' cannot be loaded: division") as caught:
        Registry().load(PluginKind.TRANSPORT, "broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_transport_may_be_registered_as_a_class_or_an_instance() -> None:
    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "class", FakeTransport)
    instance = FakeTransport()
    registry.register(PluginKind.TRANSPORT, "instance", instance)
    made = registry.transport("class")
    assert isinstance(made, FakeTransport)
    assert registry.transport("class") is made
    assert registry.transport("instance") is instance


def test_a_transport_that_is_none_is_refused() -> None:
    registry = Registry()
    registry.register(PluginKind.TRANSPORT, "wrong", object())
    with pytest.raises(PluginError, match=r"'wrong' is .*, not a Transport"):
        registry.transport("wrong")


def test_all_are_described_broken_ones_with_their_error(site: Site) -> None:
    site.module("fake_good", "plugin = 1\n")
    site.module("fake_broken", "1 / 0\n")
    site.install(
        "fake-both", "[kestrel.middleware]\ngood = fake_good:plugin\nbad = fake_broken:plugin\n"
    )
    described = {(info.kind, info.name): info for info in Registry().describe()}
    assert described[PluginKind.MIDDLEWARE, "good"] == PluginInfo(
        PluginKind.MIDDLEWARE, "good", "fake_good:plugin", "fake-both", "1.5", None
    )
    bad = described[PluginKind.MIDDLEWARE, "bad"]
    assert bad.error is not None
    assert "division" in bad.error
    assert described[PluginKind.TRANSPORT, "memory"].distribution == "trio-kestrel"
    assert described[PluginKind.TRANSPORT, "memory"].error is None
