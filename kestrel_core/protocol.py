"""What can be found on a connection by its first bytes: protocols, and layers under protocols."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from kestrel_core.connection import Connection
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware

__all__ = ["Detection", "Protocol", "Sniff", "SniffedLayer"]


class Sniff(Enum):
    """Whether the first bytes of a connection belong to a protocol."""

    YES = "yes"
    NO = "no"
    MORE = "more"
    """So far they might; ask again with more of them."""


class Protocol(ABC):
    """A protocol that can be found on a connection and can serve it."""

    name: ClassVar[str]
    """As in the registry and in logs, such as "http/1.1"."""

    alpn: ClassVar[Sequence[str]] = ()
    """The ALPN names that choose it, as registered with IANA."""

    needs_bytes: ClassVar[bool] = True
    """Whether it reads or writes a connection's own bytes, and so cannot serve one of streams."""

    @abstractmethod
    def sniff(self, prefix: bytes) -> Sniff:
        """Tell whether `prefix`, the first bytes of a connection, are this protocol's.

        Pure: no I/O, no state. Nothing yet, b"", is MORE. Once it answered YES or NO a longer
        prefix gets the same answer, and within 16 KiB it has.
        """

    @abstractmethod
    async def __call__(self, connection: Connection) -> None:
        """Serve `connection` until it is over; the caller closes the transport.

        What the peer does wrong ends the connection with an `EndReason` and is not raised, except
        for `trio.BrokenResourceError` when the peer is gone.
        """


class SniffedLayer(Layer):
    """A layer that can be found on a connection, such as TLS; inside of it is a protocol again."""

    @abstractmethod
    def sniff(self, prefix: bytes) -> Sniff:
        """Tell whether `prefix` is how this layer begins; as `Protocol.sniff` does."""


class Detection(ABC):
    """A handler that finds out what a connection speaks, by its bytes; it ends a chain."""

    @abstractmethod
    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        """Check that what it finds may stand inside of `outer`; as `Layer.check_place` does.

        Raises:
            ConfigurationError: something may not.
        """

    @abstractmethod
    async def __call__(self, connection: Connection) -> None:
        """Serve `connection`, as every handler does."""
