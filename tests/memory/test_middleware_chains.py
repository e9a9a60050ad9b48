"""Any middleware in any sane order: bytes in are equal bytes out, and nothing is left open."""

from collections.abc import Callable, Sequence
from functools import cache

import attrs
import trio
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.middleware import ConnectionHandler, Middleware, compose
from kestrel_core.testing import DiagnosticMemoryPool, open_server
from kestrel_middleware.admission import ConnectionAdmission
from kestrel_middleware.idle import Idle
from kestrel_middleware.proxy_protocol import ProxyProtocol, SendProxyHeader
from kestrel_middleware.proxy_protocol.header import ProxyHeader
from kestrel_middleware.throttle import Throttle
from kestrel_middleware.tls import Tls, TlsClient
from kestrel_middleware.wiretap import Wiretap
from tests.ways import pass_through

# In virtual time; a chain that locks up is an error, and not a test that never ends.
_SECONDS = 1000.0


async def _nothing(connection: Connection, following: ConnectionHandler) -> None:
    await following(connection)


@attrs.frozen
class Link:
    """A middleware and what a client of it does."""

    name: str
    middleware: Middleware
    counterpart: Middleware = _nothing


@cache
def _tls() -> Link:
    authority = trustme.CA()
    issued = authority.issue_cert("server.example")
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return Link(
        "tls",
        Tls(certificate=chain, key=issued.private_key_pem.bytes()),
        TlsClient(authorities=authority.cert_pem.bytes(), server_name="server.example"),
    )


_ANYWHERE: Sequence[Callable[[], Link]] = [
    lambda: Link("layer", pass_through),
    lambda: Link("wiretap", Wiretap(max_bytes_per_event=8)),
    lambda: Link("wiretap off", Wiretap(enabled=False)),
    lambda: Link("idle", Idle(seconds=100)),
    lambda: Link("throttle", Throttle(read_bytes_per_second=20_000, write_bytes_per_second=30_000)),
]


def _proxy_protocol() -> Link:
    return Link(
        "proxy_protocol",
        ProxyProtocol(trusted="*"),
        SendProxyHeader(ProxyHeader()),
    )


@st.composite
def chains(draw: st.DrawFn) -> list[Link]:
    """Draw links, outermost first, in an order that a server accepts."""
    some = st.lists(st.sampled_from(_ANYWHERE), max_size=2)
    makers: list[Callable[[], Link]] = []
    if draw(st.booleans()):
        makers.append(lambda: Link("admission", ConnectionAdmission(max_connections=10)))
    makers += draw(some)
    if draw(st.booleans()):
        makers.append(_proxy_protocol)
        makers += draw(some)
    if draw(st.booleans()):
        makers.append(_tls)
        makers += draw(some)
    return [make() for make in makers]


@attrs.frozen
class Script:
    """What one end says and how it listens."""

    pieces: Sequence[int]
    """The sizes of what it sends, flush by flush."""
    reads: Sequence[int]
    """How much it reads at a time, over and over."""
    ends: bool
    """Whether it half-closes behind its last piece, rather than leaving that to closing."""

    @property
    def total(self) -> int:
        """How much it sends."""
        return sum(self.pieces)


scripts = st.builds(
    Script,
    pieces=st.lists(st.one_of(st.integers(1, 40), st.integers(1, 40_000)), max_size=6),
    reads=st.lists(st.one_of(st.integers(1, 100), st.integers(1, 70_000)), min_size=1, max_size=4),
    ends=st.booleans(),
)


def _pattern(total: int, salt: int) -> bytes:
    return bytes((salt + position * 7) % 251 for position in range(total))


async def _act(connection: Connection, mine: Script, other: Script, salt: int) -> None:
    """Say what `mine` says, and hear what `other` says."""
    said, expected = _pattern(mine.total, salt), _pattern(other.total, 1 - salt)

    async def speak() -> None:
        start = 0
        for size in mine.pieces:
            await connection.transport.output.send(said[start : start + size])
            start += size
        if mine.ends:
            await connection.transport.output.send_eof()

    async def listen() -> None:
        heard, turn = b"", 0
        while len(heard) < other.total:
            chunk = await connection.transport.input.receive(mine.reads[turn % len(mine.reads)])
            assert chunk, f"the input ended after {len(heard)} of {other.total} bytes"
            heard += chunk
            assert expected.startswith(heard)
            turn += 1
        if other.ends:
            assert await connection.transport.input.receive() == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        nursery.start_soon(listen)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chain=chains(), client=scripts, server=scripts, wire_bytes=st.integers(16, 5000))
def test_bytes_in_are_bytes_out(
    chain: list[Link], client: Script, server: Script, wire_bytes: int
) -> None:
    async def converse() -> None:
        served: list[EndReason | None] = []
        through = trio.Event()

        async def handle(connection: Connection) -> None:
            await _act(connection, server, client, 0)
            served.append(connection.end_reason)
            through.set()

        async def talk(connection: Connection) -> None:
            await _act(connection, client, server, 1)
            # Stay until the server is through, as leaving is a matter of its own.
            await through.wait()

        with trio.fail_after(_SECONDS):
            async with open_server(
                handle,
                middleware=[link.middleware for link in chain],
                endpoint=f"memory://chain?pause_at_bytes={wire_bytes}",
                memory_pool=DiagnosticMemoryPool,
            ) as opened:
                connection = await opened.connect()
                await compose([link.counterpart for link in chain], talk)(connection)
                await connection.aclose()
            assert not opened.server.connections
            assert served == [None]

    trio.run(converse, clock=MockClock(autojump_threshold=0))
