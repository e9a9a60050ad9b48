"""Status lines, made once each."""

from kestrel_protocols.http.exchange import ResponseError
from kestrel_protocols.http.fields import reason_phrase

__all__ = ["STATUS_LINES"]


class _StatusLines(dict[int, bytes]):
    def __missing__(self, status: object) -> bytes:
        # Applications are not type-checked by us. A float is not merely odd: it is the same key as
        # the integer, so its line would serve that, too.
        if not isinstance(status, int) or not 100 <= status <= 999:
            raise ResponseError(f"{status!r} is no status code")
        line = self[status] = b"HTTP/1.1 %d %b" % (status, reason_phrase(status).encode("ascii"))
        return line


STATUS_LINES = _StatusLines()
"""Status lines by status, without line end; asking for one that cannot be is a ResponseError."""
