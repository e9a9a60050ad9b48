"""What becomes of a request whose application raised, or returned without finishing its response.

It is logged once, as an error, unless the application was told that its client is gone: raising
then is how frameworks get out of a handler, and leaving without an answer is right.
"""

import logging

from kestrel_core.connection import Failure, report_failure
from kestrel_core.end_reason import EndReason
from kestrel_protocols.http.exchange import BadRequest, ClientDisconnected, TooManyUpgrades
from kestrel_protocols.http.fields import reason_phrase
from kestrel_protocols.http1.exchange import Http1Exchange
from kestrel_protocols.http1.wire import Wire

__all__ = ["application_failed", "application_left", "application_timed_out"]

_log = logging.getLogger("kestrel.http")


async def application_failed(wire: Wire, exchange: Http1Exchange, error: Exception) -> None:
    """Answer 500 if nothing was answered, else cut the connection; log `error`, once."""
    was_told = wire.told_gone or exchange.rejection is not None
    if was_told and _is_disconnection(error):
        return
    if exchange.response_finished and isinstance(error, ClientDisconnected):
        return  # it asked for more of the request than it had wanted for its response
    if isinstance(error, TooManyUpgrades):
        _log.warning("%s", error, extra={"connection_id": exchange.connection.id})
        if not exchange.response_finished:
            await _answer_for_it(exchange, 503)
        return
    message = f"the application failed on {_request_of(exchange)}"
    if was_told:
        _log.debug(
            "%s, whose client is gone",
            message,
            exc_info=error,
            extra={"connection_id": exchange.connection.id},
        )
        return
    report_failure(_log, Failure(exchange.connection, message, error))
    if not exchange.response_finished:
        await _answer_for_it(exchange)


async def application_left(wire: Wire, exchange: Http1Exchange) -> None:
    """End the response of an application that returned without finishing it; log that, once."""
    if wire.told_gone:
        exchange.give_up()
        exchange.connection.record_end(EndReason.CONNECTION_RESET)
        return
    step = "finishing" if exchange.response_started else "starting"
    message = f"the application returned without {step} a response to {_request_of(exchange)}"
    report_failure(_log, Failure(exchange.connection, message, None))
    await _answer_for_it(exchange)


async def application_timed_out(wire: Wire, exchange: Http1Exchange) -> None:
    """Answer 503 for an application that was cancelled because the request took too long."""
    _log.warning(
        "the application was cancelled %g s after %s had arrived",
        exchange.connection.limits.max_request_seconds,
        _request_of(exchange),
        extra={"connection_id": exchange.connection.id},
    )
    if wire.torn:
        exchange.connection.record_end(EndReason.MAX_REQUEST_TIME_EXCEEDED)
    elif exchange.rejection is None and not exchange.response_finished:
        await _answer_for_it(exchange, 503, EndReason.MAX_REQUEST_TIME_EXCEEDED)


async def _answer_for_it(
    exchange: Http1Exchange,
    status: int = 500,
    reason: EndReason = EndReason.ERROR_AFTER_STARTING_RESPONSE,
) -> None:
    """Send an error, or, if something else was sent, cut the connection for `reason`.

    The client then sees that what it has is not complete.
    """
    if exchange.response_started and not exchange.retract():
        exchange.give_up()
        exchange.connection.abort(reason)
        return
    try:
        await exchange.respond(
            status,
            [(b"content-type", b"text/plain; charset=utf-8")],
            reason_phrase(status).encode("ascii"),
        )
    except ClientDisconnected:
        exchange.give_up()


def _request_of(exchange: Http1Exchange) -> str:
    return f"{exchange.method} {exchange.target.decode('ascii', 'replace')}"


def _is_disconnection(error: BaseException) -> bool:
    """Tell whether the application failed only because its client went away."""
    if isinstance(error, (BadRequest, ClientDisconnected)):
        return True
    match error:
        case BaseExceptionGroup(exceptions=parts):
            return all(_is_disconnection(part) for part in parts)
        case _:
            origin = error.__cause__ or error.__context__
            return origin is not None and _is_disconnection(origin)
