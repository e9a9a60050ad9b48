"""What is known about a connection, keyed by the class of the knowledge.

A transport or a middleware publishes a frozen instance of a class that this module defines (or
that the publishing package defines); everybody else reads it by that class, typed. There are no
string keys, so a misspelt one is an error of the type checker and not of the night.
"""

from abc import ABC, abstractmethod
from typing import TypeVar

import attrs

__all__ = ["FeatureSource", "Features", "PeerCredentials", "SocketInfo"]

FeatureT = TypeVar("FeatureT")


class FeatureSource(ABC):
    """Somebody who can tell a feature when it is asked for, and need not keep it until then."""

    __slots__ = ()

    @abstractmethod
    def find_feature(self, kind: type[object]) -> object | None:
        """Return an instance of exactly `kind`, or None."""


class Features:
    """A map from a class to the one instance of it that somebody published.

    What nobody published is asked of `source`. Not meant for concurrent use by threads. It costs
    nothing until something is published.
    """

    __slots__ = ("_published", "_source")

    def __init__(self, source: FeatureSource | None = None) -> None:
        self._published: dict[type[object], object] | None = None
        self._source = source

    def publish(self, feature: object) -> None:
        """Make `feature` the instance for its class, replacing an earlier one."""
        if self._published is None:
            self._published = {}
        self._published[type(feature)] = feature

    def get(self, kind: type[FeatureT]) -> FeatureT | None:
        """Return the published instance of exactly `kind`, or None."""
        feature = None if self._published is None else self._published.get(kind)
        if feature is None and self._source is not None:
            feature = self._source.find_feature(kind)
        return feature if isinstance(feature, kind) else None

    def __getitem__(self, kind: type[FeatureT]) -> FeatureT:
        """Return the published instance of exactly `kind`.

        Raises:
            KeyError: nobody published one.
        """
        feature = self.get(kind)
        if feature is None:
            raise KeyError(kind)
        return feature

    def __contains__(self, kind: type[object]) -> bool:
        return self.get(kind) is not None


@attrs.frozen
class SocketInfo:
    """The operating system's socket under a connection whose pipe still is that socket.

    `fileno` stays owned by the transport: do not close it, and do not read or write through it
    while a pipe is in use.
    """

    fileno: int


@attrs.frozen
class PeerCredentials:
    """Who is at the other end of a Unix socket, as the kernel recorded it at connect time."""

    process_id: int
    user_id: int
    group_id: int
