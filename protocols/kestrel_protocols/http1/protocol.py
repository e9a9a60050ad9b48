"""HTTP/1.1 as a protocol that the server can be given, or find on a connection."""

import re
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from kestrel_core.connection import Connection
from kestrel_core.protocol import Protocol, Sniff
from kestrel_protocols.http.exchange import HttpApplication, HttpExchange
from kestrel_protocols.http.fields import stamp_with
from kestrel_protocols.http1.connection import MOST_BLANK_LINES, Http1Connection
from kestrel_protocols.http1.leniency import Leniency, Tolerance
from kestrel_protocols.http1.request_head import FieldBlocks, RequestLines

__all__ = ["Http1"]

# On the hot path a member of an Enum, looked up through its class, costs as much as a call.
_YES = Sniff.YES

# No method that is registered with IANA is longer than 17 characters ("UPDATEREDIRECTREF"); this
# allows for more.
_METHOD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}"

# How nearly all requests begin, which is told at a glance; what else looks like one, such as
# "OPTIONS rtsp://", "SSH-2.0-x y" or the PROXY protocol's line, shows by its version that it is none.
_USUAL = (b"GET /", b"POST /", b"HEAD /", b"PUT /", b"DELETE /", b"PATCH /", b"OPTIONS /")

# How the version begins that ends a request line. HTTP/2's preface, "PRI * HTTP/2.0", looks like
# such a line on purpose (RFC 9113, 3.4), and is none here.
_VERSION = b"HTTP/1"

# How far that is looked for: as long as a request line may be by default (Kestrel: 8 KiB).
_MOST_LINE_BYTES = 8192


class Http1(Protocol):
    """Serves `application` by HTTP/1.1 and HTTP/1.0.

    `on_exchange_end` is called after each exchange, in its connection's task, for access logs and
    counters; it must not wait and must not raise. One instance may serve any number of endpoints.

    `lenient` names faults of requests that are tolerated, which else are refused.

    Raises:
        ResponseError: `alt_svc` is no field value.
        ValueError: something in `lenient` is no `Leniency`.
    """

    name = "http/1.1"
    alpn: ClassVar[Sequence[str]] = ("http/1.1",)

    def __init__(
        self,
        application: HttpApplication,
        *,
        on_exchange_end: Callable[[HttpExchange], None] | None = None,
        alt_svc: bytes | None = None,
        lenient: Collection[Leniency] = (),
    ) -> None:
        self.application = application
        self.on_exchange_end = on_exchange_end
        self._request_lines = RequestLines()
        self._field_blocks = FieldBlocks()
        self._tolerated = {Leniency(leniency): 0 for leniency in lenient}
        self._up_to_version = _up_to_version(self._tolerated)
        self.alt_svc = alt_svc

    @property
    def alt_svc(self) -> bytes | None:
        """Where else the application is served, such as b'h3=":443"; ma=86400' (RFC 7838).

        Goes out as Alt-Svc with every response that has no such field of its own, on connections
        that are accepted after it was set.
        """
        return self._alt_svc

    @alt_svc.setter
    def alt_svc(self, value: bytes | None) -> None:
        self._stamp = stamp_with(value)
        self._alt_svc = value

    @property
    def tolerated(self) -> Mapping[Leniency, int]:
        """How many requests needed each leniency, of those that were given; a live view."""
        return MappingProxyType(self._tolerated)

    def sniff(self, prefix: bytes) -> Sniff:
        """Recognize a usual method and the beginning of a path, or else a whole request line."""
        if prefix.startswith(_USUAL):
            return _YES
        line = prefix[:_MOST_LINE_BYTES]
        match = self._up_to_version.match(line)
        assert match is not None  # none of its parts has to be there
        rest = line[match.end() :]
        if match["end"] is not None:
            if rest.startswith(_VERSION):
                return _YES
            if not _VERSION.startswith(rest):
                return Sniff.NO
        elif rest:
            return Sniff.NO
        return Sniff.MORE if len(prefix) <= _MOST_LINE_BYTES else Sniff.NO

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # async in all but name
        self, connection: Connection
    ) -> Coroutine[Any, Any, None]:
        """Serve requests until either side ends the connection."""
        tolerance = Tolerance(self._tolerated, connection.id) if self._tolerated else None
        return Http1Connection(
            connection,
            self.application,
            self._request_lines,
            self._field_blocks,
            self.on_exchange_end,
            self._stamp,
            tolerance,
        ).serve()


def _up_to_version(lenient: Collection[Leniency]) -> re.Pattern[bytes]:
    """Return what matches all there is of "method SP target SP"; the last of it is the group "end".

    Before it may be blank lines.
    """
    line_end = rb"\r?\n" if Leniency.BARE_LINE_FEED in lenient else rb"\r\n"
    space = rb" ++" if Leniency.SPACES_IN_REQUEST_LINE in lenient else rb" "
    lines = rb"(?:%b){0,%d}" % (line_end, MOST_BLANK_LINES)
    return re.compile(
        rb"%b(?:\r|%b(?:%b(?:[!-~]++(?P<end>%b)?)?)?)?" % (lines, _METHOD, space, space)
    )
