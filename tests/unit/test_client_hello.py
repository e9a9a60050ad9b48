"""Reading what TLS clients say first: those of Python's own ssl, and hellos made by hand."""

import random
import ssl
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kestrel_core.features import ClientHello
from kestrel_core.protocol import Sniff
from kestrel_middleware.client_hello import (
    BadClientHello,
    ClientHelloReader,
    read_client_hello,
    sniff_tls,
)


def pythons_hello(
    host: str | None = "example.org",
    alpn: tuple[str, ...] = (),
    *,
    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> bytes:
    """Return the first flight of a client of the standard library."""
    context = ssl.create_default_context()
    context.check_hostname = host is not None
    context.minimum_version, context.maximum_version = lowest, highest
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def vector(width: int, content: bytes) -> bytes:
    """Return `content` behind its length."""
    return len(content).to_bytes(width, "big") + content


def numbers(*values: int) -> bytes:
    """Return each as two bytes."""
    return struct.pack(f">{len(values)}H", *values)


def extension(kind: int, content: bytes) -> bytes:
    """Return an extension."""
    return numbers(kind) + vector(2, content)


def server_name(name: bytes, kind: int = 0) -> bytes:
    """Return the extension that names a server."""
    return extension(0, vector(2, bytes([kind]) + vector(2, name)))


def message(
    *extensions: bytes,
    suites: bytes = numbers(0x1301, 0xC02F),
    session_id: bytes = b"",
    compression: bytes = b"\0",
    version: int = 0x0303,
    tail: bytes | None = None,
    kind: int = 1,
) -> bytes:
    """Return a ClientHello made by hand; `tail` stands where the extensions do."""
    if tail is None:
        tail = vector(2, b"".join(extensions))
    body = (
        numbers(version)
        + bytes(32)
        + vector(1, session_id)
        + vector(2, suites)
        + vector(1, compression)
        + tail
    )
    return bytes([kind]) + vector(3, body)


def records(handshake: bytes, *sizes: int) -> bytes:
    """Return `handshake` in records of these sizes, the last of them repeated."""
    parts: list[bytes] = []
    rest, left = handshake, list(sizes or [16384])
    while rest:
        size = left.pop(0) if len(left) > 1 else left[0]
        parts.append(b"\x16\x03\x01" + vector(2, rest[:size]))
        rest = rest[size:]
    return b"".join(parts)


def read(handshake: bytes) -> ClientHello:
    """Return what is read of a whole one."""
    hello = read_client_hello(records(handshake))
    assert hello is not None
    return hello


FULL = message(
    server_name(b"a.example"),
    extension(16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1"))),
    extension(43, vector(1, numbers(0x7A7A, 0x0304, 0x0303))),
    extension(13, vector(2, numbers(0x0403, 0x0804))),
    extension(0x2A2A, b""),
    suites=numbers(0x0A0A, 0x1301, 0x1302),
    session_id=bytes(32),
)


def test_a_hello_of_the_standard_library() -> None:
    data = pythons_hello("Example.ORG", ("h2", "http/1.1"))
    hello = read_client_hello(data)
    assert hello is not None
    assert hello.server_name == "example.org"
    assert hello.alpn == ("h2", "http/1.1")
    assert hello.versions == (0x0304, 0x0303)
    assert {0x1301, 0x1302, 0x1303} <= set(hello.cipher_suites)
    assert {0, 10, 13, 16, 43, 51} <= set(hello.extensions)
    assert 0x0403 in hello.signature_algorithms
    assert hello.raw == data[5:]
    assert hello.fingerprint.startswith(f"t13d{len(hello.cipher_suites):02}")
    assert hello.fingerprint[8:11] == "h2_"


def test_another_hello_of_the_standard_library() -> None:
    tls12 = ssl.TLSVersion.TLSv1_2
    hello = read_client_hello(pythons_hello(None, highest=tls12))
    assert hello is not None
    assert (hello.server_name, hello.alpn, hello.versions) == (None, (), (0x0303,))
    assert hello.fingerprint.startswith("t12i")
    assert hello.fingerprint[8:11] == "00_"


def test_what_a_hello_says() -> None:
    assert read(FULL) == ClientHello(
        server_name="a.example",
        alpn=("h2", "http/1.1"),
        versions=(0x0304, 0x0303),
        cipher_suites=(0x1301, 0x1302),
        extensions=(0, 16, 43, 13),
        signature_algorithms=(0x0403, 0x0804),
        fingerprint=read(FULL).fingerprint,
        raw=FULL,
    )
    assert read(FULL).fingerprint.startswith("t13d0204h2_")


def test_without_extensions() -> None:
    for tail in (b"", vector(2, b"")):
        hello = read(message(tail=tail, version=0x0301))
        assert (hello.server_name, hello.versions, hello.extensions) == (None, (0x0301,), ())
        assert hello.fingerprint.startswith("t10i020000_")
        assert hello.fingerprint.endswith("_000000000000")


def test_the_name_of_a_server() -> None:
    assert read(message(server_name(b"A.Example."))).server_name == "a.example"
    assert read(message(server_name(b"under_score-1"))).server_name == "under_score-1"
    assert read(message(server_name(b"a" * 255))).server_name == "a" * 255
    # Of a kind that nobody has defined; but the fingerprint counts the extension.
    other = read(message(server_name(b"\xff", kind=7)))
    assert other.server_name is None
    assert other.fingerprint.startswith("t12d")


def test_alpn_need_not_be_text() -> None:
    hello = read(message(extension(16, vector(2, vector(1, b"\xff\x00")))))
    assert hello.alpn == ("\xff\0",)
    assert hello.alpn[0].encode("latin-1") == b"\xff\0"


@pytest.mark.parametrize(
    ("handshake", "told"),
    [
        (message(server_name(b"")), "no host name"),
        (message(server_name(b".")), "no host name"),
        (message(server_name(b"a\0b")), r"b'a\\x00b' .* no host name"),
        (message(server_name("ä".encode())), "no host name"),
        (message(server_name(b"../a")), "no host name"),
        (message(server_name(b"a..b")), "no host name"),
        (message(server_name(b"a b")), "no host name"),
        (message(server_name(b"a" * 256)), "no host name"),
        (message(extension(0, vector(2, b""))), "empty list"),
        (message(extension(0, b"")), "ends within its server name"),
        (message(extension(0, vector(2, b"\0" + vector(2, b"a")) + b"x")), "bytes follow the se"),
        (message(extension(0, vector(2, 2 * (b"\0" + vector(2, b"a"))))), "names two servers"),
        (message(extension(5, b""), extension(5, b"")), "extension 5 twice"),
        (message(extension(16, vector(2, b""))), "no name, or an empty one"),
        (message(extension(16, vector(2, b"\0"))), "no name, or an empty one"),
        (message(extension(16, vector(2, b"\5h2"))), "ends within its ALPN"),
        (message(extension(43, vector(1, b"\3\4\3"))), "have 3 bytes"),
        (message(extension(43, vector(1, b""))), "have 0 bytes"),
        (message(extension(13, vector(2, b""))), "signature algorithms .* have 0 bytes"),
        (message(suites=b""), "cipher suites .* have 0 bytes"),
        (message(suites=b"\1\2\3"), "cipher suites .* have 3 bytes"),
        (message(session_id=bytes(33)), "longer than 32 bytes"),
        (message(compression=b""), "no compression method"),
        (message(tail=b"\0\5abc"), "ends within its extensions"),
        (message(tail=b"\0\3abc"), "ends within its extensions"),
        (message(tail=b"\0\0x"), "bytes follow the extensions"),
        (b"\1\0\0\2\3\3", "ends within its random"),
        (b"\1\0\0\0", "ends within its version"),
        (message(kind=2), "begins with message 2"),
    ],
)
def test_what_is_malformed(handshake: bytes, told: str) -> None:
    with pytest.raises(BadClientHello, match=told):
        read(handshake)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"GET / HTTP/1.1\r\n", "47 45 begins no TLS record"),
        (b"\x17", "17 begins no TLS record"),
        (b"\x16\x02\x00", "16 02 begins no TLS record"),
        (b"\x16\x03\x01\x00\x00", "1 to 16384 bytes, not 0"),
        (b"\x16\x03\x01\x40\x01", "1 to 16384 bytes, not 16385"),
        (b"\x16\x03\x01\x00\x01\x02", "begins with message 2"),
        (b"\x16\x03\x01\x02\x00\x02", "begins with message 2"),
        (b"\x16\x03\x01\x40\x00\x01\x01\x00\x00", "65536 bytes at most, not 65540"),
        (records(FULL[:9], 9) + b"\x15\x03\x01\x00\x02\x02\x28", "15 03 begins no TLS record"),
        (b"\x16\x03\x01\x00\x04\x01\x00\xff\xfd", "65536 bytes at most, not 65537"),
        (records(b"\x01\x00\xff\xfd", 1), "65536 bytes at most, not 65537"),
        (records(b"\x01\xff\xff\xff"), "65536 bytes at most"),
    ],
)
def test_what_is_no_hello_at_all(data: bytes, told: str) -> None:
    with pytest.raises(BadClientHello, match=told):
        read_client_hello(data)


