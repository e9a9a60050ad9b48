import logging
import logging.config
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from kestrel_core.cli.logging_setup import configure_logging, reclaim_logging

SERVER = logging.getLogger("kestrel.cli")
ACCESS = logging.getLogger("kestrel.access")
USER = logging.getLogger("shop.orders")


@contextmanager
def fresh_logging() -> Generator[None]:
    """Have a fresh process's logging for the length of the block, without pytest's handlers."""
    root, kestrel = logging.getLogger(), logging.getLogger("kestrel")
    before = (root.handlers, root.level, kestrel.level, ACCESS.level)
    root.handlers = []
    try:
        yield
    finally:
        root.handlers, root.level, kestrel.level, ACCESS.level = before
        for logger in (root, kestrel, SERVER, ACCESS, USER):
            logger.disabled = False
            logger.setLevel(logger.level)  # forgets what loggers below it have cached


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was printed to standard error, without the times."""
    return [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]


def test_the_server_and_the_application_log_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fresh_logging():
        configure_logging(logging.INFO)
        USER.info("importing")
        reclaim_logging(logging.INFO, access_log=False)
        SERVER.info("listening")
        SERVER.debug("not told")
        USER.info("serving")
    assert lines(capsys) == [
        "INFO shop.orders: importing",
        "INFO kestrel.cli: listening",
        "INFO shop.orders: serving",
    ]


def test_the_level_holds_for_both(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_logging():
        configure_logging(logging.ERROR)
        reclaim_logging(logging.ERROR, access_log=False)
        SERVER.warning("not told")
        USER.warning("not told")
        USER.error("told")
    assert lines(capsys) == ["ERROR shop.orders: told"]


def test_the_access_log_is_there_at_any_level(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_logging():
        configure_logging(logging.ERROR)
        reclaim_logging(logging.ERROR, access_log=True)
        SERVER.info("not told")
        ACCESS.info("a request")
    assert lines(capsys) == ["INFO kestrel.access: a request"]


def test_an_application_that_configures_logging_keeps_its_format(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fresh_logging():
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
    assert capsys.readouterr().err == "mine: listening\n"


def test_an_application_that_removes_the_handlers_does_not_silence_the_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fresh_logging():
        configure_logging(logging.INFO)
        logging.getLogger().handlers.clear()
        reclaim_logging(logging.INFO, access_log=False)
        SERVER.info("listening")
    assert lines(capsys) == ["INFO kestrel.cli: listening"]
