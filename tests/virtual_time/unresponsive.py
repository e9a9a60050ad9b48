"""A transport in memory of which some parts never come to an end."""

from typing import ClassVar

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.endpoint import Endpoint
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter
from kestrel_core.registry import PluginKind, Registry
from kestrel_core.transport import Listener, Transport, TransportContext
from kestrel_transports.memory import MemoryTransport

__all__ = ["Unresponsive"]


@attrs.define(kw_only=True)
class Unresponsive(Transport):
    """The in-memory transport; what is true here waits until it is cancelled."""

    scheme: ClassVar[str] = "unresponsive"

    connecting: bool = False
    closing_listeners: bool = False
    closing_accepted: bool = False
    closing_connected: bool = False
    _memory: MemoryTransport = attrs.field(init=False, factory=MemoryTransport)

    def registry(self) -> Registry:
        """Return a registry in which it can be found."""
        registry = Registry()
        registry.register(PluginKind.TRANSPORT, self.scheme, self)
        return registry

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Bind a name."""
        return _Listener(await self._memory.bind(endpoint, context), self)

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect to a name, or never."""
        if self.connecting:
            await trio.sleep_forever()
        connection = await self._memory.connect(endpoint, context)
        return _never_closing(connection) if self.closing_connected else connection


class _Listener(Listener):
    def __init__(self, inner: Listener, how: Unresponsive) -> None:
        self._inner = inner
        self._how = how

    @property
    def endpoint(self) -> Endpoint:
        return self._inner.endpoint

    async def accept(self) -> Connection:
        connection = await self._inner.accept()
        return _never_closing(connection) if self._how.closing_accepted else connection

    async def unbind(self) -> None:
        await self._inner.unbind()

    async def aclose(self) -> None:
        try:
            if self._how.closing_listeners:
                await trio.sleep_forever()
        finally:
            await self._inner.aclose()


def _never_closing(connection: Connection) -> Connection:
    return Connection(
        _Pipe(connection.transport),
        connection.context,
        local=connection.local,
        remote=connection.remote,
    )


class _Pipe(DuplexPipe):
    def __init__(self, inner: DuplexPipe) -> None:
        self._inner = inner

    @property
    def input(self) -> PipeReader:
        return self._inner.input

    @property
    def output(self) -> PipeWriter:
        return self._inner.output

    async def aclose(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._inner.abort()

    def abort(self) -> None:
        self._inner.abort()
