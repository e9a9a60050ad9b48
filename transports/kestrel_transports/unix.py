"""Unix sockets: files, or names, at which the processes of one machine meet.

`unix:///run/app.sock` is a file; `unix://@name` is an abstract name, which Linux keeps apart from
the file system: nothing is left behind, and every process of the same network namespace may
connect. A file whose path begins with @ is written `./@...`, and a question mark in a path %3F.

Options, for `bind` and `connect` alike, so that a bound endpoint can be connected to as it is:

* `backlog=512`: how many connections may wait to be accepted.
* `mode=660`: the file's permissions; whoever may write to it may connect. Without it the umask
  decides, which as a rule leaves the owner alone able to connect.
* `owner=user:group`, `owner=user` or `owner=:group`: whose the file is, by names or numbers. To
  give it to another user takes the right to.
"""

import os
import socket
import struct
import sys

import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError
from kestrel_core.features import PeerCredentials
from kestrel_core.transport import Listener, TransportContext
from kestrel_transports._listeners import (
    SocketListener,
    SocketTransport,
    backlog_option,
    closed_on_failure,
)
from kestrel_transports._poller import Poller
from kestrel_transports._socket_file import MOST_PATH_BYTES, FileAccess, SocketFile
from kestrel_transports._sockets import SocketPipe, connection_over

__all__ = ["UnixTransport"]

_OPTIONS = {"backlog", "mode", "owner"}

# A full queue is no event that could be waited for; this long is nothing to a server in that state.
_RETRY_SECONDS = 0.01

# Linux's `struct ucred`.
_CREDENTIALS = struct.Struct("iII")

# Since Linux 6.16, and not in Python 3.11's socket module.
_SO_PASSRIGHTS = 83


class UnixTransport(SocketTransport):
    """`unix:///path/of/file` or, on Linux, `unix://@name`.

    Options: `backlog` (512), `mode` (such as 660) and `owner` (such as user:group). A file that a
    crashed server left behind is replaced; the file is removed when the listener is unbound. On
    Linux a connection has `PeerCredentials` while it is open. Descriptors that a peer passes are
    closed or, from Linux 6.16 on, refused.
    """

    scheme = "unix"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Bind; see `Transport.bind`."""
        endpoint.option_names_within(_OPTIONS)
        name = _socket_name(endpoint)
        backlog = backlog_option(endpoint)
        access = FileAccess.of(endpoint)
        if access and _is_abstract(name):
            raise endpoint.error("an abstract name is no file, so it has no mode and no owner")
        await trio.lowlevel.checkpoint()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with closed_on_failure(listening):
                file: SocketFile | None = None
                if _is_abstract(name):
                    listening.bind(name)
                    listening.listen(backlog)
                else:
                    file = SocketFile.listen(listening, name, endpoint, access, backlog)
                return _UnixListener(listening, file, endpoint, context, self.poller(context))
        except BindError:
            raise
        except OSError as error:
            raise BindError(f"cannot bind {endpoint}: {error.strerror or error}") from error

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect, waiting while the queue there is full; see `Transport.connect`."""
        endpoint.option_names_within(_OPTIONS)
        name = _socket_name(endpoint)
        await trio.lowlevel.checkpoint()
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closed_on_failure(connected):
            connected.setblocking(False)
            stops_short = not _refuse_descriptors(connected)
            while True:
                try:
                    connected.connect(name)
                except BlockingIOError:
                    await trio.sleep(_RETRY_SECONDS)
                else:
                    break
            pipe = _UnixPipe(connected, self.poller(context), stops_short=stops_short)
            local = _address(connected.getsockname())
            return connection_over(pipe, context, local=local, remote=Address(endpoint.address))


class _UnixPipe(SocketPipe):
    __slots__ = ()

    def find_feature(self, kind: type[object]) -> object | None:
        """Tell also who the peer is, or was when it connected or began to listen."""
        if kind is PeerCredentials and sys.platform == "linux" and self.connected.fileno() >= 0:
            packed = self.connected.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            return PeerCredentials(*_CREDENTIALS.unpack(packed))
        return super().find_feature(kind)


class _UnixListener(SocketListener):
    def __init__(
        self,
        listening: socket.socket,
        file: SocketFile | None,
        endpoint: Endpoint,
        context: TransportContext,
        poller: Poller,
    ) -> None:
        super().__init__([listening], endpoint, context, poller)
        self._file = file
        self._local = Address(endpoint.address)
        # Accepted sockets have this from the listening one.
        self._stops_short = not _refuse_descriptors(listening)

    def connection(self, accepted: socket.socket, address: object) -> Connection:
        """Make the connection; hardly any client has an address of its own."""
        pipe = _UnixPipe(accepted, self.poller, stops_short=self._stops_short)
        return connection_over(pipe, self.context, local=self._local, remote=_address(address))

    async def unbind(self) -> None:
        """Remove the file, if it is still ours, and close the socket."""
        file, self._file = self._file, None
        if file is not None:
            file.remove()
        await super().unbind()


def _socket_name(endpoint: Endpoint) -> bytes:
    """Return what the kernel knows `endpoint`'s address as.

    Raises:
        EndpointError: it is no such name, or too long for one.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise endpoint.error("this system has no Unix sockets")
    address = endpoint.address
    if "\0" in address:
        raise endpoint.error("a path has no zero bytes; an abstract name is written unix://@name")
    name = os.fsencode(address)
    if address.startswith("@"):
        if sys.platform != "linux":
            raise endpoint.error(
                "this system has no abstract names, and the path of a file is written ./@..."
            )
        if address == "@":
            raise endpoint.error("the name is missing after @")
        name = b"\0" + name[1:]
    size = len(name) - _is_abstract(name)
    if size > MOST_PATH_BYTES:
        raise endpoint.error(
            f"the name takes {size} bytes, and this system has room for {MOST_PATH_BYTES};"
            " choose a shorter one, or a path relative to the working directory"
        )
    return name


def _is_abstract(name: bytes) -> bool:
    return name.startswith(b"\0")


def _address(name: object) -> Address | None:
    """Return the address that a socket's name stands for, spelt as endpoints spell it."""
    match name:
        case bytes() if _is_abstract(name):
            return Address("@" + os.fsdecode(name[1:]))
        case str() if name:
            return Address(name)
        case _:
            return None


def _refuse_descriptors(end: socket.socket) -> bool:
    """Have peers fail to pass descriptors, which nobody here takes; tell whether that works.

    Where it does not, a read stops short of what follows a descriptor.
    """
    if sys.platform != "linux":
        return False
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True
