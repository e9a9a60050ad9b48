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
from kestrel_protocols.http1.body import Body

__all__ = ["Pace"]

_MOST_SECONDS_UNCHECKED = 5.0


class Pace:
    """How patient one exchange is; see the module."""

    __slots__ = (
        "_backlog_bytes",
        "_body",
        "_body_patience",
        "_connection",
        "_credited_bytes",
        "_min_body_rate",
        "_min_response_rate",
        "_response_patience",
        "body_expired",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._min_body_rate = connection.limits.min_request_body_bytes_per_second
        self._min_response_rate = connection.limits.min_response_bytes_per_second
        self._body: Body | None = None
        self._body_patience: Patience | None = None
        self._credited_bytes = 0  # of the body
        self._response_patience: Patience | None = None
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
        self._body_patience = None

    @property
    def min_response_bytes_per_second(self) -> float | None:
        """How fast the response must be taken; as for the body."""
        return self._min_response_rate

    @min_response_bytes_per_second.setter
    def min_response_bytes_per_second(self, value: float | None) -> None:
        self._min_response_rate = _valid(value)
        self._response_patience = None

    def begin_body(self, body: Body) -> None:
        """Note that the application waits for more of `body`."""
        self.body_expired = False
        if self._min_body_rate is None:
            return
        if self._body_patience is None:
            self._body_patience = Patience(
                self._min_body_rate, self._connection.limits.request_body_grace_seconds
            )
        self._body = body
        self._body_patience.earn(self._arrived_bytes())
        self._body_patience.begin(self._connection.deadline.now())
        self._set_deadline()

    def end_body(self) -> None:
        """Note that it waits no longer."""
        if self._body_patience is not None and self._body_patience.due < math.inf:
            self._body_patience.end(self._connection.deadline.now())

    def begin_response(self, file_bytes: int = 0) -> None:
        """Note that the client is waited for to take what is written, and so much of a file."""
        if self._min_response_rate is None:
            return
        writer = self._connection.transport.output
        self._backlog_bytes = writer.backlog_bytes + file_bytes
        if self._response_patience is None:
            self._response_patience = Patience(
                self._min_response_rate, self._connection.limits.response_grace_seconds
            )
            # Until the client can be seen to take anything, it has the time that that may take.
            self._response_patience.earn(min(self._backlog_bytes, writer.backlog_step_bytes))
        self._response_patience.begin(self._connection.deadline.now())
        self._set_deadline()

    def end_response(self) -> None:
        """Note that it is waited for no longer."""
        response = self._response_patience
        if response is not None and response.due < math.inf:
            response.end(self._connection.deadline.now())
            response.earn(self._taken_bytes())

    def check(self) -> None:
        """See who has run out of patience; to be called when the deadline expires."""
        now = self._connection.deadline.now()
        response, body = self._response_patience, self._body_patience
        if response is not None and response.due < math.inf:
            response.renew(now, self._taken_bytes())
            if response.due <= now:
                self._connection.abort(EndReason.MIN_RESPONSE_DATA_RATE)
                return
        if body is not None and body.due < math.inf:
            body.renew(now, self._arrived_bytes())
            if body.due <= now:
                body.end(now)
                self.body_expired = True
                self._connection.transport.input.cancel_pending_read()
        self._set_deadline()

    def _arrived_bytes(self) -> int:
        """Return how much of the body has come since this was last asked.

        What is held counts: a chunk's size, or trailers, are taken only when they are complete.
        """
        before = self._credited_bytes
        if self._body is not None:
            held = self._connection.transport.input.buffered
            self._credited_bytes = self._body.received_bytes + len(held)
        return self._credited_bytes - before

    def _taken_bytes(self) -> int:
        """Return how much the client has taken since this was last asked."""
        before = self._backlog_bytes
        self._backlog_bytes = self._connection.transport.output.backlog_bytes
        return before - self._backlog_bytes

    def _set_deadline(self) -> None:
        """Be asked to `check` when somebody is due; the deadline may be set to earlier already.

        It is asked for now and then before that, too, as what was moved is to be credited about
        when it was: at the end, it would make up for all the time since.
        """
        due = min(
            math.inf if self._body_patience is None else self._body_patience.due,
            math.inf if self._response_patience is None else self._response_patience.due,
        )
        if due < math.inf:
            due = min(due, self._connection.deadline.now() + _MOST_SECONDS_UNCHECKED)
            if due < self._connection.deadline.expires_at:
                self._connection.deadline.set(due)


def _valid(bytes_per_second: float | None) -> float | None:
    if bytes_per_second is not None and not bytes_per_second > 0:
        raise ValueError(f"a rate must be above zero, or None, not {bytes_per_second}")
    return bytes_per_second
