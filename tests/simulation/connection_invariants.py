"""What has to hold for each connection: its answers, and what the oracle saw of its requests."""

from collections.abc import Iterator

from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.rejection import Rejection
from tests.simulation.case import Case
from tests.simulation.client import End, Received, Told
from tests.simulation.oracle import Ended, Sighting
from tests.simulation.plan import RequestPlan
from tests.simulation.question import Answer, Fate, Reading

__all__ = ["faults_of_connection"]

# Ends by which the server resets a connection; what was on its way then is lost, whosever it was.
_RESETS = {
    EndReason.CONNECTION_RESET,
    EndReason.IDLE_TIMEOUT,
    EndReason.MIN_RESPONSE_DATA_RATE,
    EndReason.REQUEST_BODY_DRAIN_TIMEOUT,
    EndReason.MAX_REQUEST_TIME_EXCEEDED,
    EndReason.ABORTED_BY_APP,
    EndReason.ERROR_AFTER_STARTING_RESPONSE,
    EndReason.RESPONSE_CONTENT_LENGTH_MISMATCH,
    EndReason.APP_SHUTDOWN_TIMEOUT,
    EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED,
    EndReason.TLS_TRUNCATED,
    EndReason.TLS_ERROR,
}

# Ends after which a request that is whole need not have been served.
_SERVES_NO_MORE = {
    EndReason.SHUTDOWN,
    EndReason.KEEP_ALIVE_TIMEOUT,
    EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED,
    EndReason.MAX_CONNECTION_AGE_REACHED,
    EndReason.MAX_CONCURRENT_CONNECTIONS_EXCEEDED,
    EndReason.REQUEST_HEADERS_TIMEOUT,
    EndReason.REQUEST_BODY_DRAIN_TIMEOUT,
}

# What is noted when a request is taken for the last, so before anything else that happens then.
_LASTS = {
    EndReason.MAX_REQUESTS_PER_CONNECTION_REACHED,
    EndReason.MAX_CONNECTION_AGE_REACHED,
}

_OWN_500 = {
    Fate.RAISES_BEFORE,
    Fate.LEAVES_BEFORE,
    Fate.SAYS_TOO_MUCH,
    Fate.SAYS_TOO_LITTLE,
}

# What the server says for the application.
_OWN_WORDS = {500: b"Internal Server Error", 503: b"Service Unavailable"}

_NO_ANSWER = {Fate.RAISES_BEFORE, Fate.LEAVES_BEFORE, Fate.WAITS}

_CUT_ANSWER = {Fate.RAISES_WITHIN, Fate.LEAVES_WITHIN, Fate.SAYS_TOO_MUCH, Fate.SAYS_TOO_LITTLE}


def faults_of_connection(case: Case) -> Iterator[str]:
    """Tell what is wrong with what happened on a connection, a sentence each."""
    client = case.client
    if client.broken_http is not None:
        yield f"{case} got something that is no HTTP: {client.broken_http}"
    if client.excess:
        yield f"{case} got {bytes(client.excess[:60])!r} behind its last answer"
    if client.end is End.GAVE_UP and not (case.wire_broke or _waits_without_limit(case)):
        yield f"{case} saw no end of its connection"
    if case.outlived_client and not case.wire_broke:
        yield f"{case}'s connection was still there long after it"
    for told in client.told:
        yield from _faults_of_answer(case, told)
    yield from _faults_of_order(case)
    yield from _faults_of_sightings(case)
    yield from _faults_of_what_is_missing(case)


# Answers ----------------------------------------------------------------------------------------


def _faults_of_answer(case: Case, told: Told) -> Iterator[str]:
    """Judge what came of one response."""
    received, request = told.received, told.plan
    if received is None or received.head is None:
        return
    name = f"{case}'s request {request.question.id}"
    if received.request_id is None:
        yield from _faults_of_own_answer(case, told, received)
        return
    if received.request_id != request.question.id:
        yield f"{name} got the answer of {received.request_id}"
        return
    sighting = case.sighting_of(request)
    if sighting is None:
        yield f"{name} got an answer, though the oracle has not seen it"
        return
    question = request.question
    answer = Answer.to(
        question,
        method=request.method,
        body=bytes(sighting.body) if question.reading is Reading.ECHO else request.body,
        http11=request.http11,
        takes_trailers=request.takes_trailers,
    )
    if question.fate in _NO_ANSWER:
        yield f"{name} got an answer from the oracle, who gave none"
    if received.head.status != answer.status:
        yield f"{name} got the status {received.head.status}, not {answer.status}"
    links = [
        value for head in received.informational for key, value in head.headers if key == b"link"
    ]
    if links != answer.links:
        yield f"{name} got the links {links}, not {answer.links}"
    if not answer.body.startswith(received.body):
        yield f"{name} got other bytes than the oracle's"
    if question.reading is Reading.BEFORE and not sighting.body_complete:
        yield f"{name} got an answer, though the oracle has not read all of its body"
    if not received.whole:
        return
    whole_bytes = len(answer.body) - (question.fate is Fate.SAYS_TOO_MUCH and bool(answer.body))
    if len(received.body) < whole_bytes and not (case.wire_broke and _ends_with_input(received)):
        yield f"{name} got {len(received.body)} bytes of {len(answer.body)}, which seemed whole"
    if question.fate in _CUT_ANSWER - {Fate.SAYS_TOO_MUCH} and request.method != "HEAD":
        yield f"{name} got an answer that seemed whole, though it was none"
    if received.trailers != answer.trailers:
        yield f"{name} got the trailers {received.trailers}, not {answer.trailers}"


