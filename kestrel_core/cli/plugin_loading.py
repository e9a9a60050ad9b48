"""Makes plug-ins of what a command line names, and checks that they can be what they are for."""

import inspect
from typing import cast

from kestrel_core.errors import ConfigurationError
from kestrel_core.middleware import ConnectionHandler, Middleware
from kestrel_core.plugin_options import PluginText, plugin_from_text
from kestrel_core.protocol import Protocol
from kestrel_core.registry import PluginKind, Registry

__all__ = ["asgi_middleware", "load_named", "middleware", "protocol"]


def middleware(registry: Registry, text: PluginText) -> Middleware:
    """Return the connection middleware that `text` asks for.

    A class is called with the options; anything else is the middleware itself.

    Raises:
        ConfigurationError: there is none of that name, or it is none, or its options are wrong.
        PluginError: it does not load.
    """
    made = _made(registry, PluginKind.MIDDLEWARE, text)
    _check_parameters(made, text, "a middleware", ("connection", "following"))
    return cast(Middleware, made)


def protocol(registry: Registry, text: PluginText, *, is_alone: bool) -> ConnectionHandler:
    """Return the protocol that `text` asks for, as `middleware` does; it need not be alone.

    Raises:
        ConfigurationError, PluginError: as there.
    """
    made = _made(registry, PluginKind.PROTOCOL, text)
    _check_parameters(made, text, "a protocol", ("connection",))
    if not is_alone and not isinstance(made, Protocol):
        raise ConfigurationError(
            f"{text.name} cannot be one of several protocols: it is no Protocol, and so cannot be"
            " found by what a client begins with"
        )
    return cast(ConnectionHandler, made)


def asgi_middleware(registry: Registry, text: PluginText, app: object) -> object:
    """Return `app` inside the ASGI middleware that `text` asks for.

    That is a class or a function; it is called with `app` and the options.

    Raises:
        ConfigurationError, PluginError: as `middleware` does.
    """
    found = load_named(registry, PluginKind.ASGI_MIDDLEWARE, text)
    if not callable(found):
        raise ConfigurationError(f"{text.name} is no ASGI middleware: it cannot be called")
    made = plugin_from_text(found, text, app)
    _check_parameters(made, text, "an ASGI application", ("scope", "receive", "send"))
    return made


def load_named(registry: Registry, kind: PluginKind, text: PluginText) -> object:
    """Return the plug-in that `text` names.

    Raises:
        ConfigurationError: there is none of that name.
        PluginError: it does not load.
    """
    names = registry.names(kind)
    name, colon, option = text.name.partition(":")
    if colon and name in names:
        raise ConfigurationError(
            f"bad plug-in {str(text)!r}: an option is written {option}=value, with a value"
        )
    if not colon and name not in names:
        raise ConfigurationError(
            f"there is no {kind.noun} called {name!r}; known: {', '.join(names)};"
            " one of your own is written module:attribute"
        )
    return registry.load(kind, text.name)


def _made(registry: Registry, kind: PluginKind, text: PluginText) -> object:
    found = load_named(registry, kind, text)
    if isinstance(found, type):
        return plugin_from_text(found, text)
    if text.options:
        raise ConfigurationError(
            f"bad plug-in {str(text)!r}: {text.name} takes no options, as it is no class"
        )
    return found


def _check_parameters(
    made: object, text: PluginText, noun: str, parameters: tuple[str, ...]
) -> None:
    fault = "it cannot be called"
    if callable(made):
        try:
            inspect.signature(made).bind(*parameters)
        except TypeError as error:
            fault = f"it does not take {' and '.join(parameters)} ({error})"
        except ValueError:  # written in C, perhaps: it does not tell
            return
        else:
            return
    raise ConfigurationError(f"{text.name} is not {noun}: {fault}")
