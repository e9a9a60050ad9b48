"""Minimum data rates of one exchange, watched through its connection's one deadline.

Theory of operation. Made when a task of the exchange first has to wait for the client, which few
ever do. A wait for the body and a wait for the response to be taken may be under way at once; the
deadline is set to the earlier of their ends. When it expires the connection calls `check`. A body
that is too slow ends its wait, so that the client can be told 408; a client that does not take its
response can be told nothing, and is cut off.

How much of a response a client has taken is asked of the pipe, kernel buffers included. So large
buffers neither hide a client that has stopped nor make one that reads steadily look as if it had.
"""

import math

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.patience import Patience

__all__ = ["Pace"]


class Pace:
    """How patient one exchange is; see the module."""

    __slots__ = (
        "_backlog_bytes",
        "_body",
        "_body_bytes",
        "_connection",
        "_min_body_rate",
        "_min_response_rate",
        "_response",
        "body_expired",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._min_body_rate = connection.limits.min_request_body_bytes_per_second
        self._min_response_rate = connection.limits.min_response_bytes_per_second
        self._body: Patience | None = None
        self._body_bytes = 0  # of the body, those that were credited
        self._response: Patience | None = None
        self._backlog_bytes = 0
        self.body_expired: bool = False
        """Whether the last wait for the body was ended because the body is too slow."""

    @property
    def min_body_bytes_per_second(self) -> float | None:
        """How fast the body must come; None is as slowly as it likes. Takes effect at the next wait."""
        return self._min_body_rate

    @min_body_bytes_per_second.setter
    def min_body_bytes_per_second(self, value: float | None) -> None:
        self._min_body_rate = _valid(value)
        self._body = None

    @property
    def min_response_bytes_per_second(self) -> float | None:
        """How fast the response must be taken; as for the body."""
        return self._min_response_rate

    @min_response_bytes_per_second.setter
    def min_response_bytes_per_second(self, value: float | None) -> None:
        self._min_response_rate = _valid(value)
        self._response = None

    def begin_body(self, received_bytes: int) -> None:
        """Note that the application waits for more of a body of which it has `received_bytes`."""
        self.body_expired = False
        if self._min_body_rate is None:
            return
        if self._body is None:
            self._body = Patience(
                self._min_body_rate, self._connection.limits.request_body_grace_seconds
            )
        self._body.earn(received_bytes - self._body_bytes)
        self._body_bytes = received_bytes
        self._body.begin(self._connection.deadline.now())
        self._set_deadline()

    def end_body(self) -> None:
        """Note that it waits no longer."""
        if self._body is not None and self._body.due < math.inf:
            self._body.end(self._connection.deadline.now())

    def begin_response(self) -> None:
        """Note that the client is waited for to take what is on its way to it."""
        if self._min_response_rate is None:
            return
        if self._response is None:
            self._response = Patience(
                self._min_response_rate, self._connection.limits.response_grace_seconds
            )
        self._backlog_bytes = self._connection.transport.output.backlog_bytes
        self._response.begin(self._connection.deadline.now())
        self._set_deadline()

    def end_response(self) -> None:
        """Note that it is waited for no longer."""
        response = self._response
        if response is not None and response.due < math.inf:
            response.end(self._connection.deadline.now())
            response.earn(self._taken_bytes())

    def check(self) -> None:
        """See who has run out of patience; to be called when the deadline expires."""
        now = self._connection.deadline.now()
        response, body = self._response, self._body
        if response is not None and response.due <= now:
            response.renew(now, self._taken_bytes())
            if response.due <= now:
                self._connection.abort(EndReason.MIN_RESPONSE_DATA_RATE)
                return
        if body is not None and body.due <= now:  # any byte would have ended the wait
            body.end(now)
            self.body_expired = True
            self._connection.transport.input.cancel_pending_read()
        self._set_deadline()

    def _taken_bytes(self) -> int:
        """Return how much the client has taken since this was last asked."""
        before = self._backlog_bytes
        self._backlog_bytes = self._connection.transport.output.backlog_bytes
        return before - self._backlog_bytes

    def _set_deadline(self) -> None:
        due = min(
            math.inf if self._body is None else self._body.due,
            math.inf if self._response is None else self._response.due,
        )
        if due < math.inf:
            self._connection.deadline.set(due)


def _valid(bytes_per_second: float | None) -> float | None:
    if bytes_per_second is not None and not bytes_per_second > 0:
        raise ValueError(f"a rate must be above zero, or None, not {bytes_per_second}")
    return bytes_per_second
