"""Which options a server name finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_middleware.tls.server_names import ServerNames

NAMES = ServerNames(
    {
        "example.com": "exact",
        "*.example.com": "wildcard",
        "*.eu.example.com": "longer wildcard",
        "www.eu.example.com": "exact below",
        "*.org": "short wildcard",
        "LOUD.example": "loud",
        "bücher.example": "international",
        "*": "rest",
    }
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("example.com", "exact"),
        ("www.example.com", "wildcard"),
        ("a.b.example.com", "wildcard"),
        ("eu.example.com", "wildcard"),
        ("a.eu.example.com", "longer wildcard"),
        ("a.b.eu.example.com", "longer wildcard"),
        ("www.eu.example.com", "exact below"),
        ("a.www.eu.example.com", "longer wildcard"),
        ("a.org", "short wildcard"),
        ("loud.example", "loud"),
        ("xn--bcher-kva.example", "international"),
        ("org", None),
        ("badexample.com", None),
        ("example.com.evil.net", None),
        ("localhost", None),
        (".example.com", None),
        ("*.example.com", "wildcard"),  # which no client may send, and which does no harm
        ("", None),
    ],
)
def test_find(name: str, found: str | None) -> None:
    assert NAMES.find(name) == found
    assert NAMES.rest == "rest"


def test_without_a_rest() -> None:
    assert ServerNames({"a": 1}).rest is None
    assert ServerNames[int]({}).find("a") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a.",
        "-a",
        "a-",
        "*a.example",
        "a.*.example",
        "**.example",
        "*.",
        "www.*",
        "a b",
        "a/b",
        "a:443",
        "a\n",
        "*\n",
        "x" * 64,
        ".".join(["x" * 63] * 4),
        "ü" * 60,
        "bü\n",
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no server name"):
        ServerNames({name: 1})


labels = st.sampled_from(["a", "b", "c"])
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
patterns = st.one_of(hosts, hosts.map("*.{}".format))


@given(st.sets(patterns), hosts)
def test_the_longest_that_fits(known: set[str], name: str) -> None:
    fitting = [
        each for each in known if each == name or (each[0] == "*" and name.endswith(each[1:]))
    ]
    expected = name if name in fitting else max(fitting, key=len, default=None)
    assert ServerNames({each: each for each in known}).find(name) == expected
