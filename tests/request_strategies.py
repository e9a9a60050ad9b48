"""Strategies for heads of requests: good ones, and such as somebody has tampered with."""

from hypothesis import strategies as st

__all__ = ["FIELDS", "METHODS", "good_heads", "mutated"]

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~09azAZ"
NAMES = st.one_of(
    st.sampled_from(["connection", "Connection", "expect", "accept", "x", "X-Y"]),
    st.text(TOKEN_CHARACTERS, min_size=1, max_size=8),
)
VALUES = st.one_of(
    st.sampled_from(["a", "a:80", "5", "chunked", "close", "keep-alive, Upgrade", "100-continue"]),
    st.text(
        st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12
    ),
)
WHITE = st.text(" \t", max_size=2)

FIELDS = st.tuples(NAMES, WHITE, VALUES, WHITE).map(lambda f: f"{f[0]}:{f[1]}{f[2]}{f[3]}\r\n")
"""Field lines that mean nothing to the framing."""

METHODS = st.sampled_from(["GET", "POST", "OPTIONS", "get", "M-SEARCH", "PRI"])

TARGETS = st.one_of(
    st.sampled_from(
        ["/", "/a%20b", "/%2e%2e/x?y=%00", "/a?b?c", "//", "http://a/b?c", "HTTPS://A"]
    ),
    st.text("-._~!$&'()*+,;=:@/?09azAZ", max_size=10).map("/".__add__),
)
FRAMINGS = st.sampled_from(
    ["", "", "Content-Length: 5\r\n", "content-length:0\r\n", "Transfer-Encoding: Chunked\r\n"]
)
HOSTS = st.sampled_from(
    ["Host: a\r\n", "host:a:\r\n", "HOST: A.b-1:80 \r\n", "Host:\r\n", "host:\t[::1]:8080\r\n"]
)


@st.composite
def good_heads(draw: st.DrawFn) -> bytes:
    """Heads that every server takes, and understands alike."""
    method, target = draw(METHODS), draw(TARGETS)
    version, host, framing = "HTTP/1.1", draw(HOSTS), draw(FRAMINGS)
    kind = draw(st.integers(0, 9))
    if kind == 0:
        method, target, host, framing = "CONNECT", "a:80", "host: a:80\r\n", ""
    elif kind == 1:
        method, target = "OPTIONS", "*"
    elif kind == 2:
        version, host, framing = "HTTP/1.0", "", "content-length: 1\r\n"
    elif not target.startswith("/"):
        host = "Host: a\r\n"
    fields = draw(st.lists(FIELDS, max_size=3))
    place = draw(st.integers(0, len(fields)))
    lines = [host, *fields[:place], framing, *fields[place:]]
    return f"{method} {target} {version}\r\n{''.join(lines)}\r\n".encode("latin-1")


# What parsers are known to disagree on: bytes, and lines.
BYTES = st.one_of(
    st.sampled_from(b'\x00\x01\t\n\x0b\x0c\r\x1f :;,"#*+/(@\x7f\x80\xff1A').map(
        lambda byte: bytes([byte])
    ),
    st.sampled_from(
        [b"", b"\r\n", b"\n\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"\r\r\n", b" HTTP/1.1", b"%00"]
    ),
)
LINES = st.sampled_from(
    [
        b" folded\r\n",
        b"\n",
        b"x : y\r\n",
        b"x\r\n",
        b"host: a\r\n",
        b"Host: b c\r\n",
        b"content-length: 5\r\n",
        b"Content-Length: 6\r\n",
        b"content-length: 5, 5\r\n",
        b"content-length: +5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
    ]
)


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Return bytes with a line or two put in, or with some replaced, dropped or put in anywhere."""
    data = draw(originals)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            line_starts = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
            place, dropped, trouble = draw(st.sampled_from(line_starts or [0])), 0, draw(LINES)
        else:
            place, dropped = draw(st.sampled_from(range(len(data) + 1))), draw(st.integers(0, 2))
            trouble = draw(BYTES)
        data = data[:place] + trouble + data[place + dropped :]
    return data
