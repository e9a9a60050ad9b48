"""Status lines, made once each."""

from kestrel_protocols.http.exchange import ResponseError
from kestrel_protocols.http.fields import reason_phrase

__all__ = ["STATUS_LINES"]


class _StatusLines(dict[int, bytes]):
    def __missing__(self, status: int) -> bytes:
        try:
            possible = 100 <= status <= 999
        except TypeError:  # applications are not type-checked by us
            possible = False
        if not possible:
            raise ResponseError(f"{status!r} is no status code")
        line = self[status] = f"HTTP/1.1 {status} {reason_phrase(status)}".encode("ascii")
        return line


STATUS_LINES = _StatusLines()
"""Status lines by status, without line end; asking for one that cannot be is a ResponseError."""
