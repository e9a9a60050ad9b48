import math
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.errors import ConfigurationError, MissingExtraError, PluginError
from kestrel_core.limits import Limits
from kestrel_core.plugin_options import (
    PluginText,
    attribute_docstrings,
    options_of,
    plugin_from_text,
    plugin_from_values,
)


class Policy(Enum):
    WAIT = "wait"
    REFUSE_AT_ONCE = "refuse_at_once"


class Number(Enum):
    ONE = 1
    TWO_AND_A_BIT = 2


class Asked(Enum):
    NONE = "none"
    SOME = "some"


@attrs.frozen
class Trust:
    """A type that text cannot become without a converter."""

    those: tuple[str, ...] = ()


def trust(given: str | Sequence[str] | Trust) -> Trust:
    if given == "bad":
        raise ValueError("nothing bad is wanted")
    if isinstance(given, Trust):
        return given
    return Trust((given,) if isinstance(given, str) else tuple(given))


def positive(_plugin: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be above zero, not {value}")


@attrs.define(kw_only=True, eq=False)
class Plugin:
    """A plug-in.

    And more about it.
    """

    flag: bool = False
    """Whether there is one."""
    count: int = attrs.field(default=1, validator=positive)
    seconds: float = 1.5
    """How `long`
    it takes."""

    label: str = ""
    file: Path | None = None
    policy: Policy = Policy.WAIT
    number: Number | None = None
    asked: Asked | None = None
    most: int | None = 5
    names: tuple[str, ...] = ()
    sizes: list[int] = attrs.field(factory=list[int])
    kinds: frozenset[Policy] = frozenset()
    paths: Sequence[Path] | None = None
    some: Collection[float] = ()
    where: Path | str | bytes = b""
    size_or_policy: int | Policy = 0
    trusted: Trust = attrs.field(factory=Trust, converter=trust)
    hook: Callable[[], None] | None = None
    _hidden: int = 0
    derived: int = attrs.field(init=False, default=7)

    def hidden_now(self) -> int:
        return self._hidden


def made(text: str) -> Plugin:
    plugin = plugin_from_text(Plugin, PluginText.parse(text))
    assert isinstance(plugin, Plugin)
    return plugin


def refused(text: str, plugin: Callable[..., object] = Plugin) -> str:
    with pytest.raises(ConfigurationError) as caught:
        plugin_from_text(plugin, PluginText.parse(text))
    quote = f"bad plug-in {text!r}: {PluginText.parse(text).name}"
    assert str(caught.value).startswith(quote)
    return str(caught.value).removeprefix(quote)


# Splitting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("idle", "idle", ()),
        ("idle:", "idle", ()),
        ("idle:seconds=60", "idle", (("seconds", "60"),)),
        ("idle:a=1,b=,a=2", "idle", (("a", "1"), ("b", ""), ("a", "2"))),
        ("ssh:to=tcp://127.0.0.1:22", "ssh", (("to", "tcp://127.0.0.1:22"),)),
        ("http/1.1", "http/1.1", ()),
        ("shop.tap:Tap", "shop.tap:Tap", ()),
        ("shop.tap:site.Tap:a=b:c", "shop.tap:site.Tap", (("a", "b:c"),)),
        ("*.example.org:certificate=a.pem", "*.example.org", (("certificate", "a.pem"),)),
        (r"x:a=1\,2\=3\\,b=c=d", "x", (("a", r"1,2=3" + "\\"), ("b", "c=d"))),
    ],
)
def test_a_text_is_a_name_and_options(
    text: str, name: str, options: tuple[tuple[str, str], ...]
) -> None:
    parsed = PluginText.parse(text)
    assert (parsed.name, parsed.options) == (name, options)
    assert str(parsed) == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it does not begin with a name"),
        (":a=b", "it does not begin with a name"),
        ("a=b", "between the name and its options stands a colon"),
        ("x:a=1,", "an option is written key=value"),
        ("x:a=1,b", "an option is written key=value"),
        ("x:=1", "an option is written key=value"),
        ("x:a=1\\", "not before the end"),
        ("x:a=\\n", "not before n"),
    ],
)
def test_what_is_no_such_text(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PluginText.parse(text)
    assert str(caught.value).startswith(f"bad plug-in {text!r}: ")
    assert fault in str(caught.value)


names = st.from_regex(r"[a-z/*][a-z./*1]*(:[a-z_][a-z.]*)?", fullmatch=True)
# Keys are names of parameters; a colon in one could be taken for one in the name.
keys = st.text(min_size=1).filter(lambda key: ":" not in key)


@given(names, st.lists(st.tuples(keys, st.text())))
def test_what_is_written_is_read_again(name: str, options: list[tuple[str, str]]) -> None:
    text = PluginText(name, tuple(options))
    assert PluginText.parse(str(text)) == text


# Values -------------------------------------------------------------------------------------------


def test_without_options_there_are_the_defaults() -> None:
    plugin = made("x")
    assert plugin.count == 1
    assert plugin.derived == 7


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flag=true", True),
        ("flag=NO", False),
        ("flag=1", True),
        ("count=12", 12),
        ("count=1_000", 1000),
        ("seconds=2", 2.0),
        ("seconds=inf", math.inf),
        ("label=", ""),
        ("label=none", "none"),
        ("file=/a/b", Path("/a/b")),
        ("file=none", None),
        ("policy=wait", Policy.WAIT),
        ("policy=refuse-at-once", Policy.REFUSE_AT_ONCE),
        ("policy=REFUSE_AT_ONCE", Policy.REFUSE_AT_ONCE),
        ("number=1", Number.ONE),
        ("number=two-and-a-bit", Number.TWO_AND_A_BIT),
        ("number=None", None),
        ("asked=none", Asked.NONE),
        ("most=none", None),
        ("most=3", 3),
        ("names=a", ("a",)),
        ("names=a,names=b,names=a", ("a", "b", "a")),
        ("sizes=1,sizes=2", [1, 2]),
        ("kinds=wait,kinds=wait", frozenset({Policy.WAIT})),
        ("paths=a,paths=b", (Path("a"), Path("b"))),
        ("paths=none", None),
        ("some=1,some=2.5", (1.0, 2.5)),
        ("where=a", Path("a")),
        ("size_or_policy=3", 3),
        ("size-or-policy=wait", Policy.WAIT),
        ("trusted=a", Trust(("a",))),
        ("trusted=a,trusted=b", Trust(("a", "b"))),
    ],
)
def test_text_becomes_what_the_annotation_says(option: str, value: object) -> None:
    name = option.partition("=")[0].replace("-", "_")
    found = getattr(made(f"x:{option}"), name)
    assert found == value
    assert type(found) is type(value)


