"""Forwarding: the bytes of a connection, as they are, to a server elsewhere and back.

Theory of operation. Two tasks copy, one for each direction; each waits until what it received was
taken, so whoever is slow stops the other side. The end of one direction is passed on while the
other goes on. When either side breaks the other is aborted and both tasks end. Begin with
`_Forwarding._copy`.
"""

import logging

import attrs
import trio

from kestrel_core.connection import Connection, close_within
from kestrel_core.end_reason import EndReason
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError
from kestrel_core.registry import Registry
from kestrel_core.transport import TransportContext
from kestrel_core.validators import above_zero

__all__ = ["Forward"]

_log = logging.getLogger("kestrel.forward")


def _endpoint(given: Endpoint | str) -> Endpoint:
    return given if isinstance(given, Endpoint) else Endpoint.parse(given)


@attrs.define(eq=False)
class Forward:
    """Serves a connection by connecting to another server and carrying the bytes between them.

    Both directions, their ends and their resets pass as they are. A server that cannot be reached
    is logged as a warning, and the connection is aborted. It never asks either side to finish: when
    the server drains, what is still under way is cut at the end of that.

    Raises:
        EndpointError: `to` is no endpoint.
        PluginError: nothing provides its scheme.
        ValueError: a number is not above zero.
    """

    to: Endpoint = attrs.field(converter=_endpoint)
    """Where to, such as tcp://127.0.0.1:22 or unix:///run/sshd.sock."""

    connect_seconds: float = attrs.field(default=60.0, kw_only=True, validator=above_zero)
    """How long connecting there may take (nginx: `proxy_connect_timeout`)."""

    registry: Registry = attrs.field(factory=Registry, kw_only=True, repr=False)
    """Where to find the transport; give the server's own if it has one registered by hand."""

    def __attrs_post_init__(self) -> None:
        self.registry.transport(self.to.scheme)  # so that a wrong one is told now

    async def __call__(self, connection: Connection) -> None:
        """Carry bytes until both directions have ended, or either side breaks.

        Raises:
            ConfigurationError: `connection` does not come from a server or a client context, and
                so has nothing to connect with.
            EndpointError: the options of `to` make no sense to its transport.
        """
        target = await self._connect(connection)
        if target is None:
            return
        try:
            await _Forwarding(connection, target).run()
        except BaseException:  # cancelled, or a fault: the target is to know that it is not whole
            target.abort(EndReason.APP_SHUTDOWN_TIMEOUT)
            raise
        finally:
            await close_within(target, connection.limits.linger_seconds)

    async def _connect(self, connection: Connection) -> Connection | None:
        context = connection.context
        if not isinstance(context, TransportContext):
            raise ConfigurationError(
                f"{connection} cannot be forwarded: its context is a {type(context).__name__},"
                " which connects to nothing; a TransportContext does, as a server has it"
            )
        target: Connection | None = None
        why = f"no answer in {self.connect_seconds:g} s"
        with trio.move_on_after(self.connect_seconds):
            try:
                target = await self.registry.transport(self.to.scheme).connect(self.to, context)
            except OSError as error:
                why = str(error)
        if target is None:
            _log.warning(
                "connection %s cannot be forwarded to %s: %s",
                connection.id,
                self.to,
                why,
                extra={"connection_id": connection.id},
            )
            connection.abort(EndReason.FORWARD_TARGET_UNREACHABLE)
        return target


class _Forwarding:
    """A connection and the one that it is forwarded to, while both are there."""

    def __init__(self, client: Connection, target: Connection) -> None:
        self._client = client
        self._target = target
        self._both = trio.CancelScope()

    async def run(self) -> None:
        """Carry bytes until there is nothing left to carry."""
        with self._both:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, self._client, self._target)
                nursery.start_soon(self._copy, self._target, self._client)

    async def _copy(self, source: Connection, destination: Connection) -> None:
        reader, writer = source.transport.input, destination.transport.output
        while True:
            try:
                chunk = await reader.receive()
            except trio.BrokenResourceError:
                source.record_end(EndReason.CONNECTION_RESET)
                destination.abort(EndReason.CONNECTION_RESET)  # which ends the other copying, too
                return
            try:
                if chunk:
                    await writer.send(chunk)
                elif reader.at_eof:
                    await writer.send_eof()
                    return
            except trio.BrokenResourceError:
                return  # how it ended, and what it said before, is told by reading from it
            except trio.ClosedResourceError:  # it cannot half-close, and so cannot be told alone
                self._both.cancel()
                return
