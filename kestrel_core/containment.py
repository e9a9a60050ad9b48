"""What goes wrong on one connection ends that connection, is logged, and goes no further."""

import logging
from functools import partial

import trio

from kestrel_core.connection import Connection, Failure, close_within, report_failure
from kestrel_core.end_reason import EndReason
from kestrel_core.middleware import ConnectionHandler

__all__ = ["close_contained", "log_end", "run_contained"]

_log = logging.getLogger("kestrel.connection")


async def run_contained(connection: Connection, handler: ConnectionHandler) -> None:
    """Run `handler`; what it raises ends the connection, and cancellation alone comes out.

    A fault is logged as an error; a peer that went away is none.
    """
    await _contain(connection, handler, "its handler raised")


async def close_contained(connection: Connection, seconds: float) -> None:
    """Close `connection` as `close_within` does; a fault of its transport's is logged, not raised."""
    close = partial(close_within, seconds=seconds)
    await _contain(connection, close, "its transport cannot be closed")


def log_end(connection: Connection) -> None:
    """Log that the connection ended, and why, at DEBUG."""
    if _log.isEnabledFor(logging.DEBUG):
        reason = connection.end_reason
        _log.debug(
            "connection %s from %s ended: %s",
            connection.id,
            connection.remote,
            reason.value if reason is not None else "unknown",
            extra={"connection_id": connection.id, "end_reason": reason},
        )


async def _contain(connection: Connection, step: ConnectionHandler, fault: str) -> None:
    try:
        await step(connection)
    except BaseExceptionGroup as group:
        faults, rest = group.split(Exception)
        if faults is not None:
            _record_failure(connection, faults, fault)
        if rest is not None:
            raise rest from None
    except Exception as error:
        _record_failure(connection, error, fault)


def _record_failure(connection: Connection, error: Exception, fault: str) -> None:
    """Tell a peer that went away from a fault of ours, and log the latter."""
    if _is_peer_gone(error):
        connection.record_end(EndReason.CONNECTION_RESET)
    else:
        connection.abort(EndReason.OTHER_ERROR)
        message = f"connection {connection.id}: {fault}"
        report_failure(_log, Failure(connection, message, error))


def _is_peer_gone(error: BaseException) -> bool:
    match error:
        case BaseExceptionGroup(exceptions=parts):
            return all(_is_peer_gone(part) for part in parts)
        case _:
            return isinstance(error, trio.BrokenResourceError)
