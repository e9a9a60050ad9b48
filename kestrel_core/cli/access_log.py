"""The access log: one record for each request, its text a view of its fields."""

import logging

import trio

from kestrel_core.application import ServedExchange

__all__ = ["log_exchange"]

_log = logging.getLogger("kestrel.access")


def log_exchange(exchange: ServedExchange) -> None:
    """Log one finished exchange.

    A handler or formatter finds everything as attributes of the record: `client`, `method`,
    `target`, `protocol`, `status` (None if no answer was sent), `bytes` of response body,
    `duration` in seconds and `connection_id`.
    """
    client = str(exchange.connection.remote or "-")
    target = _printable(exchange.target)
    protocol = f"HTTP/{exchange.http_version}"
    duration = trio.current_time() - exchange.started_at
    _log.info(
        '%s "%s %s %s" %s %d %.6f',
        client,
        exchange.method,
        target.replace('"', '\\"'),
        protocol,
        "-" if exchange.status is None else exchange.status,
        exchange.response_body_bytes,
        duration,
        extra={
            "client": client,
            "method": exchange.method,
            "target": target,
            "protocol": protocol,
            "status": exchange.status,
            "bytes": exchange.response_body_bytes,
            "duration": duration,
            "connection_id": exchange.connection.id,
        },
    )


def _printable(target: bytes) -> str:
    """Return the target with whatever is not printable ASCII escaped: a line stays a line."""
    text = target.decode("ascii", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
