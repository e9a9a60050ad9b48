"""TCP: what its endpoints mean, which of them are refused and how, and its options."""

import errno
import socket
import struct
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import AddressFamily, SocketKind
from typing import Literal, TypeAlias

import pytest
import trio

from kestrel_core.connection import Address
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.transport import Listener, TransportContext
from kestrel_transports._listeners import SocketListener
from kestrel_transports.tcp import TcpTransport
from tests.socket_ends import HAS_IPV6, Bind, call, option, same_socket

needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture
def bind(tcp: TcpTransport, context: TransportContext) -> Bind:
    return Bind(tcp, context)


def fileno_of(listener: Listener) -> int:
    assert isinstance(listener, SocketListener)
    return listener.filenos[0]


def port_of(listener: Listener) -> int:
    return listener.endpoint.host_and_port()[1]


@contextmanager
def taken_port(host: str = "127.0.0.1") -> Generator[int]:
    """Listen on a port, with a plain socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        taken.listen()
        yield int(taken.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@contextmanager
def port_taken_in_ipv6_alone() -> Generator[int]:
    """Listen on a port of ::1 that nobody uses on 127.0.0.1."""
    while True:
        with taken_port("::1") as port:
            if is_free("127.0.0.1", port):
                yield port
                return


AddressInfo: TypeAlias = (
    tuple[Literal[AddressFamily.AF_INET], SocketKind, int, str, tuple[str, int]]
    | tuple[
        Literal[AddressFamily.AF_INET6],
        SocketKind,
        int,
        str,
        tuple[str, int, int, int] | tuple[int, bytes],
    ]
)


class Names(trio.abc.HostnameResolver):
    """A name server that knows one name, and lists each of its addresses twice."""

    def __init__(self, name: str, addresses: Sequence[str]) -> None:
        self.name = name
        self.addresses = addresses

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  # trio calls it so
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddressInfo]:
        if host != self.name.encode():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        number = int(port or 0)
        found: list[AddressInfo] = []
        for address in (*self.addresses, *self.addresses):
            if ":" in address:
                name = (address, number, 0, 0)
                found.append((AddressFamily.AF_INET6, SocketKind.SOCK_STREAM, 6, "", name))
            else:
                found.append(
                    (AddressFamily.AF_INET, SocketKind.SOCK_STREAM, 6, "", (address, number))
                )
        return found

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        raise NotImplementedError


def link_local_host() -> str | None:
    """Return an IPv6 address that means something only together with its interface, and both."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, scope, _, interface = line.split()
        if scope == "20":
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{interface}"
    return None


# Addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", pytest.param("[::1]", marks=needs_ipv6), "localhost", "*"]
)
async def test_port_0_becomes_a_port_and_the_rest_of_the_endpoint_stays(
    bind: Bind, host: str
) -> None:
    async with bind(f"tcp://{host}:0?backlog=7&nodelay=no") as listener:
        assert port_of(listener) != 0
        assert str(listener.endpoint) == f"tcp://{host}:{port_of(listener)}?backlog=7&nodelay=no"
        async with bind.pair(listener) as (client, server):
            assert client.remote == server.local
            assert client.local == server.remote


async def test_an_ipv4_connection_knows_both_addresses(bind: Bind) -> None:
    async with bind("tcp://127.0.0.1:0") as listener:
        peer = call(listener.endpoint)
        connection = await listener.accept()
        assert connection.local == Address("127.0.0.1", port_of(listener))
        assert connection.remote == Address(*peer.getsockname())
        await connection.aclose()
        peer.close()


