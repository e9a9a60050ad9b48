"""Why a connection may have ended, given what was done to it."""

from collections.abc import Callable, Iterator, Mapping

from kestrel_core.end_reason import EndReason
from tests.simulation.case import Case
from tests.simulation.client import End
from tests.simulation.question import Fate

__all__ = ["faults_of_end"]

# What is lost where times are added up.
_ROUNDING = 1e-6


def faults_of_end(case: Case) -> Iterator[str]:
    """Tell if the reason for a connection's end, as the server has it, cannot be the reason."""
    reason = case.reason
    if reason is None:
        return
    is_plausible = _PLAUSIBLE.get(reason)
    if is_plausible is None:
        yield f"{case}'s connection ended for {reason}, which nothing here can cause"
    elif not is_plausible(case):
        yield (
            f"{case}'s connection ended for {reason}, and there is no reason for that"
            f" (client: {case.client.end}, {case.seconds:g} s)"
        )


def _completed(case: Case) -> bool:
    """Somebody has said that a request is the last."""
    return any(
        told.plan.ends_connection
        or told.plan.question.closes
        or not told.plan.http11
        or (told.received is not None and b"close" in told.received.values(b"connection"))
        for told in case.client.told
    )


def _reset(case: Case) -> bool:
    """The client is gone, or the oracle was told so, or bytes came that nobody awaited."""
    return (
        case.input_ended
        or case.crossed
        or case.client.end is End.NOT_CONNECTED
        or any(sighting.told_gone for sighting in case.sightings)
    )


def _rejected(reason: EndReason) -> Callable[[Case], bool]:
    def is_plausible(case: Case) -> bool:
        return any(
            told.plan.rejection is not None and told.plan.rejection.end_reason is reason
            for told in case.client.told
        )

    return is_plausible


def _saw(*fates: Fate) -> Callable[[Case], bool]:
    def is_plausible(case: Case) -> bool:
        return any(
            sighting.question.fate in fates and sighting.failed for sighting in case.sightings
        )

    return is_plausible


def _after(seconds_of: Callable[[Case], float]) -> Callable[[Case], bool]:
    def is_plausible(case: Case) -> bool:
        return case.seconds + _ROUNDING >= seconds_of(case)

    return is_plausible


def _shutdown_timeout(case: Case) -> bool:
    """The server was aborted, or drained while something was under way."""
    story = case.story
    if story.plan.aborts and case.server_stopped:
        return True
    if not story.stopping.cut + story.last_drain.cut:
        return False
    return (
        case.is_sluggish
        or case.wire_broke
        or case.client.end is End.NOT_CONNECTED
        or any(sighting.cancelled_at is not None for sighting in case.sightings)
        or not all(
            told.sent_whole and told.received and told.received.whole for told in case.client.told
        )
    )


def _handshake_failed(case: Case) -> bool:
    """The client has failed, or was done with its part and gone before that arrived."""
    return case.client.end is End.NOT_CONNECTED or case.input_ended


def _tls_truncated(case: Case) -> bool:
    """The client's end does not come, or it had to stop in the middle of what it sent."""
    return case.story.plan.speaks_tls and (
        case.input_ended
        or case.client.end is End.NOT_CONNECTED
        or not all(told.sent_whole for told in case.client.told)
    )


def _idle(case: Case) -> bool:
    options = [layer.options for layer in case.story.plan.middleware if layer.name == "idle"]
    return any(case.seconds + _ROUNDING >= float(str(each["seconds"])) for each in options)


def _too_many(case: Case) -> bool:
    if case.limits.max_connections is not None:
        return not case.sightings
    return "admission" in case.layers and not case.sightings


def _body_drain(case: Case) -> bool:
    limits = case.limits
    return case.seconds + _ROUNDING >= min(limits.request_body_drain_seconds, limits.linger_seconds)


def _max_requests(case: Case) -> bool:
    return len(case.sightings) == case.limits.max_requests_per_connection


def _body_too_large(case: Case) -> bool:
    most = case.limits.max_request_body_bytes
    return most is not None and any(len(told.plan.framed_body) > most for told in case.client.told)


_PLAUSIBLE: Mapping[EndReason, Callable[[Case], bool]] = {
    EndReason.COMPLETED: _completed,
    EndReason.PEER_CLOSED: lambda case: case.input_ended or case.client.end is End.NOT_CONNECTED,
    EndReason.SHUTDOWN: lambda case: case.server_stopped,
    EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED: _max_requests,
    EndReason.MAX_CONNECTION_AGE_REACHED: _after(lambda c: c.limits.max_connection_age_seconds),
    EndReason.CONNECTION_RESET: _reset,
    EndReason.INVALID_REQUEST_LINE: _rejected(EndReason.INVALID_REQUEST_LINE),
    EndReason.INVALID_REQUEST_HEADERS: _rejected(EndReason.INVALID_REQUEST_HEADERS),
    EndReason.INVALID_HTTP_VERSION: _rejected(EndReason.INVALID_HTTP_VERSION),
    EndReason.INVALID_BODY_FRAMING: _rejected(EndReason.INVALID_BODY_FRAMING),
    EndReason.TLS_NOT_SUPPORTED: _rejected(EndReason.TLS_NOT_SUPPORTED),
    EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT: lambda case: case.input_ended,
    EndReason.TLS_HANDSHAKE_FAILED: _handshake_failed,
    EndReason.TLS_HANDSHAKE_TIMEOUT: lambda case: case.client.end is End.NOT_CONNECTED,
    EndReason.TLS_TRUNCATED: _tls_truncated,
    EndReason.IDLE_TIMEOUT: _idle,
    EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED: _too_many,
    EndReason.MAX_REQUEST_LINE_EXCEEDED: lambda case: case.limits.max_request_line_bytes < 8192,
    EndReason.MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED: lambda case: (
        case.limits.max_request_headers_bytes < 1000
    ),
    EndReason.MAX_REQUEST_HEADER_COUNT_EXCEEDED: _rejected(
        EndReason.MAX_REQUEST_HEADER_COUNT_EXCEEDED
    ),
    EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED: _body_too_large,
    EndReason.KEEP_ALIVE_TIMEOUT: _after(lambda c: c.limits.keep_alive_seconds),
    EndReason.REQUEST_HEADERS_TIMEOUT: _after(lambda c: c.limits.request_headers_seconds),
    EndReason.REQUEST_BODY_DRAIN_TIMEOUT: _body_drain,
    EndReason.MIN_REQUEST_BODY_DATA_RATE: _after(lambda c: c.limits.request_body_grace_seconds),
    EndReason.MIN_RESPONSE_DATA_RATE: _after(lambda c: c.limits.response_grace_seconds),
    EndReason.MAX_REQUEST_TIME_EXCEEDED: _after(lambda c: c.limits.max_request_seconds),
    EndReason.ABORTED_BY_APP: lambda case: any(
        sighting.question.watches for sighting in case.sightings
    ),
    EndReason.ERROR_AFTER_STARTING_RESPONSE: _saw(Fate.RAISES_WITHIN, Fate.LEAVES_WITHIN),
    EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH: _saw(Fate.SAYS_TOO_MUCH, Fate.SAYS_TOO_LITTLE),
    EndReason.APP_SHUTDOWN_TIMEOUT: _shutdown_timeout,
}
