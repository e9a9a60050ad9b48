"""What needs libraries that only tests have, and says so where they are missing."""

from collections.abc import Generator
from contextlib import contextmanager

from kestrel_core.errors import MissingExtraError

__all__ = ["needing_extra"]


@contextmanager
def needing_extra(what: str) -> Generator[None]:
    """Import in the block, for `what`, what comes with the extra `testing`.

    Raises:
        MissingExtraError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("kestrel_"):
            raise
        raise MissingExtraError(
            f"{what} needs the library {error.name!r}; install it with:"
            " pip install 'trio-kestrel[testing]'"
        ) from error
