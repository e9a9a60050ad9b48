"""TCP over IPv4 and IPv6."""

import ipaddress
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeAlias, cast

import attrs
import trio

from kestrel_core.connection import Address, Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError
from kestrel_core.transport import Listener, TransportContext
from kestrel_transports._listeners import (
    SocketListener,
    SocketTransport,
    backlog_option,
    closed_on_failure,
)
from kestrel_transports._poller import Poller
from kestrel_transports._sockets import SocketPipe, connection_over

__all__ = ["TcpTransport"]

# Host, port and, for IPv6, flow information and scope.
_SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

# Port 0 for two families: the port that the system chose for the first may be taken in the second.
_PORT_ATTEMPTS = 32

# On these systems an accepted socket has the listening socket's TCP_NODELAY.
_ACCEPTED_INHERIT_NODELAY = sys.platform == "linux"


@attrs.frozen
class _Options:
    """What an endpoint's options say."""

    backlog: int
    nodelay: bool
    reuse_port: bool

    @classmethod
    def of(cls, endpoint: Endpoint) -> "_Options":
        endpoint.option_names_within([field.name for field in attrs.fields(cls)])
        options = cls(
            backlog=backlog_option(endpoint),
            nodelay=endpoint.boolean_option("nodelay", default=True),
            reuse_port=endpoint.boolean_option("reuse_port", default=False),
        )
        if options.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise endpoint.error("this system has no reuse_port")
        return options


@attrs.frozen
class _AddressToBind:
    """Where to bind one socket, but for the port; `both_families` includes IPv4 in IPv6."""

    family: socket.AddressFamily
    host: str
    scope_id: int = 0
    both_families: bool = False


class TcpTransport(SocketTransport):
    """`tcp://host:port`: a literal address, a name, `localhost` or `*`.

    `localhost` binds 127.0.0.1 and ::1, `*` every address of both families, and a name all
    addresses it has, in each case with one port for all, also when the port is 0. Options:
    `backlog` (512), `nodelay` (true), `reuse_port` (false: several processes share the port).
    A bound endpoint can be connected to.
    """

    scheme = "tcp"

    async def bind(self, endpoint: Endpoint, context: TransportContext) -> Listener:
        """Bind; see `Transport.bind`."""
        host, port = endpoint.host_and_port()
        options = _Options.of(endpoint)
        addresses = await _addresses_to_bind(host, endpoint)
        try:
            sockets = _listen_on_one_port(addresses, port, options)
            with closed_on_failure(*sockets):
                bound_port = int(sockets[0].getsockname()[1])
                address = f"[{host}]:{bound_port}" if ":" in host else f"{host}:{bound_port}"
                bound = Endpoint(self.scheme, address, endpoint.options)
                return _TcpListener(sockets, bound, context, self.poller(context), options)
        except OSError as error:
            raise BindError(f"cannot bind {endpoint}: {error.strerror or error}") from error

    async def connect(self, endpoint: Endpoint, context: TransportContext) -> Connection:
        """Connect to the first address that answers (RFC 8305); see `Transport.connect`."""
        host, port = endpoint.host_and_port()
        options = _Options.of(endpoint)
        with _names_understood(endpoint):
            stream = await trio.open_tcp_stream("localhost" if host == "*" else host, port)
        connected = socket.socket(fileno=stream.socket.detach())
        with closed_on_failure(connected):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.nodelay)
            local, remote = _address(connected.getsockname()), _address(connected.getpeername())
            pipe = SocketPipe(connected, self.poller(context))
            return connection_over(pipe, context, local=local, remote=remote)


class _TcpListener(SocketListener):
    def __init__(
        self,
        listening: list[socket.socket],
        endpoint: Endpoint,
        context: TransportContext,
        poller: Poller,
        options: _Options,
    ) -> None:
        super().__init__(listening, endpoint, context, poller)
        self._options = options
        # Our end of each connection, where that is the same for all of them.
        name = listening[0].getsockname()
        one = len(listening) == 1 and not ipaddress.ip_address(name[0]).is_unspecified
        self._local = _address(name) if one else None

    def connection(self, accepted: socket.socket, address: object) -> Connection:
        """Make the connection; a wildcard's own address is asked of each socket."""
        local = self._local or _address(accepted.getsockname())
        if not _ACCEPTED_INHERIT_NODELAY:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self._options.nodelay)
        pipe = SocketPipe(accepted, self.poller)
        remote = _address(cast(_SocketAddress, address))
        return connection_over(pipe, self.context, local=local, remote=remote)


def _address(name: _SocketAddress) -> Address:
    host = name[0]
    # An IPv4 peer of a dual-stack socket (RFC 4291, 2.5.5.2).
    return Address(host.removeprefix("::ffff:") if "." in host else host, name[1])


@contextmanager
def _names_understood(endpoint: Endpoint) -> Generator[None]:
    """Blame the endpoint for a host that is not even of a name's form, such as `a..b`."""
    try:
        yield
    except UnicodeError as error:  # names pass through a codec, which knows their form
        raise endpoint.error(f"its host is neither an address nor a name: {error}") from error


async def _addresses_to_bind(host: str, endpoint: Endpoint) -> list[_AddressToBind]:
    """Return what to bind a socket each to."""
    if host == "*":
        if not _has_ipv6():
            return [_AddressToBind(socket.AF_INET, "0.0.0.0")]
        return [_AddressToBind(socket.AF_INET6, "::", both_families=True)]
    if host == "localhost":
        loopback = [_AddressToBind(socket.AF_INET, "127.0.0.1")]
        return [*loopback, _AddressToBind(socket.AF_INET6, "::1")] if _has_ipv6() else loopback
    try:
        with _names_understood(endpoint):
            found = await trio.socket.getaddrinfo(
                host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
    except OSError as error:
        raise BindError(f"cannot bind {endpoint}: the host {host!r} has no address") from error
    addresses = [
        _AddressToBind(family, str(name[0]), scope_id=int(name[3]) if len(name) == 4 else 0)
        for family, _, _, _, name in found
    ]
    return list(dict.fromkeys(addresses))


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


def _listen_on_one_port(
    addresses: list[_AddressToBind], port: int, options: _Options
) -> list[socket.socket]:
    """Listen at all addresses on one port, or on none; for port 0, on one that is free at all."""
    attempts = _PORT_ATTEMPTS if port == 0 and len(addresses) > 1 else 1
    while True:
        attempts -= 1
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                same = int(sockets[0].getsockname()[1]) if sockets else port
                sockets.append(_bind(address, same, options))
            # Here a port may turn out to be taken, too, by a socket that was bound before.
            for each in sockets:
                each.listen(options.backlog)
        except OSError:
            for each in sockets:
                each.close()
            if attempts and sockets:
                continue
            raise
        return sockets


def _bind(address: _AddressToBind, port: int, options: _Options) -> socket.socket:
    bound = socket.socket(address.family, socket.SOCK_STREAM)
    with closed_on_failure(bound):
        if sys.platform == "win32":  # there the POSIX option lets two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.nodelay)
        if address.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not address.both_families)
            bound.bind((address.host, port, 0, address.scope_id))
        else:
            bound.bind((address.host, port))
    return bound