def test_a_private_field_goes_by_its_parameter() -> None:
    assert made("x:hidden=3").hidden_now() == 3


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("flag=maybe", " cannot have that flag: 'maybe' is not true or false"),
        ("count=1.5", " cannot have that count: '1.5' is not a whole number"),
        ("count=none", " cannot have that count: 'none' is not a whole number"),
        ("count=1,count=2", " cannot have that count: may be given once"),
        ("seconds=1m", " cannot have that seconds: '1m' is not a number"),
        (
            "policy=no",
            " cannot have that policy: 'no' is not one of wait, refuse-at-once",
        ),
        ("number=3", " cannot have that number: '3' is not one of one, two-and-a-bit, nor none"),
        ("sizes=1,sizes=x", " cannot have that sizes: 'x' is not a whole number"),
        (
            "size-or-policy=x",
            " cannot have that size-or-policy: 'x' is not a whole number or one of wait,"
            " refuse-at-once",
        ),
        ("hook=print", " cannot have that hook: it cannot be written as text"),
        ("count=0", ": count must be above zero, not 0"),
        ("trusted=bad", " cannot have that trusted: nothing bad is wanted"),
        ("derived=3", " has no option 'derived'; its options: flag, count, "),
        ("_hidden=3", " has no option '_hidden'; its options: flag, count, "),
    ],
)
def test_what_cannot_be_is_told_with_the_key(option: str, told: str) -> None:
    assert refused(f"x:{option}").startswith(told)


def test_the_known_options_are_those_that_text_can_set() -> None:
    known = refused("x:unknown=1").partition("its options: ")[2].split(", ")
    assert known[:3] == ["flag", "count", "seconds"]
    assert "size-or-policy" in known
    assert not {"hook", "derived"} & set(known)


@attrs.define
class Wrapping:
    app: object
    most: int
    least: int
    rest: int = 0


def test_what_is_mandatory_has_to_be_given() -> None:
    with pytest.raises(ConfigurationError, match="x needs the option most and the option least"):
        plugin_from_text(Wrapping, PluginText.parse("x:rest=1"), "app")
    text = PluginText.parse("x:most=3,least=2")
    assert plugin_from_text(Wrapping, text, "app") == Wrapping("app", 3, 2)


def test_the_first_parameters_are_no_options() -> None:
    with pytest.raises(ConfigurationError, match="x has no option 'app'; its options: most, least"):
        plugin_from_text(Wrapping, PluginText.parse("x:app=1"), "app")


class Ordinary:
    def __init__(
        self,
        app: object,
        most: int = 5,
        *,
        names: Sequence[str] = (),
        plain: Any = None,  # noqa: ANN401  # as one without an annotation
        **_: object,
    ) -> None:
        self.given = (app, most, names, plain)


def test_a_class_without_fields_has_the_options_of_its_parameters() -> None:
    text = PluginText.parse("x:most=7,names=a,names=b,plain=text")
    plugin = plugin_from_text(Ordinary, text, "app")
    assert isinstance(plugin, Ordinary)
    assert plugin.given == ("app", 7, ("a", "b"), "text")


def test_a_function_may_make_it() -> None:
    def make(app: object, most: int = 5) -> object:
        return (app, most)

    assert plugin_from_text(make, PluginText.parse("x:most=7"), "app") == ("app", 7)
    assert refused("x:least=1", lambda: None) == " has no option 'least'; it has no options"