@needs_ipv6
async def test_an_ipv6_connection_knows_both_addresses(bind: Bind) -> None:
    async with bind("tcp://[::1]:0") as listener:
        peer = call(listener.endpoint)
        connection = await listener.accept()
        assert connection.local == Address("::1", port_of(listener))
        assert connection.remote == Address(*peer.getsockname()[:2])
        await connection.aclose()
        peer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_the_star_is_every_address_and_ipv4_peers_are_shown_as_such(
    bind: Bind, host: str
) -> None:
    async with bind("tcp://*:0") as listener:
        peer = socket.create_connection((host, port_of(listener)))
        connection = await listener.accept()
        assert connection.local == Address(host, port_of(listener))
        assert connection.remote == Address(*peer.getsockname()[:2])
        await connection.aclose()
        peer.close()


@needs_ipv6
async def test_localhost_is_both_families_on_one_port(bind: Bind) -> None:
    async with bind("tcp://localhost:0") as listener:
        for host in ("127.0.0.1", "::1", "127.0.0.1"):
            peer = socket.create_connection((host, port_of(listener)))
            connection = await listener.accept()
            assert connection.local == Address(host, port_of(listener))
            assert connection.remote == Address(*peer.getsockname()[:2])
            await connection.aclose()
            peer.close()


@needs_ipv6
async def test_any_ipv6_address_leaves_ipv4_to_others(bind: Bind) -> None:
    async with bind("tcp://[::]:0") as listener:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port_of(listener)))


@needs_ipv6
async def test_a_port_that_is_free_in_one_family_alone_is_not_chosen(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    bind_socket = socket.socket.bind

    def find_some_taken(self: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "::1" and address[1] and len(taken) < 3:
            taken.append(address[1])
            raise OSError(errno.EADDRINUSE, "Address already in use")
        bind_socket(self, address)

    monkeypatch.setattr(socket.socket, "bind", find_some_taken)
    async with bind("tcp://localhost:0") as listener:
        assert len(taken) == 3
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port_of(listener))).close()
            await (await listener.accept()).aclose()


@needs_ipv6
async def test_a_name_is_all_its_addresses_on_one_port(bind: Bind) -> None:
    trio.socket.set_custom_hostname_resolver(Names("app.test", ["127.0.0.1", "::1"]))
    async with bind("tcp://app.test:0") as listener:
        assert listener.endpoint.address == f"app.test:{port_of(listener)}"
        for host in ("127.0.0.1", "::1"):
            literal = str(Address(host, port_of(listener)))
            async with bind.pair(listener, f"tcp://{literal}") as (_, server):
                assert server.local == Address(host, port_of(listener))
        async with bind.pair(listener):
            pass


@only_linux
@needs_ipv6
async def test_an_address_keeps_the_interface_it_is_meant_for(bind: Bind) -> None:
    host = link_local_host()
    if host is None:
        pytest.skip("this machine has no link-local address")
    async with bind(f"tcp://[{host}]:0") as listener, bind.pair(listener):
        pass


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "*"])
async def test_a_port_in_use_is_told_with_the_endpoint(bind: Bind, host: str) -> None:
    with taken_port() as port, pytest.raises(BindError) as caught:
        async with bind(f"tcp://{host}:{port}"):
            pass
    assert str(caught.value) == f"cannot bind tcp://{host}:{port}: Address already in use"
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EADDRINUSE


@needs_ipv6
async def test_localhost_is_bound_in_both_families_or_in_none(bind: Bind) -> None:
    with port_taken_in_ipv6_alone() as port:
        with pytest.raises(BindError, match="Address already in use"):
            async with bind(f"tcp://localhost:{port}"):
                pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        async with bind(f"tcp://127.0.0.1:{port}"):
            pass


