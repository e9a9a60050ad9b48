"""One request and its response, on any version of HTTP: what an application is called with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeAlias

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_protocols.http.rejection import Rejection
from kestrel_protocols.http.target_path import resolve_path

__all__ = [
    "BadRequest",
    "ClientDisconnected",
    "Headers",
    "HttpApplication",
    "HttpExchange",
    "ResponseError",
    "TooManyUpgrades",
]

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Fields in the order of the wire: lower-case name, and value without white space around it."""


class ClientDisconnected(OSError):
    """The client is gone, so what was to be sent cannot be."""


class ResponseError(RuntimeError):
    """The application's response is not one: bad fields, wrong length, wrong order of calls."""


class TooManyUpgrades(ResponseError):
    """`Limits.max_upgraded_connections` are upgraded already. Let it pass, and the answer is 503."""


class BadRequest(Exception):
    """The rest of the request turned out to be wrong; the server answers for the application."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.text)
        self.rejection = rejection


class HttpExchange(ABC):
    """One request to answer.

    Its own task may receive and send, and so may tasks that the application starts, one receiving
    and one sending at a time. When the application returns, the exchange is over.

    A response is `respond`, or `start`, any number of `write` and `write_file`, and `finish`; before
    it, any number of `inform`. Or the connection is taken over by `upgrade`.
    """

    __slots__ = (
        "connection",
        "headers",
        "http_version",
        "method",
        "path",
        "query",
        "raw_path",
        "response_body_bytes",
        "scheme",
        "started_at",
        "status",
        "takes_trailers",
        "target",
    )

    connection: Connection
    """What the request came over: addresses, features, limits."""
    method: str
    """As sent: methods are case-sensitive (RFC 9110, 9.1)."""
    target: bytes
    """The request target as sent, or what a version has in its place; a host and port for CONNECT."""
    path: str
    """The target's path, percent-decoded as UTF-8; undecodable bytes become U+FFFD."""
    raw_path: bytes
    """The target's path as sent."""
    query: bytes
    """What follows the ? of the target, as sent; empty if nothing does."""
    scheme: str
    """"https" if the client speaks TLS, with us or with a proxy whose PROXY header says so."""
    http_version: str
    """"1.0", "1.1", "2" or "3"."""
    headers: Headers
    """The request's fields; this list is the application's to change."""
    takes_trailers: bool
    """Whether the client said `TE: trailers`; to others they are not sent (RFC 9110, 6.5.1)."""
    started_at: float
    """When the head had arrived, in `trio.current_time()`'s seconds."""
    status: int | None
    """The final status that was sent, or None while none was."""
    response_body_bytes: int
    """How many bytes of body the application has sent."""

    @property
    @abstractmethod
    def body_complete(self) -> bool:
        """Whether all of the request's body has been received by the application."""

    def field(self, name: bytes) -> bytes | None:
        """Return the value of the field `name`, which is in lower case, or None.

        The values of several such fields are joined by ", " (RFC 9110, 5.3).
        """
        values = [value for known, value in self.headers if known == name]
        return b", ".join(values) if values else None

    @property
    def resolved_path(self) -> str:
        """The path for routing: as `path`, but without dot segments, and an escaped slash stays so.

        "/a/%2e%2e/b%2Fc" is "/b%2Fc": no segment can be made up of two, or climb above the root.
        """
        return resolve_path(self.raw_path)

    @property
    @abstractmethod
    def trailers(self) -> Headers:
        """The fields that followed the body; none while `body_complete` is false."""

    @property
    @abstractmethod
    def max_body_bytes(self) -> int | None:
        """How long the body may be; `Limits.max_request_body_bytes` unless set.

        To be set before the first `receive`; None is unlimited.

        Raises:
            RuntimeError: it was set later.
        """

    @max_body_bytes.setter
    @abstractmethod
    def max_body_bytes(self, value: int | None) -> None: ...

    @property
    @abstractmethod
    def min_body_bytes_per_second(self) -> float | None:
        """How fast the body must come; `Limits.min_request_body_bytes_per_second` unless set.

        None is as slowly as it likes.
        """

    @min_body_bytes_per_second.setter
    @abstractmethod
    def min_body_bytes_per_second(self, value: float | None) -> None: ...

    @property
    @abstractmethod
    def min_response_bytes_per_second(self) -> float | None:
        """How fast the response must be taken; `Limits.min_response_bytes_per_second` unless set.

        None is as slowly as the client likes.
        """

    @min_response_bytes_per_second.setter
    @abstractmethod
    def min_response_bytes_per_second(self, value: float | None) -> None: ...

    @property
    @abstractmethod
    def upgradable(self) -> bool:
        """Whether the client asks for what `upgrade` does.

        That is a tunnel to `target`, if `method` is CONNECT, or else a protocol that its field
        Upgrade names.
        """

    @property
    @abstractmethod
    def response_started(self) -> bool:
        """Whether the status and fields are decided."""

    @property
    @abstractmethod
    def response_finished(self) -> bool:
        """Whether the response is complete, or can no longer be completed."""

    @property
    @abstractmethod
    def disconnected(self) -> bool:
        """Whether the client is known to be gone, or to have ended its side after this request."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Wait for a piece of the request's body; b"" when it is complete.

        Not receiving stops the client when the buffers are full. Cancellation loses nothing.

        Raises:
            ClientDisconnected: the client went away before the end of the body, or the response is
                finished and the rest of the body is dropped.
            BadRequest: the body is framed wrongly or too large. The server will answer for it.
        """

    @abstractmethod
    async def wait_disconnected(self) -> None:
        """Wait until `disconnected`, or until the response is finished.

        To be called when the body is complete; one task at a time, and not while receiving.
        """

    @abstractmethod
    async def inform(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send an informational response, such as 103 with Link fields (RFC 8297), at once.

        A client that speaks HTTP/1.0 is not sent any.

        Raises:
            ResponseError: the status is not informational, or is 101, or the response was started.
            ClientDisconnected: the client is gone.
        """

    @abstractmethod
    async def respond(
        self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b""
    ) -> None:
        """Send a whole response. Content-Length is added unless `headers` has it.

        Raises:
            ResponseError: it is not a valid response, or one was started before; nothing is sent.
            ClientDisconnected: the client is gone.
        """

    @abstractmethod
    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Decide status and fields; they leave with the first piece of body.

        Raises as `respond` does.
        """

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send a piece of the body, waiting while the client does not read.

        Raises:
            ResponseError: no response was started, it is finished, or it gets longer than the
                Content-Length it announced.
            ClientDisconnected: the client is gone.
        """

    @abstractmethod
    async def write_file(self, file: int, offset: int, count: int) -> None:
        """Send `count` bytes of an open file from `offset` as a piece of the body.

        `file` is a descriptor of a regular file, and stays the caller's. The kernel sends it
        where it can; elsewhere it is read in blocks, by a worker thread if the page cache does not
        have it. Raises as `write` does, and:

        Raises:
            ResponseError: the file is shorter than that; the response is cut off. Or a number is
                below zero.
            OSError: the file cannot be read; the response is cut off.
        """

    @abstractmethod
    async def finish(
        self, trailers: Iterable[tuple[bytes, bytes]] = (), *, body: bytes = b""
    ) -> None:
        """Complete the response, with a last piece of its body, and with trailers.

        They are sent where the client and the framing take them: on HTTP/1.1 the framing does if
        the response has no Content-Length. From then on a client that ends its side is sent the
        rest whatever the application does.

        Raises:
            ResponseError: no response was started, or it is shorter than it announced, or a trailer
                is a field that may not be one.
            ClientDisconnected: the client is gone.
        """

    @abstractmethod
    async def upgrade(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> DuplexPipe:
        """Switch protocols: answer 101, or 200 to CONNECT, and return the connection's bytes.

        `headers` of a 101 have Upgrade; Connection is added. From then on no limit and no rate of
        HTTP holds, and the connection ends when the application returns. Watch
        `connection.close_requested` to end it when the server drains. Cancellation loses the
        connection.

        Raises:
            ResponseError: the client did not ask for it, or a response was started.
            TooManyUpgrades: the server's limit is reached; a response can still be sent.
            ClientDisconnected: the client is gone.
        """


HttpApplication: TypeAlias = Callable[[HttpExchange], Coroutine[Any, Any, None]]
"""Answers one request; each call runs in a fresh `contextvars` context."""
