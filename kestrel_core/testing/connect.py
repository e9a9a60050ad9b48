"""How a client of any kind comes by its connections."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from kestrel_core.connection import Connection

__all__ = ["Connect"]

Connect: TypeAlias = Callable[[], Awaitable[Connection]]
"""Makes one more connection to the server that a client speaks to; raises `OSError` if it is refused.

The caller closes the connection.
"""
