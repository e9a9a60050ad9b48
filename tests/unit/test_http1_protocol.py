"""HTTP/1 as one protocol among others: how it is recognized."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_core.protocol import Sniff
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1


async def nobody(exchange: HttpExchange) -> None:
    """Is never called: sniffing is pure."""


http1 = Http1(nobody)


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\n",
        b"OPTIONS /",
        b"OPTIONS * HTTP/1",
        b"CONNECT a:1 HTTP/1",
        b"GET http:// HTTP/1",
        b"M-SEARCH * HTTP/1",
        b"get / HTTP/1",
        b"PRIVATE / HTTP/1",
        b"PRI / HTTP/1",
        b"PRI * HTTP/1",
        b"\r\nGET / HTTP/1",
        b"\r\n\r\nGET / HTTP/1",
        b"SSH-2.0- / HTTP/1",
        b"A" * 32 + b" / HTTP/1",
        b"M " + b"x" * 8183 + b" HTTP/1",
    ],
)
def test_requests(beginning: bytes) -> None:
    assert http1.sniff(beginning) is Sniff.YES


@pytest.mark.parametrize(
    "beginning",
    [
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
        b"0032git-upload-pack /project.git\0host=a\0",
        b"OPTIONS rtsp://example.com RTSP/1.0\r\n",
        b"INVITE sip:bob@example.com SIP/2.0\r\n",
        b"get key\r\n",
        b"set key 0 0 5\r\n",
        b"EHLO example.com\r\n",
        b"M / HTTP/2",
        b"M / http/1",
        b"M  / HTTP/1",
        b"M /  HTTP/1",
        b"M / \x00",
        b"M " + b"x" * 8184 + b" HTTP/1",
        b"GET  ",
        b"GET \x00",
        b"GET\t",
        b"GET\r\n",
        b" GET",
        b"\n",
        b"\rG",
        b"\x00",
        b"A" * 33,
        b"*1\r\n$4\r\nPING\r\n",
        b"\x04\x01\x00\x50",
    ],
)
def test_other_things(beginning: bytes) -> None:
    assert http1.sniff(beginning) is Sniff.NO


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"G",
        b"GET",
        b"GET ",
        b"GET h",
        b"\r",
        b"\r\n",
        b"\r\nG",
        b"\r\nGET /",
        b"PRI * HTTP/",
        b"A" * 32,
        b"PROXY ",
        b"PROXY TCP4",
        b"PROXY TCP4 ",
        b"0032git-upload-pack /project.git",
        b"M " + b"x" * 8190,
    ],
)
def test_what_may_become_either(beginning: bytes) -> None:
    assert http1.sniff(beginning) is Sniff.MORE


BEGINNINGS = st.one_of(
    st.binary(max_size=30),
    st.lists(
        st.sampled_from(
            [b"GET", b"PRI", b" ", b"/", b"*", b"\r\n", b"\r", b" HTTP/", b"1", b"2", b"A" * 31]
        ),
        max_size=6,
    ).map(b"".join),
)


@given(BEGINNINGS)
def test_an_answer_holds_for_whatever_follows(data: bytes) -> None:
    answers = [http1.sniff(data[:end]) for end in range(len(data) + 1)]
    decided = [answer for answer in answers if answer is not Sniff.MORE]
    assert answers == [Sniff.MORE] * (len(answers) - len(decided)) + decided[:1] * len(decided)


def test_what_it_is_called() -> None:
    assert http1.name == "http/1.1"
    assert http1.alpn == ("http/1.1",)
