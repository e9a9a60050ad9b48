"""`wsgi.errors`: a text stream whose lines become records of the logger `kestrel.wsgi`."""

import io
import logging
import sys
from threading import Lock, get_ident

from kestrel_core.connection import Connection

__all__ = ["ErrorLog"]

_log = logging.getLogger("kestrel.wsgi")


class ErrorLog(io.TextIOBase):
    """Logs what is written, at the level ERROR: all that was written up to a line's end.

    A traceback that is written in one piece is one record. A logging handler may write here, even
    one that is also given the records of `kestrel.wsgi`: those it writes to `sys.stderr`, as there
    would be no end otherwise.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()  # not held while logging, as handlers have locks of their own
        self._text = ""
        self._logging_threads: set[int] = set()

    def writable(self) -> bool:
        """Tell that it is."""
        return True

    def write(self, text: str, /) -> int:
        """Append `text`; log it if it ends a line."""
        if get_ident() in self._logging_threads:
            return sys.stderr.write(text)
        with self._lock:
            self._text += text
        if text.endswith("\n"):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Log what has been written since the last record."""
        thread = get_ident()
        if thread in self._logging_threads:
            return
        with self._lock:
            text, self._text = self._text.rstrip("\n"), ""
        if text:
            self._logging_threads.add(thread)
            try:
                _log.error("%s", text, extra={"connection_id": self._connection.id})
            finally:
                self._logging_threads.remove(thread)
