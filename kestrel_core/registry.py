"""Plug-ins by name: registered on the spot, found by entry point, or named as module:attribute.

Look-up is lazy: only the plug-in that is asked for gets imported, so one that is installed and
not selected never runs. The built-in ones come through the same door as everybody's.
"""

import os
import sys
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points

import attrs

from kestrel_core.errors import MissingExtraError, PluginError
from kestrel_core.transport import Transport

__all__ = ["PluginInfo", "PluginKind", "Registry"]


class PluginKind(Enum):
    """The kinds of plug-in; the value is the entry-point group."""

    TRANSPORT = "kestrel.transports"
    MIDDLEWARE = "kestrel.middleware"
    ASGI_MIDDLEWARE = "kestrel.asgi_middleware"
    PROTOCOL = "kestrel.protocols"

    @property
    def noun(self) -> str:
        """What to call one in a sentence."""
        return "ASGI middleware" if self is PluginKind.ASGI_MIDDLEWARE else self.name.lower()


@attrs.frozen
class PluginInfo:
    """One plug-in that could be asked for, and why it could not be loaded if it could not."""

    kind: PluginKind
    name: str
    target: str
    distribution: str
    version: str
    error: str | None


class Registry:
    """Finds plug-ins. Each server has one; what is registered on it is known to it alone."""

    def __init__(self) -> None:
        self._registered: dict[tuple[PluginKind, str], object] = {}
        self._transports: dict[str, Transport] = {}

    def register(self, kind: PluginKind, name: str, plugin: object) -> None:
        """Make `plugin` the one that `name` finds, before any entry point.

        Raises:
            PluginError: one is already registered under that name.
        """
        if (kind, name) in self._registered:
            raise PluginError(f"a {kind.noun} called {name!r} is already registered")
        self._registered[kind, name] = plugin

    def load(self, kind: PluginKind, name: str) -> object:
        """Return the plug-in called `name`, importing it if need be.

        Raises:
            PluginError: nobody provides it, two distributions do, or it cannot be imported.
            MissingExtraError: a library it needs is not installed.
        """
        if (kind, name) in self._registered:
            return self._registered[kind, name]
        found = _installed(kind).select(name=name)
        providers = sorted({_distribution(entry)[0] for entry in found})
        if len(providers) > 1:
            raise PluginError(
                f"the {kind.noun} {name!r} is provided by {' and by '.join(providers)};"
                " uninstall one, or register the one you want on the server"
            )
        for entry in found:
            return _load(kind, entry)
        module, colon, attribute = name.partition(":")
        if colon:
            return _load(kind, EntryPoint(name, f"{module}:{attribute}", kind.value))
        raise PluginError(
            f"there is no {kind.noun} called {name!r}; known: {', '.join(self.names(kind))}"
        )

    def names(self, kind: PluginKind) -> list[str]:
        """Return the names that can be asked for, without importing anything."""
        registered = {name for of_kind, name in self._registered if of_kind is kind}
        return sorted(registered | {entry.name for entry in _installed(kind)})

    def transport(self, scheme: str) -> Transport:
        """Return this registry's one transport for `scheme`.

        Raises:
            PluginError: as `load` does, or what was found is no transport.
        """
        if scheme not in self._transports:
            plugin = self.load(PluginKind.TRANSPORT, scheme)
            transport = plugin() if isinstance(plugin, type) else plugin
            if not isinstance(transport, Transport):
                raise PluginError(f"the transport {scheme!r} is {plugin!r}, not a Transport")
            self._transports[scheme] = transport
        return self._transports[scheme]

    def describe(self) -> Iterator[PluginInfo]:
        """Try every plug-in there is, broken ones included; this imports all of them."""
        for kind in PluginKind:
            for entry in sorted(_installed(kind)):
                error: str | None = None
                try:
                    self.load(kind, entry.name)
                except PluginError as failure:
                    error = str(failure)
                distribution, version = _distribution(entry)
                yield PluginInfo(kind, entry.name, entry.value, distribution, version, error)


def _installed(kind: PluginKind) -> EntryPoints:
    """Return the plug-ins of that kind that are installed now.

    Reading every distribution's metadata takes milliseconds, so it is done again only if a folder
    of the path has changed: a program, a test suite say, may start a great many servers.
    """
    return _read(kind, tuple((folder, _changed_at(folder)) for folder in sys.path))


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder or os.curdir).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=len(PluginKind))
def _read(kind: PluginKind, _path: tuple[tuple[str, int], ...]) -> EntryPoints:
    return entry_points(group=kind.value)


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("?", "?")


def _load(kind: PluginKind, entry: EntryPoint) -> object:
    try:
        found: object = import_module(entry.module)
        for part in entry.attr.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if entry.module == missing or entry.module.startswith(f"{missing}."):
            raise PluginError(f"the {kind.noun} {entry.name!r}: no module {missing!r}") from error
        raise MissingExtraError(_missing_library(kind, entry, missing)) from error
    except Exception as error:  # somebody else's module: whatever it raises is its own failure
        raise PluginError(f"the {kind.noun} {entry.name!r} cannot be loaded: {error}") from error
    return found


def _missing_library(kind: PluginKind, entry: EntryPoint, missing: str) -> str:
    """Name the extra of the plug-in's distribution that asks for the missing library."""
    complaint = f"the {kind.noun} {entry.name!r} needs the library {missing!r}"
    for requirement in (entry.dist.requires or ()) if entry.dist is not None else ():
        library, _, condition = requirement.partition(";")
        if library.strip().lower().startswith(missing.lower()) and "extra ==" in condition:
            extra = condition.partition("extra ==")[2].strip(" '\"")
            name = _distribution(entry)[0]
            return f"{complaint}; install it with: pip install '{name}[{extra}]'"
    return f"{complaint}; install it"
