from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, EndpointError


def test_scheme_address_and_options_are_told_apart() -> None:
    endpoint = Endpoint.parse("tcp://127.0.0.1:8000?backlog=512&reuse=yes")
    assert endpoint.scheme == "tcp"
    assert endpoint.address == "127.0.0.1:8000"
    assert dict(endpoint.options) == {"backlog": "512", "reuse": "yes"}


def test_options_are_optional_and_empty_ones_stay_empty() -> None:
    assert dict(Endpoint.parse("memory://name").options) == {}
    assert dict(Endpoint.parse("memory://name?client=").options) == {"client": ""}


def test_a_scheme_is_lower_case_whatever_was_written() -> None:
    assert Endpoint.parse("TCP://host:1", ["tcp"]).scheme == "tcp"


def test_paths_keep_their_slashes() -> None:
    assert Endpoint.parse("unix:///run/app.sock?mode=660").address == "/run/app.sock"


def test_escapes_are_decoded_after_the_text_was_split() -> None:
    endpoint = Endpoint.parse("unix:///a%3Fb?n%26=v%3Dw%26x")
    assert endpoint.address == "/a?b"
    assert dict(endpoint.options) == {"n&": "v=w&x"}


@pytest.mark.parametrize(
    ("text", "fault", "position"),
    [
        ("", "does not start with a scheme", 0),
        ("127.0.0.1:8000", "does not start with a scheme", 0),
        ("://name", "does not start with a scheme", 0),
        ("1tcp://name", "does not start with a scheme", 0),
        ("tcp:/name", "does not start with a scheme", 0),
        ("memory://", "no address", 9),
        ("memory://?a=b", "no address", 9),
        ("memory://n?", "name=value", 11),
        ("memory://n?a", "name=value", 11),
        ("memory://n?=b", "name=value", 11),
        ("memory://n?a=b&", "name=value", 15),
        ("memory://n?a=b&c", "name=value", 15),
        ("memory://n?a=b&a=c", "twice", 15),
        ("memory://n?a=b&%61=c", "twice", 15),
    ],
)
def test_a_bad_text_is_quoted_and_its_fault_pointed_at(
    text: str, fault: str, position: int
) -> None:
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse(text)
    assert fault in caught.value.fault
    assert caught.value.text == text
    assert caught.value.position == position
    assert str(caught.value).endswith(f"\n  {text}\n  {' ' * position}^")


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(EndpointError, match=r"'udp'.*known schemes: memory, tcp"):
        Endpoint.parse("udp://host:1", ["tcp", "memory"])
    with pytest.raises(EndpointError, match="known schemes: memory, tcp"):
        Endpoint.parse("host:1", ["tcp", "memory"])


def test_an_endpoint_error_is_a_configuration_error_and_a_value_error() -> None:
    assert issubclass(EndpointError, ConfigurationError)
    assert issubclass(EndpointError, ValueError)


@given(
    scheme=st.from_regex(r"\A[a-z][a-z0-9+.-]*\Z"),
    address=st.text(min_size=1),
    options=st.dictionaries(st.text(min_size=1), st.text()),
)
def test_what_was_escaped_is_parsed_back(
    scheme: str, address: str, options: dict[str, str]
) -> None:
    written = "&".join(f"{quote(name, '')}={quote(value, '')}" for name, value in options.items())
    text = f"{scheme}://{quote(address)}{'?' if options else ''}{written}"
    assert Endpoint.parse(text) == Endpoint(scheme, address, options)


@given(st.text() | st.from_regex(r"[a-z]+://[a-z:0-9%]*(\?[a-z=&%0-9]*)?"))
def test_every_text_is_parsed_or_refused_with_a_pointer_inside_it(text: str) -> None:
    scheme, position = "", -1
    try:
        scheme = Endpoint.parse(text).scheme
    except EndpointError as error:
        position = -1 if error.position is None else error.position
    assert text.lower().startswith(f"{scheme}://") or 0 <= position <= len(text)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("*:0", "*", 0),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ],
)
def test_host_and_port(address: str, host: str, port: int) -> None:
    assert Endpoint("tcp", address).host_and_port() == (host, port)


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("localhost", "host:port"),
        ("::1:80", "host:port"),
        ("[::1]", "host:port"),
        ("a:b:80", "host:port"),
        (":80", "the host is missing"),
        ("[]:80", "the host is missing"),
        ("host:", "the port ''"),
        ("host:http", "the port 'http'"),
        ("host:65536", "the port '65536'"),
        ("host:-1", "the port '-1'"),
        ("host:\u0661", "the port '\u0661'"),
        ("host: 80", "the port ' 80'"),
    ],
)
def test_a_bad_host_or_port(address: str, fault: str) -> None:
    with pytest.raises(EndpointError) as caught:
        Endpoint("tcp", address).host_and_port()
    assert fault in str(caught.value)
    assert repr(f"tcp://{address}") in str(caught.value)


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    endpoint = Endpoint.parse("tcp://h:1?backlog=1&bakclog=2")
    endpoint.option_names_within(["backlog", "bakclog"])
    with pytest.raises(
        EndpointError, match="tcp has no option 'bakclog'; its options: backlog, mode"
    ):
        endpoint.option_names_within(["mode", "backlog"])


def test_integer_options() -> None:
    endpoint = Endpoint.parse("unix:///s?mode=660&backlog=7&bad=x&low=-1")
    assert endpoint.integer_option("mode", 0, base=8) == 0o660
    assert endpoint.integer_option("backlog", 1) == 7
    assert endpoint.integer_option("absent", 1) == 1
    for name in ("bad", "low"):
        with pytest.raises(EndpointError, match=f"the option {name}=.* is not a number"):
            endpoint.integer_option(name, 1)


def test_boolean_options() -> None:
    endpoint = Endpoint.parse("tcp://h:1?a=true&b=Yes&c=1&d=false&e=NO&f=0&g=maybe")
    assert [endpoint.boolean_option(name, False) for name in "abc"] == [True] * 3
    assert [endpoint.boolean_option(name, True) for name in "def"] == [False] * 3
    assert endpoint.boolean_option("absent", True)
    assert not endpoint.boolean_option("absent", False)
    with pytest.raises(EndpointError, match="g=maybe is not true or false"):
        endpoint.boolean_option("g", True)


def test_an_endpoint_is_a_value() -> None:
    options = {"a": "1"}
    endpoint = Endpoint("memory", "name", options)
    options["a"] = "2"
    assert endpoint == Endpoint.parse("memory://name?a=1")
    assert endpoint != Endpoint.parse("memory://name?a=2")
    assert hash(endpoint) == hash(Endpoint.parse("memory://name?a=1"))
    assert str(endpoint) == "memory://name?a=1"
    with pytest.raises(TypeError):
        endpoint.options["a"] = "3"  # type: ignore[index]  # that is the point
