"""TCP over IPv4 and IPv6."""

import ipaddress
import logging
import socket
import sys
from typing import TypeAlias, cast

import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError
from kestrel_core.transport import Listener, Transport, TransportContext
from kestrel_transports._poller import Poller
from kestrel_transports._sockets import SocketListener, SocketPipe

__all__ = ["TcpTransport"]

# Host, port and, for IPv6, flow information and scope.
_SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

_log = logging.getLogger("kestrel.transport")

_BIND_OPTIONS = {"backlog", "nodelay", "reuse_port"}
_CONNECT_OPTIONS = {"nodelay"}

# Kestrel's; the kernel caps it at net.core.somaxconn.
DEFAULT_BACKLOG = 512

# Port 0 for two families: the port that the system chose for the first may be taken in the second.
_PORT_ATTEMPTS = 32

# On these systems an accepted socket has the listening socket's TCP_NODELAY.
_ACCEPTED_INHERIT_NODELAY = sys.platform == "linux"


class TcpTransport(Transport):
    """`tcp://host:port`: a literal address, a name, `localhost` or `*`.

    `localhost` binds 127.0.0.1 and ::1, `*` every address of both families, and a name all
    addresses it has, in each case with one port for all, also when the port is 0. Options:
    `backlog` (512), `nodelay` (true), `reuse_port` (false: several processes share the port).
    A bound endpoint can be connected to.
    """

    scheme = "tcp"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Bind; see `Transport.bind`."""
        endpoint.option_names_within(_BIND_OPTIONS)
        host, port = endpoint.host_and_port()
        backlog = endpoint.integer_option("backlog", DEFAULT_BACKLOG)
        nodelay = endpoint.boolean_option("nodelay", default=True)
        reuse_port = endpoint.boolean_option("reuse_port", default=False)
        if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise endpoint.error("this system has no reuse_port")
        sockets = _bind_one_port(
            await _addresses_to_bind(host, endpoint), port, endpoint, reuse_port=reuse_port
        )
        for each in sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
            each.listen(backlog)
        bound_port = int(sockets[0].getsockname()[1])
        address = f"[{host}]:{bound_port}" if ":" in host else f"{host}:{bound_port}"
        bound = Endpoint(self.scheme, address, endpoint.options)
        return _TcpListener(sockets, bound, context, nodelay=nodelay)

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect to the first address that answers (RFC 8305); see `Transport.connect`."""
        endpoint.option_names_within(_BIND_OPTIONS)
        host, port = endpoint.host_and_port()
        nodelay = endpoint.boolean_option("nodelay", default=True)
        stream = await trio.open_tcp_stream("localhost" if host == "*" else host, port)
        connected = socket.socket(fileno=stream.socket.detach())
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
        pipe = SocketPipe(connected, context.shared(Poller.of))
        return _connection(pipe, context, connected.getsockname(), connected.getpeername())


class _TcpListener(SocketListener):
    def __init__(
        self,
        listening: list[socket.socket],
        endpoint: Endpoint,
        context: TransportContext,
        *,
        nodelay: bool,
    ) -> None:
        super().__init__(listening, endpoint, context)
        self._nodelay = nodelay
        # Our end of each connection, where that is the same for all of them.
        name = listening[0].getsockname()
        one = len(listening) == 1 and not ipaddress.ip_address(name[0]).is_unspecified
        self._local: _SocketAddress | None = name if one else None

    def connection(self, accepted: socket.socket, address: object) -> Connection:
        """Make the connection; a wildcard's own address is asked of each socket."""
        local: _SocketAddress = self._local or accepted.getsockname()
        if not _ACCEPTED_INHERIT_NODELAY:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self._nodelay)
        return _connection(
            self.connect_pipe(accepted), self.context, local, cast(_SocketAddress, address)
        )


def _connection(
    pipe: SocketPipe, context: TransportContext, local: _SocketAddress, remote: _SocketAddress
) -> Connection:
    connection = Connection(
        pipe,
        limits=context.limits,
        timers=context.timers,
        local=_address(local),
        remote=_address(remote),
    )
    pipe.gone = connection.closed
    return connection


def _address(name: _SocketAddress) -> Address:
    host = name[0]
    # An IPv4 peer of a dual-stack socket (RFC 4291, 2.5.5.2).
    return Address(host.removeprefix("::ffff:") if "." in host else host, name[1])


async def _addresses_to_bind(
    host: str, endpoint: Endpoint
) -> list[tuple[socket.AddressFamily, str]]:
    """Return the family and literal address of each socket to bind."""
    if host == "*":
        return [(socket.AF_INET6, "*")] if _has_ipv6() else [(socket.AF_INET, "0.0.0.0")]
    if host == "localhost":
        loopback = [(socket.AF_INET, "127.0.0.1")]
        return [*loopback, (socket.AF_INET6, "::1")] if _has_ipv6() else loopback
    try:
        found = await trio.socket.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise BindError(f"cannot bind {endpoint}: the host {host!r} has no address") from error
    return list(dict.fromkeys((family, str(name[0])) for family, _, _, _, name in found))


def _has_ipv6() -> bool:
    """Tell whether this machine has IPv6 at all, its loopback address to begin with."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _bind_one_port(
    addresses: list[tuple[socket.AddressFamily, str]],
    port: int,
    endpoint: Endpoint,
    *,
    reuse_port: bool,
) -> list[socket.socket]:
    """Bind all addresses to one port, or none; for port 0, to one that is free on all."""
    attempts = _PORT_ATTEMPTS if port == 0 and len(addresses) > 1 else 1
    while True:
        attempts -= 1
        sockets: list[socket.socket] = []
        try:
            for family, address in addresses:
                same = int(sockets[0].getsockname()[1]) if sockets else port
                sockets.append(_bind(family, address, same, reuse_port=reuse_port))
        except OSError as error:
            for each in sockets:
                each.close()
            if attempts and sockets:
                continue
            raise BindError(f"cannot bind {endpoint}: {error.strerror or error}") from error
        return sockets


def _bind(
    family: socket.AddressFamily, address: str, port: int, *, reuse_port: bool
) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # there the POSIX option lets two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "*")
        bound.bind(("::" if address == "*" else address, port))
    except OSError:
        bound.close()
        raise
    return bound
