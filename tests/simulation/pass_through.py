"""A layer through which every byte goes unchanged."""

from collections.abc import Awaitable
from typing import ClassVar

from kestrel_core.connection import Connection
from kestrel_core.layered_pipe import LayeredPipe, LayerReader, LayerWriter
from kestrel_core.middleware import ConnectionHandler, Layer, serve_over

__all__ = ["PassThrough"]


class PassThrough(Layer):
    """Puts a pipe over the pipe below."""

    name: ClassVar[str] = "pass through"

    def __call__(self, connection: Connection, following: ConnectionHandler) -> Awaitable[None]:
        """Serve `connection` through one more layer."""
        inner = connection.transport
        pipe = LayeredPipe(inner, LayerReader(inner.input), LayerWriter(inner.output))
        return serve_over(pipe, connection, following)
