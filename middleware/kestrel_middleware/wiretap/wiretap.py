"""The middleware: a tap on each connection that goes through it, switched on or off."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from kestrel_core.connection import Connection
from kestrel_core.errors import ConfigurationError
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware, serve_over
from kestrel_core.validators import not_negative
from kestrel_middleware.wiretap.capture_file import CapturedStream, CaptureFile
from kestrel_middleware.wiretap.tap import Tap
from kestrel_middleware.wiretap.tapped_pipe import TappedPipe
from kestrel_middleware.wiretap.tcp_stream import SocketPair

__all__ = ["Wiretap"]


@attrs.define(kw_only=True, eq=False)
class Wiretap(Layer):
    """Shows the bytes of connections at the place where it stands, in the log and to Wireshark.

    They are shown as they are, passwords and all, wherever they are not encrypted at that place.

    Raises:
        ConfigurationError: `capture_file` cannot be written, or there is nothing to do.
        ValueError: a number is out of its range.
    """

    name: ClassVar[str] = "wiretap"

    log: bool = True
    """Log what happens to the logger `kestrel.wiretap`, at INFO."""

    capture_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """The pcapng file to write packets to; it is emptied when the first connection is tapped."""

    max_bytes_per_event: int = attrs.field(default=512, validator=not_negative)
    """Bytes of one read or write that the log shows; the capture has all of them."""

    enabled: bool = True
    """Whether connections to come are tapped from their beginning; may be changed at any time."""

    label: str = ""
    """What to call this place, such as "decrypted"; shown in the log and in the capture."""

    _capture: CaptureFile | None = attrs.field(init=False, default=None, repr=False)
    _pipes: dict[Connection, TappedPipe] = attrs.field(
        init=False, factory=dict[Connection, TappedPipe], repr=False
    )

    def __attrs_post_init__(self) -> None:
        if self.capture_file is not None:
            try:
                self._capture = CaptureFile.at(self.capture_file)
            except OSError as error:
                raise ConfigurationError(
                    f"capture_file: cannot write to {self.capture_file}: {error.strerror}"
                ) from error
        elif not self.log:
            raise ConfigurationError("log is off and there is no capture_file: nothing to do")

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that go through it now, tapped or not."""
        return self._pipes.keys()

    def is_enabled(self, connection: Connection) -> bool:
        """Tell whether `connection` is being tapped here."""
        pipe = self._pipes.get(connection)
        return pipe is not None and pipe.tap is not None

    def enable(self, connection: Connection) -> None:
        """Tap `connection` here from now on; offsets count from here.

        Raises:
            LookupError: it does not go through this wiretap now.
        """
        pipe = self._pipe_of(connection)
        if pipe.tap is None:
            self._begin(connection, pipe, "switched on")

    def disable(self, connection: Connection) -> None:
        """Tap `connection` here no more.

        Raises:
            LookupError: it does not go through this wiretap now.
        """
        pipe = self._pipe_of(connection)
        if pipe.tap is not None:
            pipe.tap.switch_off()
            self._release(pipe)

    def check_place(
        self, outer: Sequence[Middleware], inner: Sequence[Middleware | ConnectionHandler]
    ) -> None:
        """Check that no other wiretap of the chain is mixed up with this one.

        Raises:
            ConfigurationError: it stands there twice, or another has the same file.
        """
        for other in (*outer, *inner):
            if other is self:
                raise ConfigurationError("one wiretap stands twice in a chain; make two of them")
            if isinstance(other, Wiretap) and other._capture is self._capture is not None:
                raise ConfigurationError(
                    f"two wiretaps of one chain capture to {self.capture_file}, where their packets"
                    " would look like one stream; give each a capture_file of its own"
                )

    async def __call__(self, connection: Connection, following: ConnectionHandler) -> None:
        """Serve `connection`, tapped while that is switched on."""
        pipe = TappedPipe(connection.transport)
        self._pipes[connection] = pipe
        failure: BaseException | None = None
        try:
            if self.enabled:
                self._begin(connection, pipe, "begins")
            await serve_over(pipe, connection, following)
        except BaseException as error:
            failure = error
            raise
        finally:
            pipe.end(connection, failure)
            self._release(pipe)
            del self._pipes[connection]

    def _pipe_of(self, connection: Connection) -> TappedPipe:
        pipe = self._pipes.get(connection)
        if pipe is None:
            raise LookupError(f"{connection} does not go through this wiretap")
        return pipe

    def _begin(self, connection: Connection, pipe: TappedPipe, how: str) -> None:
        place = f", {self.label}" if self.label else ""
        name = f"connection {connection.id}{place}"
        stream: CapturedStream | None = None
        if self._capture is not None:
            number = int(connection.id, 32)
            sockets = SocketPair.of(connection.local, connection.remote, number)
            stream = self._capture.capture(sockets, self.label, f"{name}: {how}")
        tap = Tap(connection.id, name, self.max_bytes_per_event if self.log else None, stream)
        tap.note(f"{how}, {connection.local} <- {connection.remote}")
        pipe.switch(tap)

    def _release(self, pipe: TappedPipe) -> None:
        tap = pipe.tap
        if tap is not None:
            pipe.switch(None)
            tap.close()
