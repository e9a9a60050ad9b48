"""Listening sockets as listeners, and what the transports over them have in common.

Theory of operation. Readiness is told once, by an edge; `readable` remembers it until every socket
was found empty. It is cleared before they are looked at, not after, so that an event in between
(accepting waits while there is no room) counts; and it is set again wherever accepting stops early,
be it by a connection or by a cancellation. So a listener never goes deaf.
"""

import errno
import logging
import socket
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager

import trio

from kestrel_core.connection import Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.transport import Listener, Transport, TransportContext
from kestrel_transports._poller import Pollable, Poller

__all__ = ["SocketListener", "SocketTransport", "backlog_option", "closed_on_failure"]

_log = logging.getLogger("kestrel.transport")

# Kestrel's; the kernel caps it at net.core.somaxconn. More than a C int would be an OverflowError.
_DEFAULT_BACKLOG = 512
_MOST_BACKLOG = 2**31 - 1

# accept() failing with one of these says that there is no room, now; the last one is epoll's word
# for it. Waiting 100 ms and trying again is what trio's serve_listeners does.
_FULL_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
_FULL_SECONDS = 0.1

# accept() also reports what became of the connection it would have returned: see "Error handling"
# in Linux's accept(2). Those are to be treated like "nothing there, try again".
_GONE_ERRNOS = {
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EPERM,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    getattr(errno, "ENONET", errno.ENETDOWN),
}

# Connections that are accepted in a row before the other tasks, and the listener's other sockets,
# get a turn.
_ACCEPTS_PER_TURN = 64


class SocketTransport(Transport):
    """A transport over stream sockets.

    `poller` makes what waits for all sockets of a context: the system's best, unless given.
    """

    def __init__(self, poller: Callable[[TransportContext], Poller] = Poller.of) -> None:
        self._poller = poller

    def poller(self, context: TransportContext) -> Poller:
        """Return the poller of `context`."""
        return context.shared(self._poller)


class SocketListener(Listener, Pollable):
    """Accepts from one or more listening sockets, which it owns.

    A subclass makes the `Connection` out of an accepted socket.

    Raises:
        OSError: there is no room to watch the sockets, which stay the caller's.
    """

    def __init__(
        self,
        listening: Sequence[socket.socket],
        endpoint: Endpoint,
        context: TransportContext,
        poller: Poller,
    ) -> None:
        for each in listening:
            each.setblocking(False)
        Pollable.__init__(self, *(each.fileno() for each in listening))
        self._listening = deque(listening)
        self._endpoint = endpoint
        self.context = context
        self.poller = poller
        self._accepted_in_turn = 0
        self._closed = False
        poller.add(self)

    @property
    def endpoint(self) -> Endpoint:
        """What was really bound."""
        return self._endpoint

    @abstractmethod
    def connection(self, accepted: socket.socket, address: object) -> Connection:
        """Return the connection over `accepted`, whose peer has the socket address `address`.

        Raises:
            OSError: the peer is gone already, or there is no room to watch it.
        """

    def alert(self, *, dead: bool) -> None:
        """Do nothing: what is wrong with a listening socket, accept() will tell."""

    async def accept(self) -> Connection:
        """Accept from whichever socket has somebody; see `Listener.accept`."""
        if self.waiting is not None:
            raise trio.BusyResourceError("another task is already accepting")
        if self._accepted_in_turn >= _ACCEPTS_PER_TURN:
            self._accepted_in_turn = 0
            self._listening.rotate(-1)
            await trio.lowlevel.checkpoint()
        while not self._closed:
            if not self.readable:
                self._accepted_in_turn = 0
                await self.poller.wait_readable(self)
            self.readable = False
            for listening in self._listening:
                connection = await self._accept_from(listening)
                if connection is not None:
                    self.readable = True
                    self._accepted_in_turn += 1
                    return connection
        raise trio.ClosedResourceError(f"{self._endpoint} is no longer bound")

    async def _accept_from(self, listening: socket.socket) -> Connection | None:
        """Accept one connection from `listening` if there is one, waiting only while full."""
        while not self._closed:
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in _FULL_ERRNOS | _GONE_ERRNOS:
                    raise
                await self._wait_after(error)
                continue
            try:
                return self.connection(accepted, address)
            except OSError as error:
                accepted.close()
                await self._wait_after(error)
        return None

    async def _wait_after(self, error: OSError) -> None:
        """Wait until accepting may succeed where `error` made it fail; at least, let others run."""
        self.readable = True
        if error.errno in _FULL_ERRNOS:
            _log.warning(
                "%s cannot accept: %s; trying again every %g s",
                self._endpoint,
                error.strerror,
                _FULL_SECONDS,
            )
            await trio.sleep(_FULL_SECONDS)
        else:
            await trio.lowlevel.checkpoint()

    async def unbind(self) -> None:
        """Close the listening sockets."""
        if not self._closed:
            self._closed = True
            self.poller.wake(self)
            self.poller.remove(self)
            for listening in self._listening:
                listening.close()

    async def aclose(self) -> None:
        """Do what `unbind` does; there is nothing more to release."""
        await self.unbind()


def backlog_option(endpoint: Endpoint) -> int:
    """Return how many connections may wait to be accepted on `endpoint`.

    Raises:
        EndpointError: the option is not a number.
    """
    return min(endpoint.integer_option("backlog", _DEFAULT_BACKLOG), _MOST_BACKLOG)


@contextmanager
def closed_on_failure(*sockets: socket.socket) -> Generator[None]:
    """Close `sockets` if the block raises."""
    with ExitStack() as undo:
        for each in sockets:
            undo.enter_context(each)
        yield
        undo.pop_all()
