"""A request as PEP 3333 and CGI (RFC 3875) describe it, but for its body.

Text is as the PEP has it: each character stands for one byte. What these two leave open is decided
in docs/wsgi.md.
"""

from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIEnvironment

from kestrel_core.connection import Address
from kestrel_protocols.http.exchange import Headers, HttpExchange
from kestrel_protocols.wsgi.file_wrapper import FileWrapper

__all__ = ["Environs"]

_DEFAULT_PORTS = {"http": "80", "https": "443"}

# Field names that are remembered; a client that invents names does not fill memory.
_MOST_VARIABLES = 1024


class _Variables(dict[bytes, str | None]):
    """The variables of request fields, by name; None for those that get none.

    A field with an underscore in its name would have the variable of one with a hyphen, so that a
    client could pretend to be the proxy in front, which removes only the latter.
    """

    def __missing__(self, name: bytes) -> str | None:
        variable = None
        if name in (b"content-type", b"content-length"):
            variable = name.decode("ascii").upper().replace("-", "_")
        elif b"_" not in name:
            variable = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        if len(self) < _MOST_VARIABLES:
            self[name] = variable
        return variable


_variables = _Variables()


class Environs:
    """Makes the environ of each request to an application that is mounted at `root_path`."""

    def __init__(self, root_path: str) -> None:
        self._same: WSGIEnvironment = {
            "SCRIPT_NAME": root_path.encode().decode("latin-1"),
            "SERVER_SOFTWARE": "kestrel",
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }

    def environ(self, exchange: HttpExchange) -> WSGIEnvironment:
        """Return a new environ, in which `wsgi.input` and `wsgi.errors` are still missing."""
        environ = self._same.copy()
        _add_fields(environ, exchange.headers)
        connection = exchange.connection
        scheme = exchange.scheme
        name, port = _server(environ.get("HTTP_HOST", ""), connection.local)
        environ["REQUEST_METHOD"] = exchange.method
        environ["PATH_INFO"] = _path(exchange.raw_path)
        environ["QUERY_STRING"] = exchange.query.decode("latin-1")
        environ["REQUEST_URI"] = exchange.target.decode("latin-1")
        environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = port or _DEFAULT_PORTS[scheme]
        environ["SERVER_PROTOCOL"] = _protocol(exchange.http_version)
        environ["wsgi.url_scheme"] = scheme
        if scheme == "https":
            environ["HTTPS"] = "on"  # not in PEP 3333, but many look for it
        if connection.remote is not None:
            environ["REMOTE_ADDR"] = connection.remote.host
            if connection.remote.port is not None:
                environ["REMOTE_PORT"] = str(connection.remote.port)
        return environ


def _add_fields(environ: WSGIEnvironment, headers: Headers) -> None:
    """Add request fields; repeated ones are joined as RFC 9110, 5.3 and RFC 6265, 5.4 have it."""
    for name, value in headers:
        variable = _variables[name]
        if variable is None:
            continue
        text = value.decode("latin-1")
        earlier = environ.get(variable)
        if earlier is None:
            environ[variable] = text
        else:
            environ[variable] = f"{earlier}{'; ' if name == b'cookie' else ', '}{text}"


def _path(raw_path: bytes) -> str:
    if raw_path == b"*":
        return ""  # RFC 9112, 3.2.4: no path at all
    return (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode("latin-1")


def _server(host: str, local: Address | None) -> tuple[str, str]:
    """Return the server's name and port, "" for the default one, from Host or our own address."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    if name:
        return name, port
    if local is None or local.port is None:  # a Unix socket's path is no name of a host
        return "localhost", ""
    return f"[{local.host}]" if ":" in local.host else local.host, str(local.port)


def _protocol(http_version: str) -> str:
    """Return the version as RFC 3875, 4.1.16 writes it: with a minor number."""
    return f"HTTP/{http_version}" if "." in http_version else f"HTTP/{http_version}.0"
