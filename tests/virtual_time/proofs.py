"""What has a time limit, derived from the code, and which tests prove which of it."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import attrs

from kestrel_core.limits import Limits
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.server import Server
from kestrel_core.testing import OpenServer, open_server, serve
from kestrel_middleware.tls import TlsClient
from kestrel_protocols.forward import Forward
from kestrel_protocols.http import HttpExchange

__all__ = ["fixed_times", "options_of_time", "proven", "proves"]

TestT = TypeVar("TestT", bound=Callable[..., Any])

_PROVES = "proves"
_HERE = Path(__file__).parent

# A number of seconds, or a rate; by its name, or by its type.
_TIME_NAME = re.compile(r"(^|_)(seconds|rates?)$|_per_second")
_TIME_TYPE = re.compile(r"\bRate\b")
_CONSTANT = re.compile(r"_?([A-Z0-9]+_)*SECONDS(_[A-Z0-9]+)*")

_PACKAGES = ("kestrel_core", "kestrel_middleware", "kestrel_protocols", "kestrel_transports")


def proves(*names: str) -> Callable[[TestT], TestT]:
    """Mark a test as what proves these time limits, by their names in the inventory."""

    def mark(test: TestT) -> TestT:
        setattr(test, _PROVES, names)
        return test

    return mark


def proven() -> dict[str, list[Callable[..., Any]]]:
    """Return the tests of this folder that prove something, by what they prove."""
    found: dict[str, list[Callable[..., Any]]] = {}
    for path in sorted(_HERE.glob("test_*.py")):
        module = import_module(f"tests.virtual_time.{path.stem}")
        for test in vars(module).values():
            if inspect.isfunction(test) and test.__module__ == module.__name__:
                for name in getattr(test, _PROVES, ()):
                    found.setdefault(name, []).append(test)
    return found


def options_of_time() -> dict[str, object]:
    """Return every number of seconds and every rate that can be set, by name, with its default.

    Those are fields of `Limits` and of the plug-ins, and parameters of what runs a server.
    """
    return {
        **_fields("Limits", Limits),
        **_fields("Forward", Forward),
        **_fields("TlsClient", TlsClient),
        **_of_plugins(),
        **_parameters("Server", Server),
        **_parameters("OpenServer", OpenServer),
        **_parameters("serve", serve),
        **_parameters("open_server", open_server),
        **{
            f"HttpExchange.{name}": None
            for name, each in vars(HttpExchange).items()
            if isinstance(each, property) and _TIME_NAME.search(name)
        },
    }


def fixed_times() -> dict[str, object]:
    """Return every constant of that kind that is shipped, by module and name, with its value."""
    found: dict[str, object] = {}
    for module, path in _modules():
        for statement in ast.parse(path.read_text()).body:
            match statement:
                case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(value)):
                    pass
                case ast.AnnAssign(target=ast.Name(name), value=ast.Constant(value)):
                    pass
                case _:
                    continue
            if _CONSTANT.fullmatch(name):
                found[f"{module}.{name}"] = value
    return found


def _of_plugins() -> dict[str, object]:
    found: dict[str, object] = {}
    registry = Registry()
    for plugin in registry.describe():
        if plugin.distribution == "trio-kestrel":
            assert plugin.error is None
            kind = registry.load(PluginKind(plugin.kind), plugin.name)
            assert isinstance(kind, type)
            found.update(_fields(plugin.name, kind))
    return found


def _fields(owner: str, kind: type) -> dict[str, object]:
    if not attrs.has(kind):
        return {}
    attrs.resolve_types(kind)
    return {
        f"{owner}.{field.name}": field.default
        for field in attrs.fields(kind)
        if field.init and (_TIME_NAME.search(field.name) or _TIME_TYPE.search(str(field.type)))
    }


def _parameters(owner: str, what: object) -> dict[str, object]:
    functions: dict[str, Any] = {owner: what}  # of a class, the parameters that make one
    if isinstance(what, type):
        public = inspect.getmembers(what, inspect.isfunction)
        functions |= {f"{owner}.{name}": each for name, each in public if name[0] != "_"}
    return {
        f"{name}({parameter.name})": parameter.default
        for name, function in functions.items()
        for parameter in inspect.signature(function).parameters.values()
        if _TIME_NAME.search(parameter.name)
    }


def _modules() -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of every module but those of the testing kit."""
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        (folder,) = spec.submodule_search_locations
        for path in sorted(Path(folder).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[0] != "testing":
                yield ".".join((package, *parts)).removesuffix(".__init__"), path
