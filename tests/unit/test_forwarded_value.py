"""RFC 7239, and the nodes of X-Forwarded-For."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_middleware.asgi.forwarded_value import (
    ForwardedElement,
    Node,
    elements_from_right,
    read_element,
    read_node,
)

V4 = IPv4Address("192.0.2.60")
V6 = IPv6Address("2001:db8:cafe::17")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("192.0.2.60", Node(V4)),
        ("192.0.2.60:80", Node(V4, 80)),
        ("192.0.2.60:_http", Node(V4)),
        ("[2001:db8:cafe::17]", Node(V6)),
        ("[2001:db8:cafe::17]:4711", Node(V6, 4711)),
        ("2001:DB8:cafe::17", Node(V6)),
        ("[::ffff:192.0.2.60]:1", Node(V4, 1)),
        ("::ffff:192.0.2.60", Node(V4)),
        ("unknown", Node(None, None, "unknown")),
        ("Unknown:47", Node(None, 47, "Unknown")),
        ("_gazonk", Node(None, None, "_gazonk")),
        ("_SEVKISEK:_x.-y", Node(None, None, "_SEVKISEK")),
    ],
)
def test_nodes(text: str, node: Node) -> None:
    assert read_node(text) == node


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.60:",
        "192.0.2.60:65536",
        "192.0.2.60:8 ",
        "192.0.2.060",
        "[192.0.2.60]",
        "[2001:db8::1",
        "2001:db8::1]:80",
        "[_gazonk]",
        "[unknown]",
        "unknown4",
        "_",
        "gazonk",
        "example.org",
        "localhost:80",
        "192.0.2.60\n",
        "١٩٢.0.2.60",
    ],
)
def test_what_is_no_node(text: str) -> None:
    assert read_node(text) is None


@given(st.ip_addresses(), st.none() | st.integers(0, 65535))
def test_every_address_is_read(address: IPv4Address | IPv6Address, port: int | None) -> None:
    text = f"[{address}]" if address.version == 6 else str(address)
    node = read_node(text if port is None else f"{text}:{port}")
    assert node is not None
    expected = getattr(address, "ipv4_mapped", None) or address
    assert (node.address, node.port) == (expected, port)


@given(st.text(max_size=30) | st.from_regex(r"\[?[0-9a-f:._%]{0,20}\]?(:\w{0,6})?", fullmatch=True))
def test_whatever_else_is_none_or_has_an_address_or_identifier(text: str) -> None:
    node = read_node(text)
    assert node is None or (node.address is None) is (node.identifier is not None)


@pytest.mark.parametrize(
    ("text", "element"),
    [
        # The examples of the RFC, 4.
        ('for="_gazonk"', ForwardedElement(Node(None, None, "_gazonk"))),
        ('For="[2001:db8:cafe::17]:4711"', ForwardedElement(Node(V6, 4711))),
        (
            "for=192.0.2.60;proto=http;by=203.0.113.43",
            ForwardedElement(Node(V4), Node(IPv4Address("203.0.113.43")), None, "http"),
        ),
        ("host=example.com;secret=_abc", ForwardedElement(host="example.com")),
        (r'host="ex\"ample;, \\"', ForwardedElement(host='ex"ample;, \\')),
        (";;for=192.0.2.60 ; proto=https;", ForwardedElement(Node(V4), proto="https")),
        ('for=""', ForwardedElement(Node(None, None, "unknown"))),
        ("for=example.org", ForwardedElement(Node(None, None, "unknown"))),
        ("", ForwardedElement()),
    ],
)
def test_elements(text: str, element: ForwardedElement) -> None:
    assert read_element(text) == element


@pytest.mark.parametrize(
    "text",
    [
        "for",
        "for=",
        "=x",
        "for =192.0.2.60",
        "for= 192.0.2.60",
        "for=192.0.2.60 proto=http",
        "for=192.0.2.60:80",  # a colon is no token
        'for="192.0.2.60',
        'for=192.0.2.60"',
        'for="a"b',
        r'for="a\"',
        "for=192.0.2.60;FOR=192.0.2.61",
        "for=192.0.2.60,for=192.0.2.61",
        'host="a\x00"',
        "for=192.0.2.60\n",
    ],
)
def test_what_is_no_element(text: str) -> None:
    assert read_element(text) is None


names = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True)
octets = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF).filter(lambda c: c != "\x7f")
)
quoted = octets.filter(
    lambda text: not any("\x7f" <= character < "\x80" for character in text)
).map(lambda text: '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"')
pairs = st.dictionaries(names.map(str.lower), names | quoted, min_size=1, max_size=4)
elements = pairs.map(lambda told: ";".join(f"{name}={value}" for name, value in told.items()))
blanks = st.sampled_from(["", " ", "\t", " \t "])


@given(st.lists(st.tuples(elements, blanks, blanks), max_size=5))
def test_every_list_is_split(parts: list[tuple[str, str, str]]) -> None:
    value = ",".join(before + element + behind for element, before, behind in parts)
    expected = [element for element, _, _ in reversed(parts)]
    assert list(elements_from_right(value)) == expected
    assert all(read_element(element) is not None for element in expected)


@given(st.text(st.sampled_from('for=1.2;,"\\ '), max_size=40) | octets, elements)
def test_nothing_before_an_element_changes_it(before: str, element: str) -> None:
    """A client cannot hide what a proxy wrote behind its own: quotation marks, escapes, commas."""
    assert next(elements_from_right(f"{before}, {element}")) == element


@given(octets)
def test_splitting_loses_nothing_and_ends(value: str) -> None:
    kept = "".join(reversed(list(elements_from_right(value))))
    assert kept.replace(",", "").replace(" ", "") == value.replace(",", "").replace(" ", "")


@given(st.text(max_size=40) | st.text(st.sampled_from('for=_x1:[];" \\'), max_size=40))
def test_reading_never_raises(text: str) -> None:
    element = read_element(text)
    assert element is None or isinstance(element, ForwardedElement)


def test_an_address_is_what_the_standard_library_takes_it_for() -> None:
    for text in ("[fe80::1%eth0]:80", "fe80::1%eth0"):
        node = read_node(text)
        assert node is not None
        assert node.address == ip_address("fe80::1")