def _ends_with_input(received: Received) -> bool:
    """Tell whether nothing but the end of the input says where the answer ends, as for HTTP/1.0."""
    return not (received.values(b"content-length") or received.values(b"transfer-encoding"))


def _faults_of_own_answer(case: Case, told: Told, received: Received) -> Iterator[str]:
    """Judge an answer that is the server's own."""
    assert received.head is not None
    status = received.head.status
    if status not in _own_statuses(case, told.plan):
        yield f"{case}'s request {told.plan.question.id} was answered {status} by the server itself"
    if status not in _OWN_WORDS and b"close" not in received.values(b"connection"):
        yield f"{case}'s request was refused with {status}, and the connection was kept"
    words = b"" if told.plan.method == "HEAD" else _OWN_WORDS.get(status, b"")
    if bytes(received.body) != words if received.whole else not words.startswith(received.body):
        yield f"{case} got {bytes(received.body)!r} with the server's own {status}"


def _own_statuses(case: Case, request: RequestPlan) -> set[int]:
    """Return what the server may answer by itself."""
    limits = case.limits
    statuses: set[int] = set()
    if request.rejection is not None:
        statuses.add(request.rejection.status)
    if request.question.fate in _OWN_500:
        statuses.add(500)
    if case.seconds >= limits.max_request_seconds:
        statuses.add(503)
    if _line_is_too_long(case, request):
        statuses.add(414)
    if _headers_are_too_large(case, request):
        statuses.add(431)
    most = limits.max_request_body_bytes
    if most is not None and len(request.framed_body) > most:
        statuses.add(413)
    rate = limits.min_request_body_bytes_per_second
    if case.seconds >= limits.request_headers_seconds or (
        rate is not None and case.seconds >= limits.request_body_grace_seconds
    ):
        statuses.add(408)
    if case.input_ended:
        statuses.add(400)
    return statuses


def _line_is_too_long(case: Case, request: RequestPlan) -> bool:
    head = request.bad_head or request.head
    return len(head.split(b"\r\n")[0]) + 2 > case.limits.max_request_line_bytes


def _headers_are_too_large(case: Case, request: RequestPlan) -> bool:
    head = request.bad_head or request.head
    return (
        len(head) > case.limits.max_request_headers_bytes
        if request.bad_head
        else (len(head.partition(b"\r\n")[2]) > case.limits.max_request_headers_bytes)
    )


def _faults_of_order(case: Case) -> Iterator[str]:
    """No answer may come behind one that is not whole, or that says that it is the last."""
    ended_by: str | None = None
    for told in case.client.told:
        received = told.received
        if received is None:
            continue
        if ended_by is not None and received.head is not None:
            yield f"{case}'s request {told.plan.question.id} was answered behind {ended_by}"
        if not received.whole:
            ended_by = "an answer that is not whole"
        elif b"close" in received.values(b"connection"):
            ended_by = "the last answer"


# What the oracle saw ----------------------------------------------------------------------------


def _faults_of_sightings(case: Case) -> Iterator[str]:
    """The oracle sees each request once, in order, and nothing that was not sent."""
    begun = [told.plan.question.id for told in case.client.told]
    seen = [sighting.question.id for sighting in case.sightings]
    if seen != begun[: len(seen)]:
        yield f"{case} sent {begun}, and the oracle saw {seen}"
        return
    for sighting, told in zip(case.sightings, case.client.told, strict=False):
        yield from _faults_of_sighting(case, sighting, told.plan)


