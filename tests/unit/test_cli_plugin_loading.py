import attrs
import pytest

from kestrel_core.cli.plugin_loading import asgi_middleware, middleware, protocol
from kestrel_core.connection import Connection
from kestrel_core.errors import ConfigurationError, PluginError
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.plugin_options import PluginText
from kestrel_core.protocol import Protocol, Sniff
from kestrel_core.registry import PluginKind, Registry


@attrs.define(kw_only=True, eq=False)
class Counting:
    most: int = 5

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        await following(connection)


async def function(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)


async def echo(connection: Connection) -> None: ...


class Echo(Protocol):
    name = "echo"

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def sniff(self, prefix: bytes) -> Sniff:
        return Sniff.NO

    async def __call__(self, connection: Connection) -> None: ...


@attrs.define
class Wrap:
    app: object
    label: str = ""

    async def __call__(self, scope: object, receive: object, send: object) -> None: ...


def the_same(app: object) -> object:
    return app


def wrapped(app: object, label: str = "") -> Wrap:
    return Wrap(app, label)


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register(PluginKind.MIDDLEWARE, "counting", Counting)
    registry.register(PluginKind.MIDDLEWARE, "function", function)
    registry.register(PluginKind.MIDDLEWARE, "number", 5)
    registry.register(PluginKind.MIDDLEWARE, "handler", echo)
    registry.register(PluginKind.PROTOCOL, "echo", Echo)
    registry.register(PluginKind.PROTOCOL, "plain", echo)
    registry.register(PluginKind.ASGI_MIDDLEWARE, "wrap", Wrap)
    registry.register(PluginKind.ASGI_MIDDLEWARE, "wrapped", wrapped)
    registry.register(PluginKind.ASGI_MIDDLEWARE, "nothing", the_same)
    return registry


def test_a_class_is_made_and_anything_else_is_it(registry: Registry) -> None:
    made = middleware(registry, PluginText.parse("counting:most=7"))
    assert isinstance(made, Counting)
    assert made.most == 7
    assert middleware(registry, PluginText("function")) is function


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("number", "number is not a middleware: it cannot be called"),
        (
            "handler",
            "handler is not a middleware: it does not take connection and following (too many",
        ),
        (
            "function:a=1",
            "bad plug-in 'function:a=1': function takes no options, as it is no class",
        ),
        ("counting:most=x", "bad plug-in 'counting:most=x': counting cannot have that most: 'x'"),
        ("counting:most", "bad plug-in 'counting:most': an option is written most=value"),
        ("counter", "there is no middleware called 'counter'; known: admission, counting, "),
    ],
)
def test_what_is_no_middleware(registry: Registry, text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        middleware(registry, PluginText.parse(text))
    assert str(caught.value).startswith(fault)


def test_what_does_not_load(registry: Registry) -> None:
    with pytest.raises(PluginError, match="no module 'nowhere'"):
        middleware(registry, PluginText.parse("nowhere:Thing"))


def test_protocols(registry: Registry) -> None:
    made = protocol(registry, PluginText.parse("echo:greeting=hello"), is_alone=False)
    assert isinstance(made, Echo)
    assert made.greeting == "hello"
    assert protocol(registry, PluginText("plain"), is_alone=True) is echo


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("plain", "plain cannot be one of several protocols: it is no Protocol"),
        ("echo", "bad plug-in 'echo': echo needs the option greeting"),
        ("gopher", "there is no protocol called 'gopher'; known: echo, http/1.1, plain"),
    ],
)
def test_what_is_no_protocol(registry: Registry, text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        protocol(registry, PluginText.parse(text), is_alone=False)
    assert str(caught.value).startswith(fault.partition(", http")[0])


@pytest.mark.parametrize("name", ["wrap", "wrapped"])
def test_an_asgi_middleware_is_a_class_or_a_function(registry: Registry, name: str) -> None:
    app = Wrap(None)
    assert asgi_middleware(registry, PluginText.parse(f"{name}:label=a"), app) == Wrap(app, "a")


def test_what_is_no_asgi_middleware(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="nothing is not an ASGI application"):
        asgi_middleware(registry, PluginText("nothing"), echo)
    with pytest.raises(ConfigurationError, match="there is no ASGI middleware called 'no'"):
        asgi_middleware(registry, PluginText("no"), echo)
