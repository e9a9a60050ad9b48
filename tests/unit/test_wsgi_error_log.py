import logging
import traceback
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_protocols.wsgi.error_log import ErrorLog


@pytest.fixture
async def connection() -> Connection:
    return Connection(duplex_pipe_pair()[0], ConnectionContext())


@pytest.fixture
async def errors(connection: Connection) -> ErrorLog:
    return ErrorLog(connection)


async def test_a_line_is_a_record(
    errors: ErrorLog, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    print("one", 2, file=errors)
    [record] = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == (
        "kestrel.wsgi",
        "ERROR",
        "one 2",
    )
    assert vars(record)["connection_id"] == connection.id


async def test_a_line_may_be_written_in_parts(
    errors: ErrorLog, caplog: pytest.LogCaptureFixture
) -> None:
    assert errors.write("a ") == 2
    errors.writelines(["li", "ne"])
    assert caplog.messages == []
    errors.write("\n")
    assert caplog.messages == ["a line"]


async def test_what_is_written_at_once_is_one_record(
    errors: ErrorLog, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ValueError("oh")
    except ValueError:
        errors.write(traceback.format_exc())
    [message] = caplog.messages
    assert message.startswith("Traceback")
    assert message.endswith("ValueError: oh")


async def test_flushing_logs_what_is_there(
    errors: ErrorLog, caplog: pytest.LogCaptureFixture
) -> None:
    errors.write("no line's end, and 100 %s")
    errors.flush()
    errors.flush()
    assert caplog.messages == ["no line's end, and 100 %s"]
    assert errors.writable()


async def test_a_blank_line_is_no_record(
    errors: ErrorLog, caplog: pytest.LogCaptureFixture
) -> None:
    errors.write("\n")
    assert caplog.messages == []


@contextmanager
def all_logged_to(errors: ErrorLog) -> Generator[None]:
    """Configure logging as Flask's documentation has it."""
    handler = logging.StreamHandler(errors)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


async def test_a_handler_that_logs_its_own_output_comes_to_an_end(
    errors: ErrorLog, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with all_logged_to(errors):
        logging.getLogger("shop").error("sold out")
    assert caplog.messages == ["sold out", "shop: sold out"]
    assert capsys.readouterr().err == "kestrel.wsgi: shop: sold out\n"
