"""Wireshark reads the captures, finds no fault in them, and tells what was spoken."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.middleware import Middleware
from kestrel_core.testing import OpenServer, open_server
from kestrel_middleware.wiretap import Wiretap
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from tests.interop.conftest import program
from tests.socket_ends import HAS_IPV6
from tests.ways import through_tls

PAGE = bytes(range(256)) * 1000

# What is looked at of each packet. Among what Wireshark finds strange in TCP are retransmissions,
# gaps and full windows.
COLUMNS: tuple[str, ...] = (
    "tcp.analysis.flags",
    "_ws.expert.severity",
    "tcp.checksum.status",
    "frame.interface_name",
    "http.request.method",
    "http.request.uri",
    "http.response.code",
    "http.content_length",
)

Tshark = Callable[..., list[str]]


@pytest.fixture
def tshark() -> Tshark:
    path = program("tshark")

    def run(file: Path, *arguments: str) -> list[str]:
        """Read a capture, verifying checksums, and return the lines that are printed."""
        checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
        done = subprocess.run(
            [path, "-n", "-r", file, *checks, *arguments], capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().splitlines()

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "capture.pcapng"


def fields(*names: str, where: str) -> Sequence[str]:
    return ("-Y", where, "-T", "fields", *(part for name in names for part in ("-e", name)))


async def page(exchange: HttpExchange) -> None:
    pieces: list[bytes] = []
    while piece := await exchange.receive():
        pieces.append(piece)
    await exchange.respond(200, [(b"content-type", b"text/plain")], b"".join(pieces) + PAGE)


POST = b"POST /first HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(PAGE), PAGE)
GET = b"GET /second HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


async def ask(opened: OpenServer, request: bytes) -> bytes:
    """Send `request`, and return all that comes back until the server closes the connection."""
    client = await opened.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.transport.output.send, request)
        answer = [chunk async for chunk in client.transport.input]
    await client.aclose()
    return b"".join(answer)


def followed(lines: list[str]) -> tuple[bytes, bytes]:
    """Return what "Follow TCP Stream" shows of the client, and of the server."""
    start = next(n for n, line in enumerate(lines) if line.startswith("Node 1: "))
    shown = lines[start + 1 : -1]
    client = b"".join(bytes.fromhex(line) for line in shown if not line.startswith("\t"))
    server = b"".join(bytes.fromhex(line) for line in shown if line.startswith("\t"))
    return client, server


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:0",
        pytest.param("tcp://[::1]:0", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
        "unix://{folder}/socket",
        "memory://captured",
    ],
)
async def test_it_dissects_http(endpoint: str, file: Path, tshark: Tshark) -> None:
    wiretap = Wiretap(log=False, capture_file=file, label="plain")
    endpoint = endpoint.format(folder=file.parent)
    async with open_server(Http1(page), middleware=[wiretap], endpoint=endpoint) as opened:
        answer = await ask(opened, POST + GET)
    lines = [line.split("\t") for line in tshark(file, *fields(*COLUMNS, where="tcp"))]
    columns = dict(zip(COLUMNS, zip(*lines, strict=True), strict=True))

    def values(column: str) -> list[str]:
        """Return all there are: a packet that ends several messages has several."""
        return [value for cell in columns[column] if cell for value in cell.split(",")]

    assert values("tcp.analysis.flags") == []
    assert not {"6291456", "8388608"} & set(values("_ws.expert.severity"))  # warnings, errors
    assert set(values("tcp.checksum.status")) == {"1"}  # good
    assert set(values("frame.interface_name")) == {"plain"}
    assert values("http.request.method") == ["POST", "GET"]
    assert values("http.request.uri") == ["/first", "/second"]
    assert values("http.response.code") == ["200", "200"]
    sizes = [str(size) for size in (len(PAGE), 2 * len(PAGE), len(PAGE))]
    assert values("http.content_length") == sizes
    assert followed(tshark(file, "-q", "-z", "follow,tcp,raw,0")) == (POST + GET, answer)


async def test_it_sees_tls_outside_and_http_inside(tmp_path: Path, tshark: Tshark) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    way = through_tls()
    middleware: list[Middleware] = [
        Wiretap(log=False, capture_file=outside),
        *way.middleware,
        Wiretap(log=False, capture_file=inside),
    ]
    async with open_server(Http1(page), middleware=middleware) as opened:
        client = await opened.connect()
        await way.prepare(client)
        await client.transport.output.send(GET)
        assert (await client.transport.input.read_until(b"\r\n", 100)) == b"HTTP/1.1 200 OK\r\n"
    assert "1" in tshark(outside, *fields("tls.handshake.type", where="tls.handshake.type == 1"))
    assert tshark(outside, "-Y", "http") == []
    assert tshark(inside, *fields("http.request.uri", where="http.request")) == ["/second"]
    assert tshark(inside, "-Y", "tls") == []


async def test_it_finds_a_connection_by_its_id(file: Path, tshark: Tshark) -> None:
    ids: list[str] = []

    async def hear(connection: Connection) -> None:
        ids.append(connection.id)
        async for _chunk in connection.transport.input:
            pass

    wiretap = Wiretap(log=False, capture_file=file, label="here")
    async with open_server(hear, middleware=[wiretap], endpoint="tcp://127.0.0.1:0") as opened:
        for said in (b"one", b"two", b"three"):
            client = await opened.connect()
            await client.transport.output.send(said)
            await client.transport.output.send_eof()
            assert await client.transport.input.receive() == b""
    for number, said in enumerate((b"one", b"two", b"three")):
        where = f'frame.comment contains "{ids[number]}, here"'
        assert tshark(file, *fields("tcp.stream", "tcp.flags.str", where=where)) == [
            f"{number}\t··········S·"
        ]
        assert followed(tshark(file, "-q", "-z", f"follow,tcp,raw,{number}")) == (said, b"")
    towards = fields("frame.packet_flags_direction", where="tcp.len > 0 or tcp.srcport == 1")
    assert {int(each, 0) for each in tshark(file, *towards)} == {1}


async def test_it_tells_apart_what_was_switched_off_in_between(file: Path, tshark: Tshark) -> None:
    async def echo(connection: Connection) -> None:
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk.upper())

    wiretap = Wiretap(log=False, capture_file=file)
    async with open_server(echo, middleware=[wiretap], endpoint="tcp://127.0.0.1:0") as opened:
        client = await opened.connect()

        async def say(text: bytes) -> None:
            await client.transport.output.send(text)
            await client.transport.input.read_exactly(len(text))

        await say(b"before")
        (connection,) = wiretap.connections
        wiretap.disable(connection)
        await say(b"meanwhile")
        wiretap.enable(connection)
        await say(b"after")
    assert followed(tshark(file, "-q", "-z", "follow,tcp,raw,0")) == (b"before", b"BEFORE")
    assert followed(tshark(file, "-q", "-z", "follow,tcp,raw,1")) == (b"after", b"AFTER")


async def test_it_shows_who_broke_a_connection_off_and_why(file: Path, tshark: Tshark) -> None:
    async def abort(connection: Connection) -> None:
        await connection.transport.input.read()
        connection.abort(EndReason.ADDRESS_DENIED)

    wiretap = Wiretap(log=False, capture_file=file)
    async with open_server(abort, middleware=[wiretap], endpoint="tcp://127.0.0.1:0") as opened:
        client = await opened.connect()
        await client.transport.output.send(b"let me in")
        with pytest.raises(trio.BrokenResourceError):
            await client.transport.input.receive()
    resets = fields("frame.packet_flags_direction", "frame.comment", where="tcp.flags.reset == 1")
    (reset,) = tshark(file, *resets)
    assert reset.split("\t")[1] == "address_denied"
    assert int(reset.split("\t")[0], 0) == 2


async def test_it_reads_a_capture_that_was_cut_short(file: Path, tshark: Tshark) -> None:
    async with open_server(
        Http1(page), middleware=[Wiretap(log=False, capture_file=file)]
    ) as opened:
        await ask(opened, GET)
    whole = await trio.Path(file).read_bytes()
    await trio.Path(file).write_bytes(whole[: len(whole) // 2])
    path = program("tshark")
    command = [path, "-n", "-r", str(file), *fields("http.request.uri", where="http.request")]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.stdout == b"/second\n"
    assert b"cut short" in done.stderr