def test_a_file_that_cannot_be_read_is_a_sentence() -> None:
    @attrs.define
    class Reads:
        file: Path

        def __attrs_post_init__(self) -> None:
            self.file.read_bytes()

    assert refused("x:file=/nowhere/x.pem", Reads) == (
        ": /nowhere/x.pem: No such file or directory"
    )


def test_a_missing_library_is_not_a_wrong_option() -> None:
    @attrs.define
    class Needs:
        def __attrs_post_init__(self) -> None:
            raise MissingExtraError("install it")

    with pytest.raises(MissingExtraError):
        plugin_from_text(Needs, PluginText("x"))


def test_annotations_that_cannot_be_resolved_are_the_plugins_fault() -> None:
    def make(most: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821  # the point
        pass

    with pytest.raises(PluginError, match="cannot be told: name 'Nowhere' is not defined"):
        plugin_from_text(make, PluginText("x"))  # pyright: ignore[reportUnknownArgumentType]


# Ready values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "name", "value"),
    [
        ({"flag": True}, "flag", True),
        ({"flag": "yes"}, "flag", True),
        ({"count": 3}, "count", 3),
        ({"seconds": 3}, "seconds", 3.0),
        ({"label": "none"}, "label", "none"),
        ({"file": Path("a")}, "file", Path("a")),
        ({"file": "a"}, "file", Path("a")),
        ({"file": None}, "file", None),
        ({"policy": "refuse-at-once"}, "policy", Policy.REFUSE_AT_ONCE),
        ({"policy": Policy.WAIT}, "policy", Policy.WAIT),
        ({"most": "none"}, "most", None),
        ({"names": ["a", "b"]}, "names", ("a", "b")),
        ({"names": "a"}, "names", ("a",)),
        ({"kinds": ["wait", Policy.REFUSE_AT_ONCE]}, "kinds", frozenset(Policy)),
        ({"where": b"data"}, "where", b"data"),
        ({"where": "a"}, "where", Path("a")),
        ({"size-or-policy": 3}, "size_or_policy", 3),
        ({"trusted": ["a", "b"]}, "trusted", Trust(("a", "b"))),
        ({"hook": test_without_options_there_are_the_defaults}, "hook", ...),
    ],
)
def test_ready_values(values: dict[str, object], name: str, value: object) -> None:
    plugin = plugin_from_values(Plugin, "x", values)
    found = getattr(plugin, name)
    expected = values[name] if value is ... else value
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"flag": 1}, "x cannot have that flag: 1 is not true or false"),
        ({"count": True}, "x cannot have that count: True is not a whole number"),
        ({"count": [1]}, "x cannot have that count: [1] is not a whole number"),
        ({"count": None}, "x cannot have that count: None is not a whole number"),
        ({"seconds": "1m"}, "x cannot have that seconds: '1m' is not a number"),
        ({"names": {"a": 1}}, "x cannot have that names: {'a': 1} is not text"),
        ({"sizes": [1, "x"]}, "x cannot have that sizes: 'x' is not a whole number"),
        ({"count": 0}, "x: count must be above zero, not 0"),
        ({"colour": 0}, "x has no option 'colour'; its options: flag"),
    ],
)
def test_wrong_ready_values(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plugin_from_values(Plugin, "x", values)
    assert str(caught.value).startswith(told)


# Description --------------------------------------------------------------------------------------


def test_the_options_describe_themselves() -> None:
    options = {option.key: option for option in options_of(Plugin)}
    told = {
        key: (option.value_type.metavar, option.default_text, option.explanation)
        for key, option in options.items()
    }
    assert told["flag"] == ("true|false", "false", "Whether there is one.")
    assert told["count"] == ("COUNT", "1", "")
    assert told["seconds"] == ("NUMBER", "1.5", "How long it takes.")
    assert told["label"] == ("TEXT", "", "")
    assert told["file"] == ("PATH|none", "none", "")
    assert told["policy"] == ("wait|refuse-at-once", "wait", "")
    assert told["asked"] == ("none|some", "none", "")
    assert told["size-or-policy"] == ("COUNT|wait|refuse-at-once", "0", "")
    assert told["trusted"] == ("TEXT", "", "")
    assert not any(option.is_mandatory for option in options.values())
    assert [option.key for option in options.values() if not option.takes_text] == ["hook"]


def test_mandatory_options_say_so() -> None:
    options = options_of(Wrapping, given=1)
    assert [(each.key, each.is_mandatory) for each in options] == [
        ("most", True),
        ("least", True),
        ("rest", False),
    ]


def test_fields_of_a_base_are_documented_there() -> None:
    @attrs.define(kw_only=True)
    class Derived(Plugin):
        more: int = 0
        """What is more."""

    documented = attribute_docstrings(Derived)
    assert documented["more"] == "What is more."
    assert documented["flag"] == "Whether there is one."


def test_a_class_without_source_documents_nothing() -> None:
    assert attribute_docstrings(int) == {}


def test_every_limit_is_documented() -> None:
    assert set(attribute_docstrings(Limits)) == {field.name for field in attrs.fields(Limits)}
