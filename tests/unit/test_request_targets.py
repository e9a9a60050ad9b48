"""Request targets in the four forms of RFC 9112, 3.2, and what an application sees of them."""

import pytest

from kestrel_protocols.http1.request_head import RequestLine, RequestLines
from kestrel_protocols.http1.unusual_head import read_unusual_line


def line_of(method: bytes, target: bytes) -> RequestLine:
    line = b"%b %b HTTP/1.1" % (method, target)
    return RequestLines()[line] or read_unusual_line(line)


@pytest.mark.parametrize(
    ("method", "target", "path", "raw_path", "query", "authority"),
    [
        (b"GET", b"/", "/", b"/", b"", None),
        (b"GET", b"/a%20b/%2F?c=%20?d", "/a b//", b"/a%20b/%2F", b"c=%20?d", None),
        (b"GET", b"/?", "/", b"/", b"", None),
        (b"GET", b"//a/b", "//a/b", b"//a/b", b"", None),
        (b"GET", b"/%c3%a9%ff", "/\u00e9\ufffd", b"/%c3%a9%ff", b"", None),
        (b"GET", b"/http://b/", "/http://b/", b"/http://b/", b"", None),
        (b"GET", b"http://a", "/", b"/", b"", b"a"),
        (b"GET", b"http://a?b", "/", b"/", b"b", b"a"),
        (b"GET", b"HTTPS://A.b:1/c%20?d", "/c ", b"/c%20", b"d", b"A.b:1"),
        (b"GET", b"http://[::1]:80/", "/", b"/", b"", b"[::1]:80"),
        (b"OPTIONS", b"http://a", "/", b"/", b"", b"a"),
        (b"OPTIONS", b"*", "*", b"*", b"", None),
        (b"OPTIONS", b"/*", "/*", b"/*", b"", None),
        (b"CONNECT", b"a:1", "", b"", b"", b"a:1"),
        (b"CONNECT", b"[::1]:65535", "", b"", b"", b"[::1]:65535"),
        (b"CONNECT", b"a:00080", "", b"", b"", b"a:00080"),
        (b"connect", b"/a:80", "/a:80", b"/a:80", b"", None),
    ],
)
def test_forms(
    method: bytes, target: bytes, path: str, raw_path: bytes, query: bytes, authority: bytes | None
) -> None:
    line = line_of(method, target)
    assert line.method == method.decode()
    assert line.target == target
    assert (line.path, line.raw_path, line.query) == (path, raw_path, query)
    assert line.authority == authority
