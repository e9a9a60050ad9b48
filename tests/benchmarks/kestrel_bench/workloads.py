"""The workloads: what is asked of a server, and by how many connections at once.

Their order is the order in which they run. Loads take turns in servers that stay up for a whole
round; everything else gets processes of its own.
"""

from enum import Enum

from attrs import frozen

from kestrel_bench.servers import Setup

_MIB = 1024 * 1024


class Shape(Enum):
    """The request that wrk sends; the value is the name by which `load.lua` knows it."""

    PLAIN = "plain"
    BROWSER = "browser"
    ECHO = "echo"
    PIPELINED = "pipelined"
    FRESH = "fresh"
    FRESH_LARGE_HEAD = "fresh-large-head"
    BAD_REQUEST_LINE = "bad-request-line"
    BAD_HEADER = "bad-header"
    NO_HOST = "no-host"
    LENGTH_AND_CHUNKED = "length-and-chunked"
    TOO_LARGE_HEAD = "too-large-head"


class Transfer(Enum):
    """Which way a large body goes, and how its end is told."""

    UPLOAD = "upload"
    CHUNKED_UPLOAD = "chunked upload"
    DOWNLOAD = "download"


@frozen(kw_only=True)
class LoadWorkload:
    """Requests sent by wrk as fast as the server answers them."""

    name: str
    title: str
    path: str
    shape: Shape
    connections: int
    setup: Setup = Setup.PLAIN
    served: str | None = None
    """For requests that a server has to reject: the workload of their like that it serves."""


@frozen(kw_only=True)
class PairedWorkload:
    """A load on two servers in turns, one set up plainly, to see what the other's setup costs."""

    name: str
    title: str
    load: LoadWorkload
    setup: Setup

    @property
    def path(self) -> str:
        """That of the load."""
        return self.load.path


@frozen(kw_only=True)
class ConnectionsWorkload:
    """Connections that are opened for one request each, or refused, by some processes at once."""

    name: str
    title: str
    path: str
    processes: int
    setup: Setup
    refused: bool = False
    served: str | None = None
    """As for a `LoadWorkload`."""


@frozen(kw_only=True)
class TransferWorkload:
    """One body after another over connections of their own, as fast as both ends can."""

    name: str
    title: str
    path: str
    transfer: Transfer
    body_bytes: int
    setup: Setup = Setup.PLAIN


@frozen(kw_only=True)
class IdleWorkload:
    """Connections that send one request each and then stay open, to weigh a connection."""

    name: str
    title: str
    path: str
    connections: int


@frozen(kw_only=True)
class SlowPeerWorkload:
    """One body that its receiver takes slowly, to see how much of it the server holds meanwhile."""

    name: str
    title: str
    path: str
    transfer: Transfer
    body_bytes: int
    seconds: float


@frozen(kw_only=True)
class BurstWorkload:
    """Uploads that are all under way at once and then end, to see what memory stays behind.

    Several bursts come one after another, because what a first one leaves is often luck.
    """

    name: str
    title: str
    path: str
    connections: int
    body_bytes: int
    bursts: int


Workload = (
    LoadWorkload
    | PairedWorkload
    | ConnectionsWorkload
    | TransferWorkload
    | IdleWorkload
    | SlowPeerWorkload
    | BurstWorkload
)


def setups(workload: Workload) -> tuple[Setup, ...]:
    """How servers have to be set up for a workload; who can't be takes no part in it."""
    match workload:
        case LoadWorkload() | ConnectionsWorkload() | TransferWorkload():
            return (workload.setup,)
        case PairedWorkload():
            return (Setup.PLAIN, workload.setup)
        case IdleWorkload() | SlowPeerWorkload() | BurstWorkload():
            return (Setup.PLAIN,)


def _load(
    name: str,
    title: str,
    *,
    path: str = "/",
    shape: Shape = Shape.PLAIN,
    connections: int = 64,
    setup: Setup = Setup.PLAIN,
    served: str | None = None,
) -> LoadWorkload:
    return LoadWorkload(
        name=name,
        title=f"{title}, {connections} connection{'' if connections == 1 else 's'}",
        path=path,
        shape=shape,
        connections=connections,
        setup=setup,
        served=served,
    )


def _rejected(name: str, title: str, shape: Shape, *, served: str = "served-fresh") -> LoadWorkload:
    return _load(name, f"Rejected: {title}", shape=shape, served=served)


def _paired(name: str, title: str, setup: Setup, load: LoadWorkload) -> PairedWorkload:
    return PairedWorkload(name=name, title=title, setup=setup, load=load)


def _connections(
    name: str, title: str, setup: Setup, *, refused: bool = False, served: str | None = None
) -> ConnectionsWorkload:
    return ConnectionsWorkload(
        name=name, title=title, path="/", processes=4, setup=setup, refused=refused, served=served
    )


_PLAINTEXT = _load("plaintext-64", "Plain text")
_FRESH = _load("served-fresh", "Served: a connection for each request", shape=Shape.FRESH)

