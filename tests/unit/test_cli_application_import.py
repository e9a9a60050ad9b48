import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from kestrel_core.cli.application_import import ApplicationImportError, import_application
from kestrel_core.interface import Interface

ASGI = "async def app(scope, receive, send): ...\n"


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def refused(text: str, folder: Path, *, factory: bool = False) -> ApplicationImportError:
    with pytest.raises(ApplicationImportError) as caught:
        import_application(text, folder=folder, factory=factory)
    return caught.value


def test_module_and_attribute(folder: Path) -> None:
    folder.joinpath("served.py").write_text(ASGI)
    app = import_application("served:app", folder=folder, factory=False)
    assert app is sys.modules["served"].app


def test_a_package_and_a_dotted_attribute(folder: Path) -> None:
    package = folder / "shop"
    package.mkdir()
    package.joinpath("api.py").write_text(
        "class v1:\n    async def app(scope, receive, send): ...\n"
    )
    assert callable(import_application("shop.api:v1.app", folder=folder, factory=False))


@pytest.mark.parametrize("name", ["app", "application"])
def test_a_module_alone_has_a_usual_name(folder: Path, name: str) -> None:
    folder.joinpath("served.py").write_text(ASGI.replace("app", name))
    assert callable(import_application("served", folder=folder, factory=False))


def test_a_module_alone_without_a_usual_name(folder: Path) -> None:
    folder.joinpath("served.py").write_text("")
    assert str(refused("served", folder)) == (
        "the module 'served' has neither 'app' nor 'application';"
        " name the application, as in served:name"
    )


def test_a_factory_makes_the_application(folder: Path) -> None:
    folder.joinpath("served.py").write_text(f"{ASGI}def make(): return app\n")
    app = import_application("served:make", folder=folder, factory=True)
    assert app is sys.modules["served"].app


def test_the_folder_comes_before_what_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "trustme", raising=False)  # another test may have needed it
    folder.joinpath("trustme.py").write_text(ASGI)
    assert callable(import_application("trustme:app", folder=folder, factory=False))
    assert sys.path[0] == str(folder)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("served.py", "a module is written as in an import, perhaps served:app"),
        ("./site/api.py:api", "a module is written as in an import, perhaps site.api:api"),
        ("", "'' is not the name of a module"),
        (":app", "'' is not the name of a module"),
        ("my-app:app", "'my-app' is not the name of a module"),
        ("served:", "'' is not the name of an attribute"),
        ("served:app:app", "'app:app' is not the name of an attribute"),
        ("served:make()", "'make()' is not the name of an attribute"),
    ],
)
def test_what_is_not_written_as_it_should(folder: Path, text: str, fault: str) -> None:
    assert str(refused(text, folder)) == (
        f"an application is written module:attribute, such as main:app, not {text!r}: {fault}"
    )


def test_no_such_folder(folder: Path) -> None:
    assert str(refused("served:app", folder / "no")) == f"there is no folder {folder / 'no'}"


@pytest.mark.parametrize("text", ["nowhere:app", "nowhere.api:app"])
def test_no_such_module(folder: Path, text: str) -> None:
    error = refused(text, folder)
    assert str(error) == (
        f"there is no module 'nowhere' in {folder}, nor among what is installed;"
        " --app-dir says where to look"
    )
    assert not error.user_traceback


@pytest.mark.parametrize(
    ("attribute", "told"),
    [
        ("ap", "the module 'served' has no attribute 'ap'; did you mean served:app?"),
        ("wholly_other", "the module 'served' has no attribute 'wholly_other'"),
        ("v1.ap", "'served:v1' has no attribute 'ap'; did you mean served:v1.app?"),
    ],
)
def test_no_such_attribute(folder: Path, attribute: str, told: str) -> None:
    folder.joinpath("served.py").write_text(f"{ASGI}class v1:\n    app = app\n")
    assert str(refused(f"served:{attribute}", folder)) == told


