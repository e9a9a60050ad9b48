"""PROXY headers in bytes: what is written is read, and nothing but that."""

import os
from ipaddress import IPv4Address, IPv6Address

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kestrel_core import Address, Sniff
from kestrel_middleware.proxy_protocol import (
    Command,
    Family,
    InvalidHeader,
    ProxyHeader,
    SocketKind,
    SslClient,
    SslTlv,
    TlvType,
    decode,
    encode,
)
from kestrel_middleware.proxy_protocol.sending import common_name_of
from kestrel_middleware.proxy_protocol.tlv import Tlv, join_tlvs, split_tlvs
from kestrel_middleware.proxy_protocol.wire import sniff

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

CLIENT, SERVER = Address("203.0.113.7", 4711), Address("192.0.2.1", 443)
CLIENT_6, SERVER_6 = Address("2001:db8::7", 4711), Address("2001:db8::1", 443)

CHECKSUM: Tlv = (TlvType.CRC32C, bytes(4))

PORTS = st.integers(0, 65535)
UNIX_NAMES = st.one_of(
    st.none(),
    st.text("/abc.-ü", min_size=1, max_size=50).map(Address),
    st.binary(min_size=1, max_size=106)
    .filter(lambda name: b"\0" not in name)
    .map(lambda name: Address("/" + os.fsdecode(name))),
    st.binary(min_size=1, max_size=107)
    .filter(lambda name: not name.endswith(b"\0"))
    .map(lambda name: Address("@" + os.fsdecode(name))),
)
SSL = st.builds(
    SslTlv,
    client=st.integers(0, 7).map(SslClient),
    verify=st.integers(0, 2**32 - 1),
    tlvs=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=4).map(tuple),
)
TLVS = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 255).filter(lambda kind: kind not in (TlvType.CRC32C, TlvType.SSL)),
            st.binary(max_size=128),
        ),
        SSL.map(lambda ssl: (int(TlvType.SSL), ssl.to_bytes())),
    ),
    max_size=5,
).map(tuple)


@st.composite
def headers(draw: st.DrawFn) -> ProxyHeader:
    version = draw(st.sampled_from([1, 2]))
    tlvs = () if version == 1 else draw(TLVS)
    draw_ip = draw(st.sampled_from([IPv4Address, IPv6Address, None]))
    if draw_ip is None and version == 1:
        return ProxyHeader(version=1)
    if draw_ip is None:
        family, source, destination = Family.UNIX, draw(UNIX_NAMES), draw(UNIX_NAMES)
    else:
        most = 2 ** (32 if draw_ip is IPv4Address else 128) - 1
        source, destination = (
            Address(str(draw_ip(draw(st.integers(0, most)))), draw(PORTS)) for _ in range(2)
        )
        header = ProxyHeader.between(source, destination, version=version)
        family, source, destination = header.family, header.source, header.destination
    kind = SocketKind.STREAM if version == 1 else draw(st.sampled_from(SocketKind))
    return ProxyHeader(
        version=version,
        family=family,
        kind=kind,
        source=source,
        destination=destination,
        tlvs=tlvs,
    )


@st.composite
def headers_without_addresses(draw: st.DrawFn) -> ProxyHeader:
    command = draw(st.sampled_from(Command))
    kind = SocketKind.UNSPEC if command is Command.LOCAL else draw(st.sampled_from(SocketKind))
    return ProxyHeader(command=command, kind=kind, tlvs=draw(TLVS))


ALL_HEADERS = st.one_of(headers(), headers_without_addresses())


# What is written is read ------------------------------------------------------------------------


@given(ALL_HEADERS, st.binary(max_size=40))
@example(ProxyHeader.between(Address("::ffff:1.2.3.4", 1), CLIENT_6), b"")
def test_what_was_encoded_is_decoded(header: ProxyHeader, following: bytes) -> None:
    encoded = encode(header)
    assert decode(encoded + following) == (header, len(encoded))


@given(ALL_HEADERS)
def test_every_truncation_needs_more(header: ProxyHeader) -> None:
    encoded = encode(header)
    for length in range(len(encoded)):
        assert decode(encoded[:length]) is None