LOAD_WORKLOADS = (
    _load("plaintext-1", "Plain text", connections=1),
    _PLAINTEXT,
    _load("plaintext-512", "Plain text", connections=512),
    _load("pipelined-64", "Plain text, pipelined 16 deep", shape=Shape.PIPELINED),
    _load("browser-64", "Plain text, twelve browser headers", shape=Shape.BROWSER),
    _load("response-10k", "10 KiB response", path="/10k"),
    _load("echo-10k", "10 KiB POST echo", path="/echo", shape=Shape.ECHO),
    _load("file-4k", "4 KiB file", path="/file-4k"),
    _load("file-1m", "1 MiB file", path="/file-1m", connections=16),
    # The requests that are rejected take a connection each, and so do those to compare them with.
    _FRESH,
    _load("served-large-head", "Served: the same with 30 KiB", shape=Shape.FRESH_LARGE_HEAD),
    _rejected("rejected-request-line", "a fourth word in the request line", Shape.BAD_REQUEST_LINE),
    _rejected("rejected-header", "a space before a header's colon", Shape.BAD_HEADER),
    _rejected("rejected-no-host", "no Host", Shape.NO_HOST),
    _rejected("rejected-framing", "Content-Length and chunked", Shape.LENGTH_AND_CHUNKED),
    _rejected(
        "rejected-large-head",
        "a header of 40 KiB",
        Shape.TOO_LARGE_HEAD,
        served="served-large-head",
    ),
    _load("tls-plaintext-1", "Plain text over TLS", connections=1, setup=Setup.TLS),
    _load("tls-plaintext-64", "Plain text over TLS", setup=Setup.TLS),
    _load("tls-plaintext-512", "Plain text over TLS", connections=512, setup=Setup.TLS),
    _load("tls-response-10k", "10 KiB response over TLS", path="/10k", setup=Setup.TLS),
)
PAIRED_WORKLOADS = (
    _paired("layer-pass-through", "A layer that does nothing", Setup.PASS_THROUGH, _PLAINTEXT),
    _paired("layer-wiretap-off", "A wiretap, switched off", Setup.WIRETAP_OFF, _PLAINTEXT),
    _paired("layer-idle", "The watch for idle connections", Setup.IDLE, _PLAINTEXT),
    _paired("layer-throttle", "A throttle at 1 TB/s", Setup.THROTTLE, _PLAINTEXT),
    _paired("detect-setup", "Detecting one of two protocols", Setup.DETECT, _FRESH),
)
CONNECTIONS_WORKLOADS = (
    _connections("tls-handshakes", "A full TLS handshake for each request", Setup.TLS),
    _connections("served-connections", "Served: connections within the limit", Setup.ADMISSION),
    _connections(
        "refused-connections",
        "Refused: connections beyond the limit",
        Setup.ADMISSION,
        refused=True,
        served="served-connections",
    ),
)
TRANSFER_WORKLOADS = (
    TransferWorkload(
        name="upload-1g",
        title="Upload of 1 GiB with its length",
        path="/upload",
        transfer=Transfer.UPLOAD,
        body_bytes=1024 * _MIB,
    ),
    TransferWorkload(
        name="upload-1g-chunked",
        title="Upload of 1 GiB in chunks of 64 KiB",
        path="/upload",
        transfer=Transfer.CHUNKED_UPLOAD,
        body_bytes=1024 * _MIB,
    ),
    TransferWorkload(
        name="download-1g",
        title="Download of 1 GiB in pieces of 64 KiB",
        path="/download",
        transfer=Transfer.DOWNLOAD,
        body_bytes=1024 * _MIB,
    ),
    TransferWorkload(
        name="tls-upload-1g",
        title="Upload of 1 GiB with its length over TLS",
        path="/upload",
        transfer=Transfer.UPLOAD,
        body_bytes=1024 * _MIB,
        setup=Setup.TLS,
    ),
    TransferWorkload(
        name="tls-download-1g",
        title="Download of 1 GiB in pieces of 64 KiB over TLS",
        path="/download",
        transfer=Transfer.DOWNLOAD,
        body_bytes=1024 * _MIB,
        setup=Setup.TLS,
    ),
)
IDLE_WORKLOAD = IdleWorkload(
    name="idle-5000",
    title="Memory of idle keep-alive connections",
    path="/",
    connections=5000,
)
SLOW_PEER_WORKLOADS = (
    SlowPeerWorkload(
        name="slow-upload-memory",
        title="Memory while an application reads an upload slowly",
        path="/slow-upload",
        transfer=Transfer.UPLOAD,
        body_bytes=512 * _MIB,
        seconds=2,
    ),
    SlowPeerWorkload(
        name="slow-download-memory",
        title="Memory while a client reads a download slowly",
        path="/download",
        transfer=Transfer.DOWNLOAD,
        body_bytes=512 * _MIB,
        seconds=2,
    ),
)
BURST_WORKLOADS = (
    BurstWorkload(
        name="burst-2000",
        title="Memory after 2,000 uploads at once, dropped as they are read",
        path="/upload",
        connections=2000,
        body_bytes=_MIB // 4,
        bursts=3,
    ),
    BurstWorkload(
        name="burst-2000-held",
        title="Memory after 2,000 uploads at once, held until their end",
        path="/collect",
        connections=2000,
        body_bytes=_MIB // 4,
        bursts=3,
    ),
)
WORKLOADS: tuple[Workload, ...] = (
    *LOAD_WORKLOADS,
    *PAIRED_WORKLOADS,
    *CONNECTIONS_WORKLOADS,
    *TRANSFER_WORKLOADS,
    IDLE_WORKLOAD,
    *SLOW_PEER_WORKLOADS,
    *BURST_WORKLOADS,
)
QUICK_WORKLOADS = ("plaintext-64", "pipelined-64", "echo-10k", IDLE_WORKLOAD.name)


def workload_names() -> list[str]:
    """Every workload's name, in the order in which they run."""
    return [workload.name for workload in WORKLOADS]
