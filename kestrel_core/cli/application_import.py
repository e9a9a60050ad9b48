"""Finds the application that a command line names, and says plainly why it cannot be had."""

import inspect
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType

from kestrel_core.errors import ConfigurationError
from kestrel_core.interface import Interface

__all__ = ["ApplicationImportError", "import_application", "look_first_in"]

# What a module named without an attribute is asked for, in this order: hypercorn's default, and
# gunicorn's.
_USUAL_NAMES = ("app", "application")


class ApplicationImportError(ConfigurationError):
    """There is no such application, or its module does not import.

    `user_traceback` is the formatted traceback of what the user's own code raised, or "".
    """

    def __init__(self, message: str, user_traceback: str = "") -> None:
        super().__init__(message)
        self.user_traceback: str = user_traceback


def import_application(
    text: str, *, folder: Path, factory: bool, interface: Interface = Interface.ASGI
) -> object:
    """Import what `text`, "module:attribute", names; modules in `folder` come before others.

    An attribute may be dotted. A module alone is asked for `app` and then for `application`. With
    `factory` the attribute is called without arguments and returns the application.

    Raises:
        ApplicationImportError: the application cannot be had.
    """
    module_name, colon, attribute = text.partition(":")
    _check_form(text, module_name, bool(colon), attribute)
    module = _import(module_name, folder)
    found = _find(module, attribute) if colon else _find_usual(module)
    if factory:
        found = _call(text, found)
    _check_application(text, found, interface, factory=factory)
    return found


def _check_form(text: str, module: str, colon: bool, attribute: str) -> None:
    fault = ""
    if module.endswith(".py") or "/" in module or "\\" in module:
        dotted = module.removesuffix(".py").removeprefix("./").replace("/", ".").replace("\\", ".")
        fault = f"a module is written as in an import, perhaps {dotted}:{attribute or 'app'}"
    elif not all(part.isidentifier() for part in module.split(".")):
        fault = f"{module!r} is not the name of a module"
    elif colon and not all(part.isidentifier() for part in attribute.split(".")):
        fault = f"{attribute!r} is not the name of an attribute"
    if fault:
        raise ApplicationImportError(
            f"an application is written module:attribute, such as main:app, not {text!r}: {fault}"
        )


def look_first_in(folder: Path) -> str:
    """Have modules in `folder` come before others; return its place on the path.

    Raises:
        ApplicationImportError: there is no such folder.
    """
    if not folder.is_dir():
        raise ApplicationImportError(f"there is no folder {folder}")
    place = str(folder.resolve())
    if sys.path[:1] != [place]:
        sys.path.insert(0, place)
    return place


def _import(name: str, folder: Path) -> ModuleType:
    place = look_first_in(folder)
    try:
        return import_module(name)
    except Exception as error:  # somebody else's module: whatever it raises is its own failure
        missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
        if missing and f"{name}.".startswith(f"{missing}."):
            raise ApplicationImportError(
                f"there is no module {missing!r} in {place}, nor among what is installed;"
                " --app-dir says where to look"
            ) from error
        raise ApplicationImportError(
            f"the module {name!r} cannot be imported: {_last_line(error)}", _user_frames(error)
        ) from error


def _find(module: ModuleType, attribute: str) -> object:
    found: object = module
    path = module.__name__
    separator = ":"
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            owner = f"the module {path!r}" if found is module else repr(path)
            similar = get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {path}{separator}{similar[0]}?" if similar else ""
            raise ApplicationImportError(f"{owner} has no attribute {part!r}{hint}") from None
        path, separator = f"{path}{separator}{part}", "."
    return found


def _find_usual(module: ModuleType) -> object:
    for name in _USUAL_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    raise ApplicationImportError(
        f"the module {module.__name__!r} has neither {' nor '.join(map(repr, _USUAL_NAMES))};"
        f" name the application, as in {module.__name__}:name"
    )


def _call(text: str, factory: object) -> object:
    if not callable(factory):
        raise ApplicationImportError(
            f"{text!r} is {_a_kind(factory)}, which cannot be called; --factory is for a function"
            " that returns the application"
        )
    try:
        made: object = factory()
    except Exception as error:  # somebody else's function, as above
        raise ApplicationImportError(
            f"the factory {text!r} failed: {_last_line(error)}", _user_frames(error)
        ) from error
    if inspect.iscoroutine(made):
        made.close()
        raise ApplicationImportError(
            f"the factory {text!r} is an async function; the application is made before any event"
            " loop runs, so it must be an ordinary one"
        )
    return made


def _check_application(text: str, found: object, interface: Interface, *, factory: bool) -> None:
    subject = f"what the factory {text!r} returned" if factory else repr(text)
    if not callable(found):
        raise ApplicationImportError(
            f"{subject} is {_a_kind(found)}, which cannot be called; {interface.noun} can"
        )
    try:
        interface.check(found)
    except TypeError as error:
        *parameters, last = interface.parameters
        raise ApplicationImportError(
            f"{subject} does not take {', '.join(parameters)} and {last}, as {interface.noun} does"
            f" ({error}){_hint(found, factory=factory)}"
        ) from error


def _hint(found: object, *, factory: bool) -> str:
    for interface in Interface:
        if interface.fits(found):
            return f"; if it is {interface.noun}, add --interface {interface.option}"
    return "" if factory else "; if it returns the application, add --factory"


def _a_kind(value: object) -> str:
    return "None" if value is None else f"of the type {type(value).__qualname__!r}"


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _user_frames(error: BaseException) -> str:
    """Format `error` from the first frame that is neither ours nor the import system's.

    Where no such frame is left, a syntax error still points into the user's file; anything else
    happened on the way to the user's code, and the message says it all.
    """
    rest: TracebackType | None = error.__traceback__
    while rest is not None and _is_machinery(rest.tb_frame.f_code.co_filename):
        rest = rest.tb_next
    if rest is None and not isinstance(error, SyntaxError):
        return ""
    return "".join(traceback.format_exception(type(error), error, rest))


def _is_machinery(filename: str) -> bool:
    return filename in (__file__, import_module.__code__.co_filename) or filename.startswith(
        "<frozen importlib."
    )