@given(st.one_of(headers(), headers_without_addresses()).filter(lambda h: h.version == 2))
def test_a_checksum_is_worked_out_and_checked(header: ProxyHeader) -> None:
    middle = len(header.tlvs) // 2
    tlvs = (*header.tlvs[:middle], CHECKSUM, *header.tlvs[middle:])
    encoded = encode(
        ProxyHeader(
            command=header.command,
            family=header.family,
            kind=header.kind,
            source=header.source,
            destination=header.destination,
            tlvs=tlvs,
        )
    )
    decoded = decode(encoded)
    assert decoded is not None
    assert [tlv for tlv in decoded[0].tlvs if tlv[0] != TlvType.CRC32C] == list(header.tlvs)
    assert (decoded[0].source, decoded[0].destination) == (header.source, header.destination)


def test_no_bit_under_a_checksum_may_change() -> None:
    tlvs: list[Tlv] = [CHECKSUM, (TlvType.AUTHORITY, b"a.example")]
    encoded = encode(ProxyHeader.between(CLIENT, SERVER, tlvs=tlvs))
    for position in range(16, len(encoded)):
        for bit in range(8):
            changed = bytearray(encoded)
            changed[position] ^= 1 << bit
            in_a_type = position in (28, 35)  # which may make it no checksum, or two
            try:
                decoded = decode(bytes(changed))
            except InvalidHeader:
                continue
            assert in_a_type
            assert decoded is not None
            assert [kind for kind, _ in decoded[0].tlvs] != [TlvType.CRC32C, TlvType.AUTHORITY]


# Nothing but that -------------------------------------------------------------------------------


@given(st.binary(max_size=300))
@example(b"PROXY TCP4 1.2.3.4 \xff\r\n")
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    for beginning in (
        b"",
        b"PROXY ",
        b"PROXY TCP4 ",
        b"PROXY TCP6 ",
        b"PROXY UNKNOWN",
        SIGNATURE,
        SIGNATURE + b"\x20\x00\x00\x20",
        SIGNATURE + b"\x20\x11\x00\x20",
        SIGNATURE + b"\x21\x00\x00\x20",
        SIGNATURE + b"\x21\x11\x00\x20",
        SIGNATURE + b"\x21\x31\x00\xf0",
    ):
        try:
            decoded = decode(beginning + data)
        except InvalidHeader:
            continue
        if decoded is not None:
            header, size = decoded
            assert 0 < size <= len(beginning + data)
            encode(header)


@given(ALL_HEADERS, st.data())
def test_damaged_headers_never_raise_anything_else(
    header: ProxyHeader, data: st.DataObject
) -> None:
    damaged = bytearray(encode(header))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(damaged))
    except InvalidHeader:
        return
    if decoded is not None:
        encode(decoded[0])


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r \n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443 \r\n",
        b"PROXY TCP4  203.0.113.7 192.0.2.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443 5\r\n",
        b"PROXY TCP4 203.0.113.07 192.0.2.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.256 192.0.2.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113 192.0.2.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7 2001:db8::1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 04711 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 65536\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443 GET / HTTP/1.1\r\n",
        b"PROXY TCP4 \r\n",
        b"PROXY TCP6 203.0.113.7 192.0.2.1 4711 443\r\n",
        b"PROXY TCP6 2001:db8::7%eth0 2001:db8::1 4711 443\r\n",
        b"PROXY TCP6 2001:db8:::7 2001:db8::1 4711 443\r\n",
        b"PROXY TCP6 [2001:db8::7] 2001:db8::1 4711 443\r\n",
        b"PROXY TCP5 203.0.113.7 192.0.2.1 4711 443\r\n",
        b"PROXY UDP4 203.0.113.7 192.0.2.1 4711 443\r\n",
        b"proxy TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
        b"PROXY  TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"PROXY / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(InvalidHeader):
        decode(line)


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Address("255.255.255.255", 65535),
            Address("255.255.255.255", 65535),
        ),
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Address("0.0.0.0", 0), Address("0.0.0.0", 0)),
        (
            b"PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::ffff:192.0.2.1 4711 443\r\n",
            CLIENT_6,
            Address("::ffff:192.0.2.1", 443),
        ),
        (b"PROXY UNKNOWN\r\n", None, None),
        (b"PROXY UNKNOWN 203.0.113.7 192.0.2.1 4711 443\r\n", None, None),
        (b"PROXY UNKNOWN \xff\0\n\r" + b"x" * 87 + b"\r\n", None, None),
    ],
)
def test_lines(line: bytes, source: Address | None, destination: Address | None) -> None:
    decoded = decode(line + b"GET")
    assert decoded is not None
    header, size = decoded
    assert size == len(line)
    assert (header.source, header.destination) == (source, destination)


