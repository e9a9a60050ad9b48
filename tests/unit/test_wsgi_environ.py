"""What the environ says, of requests that no wire is needed for."""

from collections.abc import Iterable
from wsgiref.types import WSGIEnvironment

import pytest

from kestrel_core.connection import Address, Connection, ConnectionContext
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_protocols.http import Headers, HttpExchange
from kestrel_protocols.wsgi.environ import Environs
from kestrel_protocols.wsgi.file_wrapper import FileWrapper

LOCAL = Address("192.0.2.1", 8000)
REMOTE = Address("203.0.113.7", 4711)


class Request(HttpExchange):
    """A request that has arrived, and never gets anywhere."""

    def __init__(
        self,
        target: str = "/",
        *headers: tuple[bytes, bytes],
        method: str = "GET",
        http_version: str = "1.1",
        local: Address | None = LOCAL,
        remote: Address | None = REMOTE,
        scheme: str = "http",
    ) -> None:
        pipe, _ = duplex_pipe_pair()
        self.connection = Connection(pipe, ConnectionContext(), local=local, remote=remote)
        self.method = method
        self.scheme = scheme
        self.target = target.encode("latin-1")
        self.raw_path, _, self.query = self.target.partition(b"?")
        self.http_version = http_version
        self.headers: Headers = list(headers)

    @property
    def body_complete(self) -> bool:
        return True

    @property
    def response_started(self) -> bool:
        return False

    @property
    def response_finished(self) -> bool:
        return False

    @property
    def disconnected(self) -> bool:
        return False

    async def receive(self) -> bytes:
        raise NotImplementedError

    async def wait_disconnected(self) -> None:
        raise NotImplementedError

    async def respond(
        self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b""
    ) -> None:
        raise NotImplementedError

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        raise NotImplementedError

    async def write(self, data: bytes) -> None:
        raise NotImplementedError

    async def finish(
        self, trailers: Iterable[tuple[bytes, bytes]] = (), *, body: bytes = b""
    ) -> None:
        raise NotImplementedError

    @property
    def trailers(self) -> Headers:
        raise NotImplementedError

    @property
    def upgradable(self) -> bool:
        raise NotImplementedError

    @property
    def max_body_bytes(self) -> int | None:
        raise NotImplementedError

    @max_body_bytes.setter
    def max_body_bytes(self, value: int | None) -> None:
        raise NotImplementedError

    @property
    def min_body_bytes_per_second(self) -> float | None:
        raise NotImplementedError

    @min_body_bytes_per_second.setter
    def min_body_bytes_per_second(self, value: float | None) -> None:
        raise NotImplementedError

    @property
    def min_response_bytes_per_second(self) -> float | None:
        raise NotImplementedError

    @min_response_bytes_per_second.setter
    def min_response_bytes_per_second(self, value: float | None) -> None:
        raise NotImplementedError

    async def inform(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        raise NotImplementedError

    async def write_file(self, file: int, offset: int, count: int) -> None:
        raise NotImplementedError

    async def upgrade(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> DuplexPipe:
        raise NotImplementedError


def environ(request: Request, root_path: str = "") -> WSGIEnvironment:
    return Environs(root_path).environ(request)


async def test_an_ordinary_request() -> None:
    request = Request(
        "/a/b?c=d&e",
        (b"host", b"example.com"),
        (b"content-type", b"text/plain"),
        (b"content-length", b"5"),
        (b"x-forwarded-for", b"10.0.0.1"),
        method="PUT",
    )
    assert environ(request) == {
        "REQUEST_METHOD": "PUT",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "c=d&e",
        "REQUEST_URI": "/a/b?c=d&e",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "5",
        "SERVER_NAME": "example.com",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "kestrel",
        "REMOTE_ADDR": "203.0.113.7",
        "REMOTE_PORT": "4711",
        "HTTP_HOST": "example.com",
        "HTTP_X_FORWARDED_FOR": "10.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
    }


async def test_each_request_has_an_environ_of_its_own() -> None:
    environs = Environs("")
    first = environs.environ(Request())
    first["wsgi.multithread"] = first["mine"] = False
    second = environs.environ(Request())
    assert second["wsgi.multithread"] is True
    assert "mine" not in second
    assert type(second) is dict


@pytest.mark.parametrize(
    ("raw_path", "path"),
    [
        ("/", "/"),
        ("/caf%C3%A9", "/caf\xc3\xa9"),  # UTF-8, of which each byte is a character
        ("/%ff%2f%25", "/\xff/%"),
        ("/100%", "/100%"),
        ("/;a=b//c", "/;a=b//c"),
        ("*", ""),
        ("", ""),
    ],
)
async def test_the_path_is_decoded_to_bytes_as_latin_1(raw_path: str, path: str) -> None:
    described = environ(Request(raw_path))
    assert described["PATH_INFO"] == path
    assert described["REQUEST_URI"] == raw_path


async def test_the_query_stays_as_it_was_sent() -> None:
    assert environ(Request("/?a=%C3%A9?+b"))["QUERY_STRING"] == "a=%C3%A9?+b"
    assert environ(Request("/"))["QUERY_STRING"] == ""


async def test_the_root_path_is_the_scripts_name() -> None:
    described = environ(Request("/a"), "/mounted/é")
    assert described["SCRIPT_NAME"] == "/mounted/\xc3\xa9"
    assert described["PATH_INFO"] == "/a"


async def test_repeated_fields_are_joined() -> None:
    described = environ(
        Request(
            "/",
            (b"accept", b"text/html"),
            (b"cookie", b"a=1"),
            (b"accept", b"*/*"),
            (b"cookie", b"b=2"),
            (b"x-empty", b""),
            (b"x-empty", b"1"),
        )
    )
    assert described["HTTP_ACCEPT"] == "text/html, */*"
    assert described["HTTP_COOKIE"] == "a=1; b=2"
    assert described["HTTP_X_EMPTY"] == ", 1"


async def test_a_field_with_an_underscore_cannot_pose_as_another() -> None:
    described = environ(
        Request(
            "/",
            (b"x_forwarded_for", b"spoofed"),
            (b"content_length", b"17"),
            (b"x-forwarded_for", b"spoofed"),
        )
    )
    assert not {"HTTP_X_FORWARDED_FOR", "HTTP_CONTENT_LENGTH", "CONTENT_LENGTH"} & set(described)


async def test_a_value_is_latin_1() -> None:
    assert environ(Request("/", (b"x-name", b"Andr\xe9")))["HTTP_X_NAME"] == "Andr\xe9"


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        (b"example.com", "example.com", "80"),
        (b"example.com:8443", "example.com", "8443"),
        (b"example.com:", "example.com", "80"),
        (b"[2001:db8::1]", "[2001:db8::1]", "80"),
        (b"[2001:db8::1]:8000", "[2001:db8::1]", "8000"),
        (b"", "192.0.2.1", "8000"),
    ],
)
async def test_the_servers_name_is_that_of_host(host: bytes, name: str, port: str) -> None:
    described = environ(Request("/", (b"host", host)))
    assert (described["SERVER_NAME"], described["SERVER_PORT"]) == (name, port)


