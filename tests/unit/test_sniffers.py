"""What recognizes protocols by their beginnings: right answers, and none that is taken back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kestrel_core.connection import Connection, ConnectionContext
from kestrel_core.memory_pipe import duplex_pipe_pair
from kestrel_core.protocol import Sniff
from kestrel_middleware.client_hello import sniff_tls
from kestrel_middleware.proxy_protocol import ProxyProtocol
from kestrel_middleware.sniffers import (
    Sniffer,
    sniff_beginning,
    sniff_http2_preface,
    sniff_ssh,
    sniffed_protocol,
)
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1
from kestrel_protocols.ssh import SshForward

YES, NO, MORE = Sniff.YES, Sniff.NO, Sniff.MORE

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TLS = b"\x16\x03\x01\x02\x00\x01"
SSH = b"SSH-2.0-OpenSSH_9.6\r\n"
HTTP1 = b"GET / HTTP/1.1\r\n"
PROXY_1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


async def nobody(exchange: HttpExchange) -> None:
    """Is never called."""


SNIFFERS: dict[str, Sniffer] = {
    "tls": sniff_tls,
    "http/2": sniff_http2_preface,
    "http/1.1": Http1(nobody).sniff,
    "ssh": sniff_ssh,
    "proxy_protocol": ProxyProtocol(trusted=["*"]).sniff,
    "ssh forwarder": SshForward("tcp://127.0.0.1:22").sniff,
}


@pytest.mark.parametrize(
    ("beginning", "names"),
    [
        (TLS, {"tls"}),
        (HTTP2_PREFACE, {"http/2"}),
        (HTTP1, {"http/1.1"}),
        (SSH, {"ssh", "ssh forwarder"}),
        (PROXY_2, {"proxy_protocol"}),
        # Whose lines look like requests, up to a version that is none.
        (PROXY_1, {"proxy_protocol"}),
        (b"SSH-2.0-OpenSSH_9.6 Debian\r\n", {"ssh", "ssh forwarder"}),
        (b"OPTIONS rtsp://example.com RTSP/1.0\r\n", set[str]()),
        (b"\x00", set[str]()),
        (b"\xff" * 100, set[str]()),
    ],
)
def test_whose_beginnings_these_are(beginning: bytes, names: set[str]) -> None:
    assert {name for name, sniff in SNIFFERS.items() if sniff(beginning) is YES} == names
    assert not any(sniff(beginning) is MORE for sniff in SNIFFERS.values())


@pytest.mark.parametrize(
    ("prefix", "answer"),
    [
        (b"", MORE),
        (TLS[:5], MORE),
        (TLS, YES),
        (b"\x16\x03\x00\x00\x01\x01", YES),
        (b"\x16\x03\xff\x40\x00\x01", YES),
        (b"\x16\x03\x01\x40", MORE),
        (b"\x16\x03\x01\x40\x01", NO),
        (b"\x16\x03\x01\x41", NO),
        (b"\x16\x03\x01\x00", MORE),
        (b"\x16\x03\x01\x00\x00", NO),
        (b"\x16\x03\x01\x02\x00\x02", NO),
        (b"\x15", NO),
        (b"\x17\x03\x03", NO),
        (b"\x16\x02", NO),
        (b"\x80\x2e\x01\x03\x01", NO),  # how SSL 2.0 began
    ],
)
def test_tls(prefix: bytes, answer: Sniff) -> None:
    assert sniff_tls(prefix) is answer


def test_the_preface_of_http2_is_long() -> None:
    assert {sniff_http2_preface(HTTP2_PREFACE[:end]) for end in range(24)} == {MORE}
    assert sniff_http2_preface(HTTP2_PREFACE + b"\0\0\0\4") is YES
    assert sniff_http2_preface(b"PRI * HTTP/2.0\r\n\r\nST") is NO


def test_four_letters_are_ssh() -> None:
    assert [sniff_ssh(SSH[:end]) for end in range(6)] == [MORE] * 4 + [YES] * 2
    assert sniff_ssh(b"SSL-") is NO


def test_everything_begins_with_nothing() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        sniff_beginning(b"")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a real beginning, with maybe a byte of it changed, and something behind it."""
    data = bytearray(draw(st.sampled_from([TLS, HTTP2_PREFACE, HTTP1, SSH, PROXY_1, PROXY_2])))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data) + draw(st.binary(max_size=8))


@given(st.one_of(st.binary(max_size=40), mutated()))
@example(SSH)
@example(HTTP2_PREFACE)
@pytest.mark.parametrize("name", SNIFFERS)
def test_an_answer_holds_for_whatever_follows(name: str, data: bytes) -> None:
    answers = [SNIFFERS[name](data[:end]) for end in range(len(data) + 1)]
    decided = [answer for answer in answers if answer is not MORE]
    assert answers == [MORE] * (len(answers) - len(decided)) + decided[:1] * len(decided)


async def test_a_protocol_of_a_function_and_a_handler() -> None:
    served: list[Connection] = []

    async def serve(connection: Connection) -> None:
        served.append(connection)

    protocol = sniffed_protocol("mine", sniff_ssh, serve, alpn=["mine/1", "mine/2"])
    other = sniffed_protocol("other", sniff_http2_preface, serve)
    assert (protocol.name, protocol.alpn) == ("mine", ("mine/1", "mine/2"))
    assert (other.name, other.alpn) == ("other", ())
    assert [protocol.sniff(SSH), other.sniff(SSH)] == [YES, NO]
    connection = Connection(duplex_pipe_pair()[0], ConnectionContext())
    await protocol(connection)
    assert served == [connection]
