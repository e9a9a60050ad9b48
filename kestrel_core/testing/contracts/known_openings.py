"""How the clients of well-known protocols begin, for the contract of those that are told apart."""

import re

import attrs

__all__ = ["KNOWN_OPENINGS", "KnownOpening"]


@attrs.frozen
class KnownOpening:
    """What clients of one protocol say first."""

    name: str
    examples: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    """Matches the beginning of what they say."""

    def is_that_of(self, sample: bytes) -> bool:
        """Tell whether `sample` is of this protocol."""
        return self.pattern.match(sample) is not None


def _opening(name: str, pattern: bytes, *examples: bytes) -> KnownOpening:
    return KnownOpening(name, examples, re.compile(pattern, re.DOTALL))


# A whole one, as RFC 8446, 4.1.2 has it, with one extension: supported_versions.
_CLIENT_HELLO = bytes.fromhex("0303 %s 00 0002 1301 0100 0007 002b 0003 02 0304" % ("5a" * 32))
_HANDSHAKE = b"\x01" + len(_CLIENT_HELLO).to_bytes(3, "big") + _CLIENT_HELLO

KNOWN_OPENINGS = (
    _opening(
        "HTTP/1.1",
        rb"(?:\r?\n)*[^\x00-\x20]+ [^\x00-\x20]+ HTTP/1\.[01]\r?\n",
        b"GET / HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n",
        b"POST /a?b=c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi",
        b"OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ),
    _opening(
        "HTTP/2",
        rb"PRI \* HTTP/2\.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    ),
    _opening(
        "TLS",
        rb"\x16\x03",
        b"\x16\x03\x01" + len(_HANDSHAKE).to_bytes(2, "big") + _HANDSHAKE,
        b"\x16\x03\x03" + len(_HANDSHAKE).to_bytes(2, "big") + _HANDSHAKE,
    ),
    _opening("SSH", rb"SSH-", b"SSH-2.0-OpenSSH_9.6\r\n"),
    _opening(
        "the PROXY protocol, version 1",
        rb"PROXY (?:TCP[46]|UNKNOWN)",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\nGET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n",
        b"PROXY UNKNOWN\r\n",
    ),
    _opening(
        "the PROXY protocol, version 2",
        rb"\r\n\r\n\x00\r\nQUIT\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\7\xc0\0\2\1\x12\x67\1\xbb",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ),
    # These begin as a request of HTTP with a method of its own might, and differ only at its version.
    _opening(
        "RTSP",
        rb"[A-Z_]+ \S+ RTSP/",
        b"OPTIONS rtsp://example.com/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    ),
    _opening(
        "SIP",
        rb"[A-Z]+ \S+ SIP/",
        b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TCP example.com\r\n",
    ),
    _opening("memcached", rb"(?:set|add|get) [^/\s]+ ?\d*", b"set key 0 0 5\r\nvalue\r\n"),
    _opening(
        "git",
        rb"[0-9a-f]{4}git-",
        b"0032git-upload-pack /project.git\0host=example.com\0",
    ),
    _opening("SMTP", rb"(?:EHLO|HELO) \S+\r\n", b"EHLO example.com\r\n"),
    _opening("Redis", rb"\*\d+\r\n\$", b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"),
    _opening(
        "PostgreSQL",
        rb"\x00\x00..(?:\x00\x03\x00|\x04\xd2\x16)",
        b"\0\0\0\x08\4\xd2\x16\x2f",
        b"\0\0\0\x16\0\3\0\0user\0postgres\0\0\0",
    ),
    _opening("MQTT", rb"\x10.{1,4}\x00[\x04\x06]MQ", b"\x10\x0f\0\4MQTT\4\2\0\x3c\0\3abc"),
    _opening("AMQP", rb"AMQP", b"AMQP\0\0\x09\1", b"AMQP\0\1\0\0"),
    _opening("SOCKS 5", rb"\x05[\x01-\x10]", b"\5\1\0", b"\5\2\0\2"),
    _opening("RDP", rb"\x03\x00\x00.", b"\3\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0"),
    _opening("BitTorrent", rb"\x13BitTorrent", b"\x13BitTorrent protocol" + bytes(48)),
)
