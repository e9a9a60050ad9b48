"""Heads that are read with leniencies against h11, and against the strict rules."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kestrel_protocols.http1 import Leniency
from kestrel_protocols.http1.leniency import Tolerance
from kestrel_protocols.http1.unusual_head import with_crlf
from tests.head_reading import Head, Tolerated, in_h11_terms, read_by_h11, read_head
from tests.request_strategies import good_heads, mutated

BARE, FOLDED = Leniency.BARE_LINE_FEED, Leniency.OBSOLETE_LINE_FOLDING


@st.composite
def loosened(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a good head, and it with LF here and there, and spaces in its first line."""
    head = draw(good_heads())
    line, *fields = head.split(b"\r\n")
    spaces = st.sampled_from([b" ", b"  "])
    method, target, version = line.split(b" ")
    line = method + draw(spaces) + target + draw(spaces) + version + draw(spaces)[1:]
    ends = st.sampled_from([b"\r\n", b"\n"])
    rest = b"".join(field + draw(ends) for field in fields[:-1])
    return head, line + draw(ends) + rest


@settings(max_examples=500, deadline=None)
@given(loosened())
def test_loosened_heads_are_read_like_the_good_ones(heads: tuple[bytes, bytes]) -> None:
    head, loose = heads
    assert Tolerated.of(*Leniency).read(loose) == read_head(head)


@settings(max_examples=200, deadline=None)
@given(loosened())
def test_the_beginnings_of_loosened_heads_are_not_refused(heads: tuple[bytes, bytes]) -> None:
    for end in range(len(heads[1])):
        assert Tolerated.of(*Leniency).read(heads[1][:end]) is None


@settings(max_examples=500, deadline=None)
@given(
    loosened(), st.binary(max_size=8), st.sampled_from([b"", b"\n\n", b"GET / HTTP/1.1\r\n\r\n"])
)
def test_line_ends_are_rewritten_in_one_head_alone(
    heads: tuple[bytes, bytes], before: bytes, after: bytes
) -> None:
    loose = heads[1]
    rewritten = with_crlf(before + loose + after, len(before), Tolerance({BARE: 0}, ""))
    if loose.count(b"\n") == loose.count(b"\r\n"):
        assert rewritten is None
    else:
        assert rewritten is not None
        head, size = rewritten
        assert size == len(loose)
        assert head.replace(b"\r\n", b"\n") == loose.replace(b"\r\n", b"\n")
        assert head.count(b"\n") == head.count(b"\r\n")


@settings(max_examples=2500, deadline=None)
@given(mutated(good_heads()))
@example(b"GET / HTTP/1.1\nhost: a\nx: y\n z\n\n")
@example(b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n \r\n z\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\ncontent-length: 5, 5\r\n\r\n")
def test_heads_that_were_tampered_with(head: bytes) -> None:
    """What is let in would be let in by the strict rules if it was written properly."""
    tolerated = Tolerated.of(*Leniency)
    ours = tolerated.read(head)
    if not isinstance(ours, Head):
        return
    version = b"1.1" if ours.http11 else b"1.0"
    fields = b"".join(b"%b: %b\r\n" % field for field in ours.fields)
    properly = b"%b %b HTTP/%b\r\n%b\r\n" % (ours.method, ours.target, version, fields)
    assert read_head(properly) == ours
    if not tolerated.used:
        assert read_head(head) == ours
    if tolerated.used <= {BARE, FOLDED}:  # which h11 tolerates, too
        assert read_by_h11(head) == in_h11_terms(ours)
