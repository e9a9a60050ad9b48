"""Unix sockets: abstract names, what is refused, a full queue, and credentials."""

import os
import socket
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Address
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError, EndpointError
from kestrel_core.features import PeerCredentials
from kestrel_core.transport import TransportContext
from kestrel_transports.unix import UnixTransport
from tests.socket_ends import Bind, Task, as_nobody, call, leave_behind

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has that")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to give files away")


@pytest.fixture
def bind(unix: UnixTransport, context: TransportContext) -> Bind:
    return Bind(unix, context)


# Abstract names ---------------------------------------------------------------------------------


@only_linux
async def test_an_abstract_name_is_bound_and_free_again(bind: Bind) -> None:
    name = f"@kestrel-test-{os.getpid()}"
    for _ in range(2):
        async with bind(f"unix://{name}") as listener, bind.pair(listener) as (client, server):
            assert listener.endpoint.address == name
            assert server.local == client.remote == Address(name)
            assert server.remote is None
            with pytest.raises(BindError) as caught:
                async with bind(f"unix://{name}"):
                    pass
            assert str(caught.value) == f"cannot bind unix://{name}: Address already in use"
    with pytest.raises(ConnectionRefusedError):
        await bind.transport.connect(Endpoint("unix", name), bind.context)


@only_linux
async def test_a_client_may_have_an_abstract_name(bind: Bind, path: Path) -> None:
    name = f"kestrel-client-{os.getpid()}"
    async with bind(f"unix://{path}") as listener:
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(f"\0{name}")
            client.connect(str(path))
            connection = await listener.accept()
            assert connection.remote == Address(f"@{name}")
            await connection.aclose()


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("unix:///x?mode=rw", "the option mode=rw is not a number"),
        ("unix:///x?mode=888", "the option mode=888 is not a number"),
        ("unix:///x?mode=1777", "the option mode=1777 is not of the form 660"),
        ("unix:///x?owner=no-such-user", "there is no user 'no-such-user'"),
        ("unix:///x?owner=0:no-such-group", "there is no group 'no-such-group'"),
        ("unix:///x?owner=4294967295", "there is no user '4294967295'"),
        ("unix:///x?owner=", "the option owner is written user:group, user or :group"),
        ("unix:///x?owner=:", "the option owner is written user:group, user or :group"),
        ("unix:///x?backlog=x", "the option backlog=x is not a number"),
        ("unix:///x?nodelay=1", "unix has no option 'nodelay'; its options: backlog, mode, owner"),
        (
            "unix://%00name",
            "a path has no zero bytes; an abstract name is written unix://@name",
        ),
        ("unix://@", "the name is missing after @"),
        ("unix://@x?mode=660", "an abstract name is no file, so it has no mode and no owner"),
        ("unix://@x?owner=0", "an abstract name is no file, so it has no mode and no owner"),
    ],
)
@only_linux
async def test_what_makes_no_sense_is_an_error_that_says_why(
    unix: UnixTransport, context: TransportContext, text: str, fault: str
) -> None:
    with pytest.raises(EndpointError) as caught:
        await unix.bind(Endpoint.parse(text), context)
    assert caught.value.fault == fault


# Connecting -------------------------------------------------------------------------------------


async def test_nobody_there_is_an_os_error(
    unix: UnixTransport, context: TransportContext, path: Path
) -> None:
    endpoint = Endpoint.parse(f"unix://{path}")
    with pytest.raises(FileNotFoundError):
        await unix.connect(endpoint, context)
    leave_behind(path)
    with pytest.raises(ConnectionRefusedError):
        await unix.connect(endpoint, context)


@only_linux
async def test_a_full_queue_makes_clients_wait(
    bind: Bind, path: Path, mock_clock: MockClock
) -> None:
    async with bind(f"unix://{path}?backlog=1") as listener:
        queued = [call(listener.endpoint) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            connecting = Task(
                nursery, lambda: bind.transport.connect(listener.endpoint, bind.context)
            )
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
            assert not connecting.done
            connections = [await listener.accept()]
            mock_clock.jump(1)
        connections += [await listener.accept(), await listener.accept(), *connecting.results]
        for connection in connections:
            await connection.aclose()
        for peer in queued:
            peer.close()


@only_linux
async def test_a_server_that_ends_refuses_those_who_wait_in_its_full_queue(
    bind: Bind, path: Path, mock_clock: MockClock
) -> None:
    async with bind(f"unix://{path}?backlog=0") as listener:
        queued = call(listener.endpoint)
        async with trio.open_nursery() as nursery:
            connecting = Task(
                nursery, lambda: bind.transport.connect(listener.endpoint, bind.context)
            )
            await wait_all_tasks_blocked()
            await listener.unbind()
            mock_clock.jump(1)
    assert isinstance(connecting.error, FileNotFoundError)
    queued.close()


async def test_a_client_may_have_a_name_of_its_own(bind: Bind, path: Path) -> None:
    async with bind(f"unix://{path}") as listener:
        name = str(path.with_name("client"))
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(name)
            client.connect(str(path))
            connection = await listener.accept()
            assert connection.remote == Address(name)
            await connection.aclose()


# Credentials ------------------------------------------------------------------------------------


@only_linux
async def test_both_ends_know_who_the_other_is(bind: Bind, path: Path) -> None:
    ourselves = PeerCredentials(os.getpid(), os.getuid(), os.getgid())
    async with bind(f"unix://{path}") as listener, bind.pair(listener) as pair:
        for connection in pair:
            assert connection.features[PeerCredentials] == ourselves
            await connection.aclose()
            assert PeerCredentials not in connection.features


@only_linux
@only_root
async def test_the_credentials_are_those_of_the_peer(bind: Bind, path: Path) -> None:
    path.parent.chmod(0o755)
    async with bind(f"unix://{path}?mode=666") as listener:
        with socket.socket(socket.AF_UNIX) as client:
            with as_nobody():
                client.connect(str(path))
            connection = await listener.accept()
            expected = PeerCredentials(os.getpid(), 65534, 65533)
            assert connection.features[PeerCredentials] == expected
            await connection.aclose()


if sys.platform != "linux":

    async def test_elsewhere_credentials_are_unknown(bind: Bind, path: Path) -> None:
        async with bind(f"unix://{path}") as listener, bind.pair(listener) as (_, server):
            assert PeerCredentials not in server.features