@pytest.mark.parametrize(
    ("local", "name", "port"),
    [
        (LOCAL, "192.0.2.1", "8000"),
        (Address("::1", 8000), "[::1]", "8000"),
        (Address("/run/app.sock"), "localhost", "80"),
        (None, "localhost", "80"),
    ],
)
async def test_without_host_the_servers_name_is_its_address(
    local: Address | None, name: str, port: str
) -> None:
    described = environ(Request(http_version="1.0", local=local))
    assert (described["SERVER_NAME"], described["SERVER_PORT"]) == (name, port)


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        (Address("2001:db8::7", 4711), {"REMOTE_ADDR": "2001:db8::7", "REMOTE_PORT": "4711"}),
        (Address("somebody"), {"REMOTE_ADDR": "somebody"}),
        (None, {}),
    ],
)
async def test_the_clients_address(remote: Address | None, expected: dict[str, str]) -> None:
    described = environ(Request(remote=remote))
    assert {name: described[name] for name in described if name.startswith("REMOTE_")} == expected


@pytest.mark.parametrize(
    ("version", "protocol"),
    [("1.0", "HTTP/1.0"), ("1.1", "HTTP/1.1"), ("2", "HTTP/2.0"), ("3", "HTTP/3.0")],
)
async def test_the_protocol_has_a_minor_number(version: str, protocol: str) -> None:
    assert environ(Request(http_version=version))["SERVER_PROTOCOL"] == protocol


async def test_invented_names_are_not_remembered_for_ever() -> None:
    for number in range(3000):
        name = f"x-invented-{number}"
        described = environ(Request("/", (name.encode(), b"yes")))
        assert described[f"HTTP_X_INVENTED_{number}"] == "yes"
