"""What HTTP/1 clients get wrong and a server may serve all the same, each by a switch of its own.

Theory of operation. No rule is ever weakened. What a leniency tolerates is rewritten, in
`unusual_head`, into what the client must have meant, and the strict rules judge the outcome; so it
is known what one lets in, whichever others are on. While a head is read, what it needed is noted;
once it has been read it is counted, so that a head which comes in many pieces, and is looked at as
often, counts once.

A leniency is safe while every server that a request passes reads it alike. Where they differ,
requests can be smuggled past the first (RFC 9112, 11.2). That is why all are off by default, why
each tells below what it takes on trust, and why there is none for what has no innocent reason: white
space before a colon, a CR or NUL among other characters, a signed length, a transfer coding that is
not understood, a line end in a chunk's framing that is not CRLF.
"""

import logging
from enum import Enum

__all__ = ["Leniency", "Tolerance"]

_log = logging.getLogger("kestrel.http")


class Leniency(Enum):
    """One fault of a request that a server can be told to tolerate."""

    BARE_LINE_FEED = "bare_line_feed"
    """Lines of the head may end with LF alone (RFC 9112, 2.2); those of chunks and trailers never.

    Typed and scripted requests have that. A proxy in front that passes LF on as part of a value
    would let its client write fields, or a second request, that the proxy has not seen."""

    OBSOLETE_LINE_FOLDING = "obsolete_line_folding"
    """A field may go on in lines that begin with white space, each taken for a space (RFC 9112, 5.2).

    Clients from before 2014 have that. A proxy in front that takes such a line for a field of its
    own sees other fields than this server does. So Host, Content-Length and Transfer-Encoding are
    still refused if they are folded, or begin a line that continues another field, and so is a
    line of white space alone, which could be taken for the end of the head."""

    LENGTH_WITH_TRANSFER_ENCODING = "length_with_transfer_encoding"
    """Chunked wins over Content-Length, which is dropped; the connection then ends (RFC 9112, 6.3).

    A proxy in front that goes by Content-Length takes another part of the body for the next
    request than this server does. Ending the connection keeps this server from reading one there;
    it does not tell the proxy, which may have sent somebody else's request already."""

    REPEATED_CONTENT_LENGTH = "repeated_content_length"
    """Content-Length fields of the same value count as one (RFC 9112, 6.3); a list in one does not.

    Some old proxies double the field. All readers agree on the length; it is only a sign that
    somebody has put the message together without care."""

    SPACES_IN_REQUEST_LINE = "spaces_in_request_line"
    """More than one space may part a request line, or follow it (RFC 9112, 3); never other white
    space, and none before the method or in the target.

    Clients that put a target together from parts have that. A proxy in front that takes everything
    between the first space and the last for the target sees one that ends with spaces, and its
    rules about paths may not match it."""

    ABSOLUTE_TARGET_OVERRIDES_HOST = "absolute_target_overrides_host"
    """The authority of an absolute target replaces a Host that disagrees (RFC 9112, 3.2.2).

    Clients of a proxy that changes Host alone have that. A server in front that goes by Host sends
    the request where its rules say for one name, and the application here serves it for another."""


class Tolerance:
    """What one connection tolerates, and what of it the head that is being read has needed."""

    __slots__ = ("_connection_id", "_counts", "_needed")

    def __init__(self, counts: dict[Leniency, int], connection_id: str) -> None:
        """Tolerate the keys of `counts`, which is shared by connections and counted up."""
        self._counts = counts
        self._connection_id = connection_id
        self._needed: list[Leniency] = []

    def allows(self, leniency: Leniency) -> bool:
        """Tell whether that is switched on."""
        return leniency in self._counts

    def note(self, leniency: Leniency) -> None:
        """Note that the head needs it; once for a head, however often it is called."""
        if leniency not in self._needed:
            self._needed.append(leniency)

    def count(self) -> None:
        """Count what was noted since the last time: the head is read."""
        for leniency in self._needed:
            self._counts[leniency] += 1
            _log.debug("tolerated %s", leniency.value, extra={"connection_id": self._connection_id})
        self._needed.clear()