def test_a_line_without_an_end_is_refused_at_its_limit() -> None:
    line = b"PROXY UNKNOWN " + b"x" * 92
    assert len(line) == 106
    assert decode(line) is None
    assert decode(line[:-1] + b"\r\n") == (ProxyHeader(version=1), 107)
    with pytest.raises(InvalidHeader, match="107"):
        decode(line + b"\r")


def block(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    size = len(rest) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2) + rest


INET = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + (4711).to_bytes(2) + (443).to_bytes(2)


@pytest.mark.parametrize(
    "data",
    [
        block(0x11, 0x11, INET),  # versions
        block(0x31, 0x11, INET),
        block(0x01, 0x11, INET),
        block(0x22, 0x11, INET),  # commands
        block(0x2F, 0x11, INET),
        block(0x21, 0x41, INET),  # families
        block(0x21, 0xF1, INET),
        block(0x21, 0x13, INET),  # kinds of sockets
        block(0x21, 0x1F, INET),
        block(0x21, 0x11, INET[:-1]),  # addresses
        block(0x21, 0x11, b""),
        block(0x21, 0x21, bytes(35)),
        block(0x21, 0x31, bytes(215)),
        block(0x21, 0x11, INET + b"\x04"),  # TLVs
        block(0x21, 0x11, INET + b"\x04\x00"),
        block(0x21, 0x11, INET + b"\x04\x00\x01"),
        block(0x21, 0x11, INET + b"\x04\x00\x01xx"),
        block(0x21, 0x11, INET + b"\x02\xff\xffa.example"),
        block(0x21, 0x11, INET + b"\x03\x00\x04abcd"),  # checksums
        block(0x21, 0x11, INET + b"\x03\x00\x00"),
        block(0x20, 0x00, b"\x03\x00\x04abcd"),
        block(0x21, 0x11, INET + b"\x05\x00\x81" + b"x" * 129),  # a unique id
        block(0x21, 0x11, INET + b"\x20\x00\x04\x01\0\0\0"),  # SSL
        block(0x21, 0x11, INET + b"\x20\x00\x06\x01\0\0\0\0\x21"),
        block(0x21, 0x11, INET + b"\x20\x00\x08\x01\0\0\0\0\x21\x00\x07"),
    ],
)
def test_blocks_that_are_none(data: bytes) -> None:
    with pytest.raises(InvalidHeader):
        decode(data)


def test_two_checksums_are_none() -> None:
    with pytest.raises(InvalidHeader, match="one checksum"):
        decode(block(0x21, 0x11, INET + b"\x03\x00\x04abcd" * 2))


def test_a_block_as_the_specification_has_it() -> None:
    data = block(0x21, 0x11, INET + b"\x04\x00\x02..\xe0\x00\x00")
    header = ProxyHeader.between(CLIENT, SERVER, tlvs=[(TlvType.NOOP, b".."), (0xE0, b"")])
    assert decode(data) == (header, len(data))
    assert encode(header) == data


@pytest.mark.parametrize(
    ("family", "rest", "tlvs"),
    [
        (0x00, b"", ()),
        (0x11, b"", ()),  # a family, and no addresses
        (0x11, INET, ()),
        (0x11, INET + b"\x04\x00\x01.", ((TlvType.NOOP, b"."),)),
        (0x00, b"\x05\x00\x02id", ((TlvType.UNIQUE_ID, b"id"),)),
        (0x00, b"no TLVs at all", ()),
        (0xFF, b"whatever", ()),
        (0x1F, INET, ()),
    ],
)
def test_what_a_local_header_carries_is_skipped(
    family: int, rest: bytes, tlvs: tuple[Tlv, ...]
) -> None:
    data = block(0x20, family, rest)
    assert decode(data + b"GET") == (ProxyHeader(command=Command.LOCAL, tlvs=tlvs), len(data))


