"""Which of several protocols a connection speaks, told by ALPN and by its first bytes.

Theory of operation. A name that TLS agreed on (ALPN) chooses the protocol. Otherwise the entries
are asked, in order, about everything that has come; nothing of it is consumed. Who says NO is not
asked again. The first that says YES is taken once all before it have said NO; those after it do not
matter any more. While nobody can be taken the prefix grows, until it is too long or too late.

An entry may be a layer, such as TLS: what it wraps is detected again inside of it, among all the
protocols and the layers that come after it in the list. Those detections are made beforehand, one
in the other: `_detections_inside` makes them.

A wait costs no cancel scope: the connection's deadline and its `close_requested` wake the pending
read. To see how a choice is made, begin with `_find`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import attrs

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_core.features import TlsInfo
from kestrel_core.middleware import ConnectionHandler, Middleware, compose
from kestrel_core.protocol import Detection, Protocol, Sniff, SniffedLayer
from kestrel_core.validators import above_zero

__all__ = ["Detect"]

# Of what fits nothing, so much is logged.
_LOGGED_BYTES = 64

_YES, _NO, _MORE = Sniff.YES, Sniff.NO, Sniff.MORE

_log = logging.getLogger("kestrel.detect")

_Entry: TypeAlias = Protocol | SniffedLayer


def _distinct(
    _detect: object, _attribute: "attrs.Attribute[Any]", entries: Iterable[object]
) -> None:
    names: set[str] = set()
    for entry in entries:
        if not isinstance(entry, Protocol | SniffedLayer):
            raise ConfigurationError(
                f"{entry!r} cannot be detected, as it is neither a Protocol nor a SniffedLayer;"
                " a handler and a function that recognizes its bytes make one by sniffed_protocol()"
            )
        if entry.name in names:
            raise ConfigurationError(f"{entry.name!r} is to be detected twice; leave one out")
        names.add(entry.name)
    if not any(isinstance(entry, Protocol) for entry in entries):
        raise ConfigurationError(
            "there is no protocol to detect"
            + (f": {', '.join(sorted(names))} only wrap one; add one" if names else "; give some")
        )


@attrs.frozen
class _Choice:
    """Somebody who can serve the connection, and how to tell whether that is who is wanted."""

    name: str
    sniff: Callable[[bytes], Sniff]
    serve: ConnectionHandler


@attrs.define(eq=False)
class Detect(Detection):
    """Serves a connection by whichever of `entries` it turns out to speak.

    One instance may serve any number of endpoints. What a sniffer raises comes out.

    Raises:
        ConfigurationError: `entries` has no protocol, two with one name, or layers in an order
            that makes no sense.
        ValueError: a number is not above zero.
    """

    entries: Sequence[_Entry] = attrs.field(converter=tuple[_Entry, ...], validator=_distinct)
    """What is looked for; the first that fits is taken."""

    max_prefix_bytes: int = attrs.field(default=16 * 1024, kw_only=True, validator=above_zero)
    """Bytes after which a peer that fits nothing yet will not do so any more (nginx:
    `preread_buffer_size`)."""

    seconds: float = attrs.field(default=30.0, kw_only=True, validator=above_zero)
    """How long a peer may take until it is clear what it speaks (nginx: `preread_timeout`), and
    again inside of each layer."""

    silent: ConnectionHandler | None = attrs.field(default=None, kw_only=True)
    """Serves a peer that says nothing for `seconds`, as those do that wait to be greeted."""

    fallback: ConnectionHandler | None = attrs.field(default=None, kw_only=True)
    """Serves what fits nothing; such a connection is ended otherwise."""

    alpn: tuple[str, ...] = attrs.field(init=False)
    """The ALPN names of the protocols, for the TLS outside of it or among its entries."""

    _choices: Sequence[_Choice] = attrs.field(init=False, repr=False)
    _choices_by_alpn: dict[str, Sequence[_Choice]] = attrs.field(init=False, repr=False)
    _inside: "dict[str, Detect]" = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        protocols = [entry for entry in self.entries if isinstance(entry, Protocol)]
        self.alpn = tuple(dict.fromkeys(name for each in protocols for name in each.alpn))
        self._inside = self._detections_inside()
        self._choices = [
            _Choice(entry.name, entry.sniff, self._server_of(entry)) for entry in self.entries
        ]
        layers = [choice for choice in self._choices if choice.name in self._inside]
        self._choices_by_alpn = {
            name: [*layers, _Choice(protocol.name, _agreed_on, protocol)]
            for protocol in reversed(protocols)  # so that the first of two with one name is taken
            for name in protocol.alpn
        }
        self.check_place((), ())

    def _detections_inside(self) -> "dict[str, Detect]":
        """Return what is detected inside of each layer."""
        first = next((entry for entry in self.entries if isinstance(entry, SniffedLayer)), None)
        if first is None:
            return {}
        inside = attrs.evolve(self, entries=[each for each in self.entries if each is not first])
        return {first.name: inside, **inside._inside}

    def _server_of(self, entry: _Entry) -> ConnectionHandler:
        return entry if isinstance(entry, Protocol) else compose([entry], self._inside[entry.name])

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        """Check that the layers among `entries` may stand inside of `outer` and of each other.

        The order of the list is the order in which they may wrap each other.

        Raises:
            ConfigurationError: one may not.
        """
        layers = [entry for entry in self.entries if isinstance(entry, SniffedLayer)]
        for position, layer in enumerate(layers):
            inside = [*layers[position + 1 :], self._inside[layer.name], *inner]
            layer.check_place([*outer, *layers[:position]], inside)

    async def __call__(self, connection: Connection) -> None:
        """Find out what `connection` speaks, and serve that."""
        tls = connection.features.get(TlsInfo)
        choices = None if tls is None else self._choices_by_alpn.get(tls.alpn or "")
        chosen: ConnectionHandler | None
        if choices is None or self._inside:
            chosen = await self._find(connection, choices or self._choices)
        else:
            chosen = _chosen(connection, choices[0])
        if chosen is not None:
            await chosen(connection)

    async def _find(
        self, connection: Connection, choices: Sequence[_Choice]
    ) -> ConnectionHandler | None:
        """Return who serves the connection, or None if nobody does; its end is recorded, then."""
        reader, deadline = connection.transport.input, connection.deadline
        wake = reader.cancel_pending_read
        deadline.on_expiry = wake
        deadline.set_after(self.seconds)
        connection.close_requested.listen(wake)
        due = deadline.expires_at
        try:
            while True:
                data = await reader.read()
                taken: _Choice | None = None  # if no more comes
                if data:
                    undecided: list[_Choice] = []
                    for choice in choices:
                        answer = choice.sniff(data)
                        if answer is _MORE:
                            undecided.append(choice)
                        elif answer is _YES:
                            taken = choice
                            break
                        elif answer is not _NO:
                            raise TypeError(
                                f"{choice.name} answers a sniff with {answer!r}, no Sniff"
                            )
                    if not undecided:
                        return self._end_of_search(connection, data, taken)
                    choices = undecided if taken is None else [*undecided, taken]
                too_late = reader.read_cancelled and deadline.now() >= due
                if too_late or reader.at_eof or len(data) >= self.max_prefix_bytes:
                    return self._end_of_search(connection, data, taken, too_late=too_late)
                if connection.close_requested.is_set and not data:
                    connection.record_end(EndReason.SHUTDOWN)
                    return None
                reader.advance(0, len(data))
        finally:
            reader.advance(0)  # so that everything is shown again
            connection.close_requested.unlisten(wake)
            deadline.clear()
            deadline.on_expiry = None

    def _end_of_search(
        self,
        connection: Connection,
        data: bytes,
        taken: _Choice | None,
        *,
        too_late: bool = False,
    ) -> ConnectionHandler | None:
        if taken is not None:
            return _chosen(connection, taken)
        if too_late:
            if self.silent is not None and not data:
                return self.silent
            reason = EndReason.PROTOCOL_DETECTION_TIMEOUT
        elif data:
            reason = EndReason.PROTOCOL_NOT_DETECTED
        else:
            reason = EndReason.PEER_CLOSED
        if data and _log.isEnabledFor(logging.DEBUG):
            _log.debug(
                "connection %s speaks nothing that is known here; it begins with %r",
                connection.id,
                data[:_LOGGED_BYTES],
                extra={"connection_id": connection.id},
            )
        if reason is EndReason.PROTOCOL_NOT_DETECTED and self.fallback is not None:
            return self.fallback
        connection.record_end(reason)
        return None


def _chosen(connection: Connection, choice: _Choice) -> ConnectionHandler:
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug(
            "connection %s speaks %s",
            connection.id,
            choice.name,
            extra={"connection_id": connection.id},
        )
    return choice.serve


def _agreed_on(_prefix: bytes) -> Sniff:
    """Recognize what ALPN has named already."""
    return _YES
