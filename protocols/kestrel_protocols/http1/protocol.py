"""HTTP/1.1 as a protocol that the server can be given, or find on a connection."""

import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

from kestrel_core.connection import Connection
from kestrel_core.protocol import Protocol, Sniff
from kestrel_protocols.http.exchange import HttpApplication, HttpExchange
from kestrel_protocols.http1.connection import Http1Connection
from kestrel_protocols.http1.request_head import FieldBlocks, RequestLines

__all__ = ["Http1"]

# The beginning of "method SP target" of any HTTP/1 request, after blank lines. No method that is
# registered with IANA is longer than 17 characters ("UPDATEREDIRECTREF"); this allows for more.
_REQUEST_LINE_SO_FAR = re.compile(
    rb"(?:\r\n)*+(?:\r|[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}(?P<target> [!-~]?)?)?"
)

# How an HTTP/2 connection begins (RFC 9113, 3.4): like a request, on purpose.
_HTTP2_PREFACE = b"PRI * HTTP/2"


class Http1(Protocol):
    """Serves `application` by HTTP/1.1 and HTTP/1.0.

    `on_exchange_end` is called after each exchange, in its connection's task, for access logs and
    counters; it must not wait and must not raise. One instance may serve any number of endpoints.
    """

    name = "http/1.1"
    alpn: ClassVar[Sequence[str]] = ("http/1.1",)

    def __init__(
        self,
        application: HttpApplication,
        *,
        on_exchange_end: Callable[[HttpExchange], None] | None = None,
    ) -> None:
        self.application = application
        self.on_exchange_end = on_exchange_end
        self._request_lines = RequestLines()
        self._field_blocks = FieldBlocks()

    def sniff(self, prefix: bytes) -> Sniff:
        """Recognize a method and the beginning of a target."""
        match = _REQUEST_LINE_SO_FAR.match(prefix)
        if match is not None and match["target"] and len(match["target"]) > 1:
            if _HTTP2_PREFACE.startswith(prefix):
                return Sniff.MORE
            return Sniff.NO if prefix.startswith(_HTTP2_PREFACE) else Sniff.YES
        if match is None or match.end() < len(prefix):
            return Sniff.NO
        return Sniff.MORE

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # async in all but name
        self, connection: Connection
    ) -> Coroutine[Any, Any, None]:
        """Serve requests until either side ends the connection."""
        return Http1Connection(
            connection,
            self.application,
            self._request_lines,
            self._field_blocks,
            self.on_exchange_end,
        ).serve()
