"""Admission: which connections an endpoint takes, decided before a byte of them is read."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from kestrel_core.middleware import Layer, Middleware
from kestrel_core.protocol import SniffedLayer
from kestrel_core.transport import Listener

__all__ = ["Admission", "place_of_tls"]


class Admission(Layer):
    """A middleware that can wrap accepting, too.

    Where nothing but other admissions stands outside of it, the server has it wrap the listener,
    and does not call it for each connection: what it refuses then costs no task. Elsewhere, as
    inside a middleware that corrects `Connection.remote`, it is called like any other.
    """

    needs_bytes: ClassVar[bool] = False

    @abstractmethod
    def wrap(self, listener: Listener) -> Listener:
        """Return what accepts from `listener` only what may come in.

        Called once for each endpoint. What it returns passes `endpoint`, `unbind` and `aclose` on,
        and ends a waiting `accept` with `trio.ClosedResourceError` when it is unbound. It aborts
        and closes what it refuses.
        """


def place_of_tls(middleware: Sequence[Middleware]) -> int:
    """Return the index at which TLS stands unless somebody says otherwise.

    That is just inside of whatever decides about connections before they speak, or is spoken before
    TLS: admissions, and layers such as the PROXY protocol.
    """
    outside = [
        index for index, each in enumerate(middleware) if isinstance(each, Admission | SniffedLayer)
    ]
    return outside[-1] + 1 if outside else 0
