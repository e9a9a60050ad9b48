"""Paths as routing sees them: decoded, resolved, and never what a segment check would miss."""

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kestrel_protocols.http.target_path import resolve_path


@pytest.mark.parametrize(
    ("raw_path", "resolved"),
    [
        # Nothing to do.
        (b"/", "/"),
        (b"/a", "/a"),
        (b"/a/b/c.html", "/a/b/c.html"),
        (b"/a/", "/a/"),
        (b"/a//b", "/a//b"),
        (b"//", "//"),
        (b"/a.b/c..d/e.", "/a.b/c..d/e."),
        (b"/a;b=c/d", "/a;b=c/d"),
        # What only looks like dot segments.
        (b"/.well-known/x", "/.well-known/x"),
        (b"/...", "/..."),
        (b"/a/.../b", "/a/.../b"),
        (b"/..a/b..", "/..a/b.."),
        (b"/.;/a", "/.;/a"),
        # Dot segments (RFC 3986, 5.2.4).
        (b"/.", "/"),
        (b"/./", "/"),
        (b"/..", "/"),
        (b"/../", "/"),
        (b"/./a", "/a"),
        (b"/../a", "/a"),
        (b"/a/.", "/a/"),
        (b"/a/..", "/"),
        (b"/a/../", "/"),
        (b"/a/./b", "/a/b"),
        (b"/a/../b", "/b"),
        (b"/a/b/..", "/a/"),
        (b"/a/b/../", "/a/"),
        (b"/a/b/../../..", "/"),
        (b"/a/b/../../../c", "/c"),
        (b"/a/b/c/./../../g", "/a/g"),
        (b"/mid/content=5/../6", "/mid/6"),
        (b"/a//../b", "/a/b"),
        (b"//../b", "/b"),
        (b"/..//a", "//a"),
        # Escapes.
        (b"/%61", "/a"),
        (b"/a%20b", "/a b"),
        (b"/%C3%A9", "/\N{LATIN SMALL LETTER E WITH ACUTE}"),
        (b"/%FF", "/\N{REPLACEMENT CHARACTER}"),
        (b"/%C3", "/\N{REPLACEMENT CHARACTER}"),
        (b"/%3F%23", "/?#"),
        (b"/a%5Cb", "/a\\b"),
        (b"/a%2Bb+c", "/a+b+c"),
        # Escaped dots are dots.
        (b"/a/%2e%2e/b%2Fc", "/b%2Fc"),
        (b"/%2e", "/"),
        (b"/%2E%2E/a", "/a"),
        (b"/a/.%2e/b", "/b"),
        (b"/a/%2E./b", "/b"),
        (b"/a%2e", "/a."),
        # Escaped slashes stay escaped, whatever is around them, and part no segments.
        (b"/a%2Fb", "/a%2Fb"),
        (b"/a%2fb", "/a%2fb"),
        (b"/..%2F..%2Fetc", "/..%2F..%2Fetc"),
        (b"/a/..%2f", "/a/..%2f"),
        (b"/%2F..", "/%2F.."),
        (b"/%2f/../a", "/a"),
        (b"/a%2F/../b", "/b"),
        (b"/%2e%2F", "/.%2F"),
        # Decoded once.
        (b"/%252e%252e/a", "/%2e%2e/a"),
        (b"/%25", "/%"),
        (b"/a/%25%32%65/b", "/a/%2e/b"),
        # Overlong encodings are no dots and no slashes.
        (b"/%C0%AE%C0%AE/a", "/" + "\N{REPLACEMENT CHARACTER}" * 4 + "/a"),
        (b"/%C0%AF", "/" + "\N{REPLACEMENT CHARACTER}" * 2),
        # What is no escape stays as it is.
        (b"/%", "/%"),
        (b"/%2", "/%2"),
        (b"/%zz", "/%zz"),
        # What is no path.
        (b"*", "*"),
        (b"", ""),
    ],
)
def test_table(raw_path: bytes, resolved: str) -> None:
    assert resolve_path(raw_path) == resolved


# What request lines may have in a path, with what matters here more often than chance has it.
pieces = st.sampled_from(
    [
        b"/",
        b"/",
        b"/",
        b".",
        b"..",
        b"%2e",
        b"%2E",
        b"%2f",
        b"%2F",
        b"%25",
        b"%",
        b"a",
        b"b",
        b"%5c",
    ]
)
characters = st.sampled_from([bytes([code]) for code in range(0x21, 0x7F) if code not in b"?#"])
escapes = st.integers(1, 255).map(lambda code: b"%%%02X" % code)
raw_paths = st.lists(pieces | characters | escapes, max_size=30).map(
    lambda parts: b"/" + b"".join(parts)
)


@given(raw_paths)
@example(b"/..")
@example(b"/%2e%2e%2f..")
def test_no_dot_segment_is_left(raw_path: bytes) -> None:
    resolved = resolve_path(raw_path)
    assert resolved.startswith("/")
    segments = resolved.split("/")
    assert ".." not in segments
    assert "." not in segments


def remove_dot_segments(path: bytes) -> bytes:
    """Do as RFC 3986, 5.2.4 says, step by step."""
    output = b""
    while path:
        if path.startswith(b"../"):
            path = path[3:]
        elif path.startswith((b"./", b"/./")):
            path = path[2:]
        elif path == b"/.":
            path = b"/"
        elif path.startswith(b"/../") or path == b"/..":
            path = b"/" + path[4:]
            output = output[: output.rfind(b"/")] if b"/" in output else b""
        elif path in (b".", b".."):
            path = b""
        else:
            end = path.find(b"/", 1)
            end = len(path) if end < 0 else end
            output += path[:end]
            path = path[end:]
    return output


@given(raw_paths)
def test_it_is_what_the_rfc_says(raw_path: bytes) -> None:
    """Escapes but those of slashes are decoded first, then the RFC's own steps are taken."""
    parts = re.split(rb"(%2[fF])", raw_path)
    decoded = b"".join(part if part.lower() == b"%2f" else unquote_to_bytes(part) for part in parts)
    assert resolve_path(raw_path) == remove_dot_segments(decoded).decode("utf-8", "replace")


@given(raw_paths)
def test_as_many_segments_as_there_are_slashes_at_most(raw_path: bytes) -> None:
    """No escape parts a segment in two."""
    assert resolve_path(raw_path).count("/") <= raw_path.count(b"/")


segments = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1)


@given(st.lists(segments.filter(lambda segment: segment not in (".", "..")), max_size=6))
def test_a_path_that_was_put_together_from_segments(segments: list[str]) -> None:
    """Whoever quotes each segment gets each of them back."""
    path = "/" + "/".join(segments)
    assert resolve_path(quote(path).encode("ascii")) == path


@given(st.lists(segments, min_size=1, max_size=4))
def test_slashes_in_segments(segments: list[str]) -> None:
    """They can be told from those between segments, and decoding is left to who knows them apart."""
    inner = "%2F".join(quote(segment, safe="") for segment in segments)
    resolved = resolve_path(b"/a/" + inner.encode("ascii") + b"/b")
    if len(segments) == 1 and segments[0] in (".", ".."):
        return
    assert resolved == "/a/" + "%2F".join(segments) + "/b"