def test_addresses_of_no_known_family_are_skipped() -> None:
    data = block(0x21, 0x00, b"\x01\x02")
    assert decode(data) == (ProxyHeader(), len(data))


def test_a_block_may_not_be_larger_than_allowed() -> None:
    data = block(0x21, 0x11, INET + join_tlvs([(TlvType.NOOP, bytes(100))]))
    assert decode(data, len(data)) is not None
    with pytest.raises(InvalidHeader, match="131 bytes, and 130 are allowed"):
        decode(data[:16], len(data) - 1)  # before it has arrived
    largest = block(0x21, 0x11, INET + join_tlvs([(TlvType.NOOP, bytes(65520))]))
    assert len(largest) == 65551
    assert decode(largest) is not None


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (b"/run/app.sock", Address("/run/app.sock")),
        (b"app.sock", Address("app.sock")),
        (b"/run/app.sock\0garbage", Address("/run/app.sock")),
        (b"x" * 108, Address("x" * 108)),
        (b"\0abstract", Address("@abstract")),
        (b"", None),
        (b"@path", Address("./@path")),  # which must not look abstract
        (b"10.0.0.1", Address("./10.0.0.1")),  # nor like somebody whom a filter lets in
        (b"::1", Address("./::1")),
    ],
)
def test_names_of_unix_sockets(name: bytes, address: Address | None) -> None:
    data = block(0x21, 0x31, name.ljust(108, b"\0") + bytes(108))
    decoded = decode(data)
    assert decoded is not None
    assert decoded[0].source == address
    assert decoded[0].destination is None


def test_a_name_that_cannot_be_told_is_none() -> None:
    with pytest.raises(InvalidHeader, match="Unix socket"):
        decode(block(0x21, 0x31, b"@".ljust(108, b"x") + bytes(108)))


# How it begins ----------------------------------------------------------------------------------


@given(ALL_HEADERS, st.binary(max_size=5))
def test_a_header_is_recognized_for_good(header: ProxyHeader, following: bytes) -> None:
    data = encode(header) + following
    answers = [sniff(data[:length]) for length in range(len(data) + 1)]
    assert answers == sorted(answers, key=[Sniff.MORE, Sniff.YES].index)
    assert answers[:6] == [Sniff.MORE] * 6
    assert answers[15:] == [Sniff.YES] * (len(answers) - 15)
    other = {3 - header.version}
    assert sniff(data, other) is Sniff.NO
    assert sniff(data, {header.version}) is Sniff.YES


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_an_answer_stays(prefix: bytes, more: bytes) -> None:
    for beginning in (b"", b"PROXY ", b"PROXY UNKNOWN", SIGNATURE):
        first = sniff(beginning + prefix)
        assert first is Sniff.MORE or sniff(beginning + prefix + more) is first


@pytest.mark.parametrize(
    "prefix", [b"G", b"PROXY /", b"PROXY TCP4/", b"\x16", b"\r\n\r\nG", SIGNATURE + b"\x11", b"PU"]
)
def test_other_protocols_are_told_at_the_first_difference(prefix: bytes) -> None:
    assert sniff(prefix[:-1]) is Sniff.MORE
    assert sniff(prefix) is Sniff.NO


# Values -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=5).map(tuple))
def test_tlvs(tlvs: tuple[Tlv, ...]) -> None:
    assert split_tlvs(join_tlvs(tlvs)) == tlvs


@pytest.mark.parametrize("tlv", [(256, b""), (-1, b""), (1, bytes(65536))])
def test_tlvs_that_cannot_be(tlv: Tlv) -> None:
    with pytest.raises(ValueError, match="TLV"):
        join_tlvs([tlv])


@given(SSL)
def test_ssl(ssl: SslTlv) -> None:
    assert SslTlv.parse(ssl.to_bytes()) == ssl


