"""What we recognize keeps the contract of sniffing; what has a fault does not, and it is named."""

import re
from collections.abc import Callable

import pytest

from docs.examples.many_protocols import Resp
from kestrel_core.connection import Connection
from kestrel_core.protocol import Protocol, Sniff, SniffedLayer
from kestrel_core.testing import check_protocol_sniffer
from kestrel_middleware.proxy_protocol import ProxyProtocol
from kestrel_middleware.sniffers import (
    sniff_beginning,
    sniff_http2_preface,
    sniff_ssh,
    sniffed_protocol,
)
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1, Leniency
from kestrel_protocols.ssh import SshForward
from tests.tls_site import tls

YES, NO, MORE = Sniff.YES, Sniff.NO, Sniff.MORE

HTTP1 = [
    b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"POST /a/b?c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n",
    b"\r\nOPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"M-SEARCH http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"PRI /ncess HTTP/1.0\r\n\r\n",
]
PROXY_1 = [b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", b"PROXY UNKNOWN\r\n"]
PROXY_2 = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)]
SSH = [b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-1.99-x\r\n"]
TLS = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)]

# What begins like a request of HTTP, and is of git, RTSP, SIP, memcached, Redis and SMTP.
ALMOST_HTTP1 = [
    b"0032git-upload-pack /project.git\0host=example.com\0",
    b"OPTIONS rtsp://example.com/ RTSP/1.0\r\nCSeq: 1\r\n",
    b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP example.com\r\n",
    b"set key 0 0 5\r\nvalue\r\n",
    b"SET key value\r\n",
    b"EHLO example.com\r\n",
]


async def nobody(exchange: HttpExchange) -> None:
    """Is never called."""


async def serve(connection: Connection) -> None:
    """Is never called."""


@pytest.mark.parametrize(
    ("protocol", "samples"),
    [
        pytest.param(Http1(nobody), HTTP1, id="http/1.1"),
        pytest.param(Http1(nobody, lenient=list(Leniency)), HTTP1, id="lenient http/1.1"),
        pytest.param(SshForward("tcp://127.0.0.1:22"), SSH, id="ssh"),
        pytest.param(sniffed_protocol("ssh", sniff_ssh, serve), SSH, id="sniffed ssh"),
        pytest.param(
            sniffed_protocol("http/2", sniff_http2_preface, serve),
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
            id="http/2",
        ),
        pytest.param(ProxyProtocol(trusted=["*"]), PROXY_1 + PROXY_2, id="proxy_protocol"),
        pytest.param(ProxyProtocol(trusted=["*"], versions=[1]), PROXY_1, id="proxy_protocol 1"),
        pytest.param(ProxyProtocol(trusted=["*"], versions=[2]), PROXY_2, id="proxy_protocol 2"),
        pytest.param(Resp(), [b"*1\r\n$4\r\nPING\r\n"], id="resp"),
    ],
)
def test_what_we_recognize_keeps_every_promise(
    protocol: Protocol | SniffedLayer, samples: list[bytes]
) -> None:
    check_protocol_sniffer(
        protocol, samples=samples, others=[b"<stream>", bytes(20), *ALMOST_HTTP1]
    )


def test_tls_keeps_every_promise() -> None:
    check_protocol_sniffer(tls(), samples=TLS)


# The faults -------------------------------------------------------------------------------------


BEGINNING = b"HELLO "
sniff_hello = sniff_beginning(BEGINNING)


class Hello(Protocol):
    """Recognizes what begins with HELLO; the faulty ones below derive from it."""

    name = "hello"

    def sniff(self, prefix: bytes) -> Sniff:
        return sniff_hello(prefix)

    async def __call__(self, connection: Connection) -> None: ...


def test_the_one_without_a_fault_has_none() -> None:
    check_protocol_sniffer(Hello(), samples=[b"HELLO world"], others=[b"HELP"])