def _faults_of_sighting(case: Case, sighting: Sighting, request: RequestPlan) -> Iterator[str]:
    name = f"{case}'s request {request.question.id}"
    if request.bad_head:
        yield f"{name} is none, but the oracle was asked it"
    if sighting.question != request.question or sighting.method != request.method:
        yield f"{name} was seen by the oracle as {sighting.method} {sighting.question}"
    if _line_is_too_long(case, request) or _headers_are_too_large(case, request):
        yield f"{name} was seen by the oracle, though its head is too long"
    if sighting.http_version != ("1.1" if request.http11 else "1.0"):
        yield f"{name} was seen as HTTP/{sighting.http_version}"
    if request.bad_body:
        if sighting.body_complete:
            yield f"{name} has a body that is none, but the oracle read all of it"
        return
    if not request.body.startswith(sighting.body):
        yield f"the oracle read something else than the body of {name}"
    if sighting.body_complete:
        if len(sighting.body) != len(request.body):
            yield f"the oracle took {len(sighting.body)} bytes for the whole body of {name}"
        if sighting.trailers != list(request.trailers):
            yield f"the oracle saw the trailers {sighting.trailers} of {name}"
    most = case.limits.max_request_body_bytes
    if most is not None and len(sighting.body) > most:
        yield f"the oracle read {len(sighting.body)} bytes of the body of {name}, over the limit"


# What is missing --------------------------------------------------------------------------------


def _faults_of_what_is_missing(case: Case) -> Iterator[str]:
    """A request without its whole answer needs somebody who is to blame."""
    if case.client.end is End.NOT_CONNECTED:
        return
    for told in case.client.told:
        if told.received is not None and told.received.whole:
            continue
        name = f"{case}'s request {told.plan.question.id}"
        sighting = case.sighting_of(told.plan)
        if not _may_be_missing(case, told, sighting):
            ended = "not seen" if sighting is None else sighting.ended.value
            yield (
                f"{name} was not answered whole (oracle: {ended}, client: {case.client.end},"
                f" server: {case.reason})"
            )
        return  # whatever comes behind it has the same cause


def _may_be_missing(case: Case, told: Told, sighting: Sighting | None) -> bool:
    """Tell whether something that happened explains why this request has no whole answer."""
    if case.wire_broke or case.client.end in (End.LEFT, End.GAVE_UP):
        return True
    if case.client.end is End.RESET and (
        case.reason in _RESETS
        or case.crossed
        or case.was_cut
        or case.connection is None
        or _is_refused_behind_its_start(case)
        or _has_another_reason(case, sighting)
    ):
        return True
    if sighting is None:
        # The server has not begun it; it may have ended the connection before, or refused it.
        return (
            case.reason in _SERVES_NO_MORE
            or not told.sent_whole
            or _was_the_last(case, told)
            or _was_refused(case, told)
        )
    # A clean end behind a part of an answer is for those alone who have said that they are gone.
    return case.input_ended and (
        sighting.ended is Ended.GONE or sighting.failure_may_be_untold(case.input_ended)
    )


def _has_another_reason(case: Case, sighting: Sighting | None) -> bool:
    """Tell whether the connection may have been reset though its last request was to end it.

    What was noted first is that. The reset came later, if it did not come of an idle connection.
    """
    if case.reason not in _LASTS:
        return False
    if sighting is None or sighting.ended is not Ended.COMPLETED:
        return True
    return "idle" in case.layers or case.is_sluggish


def _waits_without_limit(case: Case) -> bool:
    """Tell whether the oracle waits for a body that does not come, and may."""
    return case.limits.min_request_body_bytes_per_second is None and any(
        not told.sent_whole for told in case.client.told
    )


def _was_refused(case: Case, told: Told) -> bool:
    """Tell whether the body of a request before turned out wrong, maybe behind its answer.

    Or this one was wrong, and the client, which did not take the answer in time, was reset.
    """
    reasons = {rejection.end_reason for rejection in Rejection}
    was_cut = case.is_sluggish and case.client.end is End.RESET
    return case.reason in reasons and (told is not case.client.told[0] or was_cut)


def _is_refused_behind_its_start(case: Case) -> bool:
    """Tell whether a request turned out wrong when its answer had begun."""
    reasons = {rejection.end_reason for rejection in Rejection}
    return case.reason in reasons and any(each.told_gone for each in case.sightings)


def _was_the_last(case: Case, told: Told) -> bool:
    """Tell whether a request before this one was the last that the connection was to serve."""
    for before in case.client.told:
        if before is told:
            return False
        if before.plan.ends_connection or before.plan.question.closes:
            return True
        if before.received is not None and b"close" in before.received.values(b"connection"):
            return True
    return False
