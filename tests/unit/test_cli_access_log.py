import logging
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from kestrel_core.cli.access_log import log_exchange
from kestrel_core.connection import Address, Connection, ConnectionContext
from kestrel_core.memory_pipe import duplex_pipe_pair


@attrs.define
class FakeExchange:
    connection: Connection
    method: str = "GET"
    target: bytes = b"/path?query"
    http_version: str = "1.1"
    status: int | None = 200
    response_body_bytes: int = 1234
    started_at: float = attrs.field(factory=trio.current_time)


def connection(remote: Address | None) -> Connection:
    pipe, _ = duplex_pipe_pair()
    return Connection(pipe, ConnectionContext(), remote=remote)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[FakeExchange], logging.LogRecord]:
    def log(exchange: FakeExchange) -> logging.LogRecord:
        with caplog.at_level(logging.INFO, "kestrel.access"):
            log_exchange(exchange)
        [record] = caplog.records
        return record

    return log


async def test_a_record_has_fields_and_a_text(
    logged: Callable[[FakeExchange], logging.LogRecord], autojump_clock: MockClock
) -> None:
    exchange = FakeExchange(connection(Address("203.0.113.7", 4711)))
    await trio.sleep(0.25)
    record = logged(exchange)
    assert record.getMessage() == '203.0.113.7:4711 "GET /path?query HTTP/1.1" 200 1234 0.250000'
    assert {
        name: getattr(record, name)
        for name in ("client", "method", "target", "protocol", "status", "bytes", "connection_id")
    } == {
        "client": "203.0.113.7:4711",
        "method": "GET",
        "target": "/path?query",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 1234,
        "connection_id": exchange.connection.id,
    }
    assert record.__dict__["duration"] == pytest.approx(0.25)


async def test_a_client_without_a_name_and_no_answer(
    logged: Callable[[FakeExchange], logging.LogRecord],
) -> None:
    record = logged(FakeExchange(connection(None), status=None, response_body_bytes=0))
    assert record.getMessage().startswith('- "GET /path?query HTTP/1.1" - 0 ')
    assert record.__dict__["status"] is None


@pytest.mark.parametrize(
    ("target", "field", "text"),
    [
        (b'/"', '/"', r"/\""),
        ("/ä".encode(), r"/\xc3\xa4", r"/\xc3\xa4"),
        (b"/\n\x1b[2J", r"/\n\x1b[2J", r"/\n\x1b[2J"),
    ],
)
async def test_a_target_cannot_forge_a_line(
    logged: Callable[[FakeExchange], logging.LogRecord], target: bytes, field: str, text: str
) -> None:
    record = logged(FakeExchange(connection(None), target=target))
    assert record.__dict__["target"] == field
    assert record.getMessage().startswith(f'- "GET {text} HTTP/1.1" 200 ')