@pytest.mark.parametrize(
    ("source", "destination", "line"),
    [
        (CLIENT, SERVER, b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"),
        (CLIENT_6, SERVER_6, b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"),
        (CLIENT, SERVER_6, b"PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 4711 443\r\n"),
        (
            Address("fe80::1%eth0", 1),
            Address("FE80::2", 2),
            b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n",
        ),
        (None, Address("/run/app.sock"), b"PROXY UNKNOWN\r\n"),
        (None, None, b"PROXY UNKNOWN\r\n"),
        (Address("client"), SERVER, b"PROXY UNKNOWN\r\n"),
        (Address("203.0.113.7"), SERVER, b"PROXY UNKNOWN\r\n"),
    ],
)
def test_lines_between_addresses(
    source: Address | None, destination: Address | None, line: bytes
) -> None:
    assert encode(ProxyHeader.between(source, destination, version=1)) == line


@pytest.mark.parametrize(
    ("source", "destination", "command", "family"),
    [
        (CLIENT, SERVER, Command.PROXY, Family.INET),
        (CLIENT_6, SERVER, Command.PROXY, Family.INET6),
        (None, Address("/run/app.sock"), Command.PROXY, Family.UNIX),
        (Address("@client"), Address("@server"), Command.PROXY, Family.UNIX),
        (None, None, Command.LOCAL, Family.UNSPEC),
        (CLIENT, None, Command.LOCAL, Family.UNSPEC),
        (CLIENT, Address("/run/app.sock"), Command.LOCAL, Family.UNSPEC),
        (Address("memory-client"), Address("memory"), Command.LOCAL, Family.UNSPEC),
        (Address("/" + "x" * 108), None, Command.LOCAL, Family.UNSPEC),
    ],
)
def test_blocks_between_addresses(
    source: Address | None, destination: Address | None, command: Command, family: Family
) -> None:
    header = ProxyHeader.between(source, destination)
    assert (header.command, header.family) == (command, family)
    assert decode(encode(header)) is not None


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (ProxyHeader(version=3), "version must be 1 or 2, not 3"),
        (ProxyHeader.between(CLIENT, SERVER, version=1, tlvs=[CHECKSUM]), "no room for TLVs"),
        (ProxyHeader(tlvs=[(TlvType.UNIQUE_ID, bytes(129))]), "129 bytes is too long"),
        (ProxyHeader(tlvs=[CHECKSUM, CHECKSUM]), "one checksum"),
        (ProxyHeader(tlvs=[(TlvType.NOOP, bytes(40000))] * 2), "room for 65535 bytes"),
        (ProxyHeader(source=CLIENT, destination=SERVER), "need a family"),
        (attrs.evolve(ProxyHeader.between(CLIENT, SERVER), command=Command.LOCAL), "for itself"),
        (ProxyHeader(command=Command.LOCAL, kind=SocketKind.STREAM), "for itself"),
        (ProxyHeader(family=Family.INET, source=CLIENT, destination=SERVER_6), "of INET with"),
        (ProxyHeader(family=Family.INET6, source=CLIENT_6), "of INET6 with"),
        (ProxyHeader(family=Family.INET, source=Address("a", 1), destination=SERVER), "no IP"),
        (ProxyHeader(family=Family.INET, source=Address("1.2.3.4"), destination=SERVER), "a port"),
        (
            ProxyHeader(family=Family.INET6, source=Address("fe80::1%a", 1), destination=SERVER_6),
            "no IP address",
        ),
        *(
            (ProxyHeader(family=Family.UNIX, source=Address(name)), "the name of a Unix socket")
            for name in ("", "@", "a\0b", "@a\0", "x" * 109)
        ),
    ],
)
def test_parts_that_do_not_fit(header: ProxyHeader, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        encode(header)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("CN=Ada", "Ada"),
        ("CN=Ada Lovelace,O=Example,C=GB", "Ada Lovelace"),
        ("O=Example, CN=Ada", "Ada"),
        ("OU=a+CN=Ada,O=b", "Ada"),
        ("cn=ada", "ada"),
        (r"CN=Lovelace\, Ada,O=Example", "Lovelace, Ada"),
        (r"CN=\C3\BCber \+ 1", "über + 1"),
        (r"CN=a\\,O=Example", "a\\"),
        (r"O=Example\,CN=root,CN=Ada", "Ada"),
        (r"O=Example\\\,CN=root", None),
        (r"O=Example\\,CN=Ada", "Ada"),
        ("CN=#04024869", None),
        ("O=CN", None),
        ("", None),
    ],
)
def test_common_names(subject: str, name: str | None) -> None:
    assert common_name_of(subject) == name
