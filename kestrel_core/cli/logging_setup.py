"""Where the command's log goes: to standard error, unless the application has its own idea."""

import logging

__all__ = ["configure_logging", "reclaim_logging"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_DATE_FORMAT = "%Y-%m-%d %H:%M:%S%z"


def configure_logging(level: int) -> None:
    """Send everything from `level` up, the application's records too, to standard error.

    To be called before the application is imported: what that configures then takes precedence.
    """
    root = logging.getLogger()
    root.setLevel(level)
    _ensure_handler(root)


def reclaim_logging(level: int, *, access_log: bool) -> None:
    """Keep the server's own log at `level` after the application has configured logging.

    The handlers and formats that it chose stand. But `logging.config` disables every logger that
    exists and is not named in the configuration, unless told otherwise, and a root logger left at
    WARNING would swallow the line that says where the server listens.
    """
    _ensure_handler(logging.getLogger())
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("kestrel.") and isinstance(logger, logging.Logger):
            logger.disabled = False
    logging.getLogger("kestrel").setLevel(level)
    if access_log:  # asked for by name, so at any level
        logging.getLogger("kestrel.access").setLevel(logging.INFO)


def _ensure_handler(root: logging.Logger) -> None:
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT, _DATE_FORMAT))
        root.addHandler(handler)
