import io
import logging
import logging.config
from collections.abc import Generator

import pytest

from kestrel_core.cli.logging_setup import configure_logging, reclaim_logging

SERVER = logging.getLogger("kestrel.cli")
ACCESS = logging.getLogger("kestrel.access")
USER = logging.getLogger("shop.orders")


@pytest.fixture(autouse=True)
def stderr(monkeypatch: pytest.MonkeyPatch) -> Generator[io.StringIO]:
    """Give each test a process's fresh logging, and an error stream to look at."""
    root, kestrel = logging.getLogger(), logging.getLogger("kestrel")
    before = (root.handlers, root.level, kestrel.level, ACCESS.level)
    root.handlers = []
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    yield stream
    root.handlers, root.level, kestrel.level, ACCESS.level = before
    for logger in (root, kestrel, SERVER, ACCESS, USER):
        logger.disabled = False
        logger.setLevel(logger.level)  # forgets what loggers below it have cached


def lines(stderr: io.StringIO) -> list[str]:
    """Return what was printed, without the times."""
    return [line.split(" ", 2)[2] for line in stderr.getvalue().splitlines()]


def test_the_server_and_the_application_log_to_standard_error(stderr: io.StringIO) -> None:
    configure_logging(logging.INFO)
    USER.info("importing")
    reclaim_logging(logging.INFO, access_log=False)
    SERVER.info("listening")
    SERVER.debug("not told")
    USER.info("serving")
    assert lines(stderr) == [
        "INFO shop.orders: importing",
        "INFO kestrel.cli: listening",
        "INFO shop.orders: serving",
    ]


def test_the_level_holds_for_both(stderr: io.StringIO) -> None:
    configure_logging(logging.ERROR)
    reclaim_logging(logging.ERROR, access_log=False)
    SERVER.warning("not told")
    USER.warning("not told")
    USER.error("told")
    assert lines(stderr) == ["ERROR shop.orders: told"]


def test_the_access_log_is_there_at_any_level(stderr: io.StringIO) -> None:
    configure_logging(logging.ERROR)
    reclaim_logging(logging.ERROR, access_log=True)
    SERVER.info("not told")
    ACCESS.info("a request")
    assert lines(stderr) == ["INFO kestrel.access: a request"]


def test_an_application_that_configures_logging_keeps_its_format(stderr: io.StringIO) -> None:
    configure_logging(logging.INFO)
    logging.config.dictConfig(
        {
            "version": 1,
            "formatters": {"mine": {"format": "mine: %(message)s"}},
            "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
            "root": {"handlers": ["mine"], "level": "WARNING"},
        }
    )
    assert SERVER.disabled
    reclaim_logging(logging.INFO, access_log=False)
    SERVER.info("listening")
    USER.info("not told")
    assert stderr.getvalue() == "mine: listening\n"


def test_an_application_that_removes_the_handlers_does_not_silence_the_server(
    stderr: io.StringIO,
) -> None:
    configure_logging(logging.INFO)
    logging.getLogger().handlers.clear()
    reclaim_logging(logging.INFO, access_log=False)
    SERVER.info("listening")
    assert lines(stderr) == ["INFO kestrel.cli: listening"]