def test_an_error_in_the_users_module_shows_the_users_frames(folder: Path) -> None:
    folder.joinpath("served.py").write_text("import settings\n")
    folder.joinpath("settings.py").write_text("PORT = int('http')\n")
    error = refused("served:app", folder)
    assert str(error) == (
        "the module 'served' cannot be imported:"
        " ValueError: invalid literal for int() with base 10: 'http'"
    )
    first, *rest = error.user_traceback.splitlines()
    assert first == "Traceback (most recent call last):"
    assert [line for line in rest if line.startswith("  File")] == [
        f'  File "{folder}/served.py", line 1, in <module>',
        f'  File "{folder}/settings.py", line 1, in <module>',
    ]


def test_a_library_that_the_users_module_lacks_is_the_users_error(folder: Path) -> None:
    folder.joinpath("served.py").write_text("import nowhere\n")
    error = refused("served:app", folder)
    assert "ModuleNotFoundError: No module named 'nowhere'" in str(error)
    assert "import nowhere" in error.user_traceback


def test_a_syntax_error_points_into_the_users_file(folder: Path) -> None:
    folder.joinpath("served.py").write_text("def app(\n")
    error = refused("served:app", folder)
    assert "SyntaxError: '(' was never closed" in str(error)
    assert f'File "{folder}/served.py", line 1' in error.user_traceback
    assert "application_import" not in error.user_traceback


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("app = 5", "'served:app' is of the type 'int', which cannot be called; "),
        ("app = None", "'served:app' is None, which cannot be called; "),
        ("def app(): ...", "if it returns the application, add --factory"),
        ("def app(environ, start_response): ...", "does not take scope, receive and send"),
    ],
)
def test_what_is_no_application(folder: Path, source: str, fault: str) -> None:
    folder.joinpath("served.py").write_text(source)
    assert fault in str(refused("served:app", folder))


WSGI = "def app(environ, start_response): ...\n"


def test_a_wsgi_application(folder: Path) -> None:
    folder.joinpath("served.py").write_text(WSGI)
    app = import_application("served:app", folder=folder, factory=False, interface=Interface.WSGI)
    assert app is sys.modules["served"].app


@pytest.mark.parametrize(
    ("source", "interface", "told"),
    [
        (
            WSGI,
            Interface.ASGI,
            "'served:app' does not take scope, receive and send, as an ASGI 3 application does"
            " (too many positional arguments); if it is a WSGI application, add --interface wsgi",
        ),
        (
            ASGI,
            Interface.WSGI,
            "'served:app' does not take environ and start_response, as a WSGI application does"
            " (missing a required argument: 'send'); if it is an ASGI 3 application, add"
            " --interface asgi",
        ),
        ("app = 5", Interface.WSGI, "which cannot be called; a WSGI application can"),
    ],
)
def test_an_application_with_the_other_interface(
    folder: Path, source: str, interface: Interface, told: str
) -> None:
    folder.joinpath("served.py").write_text(source)
    with pytest.raises(ApplicationImportError) as caught:
        import_application("served:app", folder=folder, factory=False, interface=interface)
    assert told in str(caught.value)


def test_what_does_not_tell_its_parameters_is_believed(folder: Path) -> None:
    folder.joinpath("served.py").write_text("app = dict\n")
    assert import_application("served:app", folder=folder, factory=False) is dict


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("make = 5", "'served:make' is of the type 'int', which cannot be called; "),
        ("def make(): return 5", "what the factory 'served:make' returned is of the type 'int'"),
        ("def make(name): ...", "the factory 'served:make' failed: TypeError: make() missing 1"),
        ("async def make(): ...", "the factory 'served:make' is an async function; "),
    ],
)
def test_what_is_no_factory(folder: Path, source: str, fault: str) -> None:
    folder.joinpath("served.py").write_text(source)
    error = refused("served:make", folder, factory=True)
    assert fault in str(error)
    assert not error.user_traceback


def test_an_error_in_the_factory_shows_the_users_frames(folder: Path) -> None:
    folder.joinpath("served.py").write_text("def make():\n    return {}['key']\n")
    error = refused("served:make", folder, factory=True)
    assert str(error) == "the factory 'served:make' failed: KeyError: 'key'"
    assert error.user_traceback.count("  File") == 1
