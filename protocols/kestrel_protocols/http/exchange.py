"""One request and its response, on any version of HTTP: what an application is called with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeAlias

from kestrel_core.connection import Connection
from kestrel_protocols.http.rejection import Rejection

__all__ = [
    "BadRequest",
    "ClientDisconnected",
    "Headers",
    "HttpApplication",
    "HttpExchange",
    "ResponseError",
]

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Fields in the order of the wire: lower-case name, and value without white space around it."""


class ClientDisconnected(OSError):
    """The client is gone, so what was to be sent cannot be."""


class ResponseError(RuntimeError):
    """The application's response is not one: bad fields, wrong length, wrong order of calls."""


class BadRequest(Exception):
    """The rest of the request turned out to be wrong; the server answers for the application."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.text)
        self.rejection = rejection


class HttpExchange(ABC):
    """One request to answer.

    Its own task may receive and send, and so may tasks that the application starts, one receiving
    and one sending at a time. When the application returns, the exchange is over.

    A response is `respond`, or `start`, any number of `write`, and `finish`.
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
        "started_at",
        "status",
        "target",
    )

    connection: Connection
    """What the request came over: addresses, features, limits."""
    method: str
    """As sent: methods are case-sensitive (RFC 9110, 9.1)."""
    target: bytes
    """The request target as sent, or what a version has in its place."""
    path: str
    """The target's path, percent-decoded as UTF-8; undecodable bytes become U+FFFD."""
    raw_path: bytes
    """The target's path as sent."""
    query: bytes
    """What follows the ? of the target, as sent; empty if nothing does."""
    http_version: str
    """"1.0", "1.1", "2" or "3"."""
    headers: Headers
    """The request's fields; this list is the application's to change."""
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
    async def respond(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b""
    ) -> None:
        """Send a whole response. Content-Length is added unless `headers` has it.

        Raises:
            ResponseError: it is not a valid response, or one was started before; nothing is sent.
            ClientDisconnected: the client is gone.
        """

    @abstractmethod
    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
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
    async def finish(self) -> None:
        """Complete the response.

        Raises:
            ResponseError: no response was started, or it is shorter than it announced.
            ClientDisconnected: the client is gone.
        """


HttpApplication: TypeAlias = Callable[[HttpExchange], Coroutine[Any, Any, None]]
"""Answers one request; each call runs in a fresh `contextvars` context."""