class RaisesOnNothing(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return MORE if prefix[0] == BEGINNING[0] and len(prefix) < 6 else super().sniff(prefix)


class RaisesOnText(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return super().sniff(prefix.decode().encode())


class AnswersNothing(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return super().sniff(prefix) if prefix.isascii() else None  # type: ignore[return-value]  # the fault


class DecidesBeforeTheFirstByte(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return super().sniff(prefix) if prefix else NO


class WantsItInOnePiece(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return super().sniff(prefix) if len(prefix) != 3 else NO


class NeverSure(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return MORE if super().sniff(prefix) is YES else super().sniff(prefix)


class LooksForItsEnd(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        if super().sniff(prefix) is YES and b"!" in prefix:
            return NO
        return super().sniff(prefix)


class ChangesItsMind(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return YES if re.match(rb"HELLO ", prefix[1:]) else super().sniff(prefix)


class Counts(Hello):
    def __init__(self) -> None:
        self.asked = 0

    def sniff(self, prefix: bytes) -> Sniff:
        self.asked += 1
        return super().sniff(prefix)


class Collects(Hello):
    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def sniff(self, prefix: bytes) -> Sniff:
        self.seen.append(prefix[:1])
        return super().sniff(prefix)


class Remembers(Hello):
    last = b""

    def sniff(self, prefix: bytes) -> Sniff:
        last, Remembers.last = Remembers.last, prefix
        return NO if last == b"HELLO worl" and prefix == b"HELLO world" else super().sniff(prefix)


class HasPatience(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        return super().sniff(prefix.lstrip(b"\n"))


class TakesAnyText(Hello):
    def sniff(self, prefix: bytes) -> Sniff:
        if not prefix:
            return MORE
        return YES if prefix[:1].isalpha() else NO


@pytest.mark.parametrize(
    ("make", "told"),
    [
        pytest.param(make, told, id=make.__name__)
        for make, told in (
            (RaisesOnNothing, r"Any bytes whatever are answered.*b'' made it raise IndexError"),
            (RaisesOnText, r"Any bytes whatever are answered.*made it raise UnicodeDecodeError"),
            (AnswersNothing, r"Any bytes whatever are answered.*with None, which is no Sniff"),
            (DecidesBeforeTheFirstByte, "As long as nothing has come.*b'' was answered with NO"),
            (WantsItInOnePiece, r"Every prefix of a sample.*b'HEL' was answered with NO"),
            (NeverSure, r"Every prefix of a sample.*b'HELLO world' was answered with MORE"),
            (LooksForItsEnd, r"Once it has answered.*was answered with YES, but.*with NO"),
            (ChangesItsMind, r"Once it has answered.*was answered with NO, but.*with YES"),
            (Counts, r"The same prefix gets the same answer.*sniffing changed asked"),
            (Collects, r"The same prefix gets the same answer.*sniffing changed seen"),
            (HasPatience, r"Endless garbage is answered with YES or NO.*was still answered"),
            (TakesAnyText, r"What another protocol begins with.*which is HTTP/1.1, was answered"),
        )
    ],
)
def test_a_fault_is_found_and_named(make: Callable[[], Protocol], told: str) -> None:
    samples = [b"HELLO world", b"HELLO " + bytes(100)]
    with pytest.raises(AssertionError, match=f"^{told}"):
        check_protocol_sniffer(make(), samples=samples)


def test_memory_of_earlier_questions_is_found() -> None:
    with pytest.raises(AssertionError, match="b'HELLO world' was answered with"):
        check_protocol_sniffer(Remembers(), samples=[b"HELLO world"])


def test_what_the_caller_names_is_left_alone() -> None:
    with pytest.raises(AssertionError, match="b'HELLO ', which is another protocol, was answered"):
        check_protocol_sniffer(
            Hello(), samples=[b"HELLO world"], others=[b"HELLO, world", b"HELLO !"]
        )


def test_a_sample_makes_a_known_opening_its_own() -> None:
    ssh = sniffed_protocol("ssh", sniff_ssh, serve)
    check_protocol_sniffer(ssh, samples=[b"SSH-2.0-x\r\n"])
    any_s = sniffed_protocol("s", sniff_beginning(b"S"), serve)
    with pytest.raises(AssertionError, match="b'S', which is SSH, was answered with YES"):
        check_protocol_sniffer(any_s, samples=[b"SMTP"])


def test_detection_may_be_set_to_more_or_fewer_bytes() -> None:
    padded = sniffed_protocol("padded", lambda data: sniff_hello(data[1000:]), serve)
    samples = [bytes(1000) + b"HELLO "]
    with pytest.raises(AssertionError, match=r"Endless garbage"):
        check_protocol_sniffer(padded, samples=samples, max_prefix_bytes=1000)


def test_without_samples_there_is_nothing_to_check() -> None:
    with pytest.raises(ValueError, match="give a sample"):
        check_protocol_sniffer(Hello(), samples=[])
