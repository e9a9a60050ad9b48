"""The pipe of a connection that carries no bytes of its own, only streams."""

from typing import NoReturn

import trio

from kestrel_core.duplex_pipe import DuplexPipe
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.pipe_writer import PipeWriter

__all__ = ["BytelessPipe"]

_WHY = "a multiplexed connection carries no bytes of its own; open or accept a stream"


class _Reader(PipeReader):
    __slots__ = ()

    async def _fetch(self) -> None:
        raise trio.ClosedResourceError(_WHY)

    def _wake(self) -> None: ...


class _Writer(PipeWriter):
    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self._closed = True

    def _raise_unusable(self) -> NoReturn:
        raise trio.ClosedResourceError(_WHY)

    async def _transmit(self, data: bytes | memoryview) -> None:
        self._raise_unusable()

    def _transmit_nowait(self, data: bytes | memoryview) -> int:
        return 0

    async def _transmit_eof(self) -> None:
        self._raise_unusable()


class BytelessPipe(DuplexPipe):
    """The `transport` of a `MultiplexedConnection`: every use raises `trio.ClosedResourceError`.

    Closing and aborting it do nothing.
    """

    __slots__ = ("_input", "_output")

    def __init__(self) -> None:
        self._input = _Reader()
        self._output = _Writer()

    @property
    def input(self) -> PipeReader:
        """Nothing to read from."""
        return self._input

    @property
    def output(self) -> PipeWriter:
        """Nothing to write to."""
        return self._output

    async def aclose(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""
