"""What happens in one simulation, as values: everything that its seed decides but for the schedule."""

import math
from collections.abc import Sequence
from enum import Enum

import attrs

from kestrel_core import Limits
from kestrel_core.testing.network import Wire
from kestrel_protocols.http.rejection import Rejection
from tests.simulation.question import Question, pattern

__all__ = ["ClientPlan", "Ending", "Layering", "Leaving", "Plan", "RequestPlan"]


class Leaving(Enum):
    """How a client goes away."""

    ABORTS = "aborts"
    """It resets the connection."""
    CLOSES = "closes"
    HALF_CLOSES = "half_closes"
    """It ends its side, and reads on."""
    FALLS_SILENT = "falls_silent"
    """It sends nothing more, and reads on."""


class Ending(Enum):
    """What a client does when it has all its answers."""

    WAITS = "waits"
    """It waits for the server to end the connection."""
    CLOSES = "closes"
    HALF_CLOSES = "half_closes"
    """It ends its side as soon as everything is sent."""


@attrs.frozen(kw_only=True)
class RequestPlan:
    """One request: what it says, and how its bytes come."""

    question: Question
    method: str = "GET"
    http11: bool = True
    body_bytes: int | None = None
    chunks: Sequence[int] = ()
    """The sizes of the chunks of its body; without any, it has a Content-Length."""
    trailers: Sequence[tuple[bytes, bytes]] = ()
    expects_continue: bool = False
    takes_trailers: bool = False
    connection: str = ""
    """What the field Connection says, if it is there."""
    padding_bytes: int = 0
    """How long a field is that makes the head longer."""
    pieces: Sequence[int] = ()
    """The sizes of the first pieces that are sent at once; what is behind them is one."""
    pause_seconds: float = 0.0
    """Before each piece but the first."""
    bad_head: bytes = b""
    """What is sent instead of all this, which is no request."""
    bad_body: bytes = b""
    """What is sent as the chunks of the body, which is no body."""
    rejection: Rejection | None = None
    """Why the server refuses one of the two."""
    leaves_after_bytes: int | None = None
    """How much of it is sent before the client goes away."""
    leaves: Leaving = Leaving.ABORTS

    @property
    def body(self) -> bytes:
        """The request's body, without framing."""
        return pattern(f"body of {self.question.id}", self.body_bytes or 0)

    @property
    def head(self) -> bytes:
        """The request up to its body."""
        lines = [
            f"{self.method} {self.question.target} HTTP/1.{int(self.http11)}".encode(),
            b"host: testserver",
        ]
        if self.padding_bytes:
            lines.append(b"x-padding: " + b"p" * self.padding_bytes)
        if self.connection:
            lines.append(b"connection: " + self.connection.encode())
        if self.takes_trailers:
            lines.append(b"te: trailers")
        if self.expects_continue:
            lines.append(b"expect: 100-continue")
        if self.chunks or self.bad_body:
            lines.append(b"transfer-encoding: chunked")
        elif self.body_bytes is not None:
            lines.append(b"content-length: %d" % self.body_bytes)
        return b"\r\n".join([*lines, b"", b""])

    @property
    def framed_body(self) -> bytes:
        """The request behind its head."""
        if self.bad_body:
            return self.bad_body
        if not self.chunks:
            return self.body
        parts: list[bytes] = []
        rest = self.body
        for size in self.chunks:
            parts.append(b"%x\r\n%b\r\n" % (size, rest[:size]))
            rest = rest[size:]
        assert not rest
        fields = b"".join(b"%b: %b\r\n" % field for field in self.trailers)
        return b"".join([*parts, b"0\r\n", fields, b"\r\n"])

    @property
    def ends_connection(self) -> bool:
        """Whether the client says that it is the last on its connection."""
        if self.http11:
            return self.connection == "close"
        return self.connection != "keep-alive"


@attrs.frozen(kw_only=True)
class ClientPlan:
    """One client, with one connection."""

    number: int
    starts_at: float
    wire: Wire | None
    """What is between it and the server; None is a pipe and nothing else."""
    pause_at_bytes: int
    """How much that pipe holds."""
    requests: Sequence[RequestPlan]
    most_in_flight: int
    """How many requests may be without an answer before it sends a next one."""
    gap_seconds: float
    """Before each request."""
    read_pause_seconds: float
    """Before each time that it reads."""
    stops_reading_after_bytes: int | None
    """After so much of a body it reads nothing for a while."""
    stops_reading_seconds: float
    ending: Ending
    leaves_after_seconds: float
    """When it goes away, whatever it is doing; infinity is never."""
    leaves: Leaving

    @property
    def address(self) -> str:
        """Where it comes from, as the server sees it."""
        return f"192.0.2.{self.number}:{5000 + self.number}"


@attrs.frozen(kw_only=True)
class Layering:
    """A middleware of the server, by name, with options."""

    name: str
    options: dict[str, object] = attrs.field(factory=dict[str, object])


@attrs.frozen(kw_only=True)
class Plan:
    """One simulation."""

    seed: int
    interface: str
    limits: Limits
    middleware: Sequence[Layering]
    speaks_tls: bool
    clients: Sequence[ClientPlan]
    stops_at: float = math.inf
    """When the server drains, or aborts; infinity is when all clients are gone."""
    aborts: bool = False
    drain_seconds: float = 1.0
    notice_seconds: float = 0.0
