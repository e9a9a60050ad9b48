"""TCP and Unix sockets keep what transports and pipes promise, with either poller."""

import os
import sys
import tempfile

import pytest

from kestrel_core.testing import check_transport
from kestrel_transports._poller import Poller
from kestrel_transports.tcp import TcpTransport
from kestrel_transports.unix import UnixTransport
from tests.socket_ends import HAS_IPV6, MakePoller, trio_poller

needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has that")

pollers = pytest.mark.parametrize(
    "make_poller",
    [pytest.param(Poller.of, id="epoll", marks=only_linux), pytest.param(trio_poller, id="trio")],
)


@pollers
@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:0",
        pytest.param("tcp://[::1]:0", marks=needs_ipv6),
        "tcp://localhost:0",
        "tcp://*:0",
    ],
)
async def test_tcp_keeps_every_promise(make_poller: MakePoller, endpoint: str) -> None:
    await check_transport(TcpTransport(make_poller), endpoint)


@pollers
async def test_unix_keeps_every_promise(make_poller: MakePoller) -> None:
    with tempfile.TemporaryDirectory(prefix="kestrel-", dir="/tmp") as folder:
        await check_transport(UnixTransport(make_poller), f"unix://{folder}/app.sock?mode=600")
        assert os.listdir(folder) == []


@only_linux
@pollers
async def test_abstract_names_keep_every_promise(make_poller: MakePoller) -> None:
    endpoint = f"unix://@kestrel-contract-{os.getpid()}"
    await check_transport(UnixTransport(make_poller), endpoint)
