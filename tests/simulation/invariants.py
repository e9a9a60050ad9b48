"""What has to hold in every simulation; each breach is a sentence."""

import logging
import math
from collections import Counter
from collections.abc import Iterator

from kestrel_core.connection import Failure
from tests.simulation.case import cases_of
from tests.simulation.connection_invariants import faults_of_connection
from tests.simulation.oracle import Ended, Planned, Sighting
from tests.simulation.plausible_ends import faults_of_end
from tests.simulation.simulation import Stopping, Story

__all__ = ["faults_of"]

# A drain that cuts connections has to close them, which takes no time but for rounding.
_INSTANT_SECONDS = 0.001


def faults_of(story: Story) -> list[str]:
    """Return what is wrong with what happened, if anything is."""
    faults: list[str] = []
    for case in cases_of(story):
        faults += faults_of_connection(case)
        faults += faults_of_end(case)
    faults += _faults_of_accepting(story)
    faults += _faults_of_failures(story)
    faults += _faults_of_log(story)
    faults += _faults_of_stopping(story, story.stopping, story.plan.notice_seconds)
    faults += _faults_of_stopping(story, story.last_drain, 0.0)
    faults += _faults_of_metrics(story)
    if not story.served:
        faults.append("the server did not come to its end")
    return faults


def _faults_of_accepting(story: Story) -> Iterator[str]:
    """Every connection has one client, and has ended."""
    addresses = {client.plan.address for client in story.clients}
    accepted = [str(connection.remote) for connection in story.connections]
    if len(set(accepted)) != len(accepted) or not set(accepted) <= addresses:
        yield f"the server accepted {accepted} from {sorted(addresses)}"
    for connection in story.connections:
        if not connection.closed:
            yield f"the server's end of {connection.remote} was not closed"
        if connection.end_reason is None:
            yield f"the server's end of {connection.remote} has no reason to have ended"
        if connection.context.timers is not story.connections[0].context.timers:
            yield "connections of one server have different timers"
    for sighting in story.sightings:
        if sighting.client not in addresses:
            yield f"the oracle was asked by {sighting.client}, who is none of {sorted(addresses)}"
        if sighting.ended is Ended.OPEN:
            yield f"the oracle is still at work on {sighting.question.id}"
    for name, times in Counter(each.question.id for each in story.sightings).items():
        if times > 1:
            yield f"the oracle saw {name} {times} times"


def _faults_of_failures(story: Story) -> Iterator[str]:
    """What the server reports as failures is what the oracle did on purpose."""
    reported = {_name_of(failure) for failure in story.failures}
    planned = {_name_of_request(each) for each in story.sightings if each.failed}
    untold = {
        _name_of_request(sighting)
        for case in cases_of(story)
        for sighting in case.sightings
        if sighting.failure_may_be_untold(case.input_ended)
    }
    if not planned - untold <= reported <= planned or len(reported) < len(story.failures):
        yield f"the server reported the failures {sorted(reported)}, not {sorted(planned)}"
    for failure in story.failures:
        if isinstance(failure.error, AssertionError | TypeError | AttributeError | KeyError):
            yield f"the server reported {failure.error!r}"


def _name_of_request(sighting: Sighting) -> tuple[str, str]:
    return sighting.client, sighting.question.id


def _name_of(failure: Failure) -> tuple[str, str]:
    if isinstance(failure.error, Planned):
        name = str(failure.error)
    else:
        _, _, target = failure.message.rpartition(" /")
        name = target.partition("?")[0]
    return str(failure.connection.remote), name


def _faults_of_log(story: Story) -> Iterator[str]:
    """Nothing is logged as a warning or worse that nobody has to look at."""
    cut = story.stopping.cut > 0 or story.last_drain.cut > 0
    failed = Counter(failure.message for failure in story.failures)
    for record in story.records:
        text = record.getMessage()
        if record.levelno >= logging.ERROR and failed[text] > 0:
            failed[text] -= 1
        elif text.startswith("the application was cancelled"):
            if story.plan.limits.max_request_seconds == math.inf:
                yield f"logged: {text}"
        elif "did not finish in" in text:
            if not cut:
                yield f"logged: {text}"
        elif not (record.name == "kestrel.admission" and "admission" in _layers(story)):
            yield f"logged by {record.name}: {text}"
    if +failed:
        yield f"failures were not logged: {list(+failed)}"


def _layers(story: Story) -> set[str]:
    return {layer.name for layer in story.plan.middleware}


def _faults_of_stopping(story: Story, stopping: Stopping, notice_seconds: float) -> Iterator[str]:
    """A drain ends in its time."""
    if stopping.began_at == math.inf:
        return
    most_seconds = story.plan.drain_seconds + notice_seconds + _INSTANT_SECONDS
    took_seconds = stopping.ended_at - stopping.began_at
    if not took_seconds <= most_seconds:
        yield f"a drain of {story.plan.drain_seconds:g} s took {took_seconds:g} s"


def _faults_of_metrics(story: Story) -> Iterator[str]:
    """What the server counts adds up."""
    metrics = story.metrics
    if metrics is None:
        yield "there are no metrics"
        return
    if metrics.open_connections or metrics.rented_blocks:
        yield f"something is left: {metrics}"
    if metrics.accepted_connections != len(story.connections):
        yield f"{len(story.connections)} connections were accepted, but counted were {metrics}"
    if sum(metrics.ended_connections.values()) != metrics.accepted_connections:
        yield f"connections are missing among those that ended: {metrics}"
    if metrics.failures != len(story.failures):
        yield f"{len(story.failures)} failures, but counted were {metrics}"
    cut = sum(
        sighting.cancelled_at is not None
        and sighting.cancelled_at >= min(story.stopping.began_at, story.last_drain.began_at)
        for sighting in story.sightings
    )
    if not len(story.sightings) - cut <= metrics.requests <= len(story.sightings):
        yield f"the oracle saw {len(story.sightings)} requests, {cut} were cut; counted: {metrics}"
    if sum(metrics.responses.values()) > metrics.requests:
        yield f"there are more responses than requests: {metrics}"
    answered = Counter(
        sighting.question.status
        for sighting in story.sightings
        if sighting.ended is Ended.COMPLETED and sighting.cancelled_at is None
    )
    for status, times in answered.items():
        if metrics.responses.get(status, 0) < times:
            yield f"{times} responses {status} were completed, but counted were {metrics}"