def test_the_longest() -> None:
    padding = 65536 - len(message(extension(21, b"")))
    longest = message(extension(21, bytes(padding)))
    assert len(longest) == 65536
    assert read(longest).raw == longest
    with pytest.raises(BadClientHello, match="not 65537"):
        read_client_hello(records(message(extension(21, bytes(padding)), session_id=b"x")))


def test_what_follows_does_not_matter() -> None:
    assert read_client_hello(records(FULL) + b"anything") == read(FULL)
    assert read_client_hello(records(FULL + b"more of the record")) == read(FULL)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(records(FULL), id="one record"),
        pytest.param(records(FULL, 1), id="records of one byte"),
        pytest.param(records(FULL, 3, 1, 50), id="some records"),
        pytest.param(pythons_hello(alpn=("h2",)), id="the standard library's"),
    ],
)
def test_every_truncation_needs_more(data: bytes) -> None:
    whole = read_client_hello(data)
    assert whole is not None
    reader = ClientHelloReader()
    for end in range(len(data)):
        assert read_client_hello(data[:end]) is None
        assert reader.read(data[:end]) is None
        assert sniff_tls(data[:end]) is (Sniff.MORE if end < 6 else Sniff.YES)
    assert reader.read(data) == whole


@given(st.lists(st.integers(1, 120), min_size=1), st.lists(st.integers(1, 40)))
def test_however_it_is_cut(sizes: list[int], steps: list[int]) -> None:
    data = records(FULL, *sizes)
    reader, end = ClientHelloReader(), 0
    for step in steps:
        end = min(end + step, len(data) - 1)
        assert reader.read(data[:end]) is None
    assert reader.read(data) == read(FULL)
    assert read_client_hello(data) == read(FULL)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_hello(data: bytes) -> None:
    with suppress(BadClientHello):
        assert read_client_hello(data) is None
        assert sniff_tls(data) is not Sniff.NO


@given(st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=300)
def test_a_damaged_hello_is_read_or_refused(dice: random.Random, faults: int) -> None:
    """And what cannot become one stays so, whatever follows."""
    damaged = bytearray(records(FULL, dice.randint(1, 200)))
    for _ in range(faults):
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    data, refused = bytes(damaged), False
    for end in range(len(data) + 1):
        try:
            hello = read_client_hello(data[:end])
        except BadClientHello:
            refused = True
        else:
            assert not refused
            assert hello is None or hello.raw[0] == 1