async def test_an_address_of_another_machine_cannot_be_bound(bind: Bind) -> None:
    with pytest.raises(BindError, match="Cannot assign requested address"):
        async with bind("tcp://203.0.113.1:0"):
            pass


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tcp://127.0.0.1", "the address is written host:port"),
        ("tcp://::1:80", "the address is written host:port, an IPv6 host in [brackets]"),
        ("tcp://:80", "the host is missing; write * for every address"),
        ("tcp://127.0.0.1:http", "the port 'http' is not a number from 0 to 65535"),
        ("tcp://127.0.0.1:65536", "the port '65536' is not a number from 0 to 65535"),
        ("tcp://a..b:80", "its host is neither an address nor a name"),
        (f"tcp://{'a' * 64}:80", "its host is neither an address nor a name"),
        ("tcp://127.0.0.1:0?backlog=many", "the option backlog=many is not a number"),
        ("tcp://127.0.0.1:0?backlog=-1", "the option backlog=-1 is not a number"),
        ("tcp://127.0.0.1:0?nodelay=perhaps", "the option nodelay=perhaps is not true or false"),
        ("tcp://127.0.0.1:0?reuse_port=2", "the option reuse_port=2 is not true or false"),
        (
            "tcp://127.0.0.1:0?mode=660",
            "tcp has no option 'mode'; its options: backlog, nodelay, reuse_port",
        ),
    ],
)
async def test_what_makes_no_sense_is_an_error_that_says_why(
    tcp: TcpTransport, context: TransportContext, text: str, fault: str
) -> None:
    for use in (tcp.bind, tcp.connect):
        with pytest.raises(EndpointError) as caught:
            await use(Endpoint.parse(text), context)
        assert fault in caught.value.fault
        assert text in str(caught.value)


async def test_a_name_without_an_address_cannot_be_bound(bind: Bind) -> None:
    trio.socket.set_custom_hostname_resolver(Names("app.test", ["127.0.0.1"]))
    with pytest.raises(BindError) as caught:
        async with bind("tcp://other.test:0"):
            pass
    assert str(caught.value) == (
        "cannot bind tcp://other.test:0: the host 'other.test' has no address"
    )


async def test_nobody_there_is_an_os_error(tcp: TcpTransport, context: TransportContext) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(OSError, match="all attempts to connect"):
                await tcp.connect(Endpoint("tcp", f"{host}:{port}"), context)


# Options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "nodelay"), [("", True), ("?nodelay=true", True), ("?nodelay=false", False)]
)
async def test_nodelay_holds_at_both_ends(bind: Bind, query: str, nodelay: bool) -> None:
    async with bind(f"tcp://127.0.0.1:0{query}") as listener, bind.pair(listener) as pair:
        for connection in pair:
            found = option(connection, socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert bool(found) is nodelay


@only_linux
@pytest.mark.parametrize(("query", "backlog"), [("", 512), ("?backlog=7", 7), ("?backlog=0", 0)])
async def test_the_backlog_is_what_the_option_says(bind: Bind, query: str, backlog: int) -> None:
    async with bind(f"tcp://127.0.0.1:0{query}") as listener:
        with same_socket(fileno_of(listener)) as same:
            # Of a listening socket, tcpi_sacked is its backlog (tcp_get_info in net/ipv4/tcp.c).
            info = same.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("I", info, 28) == (backlog,)


async def test_a_backlog_beyond_all_bounds_is_as_much_as_there_can_be(bind: Bind) -> None:
    async with bind(f"tcp://127.0.0.1:0?backlog={10**20}"):
        pass


async def test_a_port_can_be_shared_if_both_say_so(bind: Bind) -> None:
    async with bind("tcp://127.0.0.1:0?reuse_port=yes") as one:
        with pytest.raises(BindError, match="Address already in use"):
            async with bind(f"tcp://127.0.0.1:{port_of(one)}"):
                pass
        async with bind(str(one.endpoint)) as other:
            assert other.endpoint == one.endpoint
            async with trio.open_nursery() as nursery:
                accepted: list[Listener] = []

                async def accept(listener: Listener) -> None:
                    while True:
                        await (await listener.accept()).aclose()
                        accepted.append(listener)

                nursery.start_soon(accept, one)
                nursery.start_soon(accept, other)
                while len(set(accepted)) < 2:
                    client = await bind.transport.connect(one.endpoint, bind.context)
                    await client.aclose()
                nursery.cancel_scope.cancel()
        async with bind.pair(one):
            pass
